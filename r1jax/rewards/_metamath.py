"""The machinery below `metamath`: tokens, the two forms of a proof, substitution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

MAX_SYMBOLS = 20_000_000  # read or written while one theorem is verified, seconds of work
Expression = tuple[str, ...]


class Assertion(NamedTuple):
    """An axiom or a theorem with its mandatory frame.

    Attributes:
        apart: pairs of variables that must not share a variable after substitution.
        floating: (type code, variable) of each mandatory variable. essential: hypotheses.
        order: labels of the hypotheses in the order a proof supplies them.
        uses: labels its proof names; empty for an axiom.
    """

    apart: frozenset[tuple[str, str]]
    floating: tuple[tuple[str, str], ...]
    essential: tuple[Expression, ...]
    order: tuple[str, ...]
    statement: Expression
    uses: frozenset[str]
    axiom: bool

    def says(self) -> tuple:
        return self.apart, self.floating, self.essential, self.statement


class Scope:
    """What `${` opens and `$}` closes."""

    def __init__(self):
        self.variables: set[str] = set()
        self.floating: dict[str, tuple[str, str]] = {}  # variable -> (label, type code)
        self.hypotheses: list[str] = []  # labels, floating and essential, in order
        self.apart: set[tuple[str, str]] = set()


class Wrong(Exception):
    """A database or a proof breaks a rule; the message names it."""


class TooCostly(Exception):
    """The proof takes more than MAX_SYMBOLS symbols."""


def substituted(
    hypotheses: Sequence[tuple[str, Expression]], statement: Expression, given: Sequence[Expression], step: str
) -> tuple[Expression, dict[str, Expression], int]:
    """The statement of an assertion under the substitution its hypotheses ask for, that substitution, and its cost.

    Raises:
        Wrong: what is given does not fit the hypotheses. TooCostly: the result is too long to be written.
    """
    values: dict[str, Expression] = {}
    size = 1
    for (kind, wanted), expression in zip(hypotheses, given, strict=True):
        if kind == "$f":
            if expression[0] != wanted[0]:
                raise Wrong(f"step {step:.60}: {wanted[1]} must be a {wanted[0]}")
            values[wanted[1]] = expression[1:]
    for (kind, wanted), expression in zip(hypotheses, given, strict=True):
        if kind == "$e":
            size += bounded(wanted, values)
            if substitute(wanted, values) != expression:
                raise Wrong(f"step {step:.60}: hypothesis {' '.join(wanted):.80} does not fit")
    size += bounded(statement, values)
    return substitute(statement, values), values, size


def apart_in(pairs, values: dict[str, Expression], active: set[str], apart: set[tuple[str, str]], step: str) -> None:
    """Raises Wrong where two variables that must be distinct after the substitution are not, or need not be."""
    for x, y in pairs:
        for a, b in product(active.intersection(values[x]), active.intersection(values[y])):
            if a == b or (min(a, b), max(a, b)) not in apart:
                raise Wrong(f"step {step:.60}: {a} and {b} must be distinct ($d)")


def bounded(expression: Expression, values: dict[str, Expression]) -> int:
    """The length after substitution, before it is written."""
    size = sum(len(values[s]) if s in values else 1 for s in expression)
    if size > MAX_SYMBOLS:
        raise TooCostly
    return size


def substitute(expression: Expression, values: dict[str, Expression]) -> Expression:
    out: list[str] = []
    for symbol in expression:
        if symbol in values:
            out += values[symbol]
        else:
            out.append(symbol)
    return tuple(out)


def tokens_of(text: str) -> Iterator[str]:
    """The tokens without comments. Comments do not nest."""
    words = iter(text.split())
    for word in words:
        if word == "$(":
            for inner in words:
                if inner == "$)":
                    break
                if "$(" in inner or "$)" in inner:
                    raise Wrong("$( or $) inside a comment")
            else:
                raise Wrong("a comment is never closed")
        elif word == "$[":
            raise Wrong("$[ includes a file: give the text itself")
        else:
            yield word


def until(tokens: Iterator[str], end: str) -> list[str]:
    out = []
    for token in tokens:
        if token == end:
            return out
        if token.startswith("$"):
            raise Wrong(f"{token[:20]} before {end}")
        out.append(token)
    raise Wrong(f"the text ends before {end}")


def named(proof: list[str]) -> list[str]:
    """Labels a proof names."""
    return proof[1 : proof.index(")")] if proof[:1] == ["("] and ")" in proof else proof


def steps(proof: list[str], order: tuple[str, ...]) -> Iterator[str | int | None]:
    """Labels, numbers of kept results, and None for "keep this", of a proof in either form."""
    if not proof:
        raise Wrong("the proof is empty")
    if proof[0] != "(":
        yield from proof
        return
    if ")" not in proof:
        raise Wrong("a compressed proof without )")
    labels = [*order, *named(proof)]
    if set(order) & set(named(proof)):
        raise Wrong("a compressed proof names a mandatory hypothesis")
    value = 0
    for letter in "".join(proof[proof.index(")") + 1 :]):
        if "A" <= letter <= "T":
            value = 20 * value + ord(letter) - ord("A")
            yield labels[value] if value < len(labels) else value - len(labels)
            value = 0
        elif "U" <= letter <= "Y":
            value = 5 * value + ord(letter) - ord("U") + 1
            if value > MAX_SYMBOLS:
                raise Wrong("a number out of range in a compressed proof")
        elif letter == "Z" and not value:
            yield None
        else:
            yield "?" if letter == "?" else ""
    if value:
        raise Wrong("a compressed proof ends inside a number")
