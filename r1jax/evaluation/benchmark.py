"""Scores a policy on a benchmark: writes one line of results per completion, and averages the lines.

A *figure* is the name of a measured quantity, such as "pass@1" or "length".
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from r1jax.evaluation.completions import traits, truths
from r1jax.evaluation.statistics import cons_at_k, interval, pass_at_k
from r1jax.rewards import format as format_reward
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rewards.kinds import GENERAL, KINDS, example_of
from r1jax.rewards.math._extract import boxed
from r1jax.rewards.verdict import UNGRADED
from r1jax.sampling.complete import Wave

PLAIN = (
    "right",
    "right_in_form",
    "format",
    "language",
    "length",
    "truncated",
    "reflective_words",
    "helpful",
    "harmless",
    "padding",
)
SAID = {"no_answer": {"no_answer"}, "ungraded": UNGRADED}
SHOWN = (
    ("pass@1", "pass@1"),
    ("pass@k", "pass@k"),
    ("cons@k", "cons@k"),
    ("right_in_form", "in form"),
    ("format", "format"),
    ("language", "language"),
    ("helpful", "helpful"),
    ("harmless", "harmless"),
    ("padding", "padding"),
    ("length", "tokens"),
    ("truncated", "cut off"),
    ("no_answer", "no answer"),
)


def extract_final_answer(text: str, kind: str, style: str = "r1") -> str | None:
    """Returns the final answer of a completion; None if there is none, or if the chain of thought has not ended.

    The final answer is the content of the last <answer> block. If there is no such block, the final answer is taken
    from the text after the chain of thought:

    - For kinds whose answer must be boxed, such as "math", it is the last boxed formula in this text.
    - For other kinds, such as multiple-choice questions and programs, it is this whole text, and the verifier looks for
      the answer there. The same holds for every kind if `style` allows answers of any form.

    Rewards also require the answer format (`rule.given_answer`). The paper's evaluation does not.

    Args:
        text: the completion.
        kind: the kind of the question, such as "math" or "choice".
        style: the form that the prompt asks for, a key of `format.STYLES`.
    """
    if format_reward.THINK in text and format_reward.THINK_END not in text:
        return None
    said = text.rpartition(format_reward.THINK_END)[2].strip()
    block = format_reward.answer(text)
    if KINDS[kind].in_words or not KINDS[kind].boxed or format_reward.STYLES[style].answer == "any":
        return block or said or None
    return block or boxed(said)


def announced_job(text: str, example: Mapping, style: str = "r1") -> tuple[str, str, Mapping] | None:
    """Returns the job with which the verifier pool judges the final answer of a completion.

    `extract_final_answer` finds the answer, which need not have the format that rewards require.

    Args:
        text: the completion.
        example: the question with `kind` and `gold`, the right answer.
        style: the form that the prompt asks for, a key of `format.STYLES`.

    Returns:
        (kind, text, mapping), or None if the completion has no final answer or the kind of question has no verifier.
        `kind` is the kind of question, such as "math". `text` is the text to grade: the final answer, put into <answer>
        tags. If the completion has no <answer> block and the verifier looks for a box itself (`Kind.reads_boxes`),
        `text` is all that follows the chain of thought. The verifier takes the right answer from `mapping`, which
        `kinds.example_of` makes.
    """
    kind = example["kind"]
    given = extract_final_answer(text, kind, style) if KINDS[kind].verifier else None
    if not given:
        return None
    if KINDS[kind].reads_boxes and format_reward.answer(text) is None:  # the words round the box count
        return (kind, text.rpartition(format_reward.THINK_END)[2].strip(), example_of(example["gold"]))
    return (kind, f"<answer>{given}</answer>", example_of(example["gold"]))


def make_lines(pool: Pool, style: str) -> Callable[[Wave], list[dict]]:
    """Returns a function that turns a wave of completions (`Wave`) into one line (dict) of results per completion.

    A line holds the question, the completion, the verdict on its final answer against the gold answer, and measurements
    such as its length. The returned function is the field `lines` of a `batch_sampling.Output`.

    Args:
        pool: runs the verifiers.
        style: the answer format that a completion should have, a key of `format.STYLES`. The values "format" and
            "right_in_form" of a line refer to this format.
    """

    def lines(wave: Wave) -> list[dict]:
        texts = wave.texts
        free = [announced_job(text, example, style) for text, example in zip(texts, wave.examples, strict=True)]
        strict = [rule.accuracy_job(text, example, style) for text, example in zip(texts, wave.examples, strict=True)]
        jobs = [job for job in (*free, *strict) if job is not None]  # in one call, so that equal jobs run once
        verdicts = iter(pool.run(jobs))
        free, strict = ([rule.NO_ANSWER if job is None else next(verdicts) for job in part] for part in (free, strict))
        figures = {
            "format": rule.score_format(texts, wave.examples, style),
            **traits(texts, wave.examples),
            **truths(texts, wave.examples),
        }
        written = []
        for i, (example, sample, text, length, stopped) in enumerate(zip(*wave, strict=True)):
            said = free[i] if example["kind"] != GENERAL else None
            written.append(
                {
                    "id": example["id"],
                    "sample": sample,
                    "kind": example["kind"],
                    "task": example.get("task", example["kind"]),
                    "problem": example["problem"],
                    "gold": example["gold"],
                    "completion": text,
                    "length": int(length),
                    "truncated": not stopped,
                    "verdict": said and said.verdict,
                    "reward": said and said.reward,
                    "answer": said and said.canonical,
                    "right": said and said.reward == 1.0,
                    "right_in_form": said and strict[i].reward == 1.0,
                    **{name: float(values[i]) if np.isfinite(values[i]) else None for name, values in figures.items()},
                }
            )
        return written

    return lines


def column(lines: Sequence[Mapping], samples: int, of: Callable[[Mapping], object]) -> np.ndarray:
    """Applies `of` to every line and returns the values as [P, samples]; a value of None becomes nan.

    Args:
        lines: P · samples lines for P problems, all samples of a problem together.
    """
    found = [of(line) for line in lines]
    return np.asarray([np.nan if value is None else value for value in found], np.float64).reshape(-1, samples)


def by_problem(lines: Sequence[Mapping], samples: int) -> dict[str, np.ndarray]:
    """Averages the lines over the samples of each of the P problems. Returns a dict {figure: [P]}.

    A figure is the name of a measured quantity, such as "pass@1" or "length". Where a figure is not measured on a
    problem, the entry is nan. For example, "helpful" is measured only on general prompts.

    Args:
        lines: from `make_lines`, all samples of a problem together.
        samples: number of samples of each problem.
    """
    rows = {name: column(lines, samples, operator.itemgetter(name)) for name in PLAIN}
    right, length = rows["right"], rows["length"]
    said = {
        name: column(lines, samples, lambda line, names=names: line["verdict"] and line["verdict"] in names)
        for name, names in SAID.items()
    }
    rows |= {
        "length_right": np.where(right == 1, length, np.nan),
        "length_wrong": np.where(right == 0, length, np.nan),
    } | said
    found = {name: mean_of_rows(values) for name, values in rows.items() if name != "right"}
    judged = np.isfinite(right[:, 0])
    for k in sorted({1 << i for i in range(samples.bit_length())} | {samples}):
        found[f"pass@{k}"] = np.where(judged, pass_at_k(right == 1, k), np.nan)
    votes = [
        cons_at_k([line["answer"] for line in lines[p * samples : (p + 1) * samples]], right[p])
        if KINDS[lines[p * samples]["kind"]].votes
        else np.nan
        for p in range(len(right))
    ]
    return found | {f"cons@{samples}": np.asarray(votes)}


def mean_of_rows(values: np.ndarray) -> np.ndarray:
    """Returns the mean [P] of the finite values in each of the P rows of `values`.

    A row without a finite value gets nan, without a warning.
    """
    there = np.isfinite(values)
    return np.where(
        there.any(axis=1), np.where(there, values, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1), np.nan
    )


def figures(lines: Sequence[Mapping], samples: int, seed: int) -> dict:
    """Returns the results of a benchmark: for each figure, a dict {mean, low, high} over its problems.

    A figure is the name of a measured quantity, such as "pass@1". "low" and "high" are the bounds of the 95 % bootstrap
    interval of the mean. A figure is left out if it was measured on no problem. "n" is the number of problems, and
    "samples" is `samples`. If there are several tasks, "by_task" holds the results of each task.

    Args:
        lines: from `make_lines`, all samples of a problem together.
        samples: number of samples of each problem.
        seed: seed of the bootstrap.
    """
    problems = by_problem(lines, samples)
    tasks = np.asarray([line["task"] for line in lines[::samples]])
    chosen = {task: tasks == task for task in sorted(set(tasks.tolist()))}
    split = {task: estimated(problems, rows, seed) for task, rows in chosen.items()} if len(chosen) > 1 else {}
    return estimated(problems, np.ones(len(tasks), bool), seed) | {
        "samples": samples,
        **({"by_task": split} if split else {}),
    }


def estimated(problems: Mapping[str, np.ndarray], rows: np.ndarray, seed: int) -> dict:
    """Returns the results on some of P problems: a dict {name of a measured quantity: {mean, low, high}}.

    "n" is the number of selected problems. A quantity is left out if it was measured on none of them.

    Args:
        problems: {name of a quantity, such as "pass@1": its values [P]}, from `by_problem`.
        rows: [P] bool, the selected problems.
        seed: seed of the bootstrap interval (low, high).
    """
    found: dict = {"n": int(rows.sum())}
    for name, values in problems.items():
        if (bounds := interval(values[rows], seed)) is not None:
            found[name] = {"mean": float(np.nanmean(values[rows])), "low": bounds[0], "high": bounds[1]}
    return found


def format_table(results: Mapping[str, Mapping]) -> list[list[str]]:
    """Formats the results of several benchmarks as the rows of a table, the heading first.

    A benchmark has a row, and a further row for each of its tasks. A cell holds a mean with its interval.

    Args:
        results: benchmark name -> what `figures` returns.
    """
    heads = ["benchmark", "problems", "k", *(title for _, title in SHOWN)]
    rows = []
    for name, found in results.items():
        parts = {name: found} | {f"  {task}": part for task, part in found.get("by_task", {}).items()}
        k = found["samples"]
        for title, part in parts.items():
            rows.append(
                [title, str(part["n"]), str(k), *(cell(part.get(key.replace("@k", f"@{k}")), key) for key, _ in SHOWN)]
            )
    used = [i for i in range(len(heads)) if i < 3 or any(row[i] for row in rows)]
    return [[row[i] for i in used] for row in (heads, *rows)]


def cell(figure: Mapping | None, name: str) -> str:
    """Formats a result {mean, low, high} as "mean [low, high]"; an empty string if `figure` is None.

    "length" and "padding" (the number of stock phrases) are printed as they are. All other quantities are printed in
    per cent.

    Args:
        name: the name of the measured quantity, such as "length".
    """
    if figure is None:
        return ""
    scale, digits = (1, 0) if name == "length" else (1, 2) if name == "padding" else (100, 1)
    mean, low, high = (f"{scale * figure[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
