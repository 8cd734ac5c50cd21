"""Grades Countdown: an expression that uses every given number exactly once and evaluates to the target.

This module has its own tokenizer and parser, and computes exact fractions. The numbers in the expression are compared
with the given numbers before anything is evaluated. So the cost of a check depends on the task, and not on the model's
text.
"""

from __future__ import annotations

import operator
import re
import time
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from r1jax.rewards.format import graded
from r1jax.rewards.verdict import Verdict, check_arguments

LONGEST = 4096  # characters of an answer; below Python's limit of 4300 digits for int(str)

# Maps one character to one. NFKC would turn 3² into 32.
_FOLD = {c: chr(c - 0xFEE0) for c in range(0xFF01, 0xFF5F)} | str.maketrans("×✕✖∗·⋅∙÷∕⁄−–﹣➖﹢➕", "*******///----++")
_LATEX = (
    (re.compile(r"\\(?:times|cdot|ast)(?![a-zA-Z])"), "*"),
    (re.compile(r"\\div(?![a-zA-Z])"), "/"),
    (re.compile(r"\\(?:left|right)(?![a-zA-Z])|\\[,;:! ]"), " "),
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_WRAPPERS = (
    ("$$", "$$"),
    ("$", "$"),
    (r"\(", r"\)"),
    (r"\[", r"\]"),
    ("`", "`"),
    (r"\boxed{", "}"),
)
_TOKEN = re.compile(r"\s*(?:([0-9]+(?:\.[0-9]+)?)|([-+*/()]))")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_APPLY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_BINDS = {"(": 0, "+": 1, "-": 1, "*": 2, "/": 2, "sign +": 3, "sign -": 3}


class _Unreadable(Exception):
    """Stops the parsing of an answer that is not an expression.

    The message, up to the colon if it has one, becomes `Verdict.stage`.
    """


def verify(text: str, example: Mapping) -> Verdict:
    """Returns reward 1 if the answer is an expression over all given numbers whose exact value is the target.

    The answer is the last complete `<answer>` block after the last `</think>`, or the whole text if it has no tags. The
    answer may use + - * /, parentheses, signs and the operators' Unicode and LaTeX forms, and may end in `= target`.
    Anything else is wrong, such as powers, floor division, juxtaposition, words or further numbers.

    `Verdict.canonical` is the expression itself, not its value. So two different expressions are two different answers
    in a majority vote, even if their values are equal.

    Args:
        example: a mapping with `numbers` and `target`, at the top level or under `gold`. Each number is an integer, a
            decimal, or a string that holds such a number. The mapping may also have the key `lenient`. If
            `example["lenient"]` is True, `format.lenient_answer` finds the answer of a badly formed text.
    """
    check_arguments(text, example)
    start = time.perf_counter()

    def verdict(reward: float | None, name: str, stage: str, given=None, canonical=None) -> Verdict:
        return Verdict(reward, name, stage, given, canonical, (time.perf_counter() - start) * 1e3)

    gold = example if "numbers" in example else example.get("gold")
    try:
        numbers = [_exact(n) for n in gold["numbers"]]
        target = _exact(gold["target"])
    except (KeyError, TypeError, ValueError):
        return verdict(None, "gold_unusable", "gold")
    if not numbers:
        return verdict(None, "gold_unusable", "gold")
    given = graded(text, bool(example.get("lenient")))
    if given is None:
        return verdict(0.0, "no_answer", "extract")
    if len(given) > LONGEST:
        return verdict(0.0, "budget", "length", given[:LONGEST])
    try:
        expression, equals, right = _plain(given).partition("=")
        tokens = _tokens(expression.strip())
        canonical = "".join(tokens)
        if not _uses_exactly(tokens, numbers):
            return verdict(0.0, "wrong", "numbers", given, canonical)
        value = _value(tokens)
        if equals and (not _NUMBER.fullmatch(right.strip()) or Fraction(right.strip()) != value):
            return verdict(0.0, "wrong", "equation", given, canonical)
    except _Unreadable as stage:
        return verdict(0.0, "wrong", str(stage).partition(":")[0], given)
    if value != target:
        return verdict(0.0, "wrong", "value", given, canonical)
    return verdict(1.0, "correct", "value", given, canonical)


def _exact(number: object) -> Fraction:
    """Converts one of the task's numbers to an exact fraction. A float counts as its shortest decimal: 0.1 is 1/10.

    Raises:
        ValueError: it is not a number, or not a string that holds a plain decimal number.
    """
    if isinstance(number, bool) or not isinstance(number, int | float | str | Fraction):
        raise ValueError(f'{number!r} is no number; write a number such as 7, 0.5 or "7"')
    if isinstance(number, str) and not _NUMBER.fullmatch(number.strip()):
        raise ValueError(f'{number!r} is no number; write a number such as 7, 0.5 or "7"')
    return Fraction(str(number) if isinstance(number, float) else number)


def _plain(text: str) -> str:
    """Returns an answer in ASCII, with LaTeX operators as + - * /, without outer markup such as $ $ and full stop."""
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    changed = 1
    while changed:  # innermost fractions first
        text, changed = _FRACTION.subn(r"((\1)/(\2))", text)
    text = text.strip().rstrip(".。").strip()
    for left, right in _WRAPPERS * 2:
        if len(text) >= len(left + right) and text.startswith(left) and text.endswith(right):
            text = text[len(left) : len(text) - len(right)].strip()
    return text.translate(_FOLD)


def _tokens(text: str) -> list[str]:
    """Splits an expression into numbers, operators and parentheses. Raises _Unreadable if it contains anything else."""
    found: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise _Unreadable("syntax: a character that may not stand in an expression")
        number, mark = match.groups()
        # a given 2 must not be written as 02 or 2.0
        if number and (not _NUMBER.fullmatch(number) or ("." in number and number.endswith("0"))):
            raise _Unreadable("syntax: a number has needless leading or trailing zeros")
        found.append(number or mark)
        at = match.end()
    return found


def _uses_exactly(tokens: list[str], numbers: list[Fraction]) -> bool:
    """Returns True if the numbers in the expression are exactly the task's numbers, each as often as in the task.

    If the task gives -3, the expression must have a minus sign before the 3. If the task gives 3, it may have one.
    """
    literals: Counter[Fraction] = Counter()
    signed: Counter[Fraction] = Counter()
    for i, token in enumerate(tokens):
        if token[0].isdigit():
            literals[Fraction(token)] += 1
            signed[Fraction(token)] += tokens[i - 1 : i] == ["-"] and (i == 1 or tokens[i - 2] in "+-*/(")
    given = Counter(abs(n) for n in numbers)
    return literals == given and all(signed[-n] >= k for n, k in Counter(numbers).items() if n < 0)


def _value(tokens: list[str]) -> Fraction:
    """Returns the exact value of an expression, given as tokens. Two stacks replace recursion: any nesting works.

    Raises:
        _Unreadable: a syntax error or a division by zero.
    """
    values: list[Fraction] = []
    waiting: list[str] = []

    def apply_down_to(binds: int) -> None:
        while waiting and _BINDS[waiting[-1]] >= binds:
            mark = waiting.pop()
            right = values.pop()
            if mark.startswith("sign"):
                values.append(-right if mark == "sign -" else right)
                continue
            if mark == "/" and right == 0:
                raise _Unreadable("division by zero")
            values.append(_APPLY[mark](values.pop(), right))

    operand_next = True
    for token in tokens:
        if operand_next and token in "+-":
            waiting.append(f"sign {token}")
        elif operand_next and token == "(":
            waiting.append("(")
        elif operand_next and token[0].isdigit():
            values.append(Fraction(token))
            operand_next = False
        elif not operand_next and token in _APPLY:
            apply_down_to(_BINDS[token])
            waiting.append(token)
            operand_next = True
        elif not operand_next and token == ")":
            apply_down_to(1)
            if not waiting:
                raise _Unreadable("syntax: a ) without a (")
            waiting.pop()
        else:
            raise _Unreadable("syntax: a number or an operator is missing")
    if operand_next:
        raise _Unreadable("syntax: the expression ends where a number should stand")
    apply_down_to(1)
    if waiting:  # an open parenthesis
        raise _Unreadable("syntax: a ( is not closed")
    return values[0]
