"""Generates problems with verifiable answers, in English and Chinese.

A problem is a dictionary ("row") `{id, problem, gold, kind, task, language, canonical}`. `gold` is the right answer, in
the form that the verifier of this `kind` reads. `task` names the family:

    countdown3, countdown4   use every number once with + - * to make the target
    chain                    evaluate a nested expression of three to five operations
    compare                  which of four expressions is largest or smallest (multiple choice)
    program                  a one-line Python function with unit tests (module `programs`)
    general                  facts, writing, small talk, harmful requests (module `general`); no verifier grades them

Every intermediate value of an expression lies in 1..99. `canonical` is the problem's canonical form, which leaves out
wording and language. It sorts the numbers of a countdown and the options of a comparison. The canonical form of a
general prompt leaves out nothing. The hash of the canonical form assigns the problem to one of three disjoint splits,
so no held-out problem occurs in the corpus or among the RL prompts.
"""

from __future__ import annotations

import itertools
import random
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from r1jax.nano import general, programs

LIMIT = 99  # the largest intermediate value
LANGUAGES = ("en", "zh")
TASKS = ("countdown3", "countdown4", "chain", "compare", "program", "general")
MIX = {  # name of a mix -> probability of each of `TASKS`
    "corpus": (0.30, 0.08, 0.20, 0.20, 0.12, 0.10),
    "zero": (0.30, 0.05, 0.35, 0.30, 0.0, 0.0),  # R1-Zero: tasks that need no sandbox
    "reasoning": (0.24, 0.04, 0.28, 0.24, 0.20, 0.0),  # R1's rule-based prompts
    # for evaluation: countdown3 alone has fewer than 500 held-out problems
    "countdown": (0.75, 0.25, 0.0, 0.0, 0.0, 0.0),
    "all": (0.16, 0.03, 0.19, 0.16, 0.12, 0.34),  # for the evaluation of R1
    "scenarios": (0.07, 0.01, 0.09, 0.07, 0.06, 0.70),  # the last steps of R1's last stage
}
LETTERS = "ABCD"


def shares(mix: str) -> tuple[float, ...]:
    """Returns the probability of each of `TASKS` in the mix named `mix`.

    `mix` may also be the name of a task, which stands for that task alone.
    """
    return MIX[mix] if mix in MIX else tuple(float(task == mix) for task in TASKS)


class Attempt(NamedTuple):
    """One way to combine all numbers of a countdown problem.

    Attributes:
        steps: the operations in order, such as "3*4=12".
        value: value of the whole expression.
        expression: the whole expression, such as "(3*4)-5".
    """

    steps: tuple[str, ...]
    value: int
    expression: str


def split(canonical: str) -> str:
    """Returns the split of a problem by a hash of its canonical form: "eval" for 2/16 of the problems, "rl" for 4/16,
    "corpus" for the rest.

    Of the general prompts, 4/16 are "eval", because these prompts are few, and 4/16 are "rl". The other half is
    "corpus": only from the corpus can the model learn their answers.
    """
    bucket = zlib.crc32(canonical.encode()) % 16
    held = 4 if canonical.startswith("general ") else 2
    return "eval" if bucket < held else "rl" if bucket < held + 4 else "corpus"


def combine(x: int, y: int) -> list[tuple[str, int, bool]]:
    """Returns x + y, |x - y| and x * y as (operator, value, swapped), without values outside 1..99.

    `swapped` is True for a difference that must be written y - x.
    """
    found = [("+", x + y, False), ("-", abs(x - y), y > x), ("*", x * y, False)]
    return [(op, value, swap) for op, value, swap in found if 0 < value <= LIMIT]


def attempts(numbers: tuple[int, ...]) -> list[Attempt]:
    """Returns all ways to combine the numbers with + - *, using every number once, with all values in 1..99."""
    found: dict[str, Attempt] = {}

    def extend(items: tuple[tuple[int, str], ...], steps: tuple[str, ...]) -> None:
        if len(items) == 1:
            value, expression = items[0]
            found.setdefault(expression[1:-1], Attempt(steps, value, expression[1:-1]))
            return
        for i in range(len(items)):
            for j in range(i + 1, len(items)):
                for op, value, swap in combine(items[i][0], items[j][0]):
                    (x, left), (y, right) = (items[j], items[i]) if swap else (items[i], items[j])
                    rest = tuple(item for k, item in enumerate(items) if k not in (i, j))
                    extend(((value, f"({left}{op}{right})"), *rest), (*steps, f"{x}{op}{y}={value}"))

    extend(tuple((n, str(n)) for n in numbers), ())
    return list(found.values())


def countdown(rng: random.Random, language: str, size: int) -> dict:
    """Returns a random countdown problem over `size` numbers from 1..12: {problem, gold, kind, canonical}.

    The target lies in 10..99 and can be reached. `canonical`, from which `split` computes the problem's split, is the
    same for every order of the numbers and every language ("en" or "zh").
    """
    while True:
        numbers = tuple(rng.randint(1, 12) for _ in range(size))
        targets = sorted({a.value for a in attempts(numbers)} & set(range(10, 100)) - set(numbers))
        if targets:
            break
    target = rng.choice(targets)
    listed = ", ".join(map(str, numbers))
    said = {"en": f"Use {listed} with + - * to make {target}.", "zh": f"用 {listed} 和 + - * 凑出 {target}。"}
    return {
        "problem": said[language],
        "gold": {"numbers": list(numbers), "target": target},
        "kind": "countdown",
        "canonical": f"countdown {sorted(numbers)} {target}",
    }


def chain(rng: random.Random, language: str) -> dict:
    """Returns a random nested expression to evaluate: {problem, gold, kind, canonical}. Every value lies in 1..99.

    `canonical`, from which `split` computes the problem's split, is the same for every language ("en" or "zh").
    """
    value = rng.randint(1, 20)
    expression = str(value)
    for step in range(rng.randint(3, 5)):
        operand, op, result = 0, "", 0
        while not 0 < result <= LIMIT:
            op = rng.choice("+-*")
            operand = rng.randint(2, 6) if op == "*" else rng.randint(1, 20)
            result = {"+": value + operand, "-": value - operand, "*": value * operand}[op]
        expression = f"({expression}){op}{operand}" if step else f"{expression}{op}{operand}"
        value = result
    problem = {"en": f"What is {expression}?", "zh": f"{expression} 等于多少?"}[language]
    return {"problem": problem, "gold": str(value), "kind": "math", "canonical": f"chain {expression}"}


def compare(rng: random.Random, language: str) -> dict:
    """Returns a random multiple-choice problem over four expressions: {problem, gold, kind, canonical}.

    The four values differ from each other. The gold is the letter of the largest or of the smallest value, as the
    problem asks. `canonical`, from which `split` computes the problem's split, is the same for every order of the
    options and every language ("en" or "zh").
    """
    options: dict[int, str] = {}
    while len(options) < len(LETTERS):
        x, y = rng.randint(2, 20), rng.randint(2, 20)
        op, value, swap = rng.choice(combine(x, y) or [("", 0, False)])
        if value:
            options.setdefault(value, f"{y}{op}{x}" if swap else f"{x}{op}{y}")
    values = list(options)
    rng.shuffle(values)
    most = rng.random() < 0.5
    gold = LETTERS[values.index(max(values) if most else min(values))]
    listed = ", ".join(f"{letter} {options[value]}" for letter, value in zip(LETTERS, values, strict=True))
    which = {"en": ("smallest", "largest"), "zh": ("最小", "最大")}[language][most]
    problem = {"en": f"Which is {which}? {listed}", "zh": f"哪个{which}? {listed}"}[language]
    return {
        "problem": problem,
        "gold": gold,
        "kind": "choice",
        "canonical": f"compare {('smallest', 'largest')[most]} {sorted(options.values())}",
    }


def draw(rng: random.Random, wanted_split: str, mix: str, task: str | None = None) -> dict:
    """Returns a random problem, without its id.

    Args:
        wanted_split: "corpus", "rl" or "eval", the split that the problem must belong to (see `split`).
        mix: name of the mix from which the task is drawn, unless `task` is given.
        task: one of `TASKS`; if None, one is drawn.
    """
    task = task or rng.choices(TASKS, shares(mix))[0]
    language = rng.choice(LANGUAGES)
    while True:
        if task.startswith("countdown"):
            row = countdown(rng, language, int(task[-1]))
        else:
            makers = {"chain": chain, "compare": compare, "program": programs.program, "general": general.make}
            row = makers[task](rng, language)
        if split(row["canonical"]) == wanted_split:
            return row | {"task": task, "language": language}


def prompt(seed: int, index: int, mix: str = "zero") -> dict:
    """Returns problem number `index` of an endless stream of RL prompts.

    The problem depends only on `seed`, `index` and `mix`.

    Args:
        mix: name of the mix from which tasks are drawn.
    """
    return {"id": f"{mix}-{seed}-{index}"} | draw(random.Random(f"rl {mix} {seed} {index}"), "rl", mix)


def held_out(count: int, mix: str = "zero") -> list[dict]:
    """Returns the first `count` problems of the fixed list of held-out problems of the mix named `mix`.

    No problem occurs twice. If the list is shorter than `count`, as it may be for a mix of one task, returns the whole
    list.
    """

    def distinct() -> Iterator[dict]:
        seen: set[str] = set()
        rng = random.Random(f"held out {mix}")
        while True:
            task = rng.choices(TASKS, shares(mix))[0]
            for _ in range(1000):  # a small family keeps its share until it runs dry
                row = draw(rng, "eval", mix, task)
                if row["canonical"] not in seen:
                    seen.add(row["canonical"])
                    yield {"id": f"eval-{mix}-{len(seen) - 1}"} | row
                    break
            else:
                if max(shares(mix)) == 1.0:  # no other task can take its place
                    return

    return list(itertools.islice(distinct(), count))
