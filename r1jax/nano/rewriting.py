"""Rewrites chains of thought by fixed rules: into one language, or into a short solution.

For R1, annotators and a stronger model did such rewriting: they translated, deleted and summarised. The nano corpus
holds both kinds of rewriting as tasks, so that a nano model can do them.
"""

from __future__ import annotations

import re

from r1jax.nano.solutions import AGAIN, CHECK, GUESS, NO, SO, TRY, YES

SPOKEN = [  # phrases of the nano world and their translations; longer phrases come first
    *({"en": en, "zh": zh} for en, zh in zip(dict.fromkeys(CHECK["en"]), dict.fromkeys(CHECK["zh"]), strict=True)),
    *({"en": en, "zh": zh} for en, zh in reversed(list(dict(zip(AGAIN["en"], AGAIN["zh"], strict=True)).items()))),
    GUESS,
    TRY,
    NO,
    YES,
    SO,
]
# language -> sentence that states the answer
BOXED = {"en": "The answer is \\boxed{{{answer}}}.", "zh": "答案是 \\boxed{{{answer}}}。"}


def in_one_language(thought: str, language: str) -> str:
    """Returns the chain of thought with every known phrase translated into `language`, "en" or "zh".

    `SPOKEN` lists the known phrases. The rest of the text, such as numbers, stays as it is.
    """
    wanted = {phrase: pair[language] for pair in SPOKEN for phrase in pair.values()}
    ordered = sorted(wanted, key=len, reverse=True)
    latin = {phrase: rf"(?<![A-Za-z]){re.escape(phrase)}(?![A-Za-z])" for phrase in ordered}
    pattern = "|".join(latin[p] if p.isascii() else re.escape(p) for p in ordered)
    return re.sub(pattern, lambda match: wanted[match[0]], thought)


def last_work(row: dict, thought: str) -> str:
    """Returns the arithmetic steps in the last line of a chain of thought.

    The last line is the try that led to the answer.
    """
    line = thought.splitlines()[-1]
    found = re.findall(r"(?:[A-D] )?[\dx(\[][^ ,]*=\d+(?: \d+[<>]\d+ [A-D])?", line)
    return ", ".join(found)


def solution(row: dict, thought: str, answer: str) -> str:
    """Returns the short solution that follows a chain of thought in R1's format.

    The solution holds the steps of the last try, and the answer in a \\boxed{}. If the problem `row` asks for a
    program, the solution is the program in a code fence.
    """
    if row["kind"] == "code":
        return f"```python\n{answer}\n```"
    steps = last_work(row, thought)
    return f"{steps}. " * bool(steps) + BOXED[row["language"]].format(answer=answer)
