"""Helps to compare quantities (values with units): times of the day, and units that were parsed as variables."""

from __future__ import annotations

from r1jax.rewards.math._ast import Node, mul, num, symbols
from r1jax.rewards.math._scalars import is_term
from r1jax.rewards.math._units import measure

UNIT_LETTERS = set("mgslhL")


def clock_hours(node: Node) -> tuple | None:
    """Returns (hour from 0 to 23, minutes) of a time with am or pm, such as 5:30 pm; None for other nodes."""
    half = measure(node.args[1]) if node.kind == "quantity" else None
    if not half or half[0] not in ("half of the day am^1", "half of the day pm^1"):
        return None
    value = node.args[0]
    hours, minutes = value.args if value.kind == "ratio" and is_clock(value) else (value, num(0))
    if hours.kind != "num" or not 1 <= hours.args[0] <= 12:
        return None
    return num(hours.args[0] % 12 + 12 * (" pm" in half[0])), minutes


def with_unit_letters(node: Node) -> Node:
    """Converts a product whose variables can be read as units, such as 1000·m, into a quantity. Returns any other node
    unchanged.
    """
    if node.kind != "mul" or not all(map(is_term, node.args)):
        return node
    values, letters = [], []
    for term in _factors(node):
        base, exponent = term.args if term.kind == "pow" else (term, num(1))
        if base.kind == "pow" and base.args[1].kind == exponent.kind == "num":  # (s^2)^-1
            base, exponent = base.args[0], num(base.args[1].args[0] * exponent.args[0])
        if base.kind == "sym" and base.args[0] in UNIT_LETTERS and exponent.kind == "num":
            letters.append(f"{base.args[0]}^{exponent.args[0]}")
        elif symbols(term):
            return node
        else:
            values.append(term)
    return Node("quantity", (mul(*values), " ".join(letters))) if values and letters else node


def _factors(node: Node) -> list[Node]:
    """Returns the factors of a product, also of products in it; [node] if the node is not a product."""
    return [factor for term in node.args for factor in _factors(term)] if node.kind == "mul" else [node]


def is_clock(ratio: Node) -> bool:
    """Returns True if a ratio node may be a time of the day: two numbers, two digits after the colon, as in 4:05."""
    return len(ratio.args) == 2 and all(t.kind == "num" for t in ratio.args) and len(ratio.args[1].args[1]) == 2
