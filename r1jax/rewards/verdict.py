"""Defines `Verdict`, the result of a verifier.

Every verifier is a function `(text, example) -> Verdict`. It never raises on model text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

VERDICTS = (
    "correct",  # reward 1 (or a fraction for graded kinds)
    "wrong",  # reward 0
    "no_answer",  # reward 0: nothing to grade in the text
    "budget",  # reward 0: the answer costs more to evaluate than any answer may (deterministic)
    "gold_unusable",  # no reward: the reference answer cannot be read
    "timeout",  # no reward: time ran out; the only verdict that may differ from run to run
    "error",  # no reward: the verifier itself failed
    "sandbox_unavailable",  # no reward: this machine cannot isolate the text safely
)
UNGRADED = frozenset({"gold_unusable", "timeout", "error", "sandbox_unavailable"})


class Verdict(NamedTuple):
    """The result of a verifier on one text.

    Attributes:
        reward: in [0, 1]; None exactly when `verdict` is in `UNGRADED`. Completions without a reward are invalid in
            training: they get no advantage and are left out of their group's mean and std.
        verdict: one of `VERDICTS`.
        stage: the step of the verifier that decided, such as "string", "number" or "exact"; or why an answer failed.
        extracted: the part of the text that was graded, verbatim; None if there was none.
        canonical: the graded part in normal form. Answers with the same normal form are equivalent.
        ms: wall time of the check in milliseconds, without queueing.
    """

    reward: float | None
    verdict: str
    stage: str = ""
    extracted: str | None = None
    canonical: str | None = None
    ms: float = 0.0


def describe(verdict: Verdict) -> str:
    """Describes a verdict in one line, such as "correct: read as 1/2, decided by number".

    The line says how the text was read, and which step of the verifier decided.
    """
    read = verdict.canonical or verdict.extracted
    shown = f"read as {read:.200}" if read else "nothing was read"
    return f"{verdict.verdict}: {shown}, decided by {verdict.stage}" if verdict.stage else f"{verdict.verdict}: {shown}"


def check_arguments(text: object, example: object) -> None:
    """Raises TypeError unless a verifier is called as `verify(text, example)`, with a string and a mapping."""
    if not isinstance(text, str) or not isinstance(example, Mapping):
        raise TypeError(
            f"a verifier is called as verify(text, example), with a string and a mapping, "
            f"not with {type(text).__name__} and {type(example).__name__}"
        )
