"""Checks whether the answers to a data set's questions can be graded.

For each question, the verifier must accept the reference answer ("gold") itself, and must reject a *mutant*: an answer
made from the gold so that it is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations

from r1jax.rewards import choice, countdown
from r1jax.rewards.kinds import KINDS, example_of, function
from r1jax.rewards.verdict import Verdict

SOLVED_UP_TO = 4  # a solution is searched only for countdown rows with at most so many numbers


def find_unusable(rows: Sequence[Mapping]) -> list[tuple[Mapping, str]]:
    """Returns (row, reason) for each row whose answers the verifier would misjudge. Training must mask these rows.

    A row is a question {problem, gold, kind, ..}. Its kind determines which answer the verifier must accept, and which
    answers (the mutants) it must reject:

        math         accepted: the gold; rejected: the gold with one digit changed
        choice       accepted: the gold's letter; rejected: every other letter
        countdown    accepted: a solution found by search; rejected: the same solution followed by "+0"
                     (neither is checked for a row of more than `SOLVED_UP_TO` numbers)
        other kinds  accepted: the `solution` in the row or in its gold, if there is one; rejected: the empty text

    Rows of a kind without a verifier are not checked. The result is in the order of the rows.
    """
    found: dict[int, str] = {}
    for name, kind in KINDS.items():
        mine = [i for i, row in enumerate(rows) if row["kind"] == name]
        if mine and kind.verifier:
            reasons = function(kind.defects)([rows[i] for i in mine])
            found |= {i: reason for i, reason in zip(mine, reasons, strict=True) if reason}
    return [(rows[i], found[i]) for i in sorted(found)]


def of_math(rows: Sequence[Mapping]) -> list[str]:
    """Returns, for each row of the kind "math", why its gold (right answer) is unusable.

    "" means that the gold is usable.

    The verifier grades each gold answer, and the same gold with one digit changed, against the row's gold. The verifier
    runs in worker processes.
    """
    from r1jax.rewards.math import grade_pairs

    pairs, expected = [], []
    for i, row in enumerate(rows):
        for text, right in _math_texts(row["gold"]):
            pairs.append((row["gold"], text))
            expected.append((i, right))
    found = [""] * len(rows)
    for (_, text), (i, right), verdict in zip(pairs, expected, grade_pairs(pairs), strict=True):
        if (verdict.reward == 1) != right:
            found[i] = found[i] or _complaint(text, right, verdict)
    return found


def of_choice(rows: Sequence[Mapping]) -> list[str]:
    """Returns, for each row of the kind "choice", why its gold (right answer) is unusable.

    "" means that the gold is usable.
    """
    return [_choice(row) for row in rows]


def of_countdown(rows: Sequence[Mapping]) -> list[str]:
    """Returns, for each row of the kind "countdown", why its gold is unusable. "" means that the gold is usable."""
    return [_countdown(row) for row in rows]


def of_solutions(rows: Sequence[Mapping]) -> list[str]:
    """Returns, for each row of another kind than math, choice and countdown, why its gold is unusable.

    "" means that the gold is usable.

    The verifier of the row's kind grades the row's `solution`, if there is one, and the empty text.
    """
    return [_solution(row) for row in rows]


def _complaint(text: str, right: bool, verdict: Verdict) -> str:
    """Returns the reason for `find_unusable`, after the verifier misjudged an answer.

    Args:
        text: the answer.
        right: whether the answer is right, so that the verifier should have accepted it.
        verdict: what the verifier said.
    """
    if right:
        return f"the verifier rejects the right answer {text!r:.80}: {verdict.verdict} at stage {verdict.stage!r}"
    return f"the verifier accepts the wrong answer {text!r:.80} at stage {verdict.stage!r}"


def _math_texts(gold: str | Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Yields (answer, whether the answer is right): each gold answer, and its mutant with the last digit changed."""
    golds = [gold] if isinstance(gold, str) else list(gold)
    for text in golds:
        yield text, True
        mutant = re.sub(r"[0-9](?=[^0-9]*$)", lambda digit: str((int(digit[0]) + 1) % 10), text, count=1)
        if mutant not in golds:
            yield mutant, False


def _choice(row: Mapping) -> str:
    """Returns the reason why the gold of a row of the kind "choice" is unusable, or ""."""
    gold = str(row["gold"]).strip("() ")
    for letter in dict.fromkeys([gold, *"ABCDEFGHIJ"]):
        verdict = choice.verify(letter, row)
        if (verdict.reward == 1) != (letter == gold):
            return _complaint(letter, letter == gold, verdict)
    return ""


def _countdown(row: Mapping) -> str:
    """Returns the reason why the gold of a row of the kind "countdown" is unusable, or ""."""
    verdict = countdown.verify("0", row)
    if verdict.verdict == "gold_unusable":
        return "numbers or target of the gold cannot be read"
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
    """Returns an expression with + - * / that uses each number once and equals the target; None if there is no such
    expression.

    Tries every expression tree. 4 numbers take milliseconds. Each further number multiplies the time by about fifty.
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
    """Returns the number as text in decimal notation, as a countdown problem states it."""
    return str(number) if number.denominator == 1 else f"{float(number)!r}"


def _solution(row: Mapping) -> str:
    """Returns why the gold of a row of another kind, whose verifier grades a `solution`, is unusable, or ""."""
    kind, gold = KINDS[row["kind"]], example_of(row["gold"])
    grade = function(kind.grader or kind.verifier)
    solution = row.get("solution") or gold.get("solution")
    for text, right in ((solution, True), ("", False)):
        if isinstance(text, str):
            verdict = grade(text, row | gold)
            if (verdict.reward == 1) != right:
                return _complaint(text, right, verdict)
    return ""
