"""R1-Zero's rule reward: accuracy + format, and what a batch of completions scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from r1jax.rewards import format as format_reward
from r1jax.rewards.isolate import Pool
from r1jax.rewards.verdict import Verdict

NO_ANSWER = Verdict(0.0, "no_answer", "format")


class Scores(NamedTuple):
    """What N completions earned.

    Attributes:
        total: [N] weighted sum of the parts; 0 where invalid.
        valid: [N] rows with a verdict on every part. The others stay out of their group's advantage.
        parts: name -> [N] reward of each part, nan where there is no verdict.
        verdicts: [N] of the accuracy part.
    """

    total: np.ndarray
    valid: np.ndarray
    parts: dict[str, np.ndarray]
    verdicts: list[Verdict]


def accuracy_job(text: str, example: Mapping, *, lenient: bool = False) -> tuple[str, str, Mapping] | None:
    """The pool's job for the answer of one completion; None if it has none.

    Strictly an answer is the content of an answer block; leniently, for evaluation only, whatever stands where one
    should.
    """
    given = format_reward.lenient_answer(text) if lenient else format_reward.answer(text)
    return None if not given else (example["kind"], f"<answer>{given}</answer>", {"gold": example["gold"]})


def verify(pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], *, lenient: bool = False) -> list[Verdict]:
    """The accuracy verdict of each completion."""
    jobs = [accuracy_job(text, example, lenient=lenient) for text, example in zip(texts, examples, strict=True)]
    judged = iter(pool.run([job for job in jobs if job is not None]))
    return [NO_ANSWER if job is None else next(judged) for job in jobs]


def well_formed(texts: Sequence[str]) -> np.ndarray:
    """[N] 1 where a completion has R1-Zero's form, else 0."""
    return np.asarray([format_reward.verify(text, {}).reward for text in texts], np.float64)


def score(pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], weights: Mapping[str, float]) -> Scores:
    """The rule reward of each completion: Σ weight·part over "accuracy" and "format" (Nature, eq. 4: equal weights)."""
    verdicts = verify(pool, texts, examples)
    accuracy = np.asarray([np.nan if v.reward is None else v.reward for v in verdicts], np.float64)
    parts = {"accuracy": accuracy, "format": well_formed(texts)}
    total = sum(weights[name] * part for name, part in parts.items())
    valid = np.isfinite(total)
    return Scores(np.where(valid, total, 0.0), valid, parts, verdicts)
