"""What a verifier says: `Verdict`.

Every verifier is a function `(text, example) -> Verdict`. It never raises on model text.
"""

from __future__ import annotations

from typing import NamedTuple

VERDICTS = (
    "correct",              # reward 1 (or a fraction for graded kinds)
    "wrong",                # reward 0
    "no_answer",            # reward 0: nothing to grade in the text
    "budget",               # reward 0: the answer costs more to evaluate than any answer may (deterministic)
    "gold_unusable",        # no reward: the reference answer cannot be read
    "timeout",              # no reward: the wall clock ran out, the only verdict that may not repeat
    "error",                # no reward: a defect of the verifier itself
    "sandbox_unavailable",  # no reward: this machine cannot isolate the text safely
)
UNGRADED = frozenset({"gold_unusable", "timeout", "error", "sandbox_unavailable"})


class Verdict(NamedTuple):
    """One judged text.

    Attributes:
        reward: in [0, 1]; None exactly when `verdict` is one of `UNGRADED`. Such rows are invalid in training:
            they get no advantage and stay out of their group's mean and std.
        verdict: one of `VERDICTS`.
        stage: the step of the verifier that decided, e.g. "string", "number", "exact".
        extracted: the part of the text that was graded, verbatim; None if there was none.
        canonical: the graded part in normal form. Two answers of one class share it.
        ms: wall time of the check, queueing excluded.
    """

    reward: float | None
    verdict: str
    stage: str = ""
    extracted: str | None = None
    canonical: str | None = None
    ms: float = 0.0
