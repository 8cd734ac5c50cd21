"""Where the questions of a round come from: the nano generator, or a file."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Mapping

import numpy as np

from r1jax.data.readers import rows
from r1jax.nano import tasks
from r1jax.rewards.language import spoken

GENERATOR = "nano"
Take = Callable[[int], dict]  # the question at an index of an endless stream


def generated(path: str) -> str | None:
    """The mix of the nano generator that `nano` or `nano:MIX` names; None for a file.

    Raises:
        ValueError: no mix or task of this name.
    """
    name, _, mix = path.partition(":")
    if name != GENERATOR:
        return None
    mix = mix or "zero"
    if mix not in (*tasks.MIX, *tasks.TASKS):
        raise ValueError(f"{path} names no mix of the nano generator: use {', '.join((*tasks.MIX, *tasks.TASKS))}")
    return mix


def stream(path: str, seed: int, flag: str = "--prompts") -> tuple[Take, dict]:
    """Question number i of an endless stream, a pure function of (seed, i), and what to write about the data.

    A file is shuffled anew each epoch. `nano` and `nano:MIX` are the nano generator's.

    Raises:
        ValueError: the file cannot be read or holds a bad row; it names the line.
    """
    if (mix := generated(path)) is not None:
        sample = fingerprint(tasks.prompt(seed, i, mix) for i in range(64))
        return functools.partial(tasks.prompt, seed, mix=mix), {"sha256": sample, "counts": {"generated": -1}}
    examples = read(path, flag)

    @functools.lru_cache(maxsize=4)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(examples))

    def take(index: int) -> dict:
        epoch, position = divmod(index, len(examples))
        return examples[order(epoch)[position]]

    return take, {"sha256": fingerprint(examples), "counts": {"rows": len(examples)}}


def distinct(path: str, seed: int, first: int, count: int, flag: str = "--prompts") -> list[dict]:
    """`count` questions of a stream from number `first` on, no two alike.

    Of a file all its questions where it has no more. The generator is asked for `count`: of some mixes it has fewer.

    Raises:
        ValueError: as `stream`.
    """
    take, data = stream(path, seed, flag)
    rows = data["counts"].get("rows")
    found: dict[str, dict] = {}
    for index in range(first, first + (2 * rows if rows else count)):  # the rest of an epoch, and a whole one
        if len(found) == count:
            break
        row = take(index)
        found.setdefault(row["problem"], row)
    return list(found.values())


def held_out(path: str, count: int) -> list[dict]:
    """The evaluation problems: the file's first `count` rows, or as many of the generator's fixed list."""
    mix = generated(path)
    return read(path, "--eval-prompts")[:count] if mix is None else tasks.held_out(count, mix)


def read(path: str, flag: str) -> list[dict]:
    """All rows of a file, each with its language: the one most words of its problem are in, if it names none."""
    try:
        return [
            row if isinstance(row.get("language"), str) else row | {"language": spoken(row["problem"])}
            for row in rows(path)
        ]
    except OSError as error:
        raise ValueError(
            f"{flag}={path} cannot be read ({error.strerror}). "
            "Give a .jsonl, .json or .parquet file of {id, problem, gold, kind}"
        ) from error
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error


def number(example: Mapping) -> int:
    """A 32-bit number for a prompt's id, the one its sampling keys are made from."""
    return zlib.crc32(str(example["id"]).encode())


def fingerprint(examples) -> str:
    """sha256 over the rows as canonical JSON lines."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(example, sort_keys=True, ensure_ascii=False).encode() + b"\n")
    return digest.hexdigest()
