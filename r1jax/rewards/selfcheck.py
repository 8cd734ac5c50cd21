"""Whether a data set can be graded: each gold must verify against itself, no mutant of it may."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations

from r1jax.rewards import choice, countdown
from r1jax.rewards.verdict import Verdict

SOLVED_UP_TO = 4  # numbers of a countdown row for which a solution is searched


def unusable(rows: Sequence[Mapping]) -> list[tuple[Mapping, str]]:
    """(row, reason) of each row that training must mask, in the order of the rows.

    math: the gold against itself and with one digit changed. choice: every letter but the gold is a
    mutant. countdown: a solution, where up to `SOLVED_UP_TO` numbers let one be searched, is the
    gold, and a mutant misses a number. code and
    proof: `solution`, in the row or its gold, if there is one; nothing at all is the mutant. Rows
    of other kinds have no rule to fail.
    """
    pairs: list[tuple[str | list[str], str]] = []
    expected: list[tuple[int, bool]] = []
    found: dict[int, str] = {}
    for i, row in enumerate(rows):
        if row["kind"] == "math":
            for text, right in _math_texts(row["gold"]):
                pairs.append((row["gold"], text))
                expected.append((i, right))
        elif reason := _REASONS.get(row["kind"], _sound)(row):
            found[i] = reason
    if pairs:
        from r1jax.rewards.math import verify_batch

        for (_, text), (i, right), verdict in zip(pairs, expected, verify_batch(pairs), strict=True):
            if (verdict.reward == 1) != right:
                found.setdefault(i, _complaint(text, right, verdict))
    return [(rows[i], found[i]) for i in sorted(found)]


def _complaint(text: str, right: bool, verdict: Verdict) -> str:
    if right:
        return f"{text!r:.80} does not verify against itself: {verdict.verdict} at {verdict.stage}"
    return f"the mutant {text!r:.80} passes at {verdict.stage}"


def _math_texts(gold: str | Sequence[str]) -> Iterator[tuple[str, bool]]:
    """(answer, whether it is right): each gold, and each gold with its last digit changed."""
    golds = [gold] if isinstance(gold, str) else list(gold)
    for text in golds:
        yield text, True
        mutant = re.sub(r"[0-9](?=[^0-9]*$)", lambda digit: str((int(digit[0]) + 1) % 10), text, count=1)
        if mutant not in golds:
            yield mutant, False


def _sound(row: Mapping) -> str:
    return ""


def _choice(row: Mapping) -> str:
    gold = str(row["gold"]).strip("() ")
    for letter in dict.fromkeys([gold, *"ABCDEFGHIJ"]):
        verdict = choice.verify(letter, row)
        if (verdict.reward == 1) != (letter == gold):
            return _complaint(letter, letter == gold, verdict)
    return ""


def _countdown(row: Mapping) -> str:
    verdict = countdown.verify("0", row)
    if verdict.verdict == "gold_unusable":
        return "numbers or target cannot be read"
    numbers = [Fraction(str(n)) for n in row["gold"]["numbers"]]
    if len(numbers) > SOLVED_UP_TO:
        return ""
    solution = solve(numbers, Fraction(str(row["gold"]["target"])))
    if solution is None:
        return "no expression over the numbers reaches the target"
    for text, right in ((solution, True), (f"{solution}+0", False)):
        verdict = countdown.verify(text, row)
        if (verdict.reward == 1) != right:
            return _complaint(text, right, verdict)
    return ""


def solve(numbers: Sequence[Fraction], target: Fraction) -> str | None:
    """An expression with + - * / over all the numbers that makes the target; None without one.

    Tries every tree: 4 numbers take milliseconds, each further number some fifty times as long.
    """

    def extend(items: tuple[tuple[Fraction, str], ...]) -> str | None:
        if len(items) == 1:
            return items[0][1] if items[0][0] == target else None
        for i, j in combinations(range(len(items)), 2):
            rest = tuple(item for k, item in enumerate(items) if k not in (i, j))
            (x, left), (y, right) = items[i], items[j]
            made = [
                (x + y, f"({left}+{right})"),
                (x - y, f"({left}-{right})"),
                (y - x, f"({right}-{left})"),
            ]
            made.append((x * y, f"({left}*{right})"))
            made += [(x / y, f"({left}/{right})")] if y else []
            made += [(y / x, f"({right}/{left})")] if x else []
            for item in dict(made).items():
                if solution := extend((item, *rest)):
                    return solution
        return None

    return extend(tuple((n, _written(n)) for n in numbers))


def _written(number: Fraction) -> str:
    """A number as a decimal, as the task gave it."""
    return str(number) if number.denominator == 1 else f"{float(number)!r}"


def _solution(row: Mapping, grade: Callable[[str, Mapping], Verdict]) -> str:
    gold = row["gold"]
    solution = row.get("solution") or gold.get("solution")
    for text, right in ((solution, True), ("", False)):
        if isinstance(text, str):
            verdict = grade(text, row | gold)
            if (verdict.reward == 1) != right:
                return _complaint(text, right, verdict)
    return ""


def _code(row: Mapping) -> str:
    from r1jax.rewards.code import grade

    return _solution(row, grade)


def _proof(row: Mapping) -> str:
    from r1jax.rewards.proof import verify

    return _solution(row, verify)


_REASONS = {"choice": _choice, "countdown": _countdown, "code": _code, "proof": _proof}
