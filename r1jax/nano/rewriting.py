"""Texts rewritten without a new thought: a chain of thought in one language, a solution in short.

This is what annotators and a stronger model do for R1 (translate, delete, summarise). The corpus holds both as tasks.
"""

from __future__ import annotations

import re

from r1jax.nano.solutions import AGAIN, CHECK, GUESS, NO, SO, TRY, YES

SPOKEN = [  # phrases of the world and their translations, the longer first
    *({"en": en, "zh": zh} for en, zh in zip(dict.fromkeys(CHECK["en"]), dict.fromkeys(CHECK["zh"]), strict=True)),
    *({"en": en, "zh": zh} for en, zh in reversed(list(dict(zip(AGAIN["en"], AGAIN["zh"], strict=True)).items()))),
    GUESS, TRY, NO, YES, SO,
]  # fmt: skip
BOXED = {"en": "The answer is \\boxed{{{answer}}}.", "zh": "答案是 \\boxed{{{answer}}}。"}


def in_one_language(thought: str, language: str) -> str:
    """A chain of thought with every phrase of the world in one language; numbers and marks as they are."""
    wanted = {phrase: pair[language] for pair in SPOKEN for phrase in pair.values()}
    ordered = sorted(wanted, key=len, reverse=True)
    latin = {phrase: rf"(?<![A-Za-z]){re.escape(phrase)}(?![A-Za-z])" for phrase in ordered}
    pattern = "|".join(latin[p] if p.isascii() else re.escape(p) for p in ordered)
    return re.sub(pattern, lambda match: wanted[match[0]], thought)


def last_work(row: dict, thought: str) -> str:
    """The steps that led to the answer: the last try, without its check; of a chain or a comparison the steps."""
    line = thought.splitlines()[-1]
    found = re.findall(r"(?:[A-D] )?[\dx(\[][^ ,]*=\d+(?: \d+[<>]\d+ [A-D])?", line)
    return ", ".join(found)


def solution(row: dict, thought: str, answer: str) -> str:
    """What follows a chain of thought in R1: the steps that count, and the answer in a box; a program in a fence."""
    if row["kind"] == "code":
        return f"```python\n{answer}\n```"
    steps = last_work(row, thought)
    return f"{steps}. " * bool(steps) + BOXED[row["language"]].format(answer=answer)
