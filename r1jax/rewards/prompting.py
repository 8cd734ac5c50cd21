"""Adds the paper's instructions to a problem. Each kind of question has its own instructions.

An example is a row of a data set, with `problem` and, for programs, `gold`.
Source: DeepSeek-AI 2025 (v2), Tables 20, 29 and 32.
"""

from __future__ import annotations

from collections.abc import Mapping

# Table 32: the prompt of MATH, AIME and other mathematics.
MATH = "Please reason step by step, and put your final answer within \\boxed{}."
# Table 29, after openai/simple-evals: in front of the question, its options below it as A) .. D).
CHOICE = (
    "Answer the following multiple choice question. The last line of your response should be of the following "
    "format: 'ANSWER: $LETTER' (without quotes) where LETTER is one of {letters}. Think step by step before answering."
)
# Table 20, and LiveCodeBench's own prompts: the candidate's program is the last Python block of the answer.
STDIN = (
    "### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on "
    "the sample inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it "
    "reads the inputs, runs the algorithm and writes output to STDOUT.\n```python\n# YOUR CODE HERE\n```"
)
STARTER = (
    "### Format: You will use the following starter code to write the solution to the problem and enclose your code "
    "within delimiters.\n```python\n{starter}\n```"
)


def unchanged(example: Mapping) -> str:
    """Returns the example's problem without any instructions."""
    return example["problem"]


def math(example: Mapping) -> str:
    """Returns the problem, then the request to put the answer in \\boxed{}. Keeps a problem with \\boxed as it is."""
    problem = example["problem"]
    return problem if "\\boxed" in problem else f"{problem}\n{MATH}"


def choice(example: Mapping) -> str:
    """Returns the request to answer with an option letter, then the problem. The request lists the option letters."""
    problem = example["problem"]
    found = [letter for letter in "ABCDEFGHIJ" if f"\n{letter})" in problem or f"({letter})" in problem]
    return f"{CHOICE.replace('{letters}', ''.join(found) or 'ABCD')}\n\n{problem}"


def code(example: Mapping) -> str:
    """Returns the problem, then the request for a program in a Python block.

    If the example has `starter` code, or its gold answer names a function (`gold["entry"]`), the request says to start
    from that code or from `def entry(`. Otherwise it says to read standard input and to write to standard output.
    """
    entry = example["gold"].get("entry")
    starter = example.get("starter") or (f"def {entry}(" if entry else "")
    form = STARTER.replace("{starter}", starter) if starter else STDIN
    return f"### Question:\n{example['problem']}\n\n{form}"
