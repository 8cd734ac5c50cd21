"""Loads benchmarks, with the paper's prompt for each kind of problem and the paper's number of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from r1jax.data import questions
from r1jax.data.readers import NO_COLUMNS
from r1jax.nano import tasks
from r1jax.rewards.kinds import KINDS

# DeepSeek-AI 2025 (v2), appendix D.1: 64 for AIME and GPQA, 16 for MATH and Codeforces, 8 for LiveCodeBench.
SAMPLES = (("aime", 64), ("gpqa", 64), ("math", 16), ("codeforces", 16), ("livecodebench", 8), ("lcb", 8))
FEWEST = 4
GENERATED = 512  # default number of generated problems


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A set of problems reported together.

    Attributes:
        name: the file's name without its suffix, or `nano_MIX` for generated problems.
        examples: the questions with their gold answers and languages, as dicts.
        asked: for each example, the question as it is put to the policy, instructions included.
    """

    name: str
    examples: list[dict]
    asked: list[str]

    @property
    def samples(self) -> int:
        """The paper's number of samples per problem for this benchmark; `FEWEST` if the paper does not name the
        benchmark.
        """
        return next((k for name, k in SAMPLES if name in self.name.lower()), FEWEST)


def load(path: str, count: int = 0, instruct: bool = True, columns: Mapping[str, str] = NO_COLUMNS) -> Benchmark:
    """Loads the problems of a file or of `nano:MIX`.

    Args:
        path: a file, or `nano:MIX` for generated problems. MIX is the name of a mix of tasks, or of a single task (see
            `nano.tasks`).
        count: number of problems to load. 0 means all problems of a file, or `GENERATED` problems of a mix.
        instruct: whether to add the paper's instructions to each problem of a file. Generated problems already hold
            instructions.
        columns: keys to rename, {key in r1jax: key in the file}.

    Raises:
        ValueError: the file cannot be read or has a bad row, or there is no such mix.
    """
    mix = questions.generator_mix(path)
    if mix is not None:
        examples = tasks.held_out(count or GENERATED, mix)
        return Benchmark(path.replace(":", "_"), examples, [example["problem"] for example in examples])
    examples = questions.read(path, "--benchmarks", columns=columns)[: count or None]
    return Benchmark(Path(path).stem, examples, [instructed(row) if instruct else row["problem"] for row in examples])


def instructed(example: Mapping) -> str:
    """Returns the problem's text with the paper's instructions for this kind of problem."""
    return KINDS[example["kind"]].prompt(example)
