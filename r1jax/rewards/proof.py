"""Rewards of proofs, for three checkers behind one function.

A task is a mapping with

    backend   "coq", "lean4" (needs the environment variable R1JAX_LEAN_PROJECT) or "metamath" (always there)
    preamble  text before both statement and proof: imports, notations; for Metamath the database
    goal      the statement to prove, from the data set
    allowed_axioms  (optional) names of axioms a proof may rest on. Without them: none in Coq; propext, Classical.choice
              and Quot.sound in Lean; all of the database in Metamath
    limits    (optional) as for programs, see `sandbox.Limits`

In Coq and Lean the proof defines `main`. Statement, proof and check are compiled apart: the check is a file of ours in
a fresh process that loads the other two, and what it finds out about axioms is the verdict. Nothing printed by the
candidate's own process counts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from r1jax.rewards import sandbox
from r1jax.rewards.sandbox import Limits, Unavailable
from r1jax.rewards.verdict import Verdict

BACKENDS = ("coq", "lean4", "metamath")
MINIMUM = "B"  # compilers write files, which tier C forbids
LIMITS = {
    "coq": {"time_s": 10, "wall_s": 40, "memory_mb": 2048, "processes": 16, "file_mb": 64},
    "lean4": {"time_s": 60, "wall_s": 120, "memory_mb": 6144, "processes": 64, "file_mb": 64},
}
PROOF_CHARACTERS = 1 << 18


def verify(text: str, example: Mapping, *, minimum: str = MINIMUM) -> Verdict:
    """The verdict on a proof, bare or as the last fenced block of a completion.

    Args:
        example: a task, see above.
        minimum: the weakest tier of isolation for Coq and Lean; "D" for none. Below it: `sandbox_unavailable`.
    Raises:
        ValueError: `minimum` is no tier.
    """
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
        from r1jax.rewards.metamath import prove

        name, stage = prove(preamble, goal, proof, allowed)
    else:
        missing = absent(backend)
        if missing:
            return verdict(None, "error", missing)
        if backend == "coq":
            from r1jax.rewards.coq import prove
        else:
            from r1jax.rewards.lean4 import prove
        try:
            name, stage = prove(preamble, goal, proof, allowed, limits, sandbox.require(minimum))
        except Unavailable as problem:
            return verdict(None, "sandbox_unavailable", str(problem))
    reward = {"correct": 1.0, "wrong": 0.0, "budget": 0.0}.get(name)
    return verdict(reward, name, stage)


def absent(backend: str) -> str | None:
    """Why a backend cannot check proofs on this machine, and what to install; None if it can.

    Raises:
        ValueError: there is no such backend.
    """
    if backend == "coq":
        from r1jax.rewards.coq import absent
    elif backend == "lean4":
        from r1jax.rewards.lean4 import absent
    elif backend == "metamath":
        return None
    else:
        raise ValueError(f"backend={backend!r:.60} must be one of {', '.join(BACKENDS)}")
    return absent()


def task(example: Mapping) -> tuple[str, str, str, frozenset[str], Limits]:
    """Backend, preamble, goal, allowed axioms and limits of a row.

    Raises:
        ValueError: a key breaks its rule.
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
    """The last fenced block after the last `</think>`, else the `<answer>`, else all that follows; None if blank."""
    text = text.rpartition("</think>")[2]
    if (close := text.rfind("</answer>")) >= 0 and (start := text.rfind("<answer>", 0, close)) >= 0:
        text = text[start + len("<answer>") : close]
    lines = text.split("\n")
    fences = [number for number, line in enumerate(lines) if line.strip().startswith("```")]
    if len(fences) % 2:  # cut off inside a block
        return None
    if fences:
        text = "\n".join(lines[fences[-2] + 1 : fences[-1]])
    return text if text.strip() else None
