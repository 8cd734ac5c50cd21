"""Grades proofs with one of three checkers: Coq, Lean 4 or Metamath.

A task is a mapping with

    backend   "coq", "lean4" or "metamath". Metamath is always available. Lean 4 needs an environment variable:
              R1JAX_LEAN_PROJECT (the folder of a built Lake project) or R1JAX_LEAN_SERVER (the URL of a
              Kimina-compatible server, or the command of a REPL)
    preamble  text before both statement and proof: imports, notations; for Metamath the database
    goal      the statement to prove, from the data set
    allowed_axioms  (optional) names of the axioms a proof may use. Default: none in Coq; propext, Classical.choice
              and Quot.sound in Lean; all axioms of the database in Metamath
    limits    (optional) as for programs, see `_watch.Limits`

In Coq the proof defines `main`. In Lean it defines the theorem that the goal names, or `main` if the goal names none.
Statement, proof and check are compiled separately. The check is r1jax's own file. It loads the other two in a fresh
process, and the axioms that it finds decide the verdict. The output of the candidate's own process is ignored. A Lean
server checks in another way, see `proofs.lean_server`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping

from r1jax.rewards import sandbox
from r1jax.rewards.sandbox._box import Unavailable
from r1jax.rewards.sandbox._watch import Limits
from r1jax.rewards.verdict import Verdict, check_arguments

BACKENDS = ("coq", "lean4", "metamath")
MINIMUM = "B"  # compilers write files, which tier C forbids
LIMITS = {
    "coq": {"time_s": 10, "wall_s": 40, "memory_mb": 2048, "processes": 16, "file_mb": 64},
    "lean4": {"time_s": 60, "wall_s": 120, "memory_mb": 6144, "processes": 64, "file_mb": 64},
}
PROOF_CHARACTERS = 1 << 18


def verify(text: str, example: Mapping, *, minimum: str = MINIMUM) -> Verdict:
    """Grades the proof in a model's text, which `extract` finds: reward 1 if it proves the goal of the task, else 0.

    The reward is None if the proof cannot be checked, for example because the task is malformed or a checker is absent.

    Args:
        example: a task with `backend` ("coq", "lean4" or "metamath"), `goal` (the statement to prove) and, optionally,
            `preamble`, `allowed_axioms` and `limits`; see the module's docstring.
        minimum: the weakest sandbox tier to accept for Coq and Lean, from "A" (strongest) to "D" (no isolation); see
            `sandbox`. On a machine without such a tier the verdict is `sandbox_unavailable`.
    Raises:
        ValueError: `minimum` is not a tier.
    """
    check_arguments(text, example)
    begun = time.perf_counter()
    proof = extract(text)

    def verdict(reward: float | None, name: str, stage: str) -> Verdict:
        return Verdict(reward, name, stage[:500], proof, None, (time.perf_counter() - begun) * 1e3)

    if proof is None:
        return verdict(0.0, "no_answer", "extract")
    try:
        backend, preamble, goal, allowed, limits = task(example)
    except ValueError as problem:
        return verdict(None, "gold_unusable", str(problem))
    if len(proof) > PROOF_CHARACTERS:
        return verdict(0.0, "budget", f"proof longer than {PROOF_CHARACTERS} characters")
    if backend == "metamath":
        from r1jax.rewards.proofs.metamath import prove

        name, stage = prove(preamble, goal, proof, allowed)
    else:
        missing = absent(backend)
        if missing:
            return verdict(None, "error", missing)
        if backend == "lean4" and by_server():
            from r1jax.rewards.proofs.lean_server import prove as ask

            name, stage = ask(preamble, goal, proof, allowed, limits)
            return verdict({"correct": 1.0, "wrong": 0.0, "budget": 0.0}.get(name), name, stage)
        if backend == "coq":
            from r1jax.rewards.proofs.coq import prove
        else:
            from r1jax.rewards.proofs.lean4 import prove
        try:
            name, stage = prove(preamble, goal, proof, allowed, limits, sandbox.require(minimum))
        except Unavailable as problem:
            return verdict(None, "sandbox_unavailable", str(problem))
    reward = {"correct": 1.0, "wrong": 0.0, "budget": 0.0}.get(name)
    return verdict(reward, name, stage)


def by_server() -> bool:
    """Returns True if a server checks Lean proofs: R1JAX_LEAN_SERVER is set, and R1JAX_LEAN_PROJECT is not."""
    return bool(os.environ.get("R1JAX_LEAN_SERVER")) and not os.environ.get("R1JAX_LEAN_PROJECT")


def absent(backend: str) -> str | None:
    """Returns why a backend cannot check proofs on this machine and what to install; None if the backend can.

    Args:
        backend: "coq", "lean4" or "metamath".

    Raises:
        ValueError: the backend is unknown.
    """
    if backend == "coq":
        from r1jax.rewards.proofs.coq import absent
    elif backend == "lean4" and by_server():
        from r1jax.rewards.proofs.lean_server import absent
    elif backend == "lean4":
        from r1jax.rewards.proofs.lean4 import absent
    elif backend == "metamath":
        return None
    else:
        raise ValueError(f"backend={backend!r:.60} must be one of {', '.join(BACKENDS)}")
    return absent()


def task(example: Mapping) -> tuple[str, str, str, frozenset[str], Limits]:
    """Checks a task, and returns its entries.

    Args:
        example: the task, as for `verify`.
    Returns:
        (backend, preamble, goal, allowed axioms, limits), with defaults for what the task leaves out.
    Raises:
        ValueError: an entry has a value that is not allowed.
    """
    backend, goal = example.get("backend"), example.get("goal")
    preamble, allowed = example.get("preamble") or "", example.get("allowed_axioms") or ()
    if backend not in BACKENDS:
        raise ValueError(f"backend={backend!r:.60} must be one of {', '.join(BACKENDS)}")
    if not isinstance(goal, str) or not goal.strip():
        raise ValueError(f"goal={goal!r:.60} must be the statement to prove")
    if not isinstance(preamble, str):
        raise ValueError(f"preamble={preamble!r:.60} must be text")
    if isinstance(allowed, str) or not all(isinstance(name, str) for name in allowed):
        raise ValueError(f"allowed_axioms={allowed!r:.60} must be a list of names")
    limits = Limits.of(LIMITS.get(backend, {}) | dict(example.get("limits") or {}))
    return backend, preamble, goal, frozenset(allowed), limits


def extract(text: str) -> str | None:
    """Returns the proof in a model's text; None if it is blank or if the text ends inside a fenced block.

    Only the text after the last `</think>` counts; if this text has an `<answer>` block, only the last such block
    counts. The proof is the last fenced block in this part of the text, or the whole part if it has no fenced block.
    """
    text = text.rpartition("</think>")[2]
    if (close := text.rfind("</answer>")) >= 0 and (start := text.rfind("<answer>", 0, close)) >= 0:
        text = text[start + len("<answer>") : close]
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if line.strip().startswith("```")]
    if len(fences) % 2:  # the text ends inside a block
        return None
    if fences:
        text = "\n".join(lines[fences[-2] + 1 : fences[-1]])
    return text if text.strip() else None
