"""One-line Python functions with unit tests: what is asked, what is right, what is plausible and wrong.

A program is an atom (the integer x, or something of the list x), at most one product and at most one sum or difference:
`max(x)*3-5`. The problem names it in words and gives one example, so that a solver can check itself.
"""

from __future__ import annotations

import dataclasses
import random

LIMIT = 99  # the example's values, as in every task of the world, lie in 1..99
ATOMS = {  # code -> (in English, in Chinese)
    "x": ("x", "x"),
    "sum(x)": ("the sum of x", "x 的和"),
    "len(x)": ("the length of x", "x 的长度"),
    "max(x)": ("the largest of x", "x 的最大值"),
    "min(x)": ("the smallest of x", "x 的最小值"),
    "x[0]": ("the first of x", "x 的第一个"),
    "x[-1]": ("the last of x", "x 的最后一个"),
}
WORDS = {"*": ("times", "乘"), "+": ("plus", "加"), "-": ("minus", "减")}


@dataclasses.dataclass(frozen=True)
class Program:
    """`atom`, times `factor` (1: no product), plus `term` (0: none; below 0 a difference)."""

    atom: str
    factor: int
    term: int

    @property
    def code(self) -> str:
        product = f"*{self.factor}" if self.factor > 1 else ""
        return self.atom + product + (f"{self.term:+d}" if self.term else "")

    def words(self, language: str) -> str:
        which = ("en", "zh").index(language)
        said = ATOMS[self.atom][which]
        if self.factor > 1:
            said += f" {WORDS['*'][which]} {self.factor}"
        if self.term:
            said += f" {WORDS['+' if self.term > 0 else '-'][which]} {abs(self.term)}"
        return said

    def start(self, x: int | list[int]) -> int:
        """The atom's value."""
        if isinstance(x, int):
            return x
        return {
            "sum(x)": sum(x), "len(x)": len(x), "max(x)": max(x), "min(x)": min(x), "x[0]": x[0], "x[-1]": x[-1],
        }[self.atom]  # fmt: skip

    def value(self, x: int | list[int]) -> int:
        return self.start(x) * self.factor + self.term

    def steps(self, x: int | list[int]) -> str:
        """The work on one argument: `x[0]=4,4*3=12,12-5=7`."""
        at = self.start(x)
        lines = [] if isinstance(x, int) else [f"{self.atom}={at}"]
        if self.factor > 1:
            lines.append(f"{at}*{self.factor}={at * self.factor}")
            at *= self.factor
        if self.term:
            lines.append(f"{at}{self.term:+d}={at + self.term}")
        return ",".join(lines)


def argument(rng: random.Random, program: Program) -> int | list[int]:
    if program.atom == "x":
        return rng.randint(1, 12)
    return [rng.randint(1, 12) for _ in range(rng.randint(2, 4))]


def draw(rng: random.Random) -> tuple[Program, list]:
    """A program and an argument on which every value lies in 1..99."""
    while True:
        atom = rng.choice(("x", "x", *ATOMS))
        program = Program(atom, rng.choice((1, *range(2, 10))), rng.choice((-1, 0, 1, 1)) * rng.randint(1, 40))
        x = argument(rng, program)
        product = program.start(x) * program.factor
        if program.code != "x" and program.start(x) <= LIMIT and product <= LIMIT and 0 < program.value(x) <= LIMIT:
            return program, [x]


def program(rng: random.Random, language: str) -> dict:
    """A problem: a function in words, with one example; its gold holds the example and four hidden calls."""
    asked, (x,) = draw(rng)
    shown = f"f({x})={asked.value(x)}".replace(" ", "")
    words = asked.words(language)
    text = {"en": f"Write Python f(x): {words}. {shown}", "zh": f"写 Python f(x): {words}。{shown}"}[language]
    calls = [x, *(argument(rng, asked) for _ in range(4))]
    return {
        "problem": text,
        "gold": {"entry": "f", "tests": [[[call], asked.value(call)] for call in calls]},
        "kind": "code",
        "canonical": f"program {asked.code}",
    }


def wrong(asked: Program, x: int | list[int], rng: random.Random) -> Program:
    """A plausible program with another value on the example."""
    atoms = ["x"] if asked.atom == "x" else [atom for atom in ATOMS if atom != "x"]
    while True:
        choice = rng.randrange(3)
        other = dataclasses.replace(
            asked,
            atom=rng.choice(atoms) if choice == 0 else asked.atom,
            factor=rng.randint(1, 9) if choice == 1 else asked.factor,
            term=rng.choice((-asked.term, 0, rng.randint(1, 40))) if choice == 2 else asked.term,
        )
        if other.value(x) != asked.value(x) and 0 < other.value(x) <= LIMIT and other.start(x) * other.factor <= LIMIT:
            return other


def parse(row: dict) -> tuple[Program, int | list[int]]:
    """The program and the example's argument of a problem."""
    code = row["canonical"].removeprefix("program ")
    atom = max((atom for atom in ATOMS if code.startswith(atom)), key=len)
    rest = code.removeprefix(atom)
    cut = max(rest.find("+"), rest.find("-"))
    product, term = (rest, "0") if cut < 0 else (rest[:cut], rest[cut:])
    return Program(atom, int(product[1:] or 1), int(term)), row["gold"]["tests"][0][0][0]


def text(asked: Program) -> str:
    """The answer: the whole function on one line."""
    return f"def f(x): return {asked.code}"
