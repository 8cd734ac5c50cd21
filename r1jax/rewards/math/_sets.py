"""Converts sets of real numbers (intervals, points, solutions of inequalities) to lists of pieces for comparison.

A piece is (low, high, ends): the two bounds of an interval, and its brackets, such as "[)". A point is a piece with
equal bounds and the brackets "[]".
"""

from __future__ import annotations

import math

from r1jax.rewards.math._ast import Node, OverBudget, negative, num, over, symbols
from r1jax.rewards.math._exact import Undefined
from r1jax.rewards.math._numeric import FIRST_BITS, Numeric
from r1jax.rewards.math._scalars import is_term

INFINITY = Node("const", ("inf",))
MINUS_INFINITY = negative(INFINITY)
LINE_NODE = Node("sym", ("mathbbR",))
LINE = (MINUS_INFINITY, INFINITY, "()")
Piece = tuple[Node, Node, str]


def pieces(node: Node) -> list[Piece] | None:
    """Returns a set of real numbers, such as [1, 2), {3} or x < 3, as pieces; None for any other node.

    A piece is an interval (low, high, brackets), such as (1, 2, "[)"); a point is a piece with equal bounds.

    Args:
        node: a node in normal form, see `_statements.normal`.
    """
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
    if kind == "named" and args[0].kind == "sym" and is_term(args[1]):  # x = 2 beside x < 0
        return [(args[1], args[1], "[]")]
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
    """Returns the solutions of an inequality, as pieces, if one side is a variable, a multiple of one, or its |x|.

    A double inequality must have the variable in the middle. None for all others.

    Args:
        operators, sides: the arguments of an `order` node: "<", "<=" or "!=" between the sides, ascending.
    """
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
    """Returns the solutions of an inequality between |x| and a positive bound, as pieces; None for other bounds.

    Args:
        operator: "<" or "<=".
        inside: True for |x| < bound, False for |x| > bound.
    """
    if symbols(bound) or not is_term(bound) or operator == "!=" or _size(bound) <= 0:
        return None
    if inside:
        return [(negative(bound), bound, "()" if operator == "<" else "[]")]
    low, high = ("()", "()") if operator == "<" else ("(]", "[)")
    return [(MINUS_INFINITY, negative(bound), low), (bound, INFINITY, high)]


def _multiple_of_letter(node: Node) -> Node | None:
    """Returns the number c ≠ 0 if the node is c·x for a variable x, also 1 for x alone; None for other nodes."""
    if node.kind == "sym" or node.kind == "apply":
        return num(1)
    if node.kind == "mul" and len(node.args) == 2 and node.args[1].kind == "sym" and node.args[0].kind == "num":
        return node.args[0] if node.args[0].args[0] else None
    return None


def _together(items: tuple) -> list[Piece] | None:
    """Combines several inequalities in one variable to pieces; None if the items are anything else.

    An upper and a lower bound that overlap give their intersection; all others give the union.
    """
    if not items or any(item.kind not in ("order", "member", "named") for item in items):
        return None
    if len({frozenset(symbols(item)) for item in items}) != 1:
        return None
    unequal = [item for item in items if item.args[0] == ("!=",) and item.args[1].kind == "sym"]
    if unequal:
        others = tuple(item for item in items if item not in unequal)
        base = LINE_NODE if not others else others[0] if len(others) == 1 else Node("list", others)
        return _without_points(base, Node("set", tuple(item.args[2] for item in unequal)))
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


def joined(parts: list[Piece], equal) -> list[Piece]:
    """Sorts intervals in ascending order, and joins those that overlap or touch: [1,3] and (3,7] become [1,7].

    Args:
        parts: the intervals, as `pieces` returns them.
        equal: a function that returns True if two bounds are equal.
    """
    if len(parts) < 2:
        return parts
    sized = [(*(_bound(node) for node in part[:2]), part) for part in parts]
    if any(low is None or high is None for low, high, _ in sized):
        return parts
    sized.sort(key=lambda item: (item[0], item[2][2][0] == "("))
    found = [sized[0]]
    for low, high, part in sized[1:]:
        last_low, last_high, last = found[-1]
        touches = low < last_high or (equal(part[0], last[1]) and ("[" in part[2][0] or "]" in last[2][1]))
        if not touches or (last_high == math.inf and low == math.inf):
            found.append((low, high, part))
        elif equal(part[1], last[1]):
            end = "]" if "]" in (part[2][1], last[2][1]) else ")"
            found[-1] = (last_low, last_high, (last[0], last[1], last[2][0] + end))
        elif high > last_high:
            found[-1] = (last_low, high, (last[0], part[1], last[2][0] + part[2][1]))
        if touches and equal(part[0], last[0]) and part[2][0] == "[":
            low_, high_, (a, b, marks) = found[-1]
            found[-1] = (low_, high_, (a, b, "[" + marks[1]))
    return [part for _, _, part in found]


def _bound(node: Node) -> float | None:
    """Returns the approximate value of a bound, also of an infinite one; None if it has no real value."""
    if node in (INFINITY, MINUS_INFINITY):
        return math.inf if node == INFINITY else -math.inf
    if symbols(node) or not is_term(node):
        return None
    try:
        value = Numeric(FIRST_BITS).of(node)
    except (Undefined, OverBudget):
        return None
    if getattr(value, "imag", 0):
        return None
    value = getattr(value, "real", value)
    return value


def _without_points(base: Node, points: Node) -> list[Piece] | None:
    """Returns the pieces of a set of real numbers without the points of another; None if they are other nodes."""
    whole = pieces(base)
    if not whole or points.kind != "set" or any(symbols(item) or not is_term(item) for item in points.args):
        return None
    if whole != [LINE] and any(_bound(bound) is None for part in whole for bound in part[:2]):
        return None
    found = whole
    for point in points.args:
        at, cut = _size(point), []
        for low, high, ends in found:
            below, above = (_bound(low), _bound(high)) if whole != [LINE] or len(found) > 1 else (-math.inf, math.inf)
            below = -math.inf if below is None else below
            above = math.inf if above is None else above
            if below < at < above and point not in (low, high):
                cut += [(low, point, ends[0] + ")"), (point, high, "(" + ends[1])]
            elif point in (low, high) and (below != above):
                cut.append((low, high, ("(" if point == low else ends[0]) + (")" if point == high else ends[1])))
            elif not (point == low == high):
                cut.append((low, high, ends))
        found = cut
    return found


def _size(node: Node):
    """Returns the approximate real value of a term, for the order of bounds; equality is never decided by it."""
    try:
        value = Numeric(FIRST_BITS).of(node)
    except Undefined:
        return 0
    return getattr(value, "real", value)
