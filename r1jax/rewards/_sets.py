"""Sets of real numbers as pieces (low, high, ends): intervals, points, and what inequalities say."""

from __future__ import annotations

import itertools

from r1jax.rewards._ast import Node, negative, num, over, symbols
from r1jax.rewards._exact import Undefined
from r1jax.rewards._numeric import FIRST_BITS, Numeric
from r1jax.rewards._scalars import is_term

INFINITY = Node("const", ("inf",))
MINUS_INFINITY = negative(INFINITY)
LINE_NODE = Node("sym", ("mathbbR",))
LINE = (MINUS_INFINITY, INFINITY, "()")
Piece = tuple[Node, Node, str]


def pieces(node: Node) -> list[Piece] | None:
    """The pieces of a normal node, None if it is no set we can read."""
    kind, args = node
    if kind == "tuple" and len(args) == 4 and {*args[:2]} <= set("()[]"):
        return [(args[2], args[3], args[0] + args[1])]
    if kind == "set":
        if len(args) == 1 and args[0].kind == "apply" and args[0].args[0] == "where":
            return pieces(args[0].args[2])
        return [(item, item, "[]") for item in args] if all(is_term(item) for item in args) else None
    if kind == "union":
        parts = [pieces(part) for part in args]
        return None if None in parts else [piece for part in parts for piece in part]
    if kind == "sym" and args[0] == "mathbbR":
        return [LINE]
    if kind == "member":
        return pieces(args[1])
    if kind == "order":
        return _solutions(args[0], args[1:])
    if kind == "list":
        return _together(args)
    if kind == "apply" and args[0] == "setminus":
        return _without_points(args[1], args[2])
    return None


def _solutions(operators: tuple, sides: tuple) -> list[Piece] | None:
    """Of an inequality or a double inequality in one letter that stands alone."""
    if len(sides) == 2:
        for flipped in (False, True):
            letter, bound = sides if not flipped else sides[::-1]
            if letter.kind == "fn" and letter.args[0] == "abs" and letter.args[1].kind == "sym":
                return _of_absolute(operators[0], bound, inside=not flipped)
            factor = _multiple_of_letter(letter)
            if factor is None or symbols(bound) or not is_term(bound):
                continue
            limit = bound if factor == num(1) else over(bound, factor)
            if operators[0] == "!=":
                return [(MINUS_INFINITY, limit, "()"), (limit, INFINITY, "()")]
            below = flipped == (factor.args[0] < 0)
            if operators[0] == "<":
                return [(MINUS_INFINITY, limit, "()") if below else (limit, INFINITY, "()")]
            return [(MINUS_INFINITY, limit, "(]") if below else (limit, INFINITY, "[)")]
    if len(sides) == 3 and sides[1].kind in ("sym", "apply") and not symbols(sides[0]) and not symbols(sides[2]):
        return [(sides[0], sides[2], ("(" if operators[0] == "<" else "[") + (")" if operators[1] == "<" else "]"))]
    return None


def _of_absolute(operator: str, bound: Node, inside: bool) -> list[Piece] | None:
    """|x| < 3 for a positive number."""
    if symbols(bound) or not is_term(bound) or operator == "!=" or _size(bound) <= 0:
        return None
    if inside:
        return [(negative(bound), bound, "()" if operator == "<" else "[]")]
    low, high = ("()", "()") if operator == "<" else ("(]", "[)")
    return [(MINUS_INFINITY, negative(bound), low), (bound, INFINITY, high)]


def _multiple_of_letter(node: Node) -> Node | None:
    """c of c·x for a number c."""
    if node.kind == "sym" or node.kind == "apply":
        return num(1)
    if node.kind == "mul" and len(node.args) == 2 and node.args[1].kind == "sym" and node.args[0].kind == "num":
        return node.args[0] if node.args[0].args[0] else None
    return None


def _together(items: tuple) -> list[Piece] | None:
    """Several inequalities in one letter: both where they overlap, else either."""
    if not items or any(item.kind not in ("order", "member") for item in items):
        return None
    if len({frozenset(symbols(item)) for item in items}) != 1:
        return None
    if all(item.args[0] == ("!=",) and item.args[1].kind == "sym" for item in items):
        return _without_points(LINE_NODE, Node("set", tuple(item.args[2] for item in items)))
    parts = [pieces(item) for item in items]
    if None in parts:
        return None
    found = [piece for part in parts for piece in part]
    if len(found) == 2:
        upper = [piece for piece in found if piece[0] == MINUS_INFINITY and piece[1] != INFINITY]
        lower = [piece for piece in found if piece[1] == INFINITY and piece[0] != MINUS_INFINITY]
        if len(upper) == len(lower) == 1 and _size(lower[0][0]) < _size(upper[0][1]):
            return [(lower[0][0], upper[0][1], lower[0][2][0] + upper[0][2][1])]
    return found


def _without_points(base: Node, points: Node) -> list[Piece] | None:
    """All reals but some points."""
    if (
        pieces(base) != [LINE]
        or points.kind != "set"
        or any(symbols(item) or not is_term(item) for item in points.args)
    ):
        return None
    at = [MINUS_INFINITY, *sorted(points.args, key=_size), INFINITY]
    return [(low, high, "()") for low, high in itertools.pairwise(at)]


def _size(node: Node):
    """A real value to put bounds in order by; equality is never decided here."""
    try:
        value = Numeric(FIRST_BITS).of(node)
    except Undefined:
        return 0
    return getattr(value, "real", value)
