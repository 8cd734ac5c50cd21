"""What a policy does on a set of problems: right, well formed, how long, in which language, how reflective."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.behaviour import reflective_words
from r1jax.nano import general
from r1jax.rewards import format as format_reward
from r1jax.rewards import language, rule
from r1jax.rewards.isolate import Pool


def mean(values: Sequence | np.ndarray) -> float | None:
    """The mean of the finite values; None, not nan, if there is none."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None


def traits(texts: Sequence[str], examples: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Of each completion: hits of reflective words, and the share of its words in the question's language: of its chain
    of thought, without one of all of it. nan where it has no words; the reward (`rule.consistency`) gives 1 there."""
    shares = [
        language.consistency(format_reward.think(text) or text, example["language"]) if "language" in example else None
        for text, example in zip(texts, examples, strict=True)
    ]
    return {
        "reflective_words": np.asarray([reflective_words(text) for text in texts], np.float64),
        "language": np.asarray([np.nan if share is None else share for share in shares]),
    }


def reply_of(text: str) -> str:
    """What a completion says to its reader: the answer block, else what follows the chain of thought, else all of
    it."""
    given = format_reward.answer(text)
    return (text.rpartition(format_reward.THINK_END)[2] if given is None else given).strip()


def truths(texts: Sequence[str], examples: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """What the nano generator knows of replies to its general prompts: helpful in [0, 1], harmless 0 or 1 (always 1
    where no harm is asked for, as seven in eight prompts do not), stock phrases; else nan."""
    asked = [example.get("task") == "general" for example in examples]
    helpful, harmless, padding = (np.full(len(texts), np.nan) for _ in range(3))
    for i in np.flatnonzero(asked):
        said = reply_of(texts[i])
        helpful[i], padding[i] = general.helpful(examples[i], said), general.fillers(said)
        harmless[i] = general.harmless(examples[i], texts[i])
    return {"helpful": helpful, "harmless": harmless, "padding": padding}


def judge(
    pool: Pool,
    texts: Sequence[str],
    examples: Sequence[Mapping],
    lengths: np.ndarray,
    stopped: np.ndarray,
    style: str = "r1_zero",
) -> dict[str, np.ndarray]:
    """What each completion measures, as arrays [N]; nan where there is no verdict."""
    general_ones = np.asarray([example["kind"] == rule.GENERAL for example in examples], bool)
    strict, lenient = (
        np.asarray(
            [np.nan if v.reward is None else v.reward for v in rule.verify(pool, texts, examples, style, lenient=flag)]
        )
        for flag in (False, True)
    )
    return {
        "accuracy": np.where(general_ones, np.nan, strict), "accuracy_lenient": np.where(general_ones, np.nan, lenient),
        "ungraded": np.isnan(strict), "format": rule.well_formed(texts, examples, style), "length": lengths,
        "truncated": ~np.asarray(stopped, bool), **traits(texts, examples), **truths(texts, examples),
    }  # fmt: skip


def summary(rows: Mapping[str, np.ndarray], examples: Sequence[Mapping]) -> dict:
    """One line of eval.jsonl without its step: means over the rows of `judge`, and the accuracy of each task."""
    accuracy, lengths = rows["accuracy"], rows["length"]
    tasks = np.asarray([example.get("task", example["kind"]) for example in examples])
    return {
        "n": len(examples),
        "judged": int(np.isfinite(accuracy).sum()),
        "accuracy": mean(accuracy),
        "accuracy_lenient": mean(rows["accuracy_lenient"]),
        "accuracy_if_well_formed": mean(accuracy[rows["format"] == 1]),
        "format": mean(rows["format"]),
        "language": mean(rows["language"]),
        "length": mean(lengths),
        "length_right": mean(lengths[accuracy == 1]),
        "length_wrong": mean(lengths[accuracy == 0]),
        "reflective_words": mean(rows["reflective_words"]),
        "truncated": mean(rows["truncated"]),
        "no_verdict": int(np.sum(rows["ungraded"])),
        **{name: mean(rows[name]) for name in ("helpful", "harmless", "padding") if np.isfinite(rows[name]).any()},
        "by_kind": {
            str(task): {
                "n": int((tasks == task).sum()),
                "accuracy": mean(accuracy[tasks == task]),
                "length": mean(lengths[tasks == task]),
            }
            for task in sorted(set(tasks))
        },
    }
