"""Checks proofs in Coq. Three files are compiled in separate sandboxes: the statement, the candidate, and the check.

The statement is the goal of the task, and the candidate is the model's proof. The check is r1jax's own file and runs in
a fresh process. It loads the other two files without importing them, so no notation, option or name of the candidate
affects the check. The check's standard output must name the assumptions of the proof and nothing else.
"""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path

from r1jax.rewards import sandbox
from r1jax.rewards.sandbox import Tier
from r1jax.rewards.sandbox._watch import Limits

CLOSED = "Closed under the global context"
CHECK = "From R1 Require Stmt Cand.\nDefinition c : R1.Stmt.goal := @R1.Cand.main.\nPrint Assumptions c.\n"
NAME = re.compile(r"[A-Za-z_][\w'.]*")


def absent() -> str | None:
    """Returns what this machine lacks to check Coq proofs, and what to install; None if it lacks nothing."""
    if shutil.which("coqc") is None:
        return "backend coq: no coqc on PATH; install Coq (Debian: apt-get install coq), or leave out the rows for coq"
    return None


def prove(preamble: str, goal: str, proof: str, allowed: frozenset[str], limits: Limits, tier: Tier) -> tuple[str, str]:
    """Checks whether `proof` defines a `main` of type `goal` and uses allowed axioms only.

    Args:
        preamble: text before both statement and proof, such as imports.
        allowed: names of the axioms that the proof may use.
        limits: resource limits of each compilation.
        tier: isolation tier of the sandboxes.
    Returns:
        (verdict, reason): the verdict is "correct", "wrong", "budget" or "gold_unusable" (the goal does not compile).
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
    """Returns (verdict, reason): "correct" if the proof assumes allowed axioms only, else "wrong".

    Args:
        said: the output of Coq's `Print Assumptions`. Names stand at the beginning of a line; their types are indented.
        allowed: names of the axioms that the proof may use.
    """
    if said.strip() == CLOSED:
        return "correct", "no axioms"
    head, *lines = said.strip().split("\n")
    if head.strip() != "Axioms:":
        return "wrong", f"assumptions: {_line(said)}"
    names = [line.partition(":")[0].strip() for line in lines if line[:1].strip()]
    for name in names:
        # Coq prints the shortest unique path of a name. The candidate is never imported, so its names begin at Cand
        known = any(f".{axiom}".endswith(f".{name}") or f".{name}".endswith(f".{axiom}") for axiom in allowed)
        if not NAME.fullmatch(name) or {"Cand", "R1"} & set(name.split(".")) or not known:
            return "wrong", f"axiom not allowed: {_line(name)}"
    if any(word in said for word in ("is assumed", "relies on")):
        return "wrong", f"assumptions: {_line(said)}"
    return "correct", f"axioms: {', '.join(names)}"


class _Unusable(Exception):
    """The statement of a task does not compile, or exceeds a limit. The message gives Coq's error or the limit."""


@functools.lru_cache(maxsize=256)
def _statement(preamble: str, goal: str, limits: Limits, tier: Tier, coqc: str) -> bytes:
    """Compiles the goal of a task and returns the content of the .vo file, cached for other proofs of the same goal.

    Args:
        coqc: the path of the compiler, part of the cache's key.
    Raises:
        _Unusable: the goal does not compile. This failure is not cached.
    """
    text = f"{preamble}\nDefinition goal :=\n({goal}\n).\n"
    name, compiled = _compile({"Stmt.v": text.encode("utf-8", "replace")}, "Stmt", limits, tier)
    if name:
        raise _Unusable(compiled)
    return compiled


def _compile(files: dict[str, bytes], module: str, limits: Limits, tier: Tier, *, say: bool = False):
    """Compiles a Coq module in a sandbox.

    Args:
        files: name -> content of the files in the sandbox.
        module: the name of the module; `files` has its source `module`.v.
        say: return what the compiler printed in place of the compiled module.
    Returns:
        ("", content of the .vo file, or the printed text) on success;
        ("wrong", Coq's error) or ("budget", the limit that was exceeded) on failure.
    """
    coqc = Path(shutil.which("coqc")).resolve()
    show = ("/etc/ocamlfind.conf",) + (() if coqc.is_relative_to("/usr") else (str(coqc.parents[1]),))
    job = {
        "kind": "command",
        "argv": [str(coqc), "-q", "-w", "none", "-R", ".", "R1", f"{module}.v"],
        "env": {},
        "files": files,
        "fetch": [f"{module}.vo"],
    }
    outcome = sandbox.run(job, limits, tier=tier, show=show)
    if outcome.status != "exited":
        return "budget", outcome.status
    if outcome.code or outcome.files[0] is None:
        said = outcome.stderr.decode("utf-8", "replace").strip() or f"exit status {outcome.code}"
        return "wrong", _line(said)
    return "", outcome.stdout.decode("utf-8", "replace") if say else outcome.files[0]


def _line(text: str) -> str:
    """Returns the text as one printable line of at most 300 characters, for a log."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))[:300]
