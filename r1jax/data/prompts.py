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

Take = Callable[[int], dict]  # the question at an index of an endless stream


def stream(path: str, seed: int) -> tuple[Take, dict]:
    """Question number i of an endless stream, a pure function of (seed, i), and what to write about the data.

    A file is shuffled anew each epoch. Without one the nano generator makes every question.

    Raises:
        ValueError: the file cannot be read or holds a bad row; it names the line.
    """
    if not path:
        sample = fingerprint(tasks.prompt(seed, i) for i in range(64))
        return functools.partial(tasks.prompt, seed), {"sha256": sample, "counts": {"generated": -1}}
    examples = read(path, "--prompts")

    @functools.lru_cache(maxsize=4)
    def order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(len(examples))

    def take(index: int) -> dict:
        epoch, position = divmod(index, len(examples))
        return examples[order(epoch)[position]]

    return take, {"sha256": fingerprint(examples), "counts": {"rows": len(examples)}}


def held_out(path: str, count: int) -> list[dict]:
    """The evaluation problems: the file's first `count` rows, or as many of the generator's fixed list."""
    return read(path, "--eval-prompts")[:count] if path else tasks.held_out(count)


def read(path: str, flag: str) -> list[dict]:
    """All rows of a file."""
    try:
        return list(rows(path))
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
