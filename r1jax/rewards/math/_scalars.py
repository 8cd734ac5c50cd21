"""Compares two terms: exactly, then modulo a prime, then numerically to more digits than could agree by chance.

A term is a node of the syntax tree that has one value, such as a number, a variable or a sum.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1jax.rewards.math._ast import Node, OverBudget, holds, mul, num, power, symbols, walk
from r1jax.rewards.math._exact import PRIME, Residues, Undefined, exact
from r1jax.rewards.math._numeric import ALL, FIRST_BITS, POSITIVE, STEPS, Numeric, agree, rounds_to, whole_letters

LONG_DECIMAL = 10  # least significant digits of a decimal that may stand for an irrational or endless number
MOST_FUNCTIONS = 300
_DECIMAL = re.compile(r"-?\d*\.(\d+)")
TERMS = {"num", "const", "sym", "add", "mul", "pow", "fn", "apply"}


def is_term(node: Node) -> bool:
    """Returns True if the node is a term: only numbers, variables, sums, products, powers and functions occur in it."""
    return all(part.kind in TERMS for part in walk(node))


def terms_equal(a: Node, b: Node) -> tuple[bool, str]:
    """Compares two terms as functions of their variables.

    Returns:
        (whether they are equal, the stage that decided). The stage is "exact" (as rational numbers or infinities),
        "modular" (modulo a prime), "numeric", "decimal" (one term is a long decimal that approximates the other) or
        "undefined" (a term has no value, such as 1/0).
    Raises:
        OverBudget: the comparison would exceed a limit.
    """
    infinite = [_infinity(node) for node in (a, b)]
    if any(infinite) or holds(a, "const", "inf") or holds(b, "const", "inf"):
        return infinite[0] == infinite[1] is not None and bool(infinite[0]), "exact"
    try:
        values = [_exact(node) for node in (a, b)]
        if None not in values:
            return values[0] == values[1], "exact"
        left, right = Residues(), Residues()
        same = left.of(a) == right.of(b)
        if same or (left.pure and right.pure):
            return same, "modular"
        return _numerically(a, b)
    except Undefined:
        return False, "undefined"


def _exact(node: Node) -> Fraction | None:
    """Returns the rational value of a term; None if it has none or if the value is too large to write out.

    Residues may still decide then.
    """
    try:
        return exact(node)
    except OverBudget:
        return None


def _infinity(node: Node) -> int:
    """Returns 1 if the node is infinity, also times a positive number; -1 for minus infinity; 0 for all other nodes."""
    if node == Node("const", ("inf",)):
        return 1
    if node.kind == "mul" and len(node.args) == 2 and node.args[1] == Node("const", ("inf",)):
        value = exact(node.args[0]) if node.args[0].kind == "num" else None
        return 0 if not value else 1 if value > 0 else -1
    return 0


def _numerically(a: Node, b: Node) -> tuple[bool, str]:
    """Compares two terms numerically. If `log` occurs without a base, tries the natural and the decimal logarithm.

    Returns:
        (whether they are equal, the stage "numeric" or "decimal").
    """
    if sum(part.kind in ("fn", "pow", "apply") for node in (a, b) for part in walk(node)) > MOST_FUNCTIONS:
        raise OverBudget(f"functions: the two answers have more than {MOST_FUNCTIONS} functions and powers")
    logarithms = any(n.kind == "fn" and n.args[:1] == ("log",) and len(n.args) == 2 for t in (a, b) for n in walk(t))
    for ten in (False, True) if logarithms else (False,):
        if _same_everywhere(a, b, ten):
            return True, "numeric"
        for decimal, other in ((a, b), (b, a)):
            if _stands_for(decimal, other, ten):
                return True, "decimal"
    return False, "numeric"


def _same_everywhere(a: Node, b: Node, ten: bool) -> bool:
    """Returns True if two terms agree at enough points to be equal.

    Args:
        ten: `log` without a base is to base 10.
    """
    letters = symbols(a) | symbols(b) or holds(a, "apply") or holds(b, "apply")
    whole = whole_letters(a, b)
    steps = any(holds(term, "fn", name) for term in (a, b) for name in ("floor", "ceil", "sgn", "max", "min", "abs"))
    agreed = 0
    for point in range(1 if not letters else STEPS if steps else ALL):
        if point in range(POSITIVE, ALL) and whole:
            continue
        try:
            same = agree(a, b, point, ten, whole, bool(letters))
        except Undefined:
            if not letters:
                raise
            continue
        if same is False:
            return False
        agreed += bool(same)
    return agreed >= (2 if letters else 1)


def _stands_for(decimal: Node, other: Node, ten: bool) -> bool:
    """Returns True if `decimal` is a long decimal that is the value of `other`, cut or rounded after its last place.

    Args:
        ten: `log` without a base is to base 10.
    """
    if decimal.kind != "num" or symbols(other) or not is_term(other) or holds(other, "apply"):
        return False
    match = _DECIMAL.fullmatch(decimal.args[1])
    digits = decimal.args[1].lstrip("-0.").replace(".", "")
    return bool(match) and len(digits) >= LONG_DECIMAL and rounds_to(decimal.args[0], len(match[1]), other, ten)


def long_decimal_of(a: Node, b: Node) -> bool:
    """Returns True if one term is a fraction with infinitely many decimals, such as 1/3, and the other term is a long
    decimal (at least 10 significant digits) that approximates the fraction.
    """
    for decimal, other in ((a, b), (b, a)):
        value = _exact(other)
        if value is None or decimal.kind != "num":
            continue
        rest = value.denominator
        for prime in (2, 5):
            while rest % prime == 0:
                rest //= prime
        if rest != 1 and _stands_for(decimal, other, False):
            return True
    return False


def without(node: Node, mark: str) -> Node:
    """Removes all signs of one kind (percent or degree) from a term: 5% becomes 5.

    Keeps a sign that changes the meaning of the term, as in sin 1° or x + 4%.

    Args:
        mark: "percent" or "deg", the kind of sign to remove.
    """
    if node.kind == "mul" or (node.kind == "add" and all(holds(term, "fn", mark) for term in node.args)):
        return Node(node.kind, tuple(without(term, mark) for term in node.args))
    return node.args[1] if node.kind == "fn" and node.args[0] == mark else node


def without_denominators(difference: Node) -> Node:
    """Multiplies a term by its denominators that have variables: y - 4/x becomes xy - 4."""
    found: dict[Node, Fraction] = {}
    waiting = [difference]
    while waiting:
        node = waiting.pop()
        if node.kind in ("add", "mul"):
            waiting.extend(node.args)
        elif node.kind == "pow" and node.args[1].kind == "num" and node.args[1].args[0] < 0 and symbols(node.args[0]):
            found[node.args[0]] = max(found.get(node.args[0], Fraction(0)), -node.args[1].args[0])
    return mul(difference, *(power(base, num(exponent)) for base, exponent in found.items()))


def proportional(f: Node, g: Node, positive: bool = False) -> bool:
    """Returns True if f = c·g for a constant c ≠ 0, so that f = 0 and g = 0 are the same equation.

    Args:
        positive: require c > 0, as for inequalities.
    Raises:
        OverBudget: the comparison would exceed a limit.
        Undefined: a term has no value.
    """
    rows = [(Residues(seed), Residues(seed)) for seed in (0, 1)]
    values = [(r.of(f), s.of(g)) for r, s in rows]
    if all(x == 0 for x, _ in values) or all(y == 0 for _, y in values):
        return all(x == y == 0 for x, y in values)
    pure = all(r.pure and s.pure for r, s in rows)
    modular = (values[0][0] * values[1][1] - values[1][0] * values[0][1]) % PRIME == 0
    if pure and not modular:
        return False
    if modular and not positive:
        return True
    return _ratio_is_constant(f, g, positive)


def _ratio_is_constant(f: Node, g: Node, positive: bool) -> bool:
    """Returns True if f/g has the same value at all points, and, if `positive`, this value is positive."""
    ratios = []
    for point in range(ALL):
        try:
            numeric = Numeric(FIRST_BITS, point)
            x, y = numeric.of(f), numeric.of(g)
            if not y:
                continue
            ratios.append(x / y)
        except Undefined:
            continue
    if len(ratios) < 2 or not ratios[0]:
        return False
    first = ratios[0]
    if positive and (getattr(first, "imag", 0) or first.real <= 0):
        return False
    return all(abs(r - first) < abs(first) * 2.0**-120 for r in ratios)
