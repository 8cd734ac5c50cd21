"""The small syntax tree of an answer, and walks over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple


class Node(NamedTuple):
    """One node.

    Kinds and their args, values first:
        num (Fraction, literal); const (pi, e, i, inf); sym (name); add, mul (terms...); pow (base, exponent);
        fn (name, args...), a known function; apply (name, args...), an unknown one; pm (sign, term);
    then what may hold values:
        tuple (open, close, items...); set (items...); list (items...), unordered, no brackets;
        matrix, det (rows of cells...); rel (operators, sides...); union (sets...); ratio (terms...);
        based (digits, base); quantity (value, unit); text (words).
    """

    kind: str
    args: tuple


class Unreadable(Exception):
    """Not an answer in the language we read. Never a user's error: the text is then compared as text."""


class OverBudget(Exception):
    """An answer that costs more to evaluate than any answer may."""


def num(value: int | Fraction, literal: str = "") -> Node:
    return Node("num", (Fraction(value), literal))


def sym(name: str) -> Node:
    return Node("sym", (name,))


def mul(*terms: Node) -> Node:
    return terms[0] if len(terms) == 1 else Node("mul", terms)


def power(base: Node, exponent: Node) -> Node:
    return Node("pow", (base, exponent))


def negative(term: Node) -> Node:
    if term.kind == "num":
        return num(-term.args[0], "-" + term.args[1] if term.args[1] else "")
    return mul(num(-1), term)


def over(top: Node, bottom: Node) -> Node:
    return mul(top, power(bottom, num(-1)))


def children(node: Node) -> Iterator[Node]:
    for arg in node.args:
        if isinstance(arg, Node):
            yield arg
        elif isinstance(arg, tuple):
            yield from (cell for cell in arg if isinstance(cell, Node))


def walk(node: Node) -> Iterator[Node]:
    """The node and all below it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(children(node))


def rebuild(node: Node, change: Callable[[Node], Node]) -> Node:
    """The tree with every node replaced by `change` of it, from the leaves up."""
    args = tuple(
        rebuild(arg, change)
        if isinstance(arg, Node)
        else tuple(rebuild(cell, change) if isinstance(cell, Node) else cell for cell in arg)
        if type(arg) is tuple
        else arg
        for arg in node.args
    )
    return change(Node(node.kind, args))


def symbols(node: Node) -> set[str]:
    return {n.args[0] for n in walk(node) if n.kind == "sym"}


def holds(node: Node, kind: str, name: str | None = None) -> bool:
    return any(n.kind == kind and (name is None or n.args[0] == name) for n in walk(node))
