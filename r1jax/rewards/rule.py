"""Computes the rule-based rewards (accuracy, format, language consistency) and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from r1jax.rewards import format as format_reward
from r1jax.rewards import language
from r1jax.rewards.isolate import Pool
from r1jax.rewards.kinds import GENERAL, KINDS, example_of
from r1jax.rewards.math._extract import boxed
from r1jax.rewards.verdict import Verdict

NO_ANSWER = Verdict(0.0, "no_answer", "format")


class Scores(NamedTuple):
    """The rewards of N completions.

    Attributes:
        total: [N] weighted sum of the parts; 0 where `valid` is False.
        valid: [N] bool, whether the reward of the completion is known. Completions without a known reward are left out
            of their group's advantage.
        parts: a dict {name of a part, such as "accuracy": [N] reward}. The reward is nan for completions that do not
            get this part. Parts that were not computed are absent.
        verdicts: [N] verdicts on the answers; None if the accuracy was not computed.
        failed: [N] bool, whether a user's reward function failed for this completion. None if the rewards do not come
            from user functions (module `custom`).
    """

    total: np.ndarray
    valid: np.ndarray
    parts: dict[str, np.ndarray]
    verdicts: list[Verdict] | None
    failed: np.ndarray | None = None


def given_answer(text: str, kind: str, style: str = "r1_zero", *, lenient: bool = False) -> str | None:
    """Returns the answer in a completion, which a verifier grades; None if the completion has no answer.

    The field `answer` of the style says where the answer stands. The summary is the text after the thinking.

    - "tags" (R1-Zero's format): the last `<answer>` block.
    - "boxed" (R1's format): the last \\boxed{} of the summary. For a kind of question with `boxed=False` in
      `kinds.KINDS`: the whole summary.
    - "any": the last `<answer>` block. Without such a block: the whole summary, in which the verifier looks for the
      answer.

    Args:
        kind: the kind of question, such as "math".
        style: the expected format, a key of `format.STYLES`.
        lenient: for evaluation only; accepts a completion in a wrong form. With "tags", `format.lenient_answer` finds
            the answer. With "boxed" and "any", the thinking need not be closed, and a summary without a box is itself
            the answer.
    """
    how = format_reward.STYLES[style]
    if how.answer == "tags":
        return format_reward.lenient_answer(text) if lenient else format_reward.answer(text)
    closed = text.count(format_reward.THINK_END)
    if not lenient and (closed != 1 if how.think else format_reward.THINK in text and not closed):
        return None
    said = text.rpartition(format_reward.THINK_END)[2].strip()
    if not said:
        return None
    if how.answer == "any":
        return format_reward.answer(text) or said
    return boxed(said) or (said if lenient else None) if KINDS[kind].boxed else said


def accuracy_job(
    text: str, example: Mapping, style: str = "r1_zero", *, lenient: bool = False
) -> tuple[str, str, Mapping] | None:
    """Returns the job `(kind, text, example)` with which `Pool` grades the answer in a completion.

    In the job, `kind` is the kind of question, and `example` is the gold answer for the verifier. `text` is either a
    new `<answer>` block with the answer (`given_answer`), or the whole summary. It is the summary if three conditions
    hold:

    - the field `answer` of the style is not "tags";
    - `given_answer` took the answer from no `<answer>` block;
    - the kind has `reads_boxes=True` in `kinds.KINDS`.

    In both cases the verifier finds a \\boxed{} in `text` by itself.

    Returns None if the completion has no answer, or if no verifier exists for this kind of question. Also returns None
    if several `<answer>` tags follow the thinking, unless `lenient` is True or `text` is the whole summary.

    Args:
        example: the question, a row of a data set with `kind` and `gold`.
        style, lenient: how to find the answer, as in `given_answer`.
    """
    kind = example["kind"]
    given = given_answer(text, kind, style, lenient=lenient) if KINDS[kind].verifier else None
    if not given:
        return None
    blocks = format_reward.STYLES[style].answer == "tags" or (
        format_reward.STYLES[style].answer == "any" and format_reward.answer(text) is not None
    )
    if not blocks and KINDS[kind].reads_boxes:  # the words round the box count
        return (kind, text.rpartition(format_reward.THINK_END)[2].strip(), example_of(example["gold"]))
    if not lenient and text.rpartition(format_reward.THINK_END)[2].count(format_reward.ANSWER) > 1:
        return None  # two answers
    return (kind, f"<answer>{given}</answer>", example_of(example["gold"]))


def verify(
    pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], style: str = "r1_zero", *, lenient: bool = False
) -> list[Verdict]:
    """Returns the verdicts on the answers in N completions; `NO_ANSWER` where there is no answer or no verifier.

    Args:
        examples: the question of each completion, a row of a data set with `kind` and `gold`.
        style, lenient: how to find the answer, as in `given_answer`.
    """
    jobs = [accuracy_job(text, example, style, lenient=lenient) for text, example in zip(texts, examples, strict=True)]
    judged = iter(pool.run([job for job in jobs if job is not None]))
    return [NO_ANSWER if job is None else next(judged) for job in jobs]


def accuracy(
    pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], style: str = "r1_zero"
) -> tuple[np.ndarray, np.ndarray, list[Verdict]]:
    """Grades the answers in N completions.

    A general prompt (kind "general") has no answer that a verifier could grade.

    Args:
        examples: the question of each completion, a row of a data set with `kind` and `gold`.
        style: the expected format, a key of `format.STYLES`.
    Returns:
        ([N] accuracy reward of each completion; nan for general prompts and for verdicts without a reward,
        [N] bool, whether the completion is valid: True for general prompts and for verdicts with a reward,
        the N verdicts).
    """
    verdicts = verify(pool, texts, examples, style)
    general = np.asarray([example["kind"] == GENERAL for example in examples], bool)
    earned = np.asarray([np.nan if v.reward is None else v.reward for v in verdicts], np.float64)
    return np.where(general, np.nan, earned), np.isfinite(earned) | general, verdicts


def score_format(texts: Sequence[str], examples: Sequence[Mapping], style: str = "r1_zero") -> np.ndarray:
    """Returns [N] format rewards: 1 for a completion in the format of `style`, else 0.

    In the completion of a general prompt (kind "general" in `examples`) the chain of thought may be blank.
    """
    found = []
    for text, example in zip(texts, examples, strict=True):
        rules = [{"style": style}] + [{"style": style, "think": "none"}] * (example["kind"] == GENERAL)
        found.append(max(format_reward.verify(text, rule).reward for rule in rules))
    return np.asarray(found, np.float64)


def consistency(texts: Sequence[str], examples: Sequence[Mapping]) -> np.ndarray:
    """Returns [N] language rewards: the share of words of each chain of thought that are in the question's language.

    The reward is 1 if there are no words, and nan if the question (in `examples`) has no `language`. If a completion
    has no chain of thought, all its words count.

    Source: Nature 2025, eq. 7.
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
    """Returns the rule rewards of N completions: Σ weight·part over "accuracy", "format" and "language".

    Accuracy is always computed, because it is logged. Other parts of weight 0 are not computed. If the weight of
    accuracy is not 0, a completion is valid only if the verdict on its answer has a reward. If the weight is 0, all
    completions are valid. Completions of general prompts are always valid.

    Args:
        pool: judges the answers.
        examples: the question of each completion, a row of a data set.
        weights: part name -> weight; a missing part has weight 0.
        style: the expected format, a key of `format.STYLES`.
    """
    right, judged, verdicts = accuracy(pool, texts, examples, style)
    parts = {"accuracy": right}
    if weights.get("format"):
        parts["format"] = score_format(texts, examples, style)
    if weights.get("language"):
        parts["language"] = consistency(texts, examples)
    valid = judged | (not weights.get("accuracy"))
    return Scores(*combine_parts(parts, weights, valid), parts, verdicts)


def combine_parts(
    parts: Mapping[str, np.ndarray], weights: Mapping[str, float], valid: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first two fields of `Scores` for N completions: ([N] total reward, `valid` as given).

    The total is the weighted sum of the parts; 0 where `valid` is False. A part that is nan adds 0.

    Args:
        parts: part name -> [N] reward.
        weights: part name -> weight; a missing part has weight 0.
        valid: [N] bool, whether the reward of the completion is known.
    """
    total = sum(weights.get(name, 0.0) * np.nan_to_num(part) for name, part in parts.items())
    return np.where(valid, total, 0.0), valid
