"""The rule rewards: accuracy, format, language consistency, and what a batch of completions scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from r1jax.rewards import format as format_reward
from r1jax.rewards import language
from r1jax.rewards._extract import boxed
from r1jax.rewards.isolate import Pool
from r1jax.rewards.verdict import Verdict

NO_ANSWER = Verdict(0.0, "no_answer", "format")
GENERAL = "general"  # the kind whose answers no rule judges
PROGRAMS = ("code", "proof")  # kinds whose answer is the summary itself, never a box


class Scores(NamedTuple):
    """What N completions earned.

    Attributes:
        total: [N] weighted sum of the parts; 0 where invalid.
        valid: [N] rows with a verdict on every part they are due. The others stay out of their group's advantage.
        parts: name -> [N] reward of each part, nan where there is none.
        verdicts: [N] of the accuracy part.
    """

    total: np.ndarray
    valid: np.ndarray
    parts: dict[str, np.ndarray]
    verdicts: list[Verdict]


def given_answer(text: str, kind: str, style: str = "r1_zero", *, lenient: bool = False) -> str | None:
    """What a completion answers: in R1-Zero's form the answer block, in R1's the summary's last box, else the summary.

    Leniently, for evaluation only, whatever stands where an answer should.
    """
    if style == "r1_zero":
        return format_reward.lenient_answer(text) if lenient else format_reward.answer(text)
    if not lenient and text.count(format_reward.THINK_END) != 1:
        return None
    said = text.rpartition(format_reward.THINK_END)[2].strip()
    if not said:
        return None
    return said if kind in PROGRAMS else boxed(said) or (said if lenient else None)


def accuracy_job(
    text: str, example: Mapping, style: str = "r1_zero", *, lenient: bool = False
) -> tuple[str, str, Mapping] | None:
    """The pool's job for the answer of one completion; None if it has none or no rule judges it."""
    kind, gold = example["kind"], example["gold"]
    given = None if kind == GENERAL else given_answer(text, kind, style, lenient=lenient)
    return None if not given else (kind, f"<answer>{given}</answer>", gold if kind in PROGRAMS else {"gold": gold})


def verify(
    pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], style: str = "r1_zero", *, lenient: bool = False
) -> list[Verdict]:
    """The accuracy verdict of each completion."""
    jobs = [accuracy_job(text, example, style, lenient=lenient) for text, example in zip(texts, examples, strict=True)]
    judged = iter(pool.run([job for job in jobs if job is not None]))
    return [NO_ANSWER if job is None else next(judged) for job in jobs]


def well_formed(texts: Sequence[str], examples: Sequence[Mapping], style: str = "r1_zero") -> np.ndarray:
    """[N] 1 where a completion has the form of `style`, else 0. To a general prompt one may answer without thinking
    first."""
    found = []
    for text, example in zip(texts, examples, strict=True):
        rules = [{"style": style}] + [{"style": style, "think": "none"}] * (example["kind"] == GENERAL)
        found.append(max(format_reward.verify(text, rule).reward for rule in rules))
    return np.asarray(found, np.float64)


def consistency(texts: Sequence[str], examples: Sequence[Mapping]) -> np.ndarray:
    """[N] share of the chain of thought's words that are in the question's language; 1 where it has no words to be
    wrong.

    nan for examples that name no language. Source: Nature 2025, eq. 7.
    """
    found = []
    for text, example in zip(texts, examples, strict=True):
        if "language" not in example:
            found.append(np.nan)
            continue
        thought = format_reward.think(text)
        share = language.consistency(text if thought is None else thought, example["language"])
        found.append(1.0 if share is None else share)
    return np.asarray(found, np.float64)


def score(
    pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], weights: Mapping[str, float], style: str = "r1_zero"
) -> Scores:
    """The rule reward of each completion: Σ weight·part over "accuracy", "format" and "language".

    A part of weight 0 is not taken, but for accuracy, which is logged. General prompts have none, others must get a
    verdict where it weighs.
    """
    verdicts = verify(pool, texts, examples, style)
    general = np.asarray([example["kind"] == GENERAL for example in examples], bool)
    accuracy = np.asarray([np.nan if v.reward is None else v.reward for v in verdicts], np.float64)
    parts = {"accuracy": np.where(general, np.nan, accuracy)}
    if weights.get("format"):
        parts["format"] = well_formed(texts, examples, style)
    if weights.get("language"):
        parts["language"] = consistency(texts, examples)
    valid = np.isfinite(accuracy) | general | (not weights.get("accuracy"))
    return Scores(*combined(parts, weights, valid), parts, verdicts)


def combined(
    parts: Mapping[str, np.ndarray], weights: Mapping[str, float], valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(total, valid): the weighted sum of the parts a row has; what a row has not, counts nothing."""
    total = sum(weights.get(name, 0.0) * np.nan_to_num(part) for name, part in parts.items())
    return np.where(valid, total, 0.0), valid
