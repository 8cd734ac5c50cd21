"""Generates problems that ask for a one-line Python function, with unit tests, right answers and wrong answers.

A program such as `max(x)*3-5` is an atom (the integer x, or a function of the list x) with an optional factor and an
optional term, which is added or subtracted. The problem describes the program in words and gives one example, with
which a solver can check its answer.
"""

from __future__ import annotations

import dataclasses
import random

LIMIT = 99  # as in every task of the nano world, the values in the example of a problem lie in 1..99
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
    """The program `atom * factor + term`.

    Attributes:
        atom: a key of `ATOMS`, such as "max(x)".
        factor: 1 means that there is no product.
        term: 0 means that there is no sum; a negative number is a difference.
    """

    atom: str
    factor: int
    term: int

    @property
    def code(self) -> str:
        """The program's expression in Python."""
        product = f"*{self.factor}" if self.factor > 1 else ""
        return self.atom + product + (f"{self.term:+d}" if self.term else "")

    def words(self, language: str) -> str:
        """Returns the program in words, in `language` ("en" or "zh")."""
        which = ("en", "zh").index(language)
        said = ATOMS[self.atom][which]
        if self.factor > 1:
            said += f" {WORDS['*'][which]} {self.factor}"
        if self.term:
            said += f" {WORDS['+' if self.term > 0 else '-'][which]} {abs(self.term)}"
        return said

    def start(self, x: int | list[int]) -> int:
        """Returns the value of the atom alone for the argument `x`, before product and sum."""
        if isinstance(x, int):
            return x
        return {
            "sum(x)": sum(x),
            "len(x)": len(x),
            "max(x)": max(x),
            "min(x)": min(x),
            "x[0]": x[0],
            "x[-1]": x[-1],
        }[self.atom]

    def value(self, x: int | list[int]) -> int:
        """Returns the program's value for the argument `x`."""
        return self.start(x) * self.factor + self.term

    def steps(self, x: int | list[int]) -> str:
        """Returns the steps that evaluate the program for the argument `x`, such as `x[0]=4,4*3=12,12-5=7`."""
        at = self.start(x)
        lines = [] if isinstance(x, int) else [f"{self.atom}={at}"]
        if self.factor > 1:
            lines.append(f"{at}*{self.factor}={at * self.factor}")
            at *= self.factor
        if self.term:
            lines.append(f"{at}{self.term:+d}={at + self.term}")
        return ",".join(lines)


def argument(rng: random.Random, program: Program) -> int | list[int]:
    """Returns a random argument that suits the program: an integer, or a list of 2 to 4 integers."""
    if program.atom == "x":
        return rng.randint(1, 12)
    return [rng.randint(1, 12) for _ in range(rng.randint(2, 4))]


def draw(rng: random.Random) -> tuple[Program, list]:
    """Returns (program, [argument]), both random. For this argument, every intermediate value lies in 1..99."""
    while True:
        atom = rng.choice(("x", "x", *ATOMS))
        program = Program(atom, rng.choice((1, *range(2, 10))), rng.choice((-1, 0, 1, 1)) * rng.randint(1, 40))
        x = argument(rng, program)
        product = program.start(x) * program.factor
        if program.code != "x" and program.start(x) <= LIMIT and product <= LIMIT and 0 < program.value(x) <= LIMIT:
            return program, [x]


def program(rng: random.Random, language: str) -> dict:
    """Returns a random problem that asks for a one-line function: {problem, gold, kind, canonical}.

    The problem describes the function in words and gives one example call with its value. The gold's unit tests are
    this example and four calls that the problem does not show. `canonical` identifies the function (see `tasks.split`).

    Args:
        language: language of the problem, "en" or "zh".
    """
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
    """Returns a random wrong program, which differs from `asked` in atom, factor or term.

    The two programs return different values for the argument `x`, which is the example in the problem's text.
    """
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
    """Returns (program that solves the problem `row`, argument of the problem's example)."""
    code = row["canonical"].removeprefix("program ")
    atom = max((atom for atom in ATOMS if code.startswith(atom)), key=len)
    rest = code.removeprefix(atom)
    cut = max(rest.find("+"), rest.find("-"))
    product, term = (rest, "0") if cut < 0 else (rest[:cut], rest[cut:])
    return Program(atom, int(product[1:] or 1), int(term)), row["gold"]["tests"][0][0][0]


def text(asked: Program) -> str:
    """Returns the program `asked` as an answer: the whole Python function `f` on one line."""
    return f"def f(x): return {asked.code}"
