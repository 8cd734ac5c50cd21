"""Measures completions: accuracy, format, length, language and reflective words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from r1jax.evaluation.statistics import mean
from r1jax.nano import general
from r1jax.rewards import format as format_reward
from r1jax.rewards import language, rule
from r1jax.rewards.ahead import Ahead
from r1jax.rewards.format import reply_of
from r1jax.rewards.isolate import Pool
from r1jax.rewards.kinds import GENERAL
from r1jax.rewards.penalties import Penalties, add_penalties
from r1jax.rewards.penalties import parts as penalty_parts

# Applies the training reward to held-out completions: (pool, texts, examples, lengths [N]) -> {name: values [N]}.
Earned = Callable[[Ahead, Sequence[str], Sequence[Mapping], np.ndarray], Mapping[str, np.ndarray]]


def traits(texts: Sequence[str], examples: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Returns two measurements of each of N completions, both [N].

    "reflective_words" is the number of reflective words in the completion. "language" is the share of words in the
    question's language. The words counted are those of the chain of thought, or of the whole text if the chain of
    thought is missing or empty. "language" is nan if the example has no key `language`, or if there are no words. If
    there are no words, the language reward (`rule.consistency`) is 1 instead.
    """
    shares = [
        language.consistency(format_reward.think(text) or text, example["language"]) if "language" in example else None
        for text, example in zip(texts, examples, strict=True)
    ]
    return {
        "reflective_words": np.asarray([reflective_words(text) for text in texts], np.float64),
        "language": np.asarray([np.nan if share is None else share for share in shares]),
    }


def truths(texts: Sequence[str], examples: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """Measures N replies to nano's general prompts, whose generator knows what a good reply is.

    Returns three arrays [N], with nan for replies to other prompts. "helpful" is in [0, 1]; "harmless" is 0 or 1;
    "padding" is the number of stock phrases, such as "Great question!". "harmless" is always 1 if the prompt does not
    ask for harm; seven in eight general prompts do not.
    """
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
    """Measures N completions. Returns a dict of arrays [N].

    "accuracy" is 1 if the completion gives the right answer in the required format, else 0; "accuracy_lenient" also
    counts right answers outside the format. Both are nan where there is no verdict; "ungraded" is true there.
    "no_answer" is 1 if the completion has no answer in the required format; "accuracy" is then 0. The other keys are
    "format", "length", "truncated", and the keys of `traits` and `truths`.

    Args:
        pool: runs the verifiers.
        examples: the question of each completion, with its gold answer.
        lengths: [N] number of tokens of each completion.
        stopped: [N] bool, whether a completion ended by itself.
        style: the required answer format, a key of `format.STYLES`.
    """
    general_ones = np.asarray([example["kind"] == GENERAL for example in examples], bool)
    judged = [rule.verify(pool, texts, examples, style, lenient=flag) for flag in (False, True)]
    strict, lenient = (np.asarray([np.nan if v.reward is None else v.reward for v in some]) for some in judged)
    missing = np.asarray([verdict.verdict == "no_answer" for verdict in judged[0]], np.float64)
    return {
        "accuracy": np.where(general_ones, np.nan, strict),
        "accuracy_lenient": np.where(general_ones, np.nan, lenient),
        "no_answer": np.where(general_ones, np.nan, missing),
        "ungraded": np.isnan(strict),
        "format": rule.score_format(texts, examples, style),
        "length": lengths,
        "truncated": ~np.asarray(stopped, bool),
        **traits(texts, examples),
        **truths(texts, examples),
    }


def earned(
    pool: Pool | Ahead,
    texts: Sequence[str],
    examples: Sequence[Mapping],
    lengths: np.ndarray,
    *,
    reward: Callable[..., rule.Scores] | None,
    penalties: Penalties,
) -> dict[str, np.ndarray]:
    """Applies the training reward to N held-out completions. Returns a dict of arrays [N], for `summary`.

    The keys are "reward/NAME" for each part NAME of the reward. A user's own reward adds two keys. "reward/mean" is the
    total reward, nan without a verdict. "failed" is True where the user's function failed.

    Args:
        pool: runs the verifiers, if the user's own reward calls any.
        lengths: [N] number of tokens of each completion.
        reward: the user's own reward, `(pool, texts, examples, step) -> Scores`. None means that training uses a
            built-in reward. Then only the penalties are returned here, because `judge` measures the other parts.
        penalties: the penalties of the training reward, such as a penalty for length.
    """
    if reward is None:
        return {f"reward/{name}": part for name, part in penalty_parts(texts, lengths, penalties).items()}
    scores = add_penalties(reward(pool, texts, examples, 0), texts, lengths, penalties)
    found = {f"reward/{name}": part for name, part in scores.parts.items()}
    failed = np.zeros(len(texts), bool) if scores.failed is None else scores.failed
    return found | {"reward/mean": np.where(scores.valid, scores.total, np.nan), "failed": failed}


def summary(rows: Mapping[str, np.ndarray], examples: Sequence[Mapping]) -> dict:
    """Returns a line of eval.jsonl without its step: means over N completions, and accuracy and length by task.

    Args:
        rows: measurements of the completions, {name: [N]}, from `judge` and `earned`.
        examples: the question of each completion.
    """
    accuracy, lengths = rows["accuracy"], rows["length"]
    tasks = np.asarray([example.get("task", example["kind"]) for example in examples])
    return {
        "n": len(examples),
        "judged": int(np.isfinite(accuracy).sum()),
        "accuracy": mean(accuracy),
        "accuracy_lenient": mean(rows["accuracy_lenient"]),
        "no_answer": mean(rows["no_answer"]),
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
        **{name: mean(values) for name, values in rows.items() if name.startswith("reward/")},
        **({"failed": int(np.nansum(rows["failed"]))} if "failed" in rows else {}),
        "by_kind": {
            str(task): {
                "n": int((tasks == task).sum()),
                "accuracy": mean(accuracy[tasks == task]),
                "length": mean(lengths[tasks == task]),
            }
            for task in sorted(set(tasks))
        },
    }


# Chosen by three human experts, then merged: DeepSeek-AI 2025 (v2), appendix C.2.
REFLECTIVE_WORDS = (
    "wait",
    "mistake",
    "however",
    "but",
    "retry",
    "error",
    "verify",
    "wrong",
    "evaluate",
    "check",
)
# Chinese forms added by us: the paper counts English words only.
REFLECTIVE_WORDS_ZH = (
    "等等",
    "错误",
    "然而",
    "但是",
    "重试",
    "出错",
    "验证",
    "不对",
    "评估",
    "检查",
)

# Python's \b sees no boundary between a Chinese character and a Latin letter ("等wait"). So the boundary is explicit:
# no word character other than a Chinese one may stand next to the word.
_LETTER = r"[^\W\u3400-\u9fff]"
_REFLECTIVE = re.compile(
    rf"(?<!{_LETTER})(?:{'|'.join(REFLECTIVE_WORDS)})(?!{_LETTER})|{'|'.join(REFLECTIVE_WORDS_ZH)}",
    re.IGNORECASE,
)


def reflective_words(text: str) -> int:
    """Counts the reflective words of a completion, in English and Chinese.

    English words match as whole words, in any case. Chinese words match anywhere, because Chinese has no spaces.
    Matches do not overlap: "等等等等" holds two, "出错误" one (出错).

    Source: DeepSeek-AI 2025 (v2), appendix C.2.
    """
    return sum(1 for _ in _REFLECTIVE.finditer(text))
