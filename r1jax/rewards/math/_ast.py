"""Defines the syntax tree of a mathematical answer, and functions that build and search trees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import NamedTuple


class Node(NamedTuple):
    """One node of the syntax tree: its kind and its arguments. The arguments include the nodes below this node.

    Each kind is listed with its arguments in brackets. These kinds are terms, which are nodes that have a value:

        num (value as a Fraction, literal)
        const (name: pi, e, i or inf)
        sym (name)
        add (terms...), mul (terms...)
        pow (base, exponent)
        fn (name, args...)                 a known function
        apply (name, args...)              an unknown function
        pm (1 for ± or -1 for ∓, term)

    These are the other kinds:

        tuple (open, close, items...)
        set (items...)
        list (items...)                    unordered, no brackets
        matrix (rows...), det (rows...)    a row is a tuple of cells
        rel (operators, sides...)
        union (sets...)
        ratio (terms...)
        based (digits, base, whether the base is in words)
        quantity (value, unit)
        text (words)
    """

    kind: str
    args: tuple


class Unreadable(Exception):
    """The parser cannot parse the text as mathematics. The text is then compared as words.

    The message says what the parser met; users never see it.
    """


class OverBudget(Exception):
    """Comparing the answer would exceed a fixed limit. The verdict is then `budget`.

    The message begins with what is too large: digits (of a number), size (of a value), depth (of nesting), length (of
    the text), tokens, functions, or items (of a list). This word, up to the colon, becomes `Verdict.stage`.
    """


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
    """Yields the nodes directly below a node. For a matrix these include the cells of its rows."""
    for arg in node.args:
        if isinstance(arg, Node):
            yield arg
        elif isinstance(arg, tuple):
            yield from (cell for cell in arg if isinstance(cell, Node))


def walk(node: Node) -> Iterator[Node]:
    """Yields the node and all nodes below it."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(children(node))


def rebuild(node: Node, change: Callable[[Node], Node]) -> Node:
    """Returns a copy of the tree in which every node n is replaced by `change(n)`, from the leaves up."""
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
    """Returns the names of all variables (`sym` nodes) in the tree."""
    return {n.args[0] for n in walk(node) if n.kind == "sym"}


def holds(node: Node, kind: str, name: str | None = None) -> bool:
    """Returns True if the tree has a node of this kind. If `name` is given, the node's first argument must equal it."""
    return any(n.kind == kind and (name is None or n.args[0] == name) for n in walk(node))
