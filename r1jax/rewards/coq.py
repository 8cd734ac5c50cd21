"""Proofs in Coq: statement, candidate and check are three files, compiled in separate sandboxes.

The check is ours and runs in a fresh process; it loads the other two without importing them, so no notation, option or
name of the candidate takes part in it. Its standard output must say, and say nothing else, what the proof rests on.
"""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

from r1jax.rewards import sandbox
from r1jax.rewards.sandbox import Limits, Tier

CLOSED = "Closed under the global context"
CHECK = "From R1 Require Stmt Cand.\nDefinition c : R1.Stmt.goal := @R1.Cand.main.\nPrint Assumptions c.\n"
NAME = re.compile(r"[A-Za-z_][\w'.]*")


def absent() -> str | None:
    """What is missing for this backend."""
    if shutil.which("coqc") is None:
        return "backend coq: no coqc on PATH; install it (Debian: apt-get install coq) or leave these rows out"
    return None


def prove(preamble: str, goal: str, proof: str, allowed: frozenset[str], limits: Limits, tier: Tier) -> tuple[str, str]:
    """A verdict and its reason: whether `proof` defines a `main` of type `goal` from allowed axioms only.

    Raises:
        Unavailable: the sandbox did not start.
    """
    try:
        statement = _statement(preamble, goal, limits, tier, shutil.which("coqc"))
    except _Unusable as problem:
        return "gold_unusable", f"statement: {problem}"
    name, candidate = _compile({"Cand.v": f"{preamble}\n{proof}\n".encode("utf-8", "replace")}, "Cand", limits, tier)
    if name:
        return name, f"candidate: {candidate}"
    files = {"Stmt.vo": statement, "Cand.vo": candidate, "Check.v": CHECK.encode()}
    name, said = _compile(files, "Check", limits, tier, say=True)
    if name:
        return name, f"check: {said}"
    return verdict_of(said, allowed)


def verdict_of(said: str, allowed: frozenset[str]) -> tuple[str, str]:
    """The verdict on what `Print Assumptions` said. Each name stands at the beginning of a line; types are indented."""
    if said.strip() == CLOSED:
        return "correct", "no axioms"
    head, *lines = said.strip().split("\n")
    if head.strip() != "Axioms:":
        return "wrong", f"assumptions: {_line(said)}"
    names = [line.partition(":")[0].strip() for line in lines if line[:1].strip()]
    for name in names:
        # a name is printed with as much of its path as tells it apart: the candidate's, never imported, begin at Cand
        known = any(f".{axiom}".endswith(f".{name}") or f".{name}".endswith(f".{axiom}") for axiom in allowed)
        if not NAME.fullmatch(name) or {"Cand", "R1"} & set(name.split(".")) or not known:
            return "wrong", f"axiom not allowed: {_line(name)}"
    if any(word in said for word in ("is assumed", "relies on")):
        return "wrong", f"assumptions: {_line(said)}"
    return "correct", f"axioms: {', '.join(names)}"


class _Unusable(Exception):
    """The statement of a task does not compile."""


@functools.lru_cache(maxsize=256)
def _statement(preamble: str, goal: str, limits: Limits, tier: Tier, coqc: str) -> bytes:
    """The compiled statement, kept for the other proofs of its group. A failure is not kept."""
    text = f"{preamble}\nDefinition goal :=\n({goal}\n).\n"
    name, compiled = _compile({"Stmt.v": text.encode("utf-8", "replace")}, "Stmt", limits, tier)
    if name:
        raise _Unusable(compiled)
    return compiled


def _compile(files: dict[str, bytes], module: str, limits: Limits, tier: Tier, *, say: bool = False):
    """("", the compiled module, or what was said), or a verdict and its reason."""
    coqc = Path(shutil.which("coqc")).resolve()
    show = ("/etc/ocamlfind.conf",) + (() if coqc.is_relative_to("/usr") else (str(coqc.parents[1]),))
    job = {
        "kind": "command", "argv": [str(coqc), "-q", "-w", "none", "-R", ".", "R1", f"{module}.v"],
        "env": {}, "files": files, "fetch": [f"{module}.vo"],
    }  # fmt: skip
    outcome = sandbox.run(job, limits, tier=tier, show=show)
    if outcome.status != "exited":
        return "budget", outcome.status
    if outcome.code or outcome.files[0] is None:
        said = outcome.stderr.decode("utf-8", "replace").strip() or f"exit status {outcome.code}"
        return "wrong", _line(said)
    return "", outcome.stdout.decode("utf-8", "replace") if say else outcome.files[0]


def _line(text: str) -> str:
    """One printable line for a log."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:300]
