"""A policy on a benchmark: every sample judged into a line, and the figures that the lines of a benchmark give."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from r1jax.estimates import cons_at_k, interval, pass_at_k
from r1jax.evaluate import traits, truths
from r1jax.rewards import format as format_reward
from r1jax.rewards import rule
from r1jax.rewards._extract import boxed
from r1jax.rewards.isolate import Pool
from r1jax.rewards.verdict import UNGRADED
from r1jax.waves import Wave

VOTELESS = (*rule.PROGRAMS, rule.GENERAL)  # kinds whose answers have no normal form to vote by
PLAIN = (
    "right", "right_in_form", "format", "language", "length", "truncated", "reflective_words", "helpful", "harmless",
    "padding",
)  # fmt: skip
SAID = {"no_answer": {"no_answer"}, "ungraded": UNGRADED}
SHOWN = (
    ("pass@1", "pass@1"), ("pass@k", "pass@k"), ("cons@k", "cons@k"), ("right_in_form", "in form"),
    ("format", "format"), ("language", "language"), ("helpful", "helpful"), ("harmless", "harmless"),
    ("padding", "padding"), ("length", "tokens"), ("truncated", "cut off"),
)  # fmt: skip


def announced(text: str, kind: str) -> str | None:
    """The answer a completion announces: after the chain of thought the last answer block, else the last box.

    A choice is looked for in all that follows the thinking, a program too. None while the thinking has not ended.
    Rewards want the form as well (`rule.given_answer`); the paper's evaluation does not.
    """
    if format_reward.THINK in text and format_reward.THINK_END not in text:
        return None
    said = text.rpartition(format_reward.THINK_END)[2].strip()
    block = format_reward.answer(text)
    if kind in ("code", "proof", "choice"):
        return block or said or None
    return block or boxed(said)


def announced_job(text: str, example: Mapping) -> tuple[str, str, Mapping] | None:
    """The pool's job for an announced answer; None if there is none or no rule judges it."""
    kind, gold = example["kind"], example["gold"]
    given = None if kind == rule.GENERAL else announced(text, kind)
    return None if not given else (kind, f"<answer>{given}</answer>", gold if kind in rule.PROGRAMS else {"gold": gold})


def measured(pool: Pool, style: str) -> Callable[[Wave], list[dict]]:
    """What `waves.in_waves` writes about a wave: each completion with its verdict and its traits."""

    def lines(wave: Wave) -> list[dict]:
        texts = wave.texts
        free = [announced_job(text, example) for text, example in zip(texts, wave.examples, strict=True)]
        strict = [rule.accuracy_job(text, example, style) for text, example in zip(texts, wave.examples, strict=True)]
        jobs = [job for job in (*free, *strict) if job is not None]  # together: equal jobs run once
        verdicts = iter(pool.run(jobs))
        free, strict = ([rule.NO_ANSWER if job is None else next(verdicts) for job in part] for part in (free, strict))
        figures = {
            "format": rule.well_formed(texts, wave.examples, style),
            **traits(texts, wave.examples),
            **truths(texts, wave.examples),
        }
        written = []
        for i, (example, sample, text, length, stopped) in enumerate(zip(*wave, strict=True)):
            said = free[i] if example["kind"] != rule.GENERAL else None
            written.append({
                "id": example["id"], "sample": sample,
                "kind": example["kind"], "task": example.get("task", example["kind"]),
                "problem": example["problem"], "gold": example["gold"], "completion": text,
                "length": int(length), "truncated": not stopped,
                "verdict": said and said.verdict, "reward": said and said.reward, "answer": said and said.canonical,
                "right": said and said.reward == 1.0, "right_in_form": said and strict[i].reward == 1.0,
                **{name: float(values[i]) if np.isfinite(values[i]) else None for name, values in figures.items()},
            })  # fmt: skip
        return written

    return lines


def column(lines: Sequence[Mapping], samples: int, of: Callable[[Mapping], object]) -> np.ndarray:
    """[P, samples] one figure of every line; nan where it has none."""
    found = [of(line) for line in lines]
    return np.asarray([np.nan if value is None else value for value in found], np.float64).reshape(-1, samples)


def by_problem(lines: Sequence[Mapping], samples: int) -> dict[str, np.ndarray]:
    """name -> [P] what the samples of each problem come to; nan where they say nothing.

    Args:
        lines: of `measured`, question-major.
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
        np.nan if lines[p * samples]["kind"] in VOTELESS
        else cons_at_k([line["answer"] for line in lines[p * samples : (p + 1) * samples]], right[p])
        for p in range(len(right))
    ]  # fmt: skip
    return found | {f"cons@{samples}": np.asarray(votes)}


def mean_of_rows(values: np.ndarray) -> np.ndarray:
    """[P] the mean of each row's finite values; nan, without a warning, where it has none."""
    there = np.isfinite(values)
    return np.where(
        there.any(axis=1), np.where(there, values, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1), np.nan
    )


def figures(lines: Sequence[Mapping], samples: int, seed: int) -> dict:
    """What a benchmark's lines come to: of each figure {mean, low, high}, with the 95 % bootstrap interval of the mean.

    A figure that no problem has is left out. `by_task` holds the same of each family of problems, where there are
    several.
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
    found: dict = {"n": int(rows.sum())}
    for name, values in problems.items():
        if (bounds := interval(values[rows], seed)) is not None:
            found[name] = {"mean": float(np.nanmean(values[rows])), "low": bounds[0], "high": bounds[1]}
    return found


def shown(results: Mapping[str, Mapping]) -> list[list[str]]:
    """The table of several benchmarks as rows of text, its heading first: each mean with its interval."""
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
    """Shares as per cent, lengths as they are."""
    if figure is None:
        return ""
    scale, digits = (1, 0) if name == "length" else (1, 2) if name == "padding" else (100, 1)
    mean, low, high = (f"{scale * figure[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"
