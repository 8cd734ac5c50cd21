"""Supplies questions for training and evaluation, from a file or from the generator of synthetic problems, "nano".

Training takes questions from an endless stream. Evaluation takes a fixed list of held-out problems.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from r1jax import storage
from r1jax.data.decontaminate import decontaminate
from r1jax.data.difficulty import Difficulty
from r1jax.data.readers import NO_COLUMNS, rows, rows_with_forms
from r1jax.nano import tasks
from r1jax.rewards.kinds import GENERAL
from r1jax.rewards.language import spoken

GENERATOR = "nano"
NOTHING: Mapping[str, str] = {}
Take = Callable[[int], dict]  # index in an endless stream -> the question there


def generator_mix(path: str) -> str | None:
    """Returns the name of the mix of generated problems that `path` asks for; None if `path` names a file.

    `nano:NAME` asks for NAME, a key of `tasks.MIX` or one of `tasks.TASKS`; `nano` asks for "zero".

    Raises:
        ValueError: there is no such mix or task.
    """
    name, _, mix = path.partition(":")
    if name != GENERATOR:
        return None
    mix = mix or "zero"
    if mix not in (*tasks.MIX, *tasks.TASKS):
        known = ", ".join(f"{GENERATOR}:{name}" for name in (*tasks.MIX, *tasks.TASKS))
        raise ValueError(f"{path} names no mix of the nano generator: use one of {known}")
    return mix


def stream(
    path: str,
    seed: int,
    flag: str = "--prompts",
    *,
    free: bool = False,
    benchmarks: Sequence[str] = (),
    without: Mapping[str, str] = NOTHING,
    columns: Mapping[str, str] = NO_COLUMNS,
    difficulty: Difficulty | None = None,
) -> tuple[Take, dict]:
    """Returns an endless stream of questions, and a description of the questions for the run's manifest.

    Question i is a pure function of (seed, i). The questions of a file are shuffled anew in each epoch.

    Args:
        path: a file of questions, or `nano` or `nano:MIX` for the nano generator.
        flag: the command-line flag that gave `path`, for error texts.
        free: whether rows without gold and kind are accepted; see `readers.rows`.
        benchmarks: files of evaluation problems. Questions that share 10 consecutive words with such a problem are
            dropped. Only for files.
        without: problems to leave out, {problem: reason, such as "held_out"}. Only for files.
        columns: keys to rename, {key in r1jax: key in the file}.
        difficulty: which questions to keep by pass rate, and whether to order them by pass rate. Only for files.

    Returns:
        (take, description). `take(i)` returns question i. The description is {sha256, counts}. `sha256` is the hash of
        the rows kept, or of the generator's first 64 questions. `counts` holds numbers of rows: the rows kept, the rows
        that `benchmarks` drops, the rows that `difficulty` drops, and the rows that are left out for each reason in
        `without`. For the generator, `counts` is {"generated": -1}. With `benchmarks`, the description also has
        "decontaminated", a list of the benchmarks' paths and hashes. With `difficulty`, the description also has
        "difficulty", which is `Difficulty.about`.

    Raises:
        ValueError: a file cannot be read or holds a row that `readers.rows` rejects. Also raised if `benchmarks` or
            `difficulty` is given for the generator, or drops every row of the file.
    """
    if benchmarks and generator_mix(path) is not None:
        raise ValueError(
            f"--decontaminate compares files, but {flag}={path} names the generator, which keeps its held-out problems "
            "out of its questions. Leave --decontaminate out"
        )
    if difficulty and generator_mix(path) is not None:
        raise ValueError(
            f"--keep-pass-rate and --curriculum need a file of questions, but {flag}={path} names the generator. "
            "Name a file, or leave both flags out"
        )
    if (mix := generator_mix(path)) is not None:
        sample = fingerprint(tasks.prompt(seed, i, mix) for i in range(64))
        return functools.partial(tasks.prompt, seed, mix=mix), {"sha256": sample, "counts": {"generated": -1}}
    whole = read(path, flag, free, columns)
    examples = [row for row in whole if row["problem"] not in without] if without else whole
    about = dict(Counter(without[row["problem"]] for row in whole if row["problem"] in without))
    if benchmarks:
        whole, against = examples, [row for name in benchmarks for row in benchmark(name)]
        examples, dropped = decontaminate(whole, against)
        about |= {"dropped": len(dropped)}
        if not examples:
            raise ValueError(
                f"--decontaminate={' '.join(benchmarks)} drops all {len(whole)} rows of {flag}={path}: "
                f"the first row shares {dropped[0][1]!r} with a benchmark. Name other questions"
            )

    if difficulty:
        read_rows = len(examples)
        examples = difficulty.keep(examples)
        about["too_easy_or_hard"] = read_rows - len(examples)

    @functools.lru_cache(maxsize=4)
    def order(epoch: int) -> np.ndarray:
        drawn = np.random.default_rng([seed, epoch]).permutation(len(examples))
        return difficulty.arrange(examples, drawn) if difficulty else drawn

    def take(index: int) -> dict:
        epoch, position = divmod(index, len(examples))
        return examples[order(epoch)[position]]

    data: dict = {"sha256": fingerprint(examples), "counts": {"rows": len(examples)} | about}
    if difficulty:
        data["difficulty"] = dict(difficulty.about)
    if benchmarks:
        data["decontaminated"] = [
            {"path": name, "sha256": hashlib.sha256(storage.path_of(name).read_bytes()).hexdigest()}
            for name in benchmarks
        ]
    return take, data


def distinct_questions(path: str, seed: int, first: int, count: int, flag: str = "--prompts") -> list[dict]:
    """Returns `count` questions of the stream (see `stream`) without repeats, beginning with question `first`.

    Questions are counted from 0.

    The list is shorter if the file holds fewer distinct questions, or if the generator repeats a question among these
    `count` questions.

    Args:
        path, seed, flag: see `stream`.

    Raises:
        ValueError: a file cannot be read or holds a bad row.
    """
    take, data = stream(path, seed, flag)
    rows = data["counts"].get("rows")
    found: dict[str, dict] = {}
    for index in range(first, first + (2 * rows if rows else count)):  # a file: the rest of an epoch and a whole one
        if len(found) == count:
            break
        row = take(index)
        found.setdefault(row["problem"], row)
    return list(found.values())


def benchmark(path: str) -> list[dict]:
    """Returns the rows of the file `path`, which holds evaluation problems. `path` is a value of --decontaminate.

    Raises:
        ValueError: `path` names the nano generator, or the file cannot be read.
    """
    if generator_mix(path) is not None:
        raise ValueError(
            f"--decontaminate={path} names the generator of nano's problems: give a file of benchmark problems"
        )
    return read(path, "--decontaminate", free=True)


def split_off(path: str, count: int, *, free: bool = False, columns: Mapping[str, str] = NO_COLUMNS) -> list[dict]:
    """Returns the rows of a training file that are held out for evaluation: a tenth of the problems, at most `count`.

    At least one row is held out. The rows are those whose problems have the smallest hashes, so the choice does not
    depend on the order of the file.

    Args:
        path: the file, a value of --prompts.
        count: largest number of rows to hold out.
        free, columns: see `readers.rows`.

    Raises:
        ValueError: the file has fewer than two different problems, or cannot be read.
    """
    by_problem: dict[str, dict] = {}
    for row in read(path, "--prompts", free, columns):
        by_problem.setdefault(row["problem"], row)
    if len(by_problem) < 2:
        raise ValueError(
            f"--prompts={path} has only one problem, so none can be held out. Name held-out problems with "
            "--eval-prompts=FILE"
        )
    ordered = sorted(by_problem, key=lambda problem: (zlib.crc32(problem.encode()), problem))
    return [by_problem[problem] for problem in ordered[: max(1, min(count, len(ordered) // 10))]]


def held_out(path: str, count: int, *, free: bool = False, columns: Mapping[str, str] = NO_COLUMNS) -> list[dict]:
    """Returns the first `count` evaluation problems, of a file or of the nano generator's fixed list.

    Args:
        path: a file of problems, or `nano` or `nano:MIX` for the nano generator.
        free: whether rows without gold and kind are accepted; see `readers.rows`.
        columns: keys to rename, {key in r1jax: key in the file}.
    """
    mix = generator_mix(path)
    return read(path, "--eval-prompts", free, columns)[:count] if mix is None else tasks.held_out(count, mix)


def read(path: str, flag: str, free: bool = False, columns: Mapping[str, str] = NO_COLUMNS) -> list[dict]:
    """Returns all rows of a file of questions.

    Adds the key `language` to each row that lacks it. The value is the language that most words of the problem are in.

    Args:
        flag: the command-line flag that gave `path`, for error texts.
        free: whether rows without gold and kind are accepted; see `readers.rows`.
        columns: keys to rename, {key in r1jax: key in the file}.

    Raises:
        ValueError: the file cannot be read or holds a row that `readers.rows` rejects.
    """
    try:
        return [
            row if isinstance(row.get("language"), str) else row | {"language": spoken(row["problem"])}
            for row in rows(path, free=free, columns=columns)
        ]
    except OSError as error:
        raise ValueError(
            f"{flag}={path} cannot be read ({error.strerror or error}). "
            f"Give a .jsonl, .json or .parquet file of {'{problem}' if free else '{id, problem, gold, kind}'}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error


def require_verifier(path: str, kinds: Iterable[str]) -> None:
    """Raises ValueError if all rows are of the kind "general", whose answers no verifier grades.

    Args:
        path: the file of --prompts, for the error.
        kinds: the kinds of the file's rows.
    """
    if {*kinds} == {GENERAL}:
        raise ValueError(
            f"--prompts={path} has only rows of kind {GENERAL}, whose answers no verifier grades. Give a reward of "
            "your own with --reward=FILE.py:FUNCTION, or rows of another kind"
        )


def describe(path: str, *, free: bool = False, columns: Mapping[str, str] = NO_COLUMNS) -> str:
    """Returns a line for the screen about a file's first row: its recognised format, its kind, gold and problem.

    Args:
        free, columns: see `readers.rows`.
    """
    form, row = next(rows_with_forms(path, free=free, columns=columns))
    problem, gold = (text if len(text) <= 160 else f"{text[:160]}.." for text in (row["problem"], f"{row['gold']!r}"))
    return f"taken as {form}; the first row: kind {row['kind']}, gold {gold}, problem {problem!r}"


def fingerprint(examples) -> str:
    """Returns the SHA-256 of the examples (rows), each written as a JSON line with sorted keys."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(example, sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()
