"""Benchmarks: what the paper asked of a policy, and how often, for each kind of problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from r1jax.data import prompts
from r1jax.nano import tasks

# DeepSeek-AI 2025 (v2), Table 32: the prompt of MATH, AIME and other mathematics.
MATH = "Please reason step by step, and put your final answer within \\boxed{}."
# The same, Table 29, after openai/simple-evals: in front of the question, its options below it as A) .. D).
CHOICE = (
    "Answer the following multiple choice question. The last line of your response should be of the following "
    "format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of {letters}. Think step by step before answering."
)
# The same, Table 20, and LiveCodeBench's own prompts: the candidate's program is the last Python block of the answer.
STDIN = (
    "### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on "
    "the sample inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it "
    "reads the inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```"
)
STARTER = (
    "### Format: You will use the following starter code to write the solution to the problem and enclose your code "
    "within delimiters.\n```python\n{starter}\n```"
)
# DeepSeek-AI 2025 (v2), appendix D.1: 64 for AIME and GPQA, 16 for MATH and Codeforces, 8 for LiveCodeBench.
SAMPLES = (("aime", 64), ("gpqa", 64), ("math", 16), ("codeforces", 16), ("livecodebench", 8), ("lcb", 8))
FEWEST = 4
GENERATED = 512  # problems of the generator where no number is asked for


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """Problems that are reported together.

    Attributes:
        name: of the file, or of the generator's mix.
        examples: rows as `readers.rows` gives them, each with its language.
        asked: what the policy is asked about each, instructions included.
    """

    name: str
    examples: list[dict]
    asked: list[str]

    @property
    def samples(self) -> int:
        """The paper's k."""
        return next((k for name, k in SAMPLES if name in self.name.lower()), FEWEST)


def load(path: str, count: int = 0, instruct: bool = True) -> Benchmark:
    """A file's problems or those of `nano:MIX`, the first `count` of them if it is not 0.

    Args:
        instruct: put the paper's words for its kind to each problem of a file. The nano world has its own.

    Raises:
        ValueError: the file cannot be read or holds a bad row; the generator has no such mix.
    """
    mix = prompts.generated(path)
    if mix is not None:
        examples = tasks.held_out(count or GENERATED, mix)
        return Benchmark(path.replace(":", "_"), examples, [example["problem"] for example in examples])
    examples = prompts.read(path, "--benchmarks")[: count or None]
    return Benchmark(Path(path).stem, examples, [instructed(row) if instruct else row["problem"] for row in examples])


def instructed(example: Mapping) -> str:
    """A problem with what the paper says to one of its kind; as it stands where it already asks for a box."""
    problem, kind = example["problem"], example["kind"]
    if kind == "math":
        return problem if "\\boxed" in problem else f"{problem}\n{MATH}"
    if kind == "choice":
        letters = (
            "".join(letter for letter in "ABCDEFGHIJ" if f"\n{letter})" in problem or f"({letter})" in problem)
            or "ABCD"
        )
        return f"{CHOICE.replace('{letters}', letters)}\n\n{problem}"
    if kind == "code":
        if starter := example.get("starter") or (
            f"def {example['gold']['entry']}(" if example["gold"].get("entry") else ""
        ):
            return f"### Question:\n{problem}\n\n{STARTER.replace('{starter}', starter)}"
        return f"### Question:\n{problem}\n\n{STDIN}"
    return problem
