"""Countdown: an expression that uses every given number exactly once and has the target as its
value.

Own tokenizer and parser to exact fractions. The numbers are compared before anything is evaluated,
so the cost is bounded by the task, not by the text.
"""

from __future__ import annotations

import operator
import re
import time
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

from r1jax.rewards.format import graded
from r1jax.rewards.verdict import Verdict

LONGEST = 4096  # characters of an answer; below Python's limit of 4300 digits for int(str)

# One character for one, never NFKC: it turns 3² into 32.
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
    """The text is no expression over the given numbers; the message names the stage."""


def verify(text: str, example: Mapping) -> Verdict:
    """1 where the answer is an expression over all given numbers whose exact value is the target.

    The answer is the last complete `<answer>` block after the last `</think>`, or the whole text
    where it has no tags. It may hold + - * /, parentheses, signs, the operators' Unicode and LaTeX
    forms, and end in `= target`. Anything else is wrong: powers, floor division, juxtaposition,
    words, further numbers. The normal form is the expression: to a vote, two ways to the target
    are two answers.

    Args:
        example: `numbers` and `target`, at the top or under `gold`; integers, decimals, or strings
            of such. `lenient`: read badly formed texts as `format.lenient_answer` does.
    """
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
        return verdict(0.0, "wrong", str(stage), given)
    if value != target:
        return verdict(0.0, "wrong", "value", given, canonical)
    return verdict(1.0, "correct", "value", given, canonical)


def _exact(number: object) -> Fraction:
    """A number of the task without loss; a float means its shortest decimal."""
    if isinstance(number, bool) or not isinstance(number, int | float | str | Fraction):
        raise ValueError(f"{number!r} is no number")
    if isinstance(number, str) and not _NUMBER.fullmatch(number.strip()):
        raise ValueError(f"{number!r} is no number")
    return Fraction(str(number) if isinstance(number, float) else number)


def _plain(text: str) -> str:
    """The expression in ASCII, without LaTeX, outer markup and trailing full stop."""
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
    """Numbers, operators and parentheses, in order."""
    found: list[str] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise _Unreadable("syntax")
        number, mark = match.groups()
        # 02 and 2.0 are no ways to write a given 2
        if number and (not _NUMBER.fullmatch(number) or ("." in number and number.endswith("0"))):
            raise _Unreadable("syntax")
        found.append(number or mark)
        at = match.end()
    return found


def _uses_exactly(tokens: list[str], numbers: list[Fraction]) -> bool:
    """Whether the literals are the given numbers: -3 needs a signed 3, 3 may carry a sign too."""
    literals: Counter[Fraction] = Counter()
    signed: Counter[Fraction] = Counter()
    for i, token in enumerate(tokens):
        if token[0].isdigit():
            literals[Fraction(token)] += 1
            signed[Fraction(token)] += tokens[i - 1 : i] == ["-"] and (i == 1 or tokens[i - 2] in "+-*/(")
    given = Counter(abs(n) for n in numbers)
    return literals == given and all(signed[-n] >= k for n, k in Counter(numbers).items() if n < 0)


def _value(tokens: list[str]) -> Fraction:
    """The exact value of an expression, by two stacks: without recursion no nesting is too deep."""
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
                raise _Unreadable("syntax")
            waiting.pop()
        else:
            raise _Unreadable("syntax")
    if operand_next:
        raise _Unreadable("syntax")
    apply_down_to(1)
    if waiting:  # an open parenthesis
        raise _Unreadable("syntax")
    return values[0]
