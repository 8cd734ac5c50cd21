"""Brings the syntax tree of an answer to a normal form, in which every relation has a meaning.

For example, x = 5 gives the value 5 the name x, 2 + 2 = 5 is a false statement, and 2 < x is an inequality.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from r1jax.rewards.math._ast import Node, holds, negative, num, rebuild, sym, symbols, walk
from r1jax.rewards.math._exact import Undefined
from r1jax.rewards.math._matrices import determinant, matrix_value, nested
from r1jax.rewards.math._numeric import rounds_to
from r1jax.rewards.math._parse import words_of
from r1jax.rewards.math._scalars import is_term
from r1jax.rewards.math._units import measure

FALSE = Node("false", ())
_ASCENDING = {"<": "<", "<=": "<=", ">": "<", ">=": "<="}
_STATEMENTS = {"equation", "order", "member", "relation", "false", "text"}
MOST_SIGNS = 4
ALL_REALS = {words_of(words) for words in ("all real numbers", "all reals", "all real", "全体实数")}
Equal = Callable[[Node, Node], bool]


def normal(node: Node, equal: Equal) -> Node:
    """Returns an answer in normal form: relations interpreted, ± written out as two values, matrices evaluated.

    A relation becomes a node of one of these kinds:

        named (name, value)             x = 5
        equation (left, right)          x + y = 5
        order (operators, sides...)     an inequality with <, <= or !=; 3 > x is turned round, to x < 3
        member (variable, set)          x in [0, 1]
        relation (operators, sides...)  any other relation, such as a congruence; its sides are compared one by one
        false ()                        a statement that does not hold, such as 2 + 2 = 5

    Args:
        equal: a function that returns True if two nodes in normal form are equal. It tests whether a chain such as
            1/2 = 0.5 holds.
    """
    if node.kind == "rel":
        operators = node.args[0]
        sides = [normal(side, equal) for side in node.args[1:]]
        return _spread(_statement(operators, sides, equal))
    if node.kind in ("list", "set"):
        items: list[Node] = []
        for item in node.args:
            item = normal(item, equal)
            spread = item.kind == "list" and all(i.kind != "named" or node.kind == "set" for i in item.args)
            items.extend(item.args if spread else (item,))
        items = _one_quantity(_values(_unequal(items))) if node.kind == "list" else items
        return items[0] if len(items) == 1 and node.kind == "list" else Node(node.kind, tuple(items))
    if node.kind == "det":
        return determinant(node.args) or node
    if node.kind == "tuple" and (rows := nested(node)):
        return Node("matrix", rows)
    if node.kind == "text" and words_of(node.args[0]) in ALL_REALS:
        return sym("mathbbR")
    if node.kind in ("tuple", "union", "ratio", "quantity"):
        return Node(node.kind, tuple(normal(arg, equal) if isinstance(arg, Node) else arg for arg in node.args))
    if node.kind == "apply" and not is_term(node):
        return Node("apply", tuple(normal(arg, equal) if isinstance(arg, Node) else arg for arg in node.args))
    if holds(node, "matrix") and node.kind in ("add", "mul", "pow"):
        return matrix_value(node) or node
    if holds(node, "pm"):
        return _both_signs(node)
    return node


def _statement(operators: tuple, sides: list[Node], equal: Equal) -> Node:
    """Returns the normal form of a relation: a node named, equation, order, member, relation or false; see `normal`.

    Args:
        operators: the relation signs between the sides, such as ("=", "~") for x = 1/3 ≈ 0.33.
        sides: the sides in normal form; one more at the end is the modulus of a congruence.
        equal: as in `normal`.
    """
    if len(sides) > len(operators) + 1:  # a modulus
        return Node("relation", (operators, *sides))
    if set(operators) <= {"=", "~"}:
        if "~" in operators[1:]:  # x = 1/3 ≈ 0.33: the exact value counts
            cut = operators.index("~", 1)
            if not all(_is_near(sides[cut], side) for side in sides[cut + 1 :]):
                return FALSE
            operators, sides = operators[:cut], sides[: cut + 1]
        elif operators == ("~",) and not symbols(sides[0]) and is_term(sides[0]) and is_term(sides[1]):
            return sides[0] if _is_near(*sides) else FALSE
        return _equality(sides, equal)
    if set(operators) <= set(_ASCENDING):
        if set(operators) <= {">", ">="}:
            operators, sides = operators[::-1], sides[::-1]
        elif not set(operators) <= {"<", "<="}:
            return Node("relation", (operators, *sides))
        return Node("order", (tuple(_ASCENDING[operator] for operator in operators), *sides))
    if operators == ("!=",):
        return Node("order", (operators, *sides))
    if operators == ("in",):
        return Node("member", tuple(sides))
    return Node("relation", (operators, *sides))


def _equality(sides: list[Node], equal: Equal) -> Node:
    """Returns the normal form of a chain of equal signs: a value, or a node named, equation, relation or false.

    It is false if two sides that can be compared are not equal.

    Args:
        sides: the sides of the chain in normal form.
        equal: as in `normal`.
    """
    first, rest = sides[0], sides[1:]
    if all(is_term(side) and not symbols(side) and not holds(side, "apply") for side in sides):
        if all(equal(a, b) for a, b in itertools.pairwise(sides)):
            return sides[-1]
        if first.kind != "const":
            return FALSE
    if not is_name(first) and len(sides) == 2 and is_name(rest[0]):
        first, rest = rest[0], [first]
    if not is_name(first):
        return Node("equation", tuple(sides)) if len(sides) == 2 else Node("relation", (("=",) * len(rest), *sides))
    constant = [side for side in rest if not symbols(side)]
    rest = constant or [side for side in rest if side.kind != "sym"] or rest
    # an error in the middle of the chain is not a second answer, if both ends agree
    ends_agree = rest[0].kind not in ("num", "const") and equal(rest[0], rest[-1])
    if not ends_agree and not all(equal(a, b) for a, b in itertools.pairwise(rest)):
        return FALSE
    value = rest[-1]
    if first.kind == "sym" and first.args[0] in symbols(value):
        return Node("equation", (first, value))
    return Node("named", (first, value))


def _is_near(exact_side: Node, decimal: Node) -> bool:
    """Returns True if `decimal` is the value of `exact_side`, cut or rounded after the decimal's last place.

    Also True if the decimal has too few digits to tell, or the other side has no value.
    """
    places = len(decimal.args[1].partition(".")[2]) if decimal.kind == "num" else 0
    digits = len(decimal.args[1].lstrip("0.")) - 1 if places else 0
    if (places < 2 and digits < 4) or symbols(exact_side) or not is_term(exact_side):
        return True
    try:
        return rounds_to(decimal.args[0], places, exact_side)
    except Undefined:
        return False


def is_name(node: Node) -> bool:
    """Returns True if the node is a name, to which an equation can give a value: x, f(x), AB, |AB|, (x, y) or words."""
    if node.kind in ("sym", "apply", "text"):
        return True
    if node.kind == "const":
        return node.args[0] in ("e", "i")
    if node.kind == "fn" and node.args[0] == "abs":
        return all(part.kind in ("sym", "mul") for part in walk(node.args[1]))
    if node.kind == "mul":  # a segment, an angle, P(A)
        return all(part.kind == "sym" and part.args[0][0].isupper() for part in node.args)
    if node.kind == "ratio":
        return all(map(is_name, node.args))
    if node.kind == "matrix":
        return all(cell.kind == "sym" for row in node.args for cell in row)
    if node.kind == "tuple":
        return node.args[:2] == ("(", ")") and all(part.kind in ("sym", "const") for part in node.args[2:])
    return False


def _values(items: list[Node]) -> list[Node]:
    """Returns the items of a list without a name that they share: n = 1, 2, 3 and x = 1 or x = 2 become values."""
    if len(items) < 2 or items[0].kind != "named" or not symbols(items[0].args[0]):
        return items
    name = items[0].args[0]
    one_name = all(item.kind != "named" or item.args[0] == name for item in items)
    if not one_name or any(item.kind in _STATEMENTS for item in items):
        return items
    return [item.args[1] if item.kind == "named" else item for item in items]


def _one_quantity(items: list[Node]) -> list[Node]:
    """Returns one quantity for a list such as 2 hours and 30 minutes; other lists unchanged.

    The units must be known and of one dimension, each unit smaller than the one before it.
    """
    known = [measure(item.args[1]) if item.kind == "quantity" else None for item in items]
    if len(items) < 2 or None in known or len({dimension for dimension, _ in known}) > 1:
        return items
    sizes = [size for _, size in known]
    if any(big <= small for big, small in itertools.pairwise(sizes)):
        return items
    terms = tuple(Node("mul", (item.args[0], num(size / sizes[-1]))) for item, size in zip(items, sizes, strict=True))
    return [Node("quantity", (Node("add", terms), items[-1].args[1]))]


def _spread(node: Node) -> Node:
    """Rewrites a relation to several values, as x = ±2, as a list of the values; x ≠ ±2 as x ≠ 2, x ≠ -2."""
    if node.kind == "named" and node.args[1].kind == "list":
        return node.args[1]
    if node.kind == "order" and node.args[0] == ("!=",) and node.args[2].kind == "list":
        return Node("list", tuple(Node("order", (("!=",), node.args[1], value)) for value in node.args[2].args))
    return node


def _unequal(items: list[Node]) -> list[Node]:
    """Rewrites the items x ≠ 0, 1 of a list as x ≠ 0, x ≠ 1; returns other items unchanged."""
    first = items[0] if items else FALSE
    if first.kind != "order" or first.args[0] != ("!=",) or first.args[1].kind != "sym":
        return items
    return [item if not is_term(item) or symbols(item) else Node("order", (*first.args[:2], item)) for item in items]


def _both_signs(node: Node) -> Node:
    """Returns a `list` node with the values of a term for each choice of its signs ±.

    If ∓ occurs, all signs change together, which gives two values. A node that is no term, or has too many signs, is
    returned unchanged.
    """
    signs = sum(part.kind == "pm" for part in walk(node))
    if not is_term(_with_signs(node, (1,) * signs, True)) or signs > MOST_SIGNS:
        return node
    together = any(part == Node("pm", (-1, part.args[1])) for part in walk(node) if part.kind == "pm")
    choices = [(1,) * signs, (-1,) * signs] if together else itertools.product((1, -1), repeat=signs)
    return Node("list", tuple(_with_signs(node, choice, together) for choice in choices))


def _with_signs(node: Node, choice: tuple, together: bool) -> Node:
    """Returns the term with each ± replaced by + or -.

    Args:
        choice: 1 or -1 for each sign, in the order in which `rebuild` visits them.
        together: 1 means the upper signs, -1 the lower signs, so that ∓ gets the opposite sign of ±.
    """
    waiting = iter(choice)

    def change(part: Node) -> Node:
        if part.kind != "pm":
            return part
        sign = next(waiting) * (part.args[0] if together else 1)
        return part.args[1] if sign > 0 else negative(part.args[1])

    return rebuild(node, change)
