"""Defines the parts of the Metamath checker `metamath`: tokens, normal and compressed proofs, substitution.

An expression is a tuple of symbols, the first of which is a constant, its type code (such as wff or |-).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

MAX_SYMBOLS = 20_000_000  # most symbols read or written while one theorem is verified: seconds of work
Expression = tuple[str, ...]


class Assertion(NamedTuple):
    """An axiom or a theorem with its mandatory frame: the hypotheses and $d conditions that each use of it must meet.

    Attributes:
        apart: pairs of variables with a $d condition: the expressions that replace them must share no variable.
        floating: (type code, variable) of each mandatory variable ($f hypotheses).
        essential: the other hypotheses ($e), as expressions.
        order: labels of the $f and $e hypotheses, in the order in which a proof supplies them.
        statement: what is asserted under the hypotheses.
        uses: labels that the proof names; empty for an axiom.
        axiom: True for an axiom, False for a theorem.
    """

    apart: frozenset[tuple[str, str]]
    floating: tuple[tuple[str, str], ...]
    essential: tuple[Expression, ...]
    order: tuple[str, ...]
    statement: Expression
    uses: frozenset[str]
    axiom: bool

    def says(self) -> tuple:
        """Returns (apart, floating, essential, statement). Two assertions with equal tuples state the same."""
        return self.apart, self.floating, self.essential, self.statement


class Scope:
    """The declarations between `${` and `$}`, or the declarations outside of all such blocks.

    Attributes:
        floating: variable -> (label of its $f hypothesis, type code).
        hypotheses: labels of the $f and $e hypotheses, in order.
        apart: pairs of variables under a $d condition, each pair sorted.
    """

    def __init__(self):
        self.variables: set[str] = set()
        self.floating: dict[str, tuple[str, str]] = {}
        self.hypotheses: list[str] = []
        self.apart: set[tuple[str, str]] = set()


class Wrong(Exception):
    """A database or a proof breaks a rule of Metamath. The message names the rule, and becomes `Verdict.stage`."""


class TooCostly(Exception):
    """Verifying the proof would read or write more than MAX_SYMBOLS symbols. Leads to the verdict `budget`."""


def apply_substitution(
    hypotheses: Sequence[tuple[str, Expression]], statement: Expression, given: Sequence[Expression], step: str
) -> tuple[Expression, dict[str, Expression], int]:
    """Applies an assertion in a proof: finds the substitution that turns its hypotheses into the given expressions.

    Args:
        hypotheses: ("$f" or "$e", expression) of each hypothesis of the assertion.
        statement: the statement of the assertion.
        given: the expressions on the proof's stack, one for each hypothesis.
        step: the label of the assertion, for error messages.
    Returns:
        (the statement after substitution, the substitution {variable: expression}, the number of symbols written).
    Raises:
        Wrong: the given expressions do not fit the hypotheses.
        TooCostly: an expression would have more than MAX_SYMBOLS symbols after substitution.
    """
    values: dict[str, Expression] = {}
    size = 1
    for (kind, wanted), expression in zip(hypotheses, given, strict=True):
        if kind == "$f":
            if expression[0] != wanted[0]:
                raise Wrong(f"step {step:.60}: the expression for {wanted[1]} must have the type code {wanted[0]}")
            values[wanted[1]] = expression[1:]
    for (kind, wanted), expression in zip(hypotheses, given, strict=True):
        if kind == "$e":
            size += substituted_length(wanted, values)
            if substitute(wanted, values) != expression:
                raise Wrong(f"step {step:.60}: hypothesis {' '.join(wanted):.80} does not fit the given expression")
    size += substituted_length(statement, values)
    return substitute(statement, values), values, size


def check_apart(pairs, values: dict[str, Expression], active: set[str], apart: set[tuple[str, str]], step: str) -> None:
    """Raises Wrong if a substitution violates a $d condition of the assertion that is applied.

    Args:
        pairs: pairs of variables of the assertion that have a $d condition.
        values: the substitution {variable: expression}. The expressions of a pair must have no variable in common, and
            each variable of one must have a $d condition with each variable of the other.
        active: the variables in scope at the statement that is proved.
        apart: the pairs of variables that have a $d condition in scope at that statement.
        step: the label of the assertion, for error messages.
    """
    for x, y in pairs:
        for a, b in product(active.intersection(values[x]), active.intersection(values[y])):
            if a == b or (min(a, b), max(a, b)) not in apart:
                raise Wrong(f"step {step:.60}: {a} and {b} must be distinct ($d)")


def substituted_length(expression: Expression, values: dict[str, Expression]) -> int:
    """Returns the number of symbols that the expression will have after the substitution `values`.

    Raises:
        TooCostly: the number exceeds MAX_SYMBOLS.
    """
    size = sum(len(values[s]) if s in values else 1 for s in expression)
    if size > MAX_SYMBOLS:
        raise TooCostly
    return size


def substitute(expression: Expression, values: dict[str, Expression]) -> Expression:
    """Returns the expression with each variable in `values` replaced by the symbols that `values` has for it."""
    out: list[str] = []
    for symbol in expression:
        if symbol in values:
            out += values[symbol]
        else:
            out.append(symbol)
    return tuple(out)


def tokens_of(text: str) -> Iterator[str]:
    """Yields the tokens of a text, without comments. Raises Wrong for a malformed comment or the file inclusion $[."""
    words = iter(text.split())
    for word in words:
        if word == "$(":
            for inner in words:
                if inner == "$)":
                    break
                if "$(" in inner or "$)" in inner:
                    raise Wrong("a comment contains $( or $), but comments do not nest")
            else:
                raise Wrong("a comment is never closed")
        elif word == "$[":
            raise Wrong("$[ includes a file, which is not allowed: give the text of the file itself")
        else:
            yield word


def until(tokens: Iterator[str], end: str) -> list[str]:
    """Consumes tokens up to the keyword `end`, such as "$.", and returns the tokens before this keyword.

    Raises:
        Wrong: another keyword or the end of the text comes first.
    """
    out = []
    for token in tokens:
        if token == end:
            return out
        if token.startswith("$"):
            raise Wrong(f"the keyword {token[:20]} stands where {end} is expected")
        out.append(token)
    raise Wrong(f"the text ends before {end}")


def labels_in(proof: list[str]) -> list[str]:
    """Returns the labels that a proof names: in a compressed proof the tokens between ( and ), else all tokens."""
    return proof[1 : proof.index(")")] if proof[:1] == ["("] and ")" in proof else proof


def steps(proof: list[str], order: tuple[str, ...]) -> Iterator[str | int | None]:
    """Yields the steps of a proof in normal or compressed form.

    A step is one of three things: a label, which names what to apply; an int, which is the index of a saved result; or
    None, which means "save the last result".

    Args:
        proof: the tokens of the proof.
        order: labels of the mandatory hypotheses of the theorem, which a compressed proof refers to by number.
    Raises:
        Wrong: the proof is malformed.
    """
    if not proof:
        raise Wrong("the proof is empty")
    if proof[0] != "(":
        yield from proof
        return
    if ")" not in proof:
        raise Wrong("a compressed proof has no ) after its labels")
    labels = [*order, *labels_in(proof)]
    if set(order) & set(labels_in(proof)):
        raise Wrong("a compressed proof lists a mandatory hypothesis among its labels; refer to it by number instead")
    value = 0
    for letter in "".join(proof[proof.index(")") + 1 :]):
        if "A" <= letter <= "T":
            value = 20 * value + ord(letter) - ord("A")
            yield labels[value] if value < len(labels) else value - len(labels)
            value = 0
        elif "U" <= letter <= "Y":
            value = 5 * value + ord(letter) - ord("U") + 1
            if value > MAX_SYMBOLS:
                raise Wrong("a number in the letters of a compressed proof is too large")
        elif letter == "Z" and not value:
            yield None
        else:
            yield "?" if letter == "?" else ""
    if value:
        raise Wrong("the letters of a compressed proof end in the middle of a number")
