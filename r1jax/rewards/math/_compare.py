"""Compares the syntax trees of two answers: terms, lists, sets, intervals, relations, quantities with units."""

from __future__ import annotations

from r1jax.rewards.math._ast import Node, OverBudget, holds, negative, symbols
from r1jax.rewards.math._exact import Undefined, exact
from r1jax.rewards.math._parse import words_of
from r1jax.rewards.math._quantities import clock_hours, is_clock, with_unit_letters
from r1jax.rewards.math._scalars import (
    is_term,
    long_decimal_of,
    proportional,
    terms_equal,
    without,
    without_denominators,
)
from r1jax.rewards.math._sets import joined, pieces
from r1jax.rewards.math._statements import normal
from r1jax.rewards.math._units import measure, singular

MOST_ITEMS = 64


class Comparison:
    """One comparison of two answers, given as syntax trees. The comparison is symmetric: either may be the gold answer.

    A method `rule_KIND(x, y)` compares a node x of that kind with a node y of any kind. It returns True if the two are
    equal, False if they differ, and None to leave the decision to the rule for the kind of y.

    Attributes:
        stage: the step that decided last, such as "exact" or "set"; becomes `Verdict.stage`.
    """

    def __init__(self):
        self.stage = "structure"

    def same(self, a: Node, b: Node) -> bool:
        """Returns True if two parsed trees state the same answer; the order of the two does not matter.

        Raises:
            OverBudget: the comparison would exceed a limit.
        """
        return self.equal(normal(a, self.equal), normal(b, self.equal))

    def equal(self, a: Node, b: Node) -> bool:
        """Returns True if two nodes in normal form (see `_statements.normal`) have the same meaning."""
        if a == b and a.kind != "false":
            return True
        if is_term(a) and is_term(b):
            return self.terms(a, b)
        for x, y in ((a, b), (b, a)):
            verdict = self.rules(x, y)
            if verdict is not None:
                return verdict
        return False

    def rules(self, x: Node, y: Node) -> bool | None:
        """Returns the result of the method `rule_KIND` for the kind of x; None if there is no such method."""
        rule = getattr(self, f"rule_{x.kind}", None)
        return rule(x, y) if rule else None

    def terms(self, a: Node, b: Node) -> bool:
        """Returns True if two terms are equal.

        Terms also count as equal if one is a long decimal that approximates the other, or if the only difference is a
        percent or degree sign that one of them lacks.
        """
        same, self.stage = terms_equal(a, b)
        if not same and self.stage == "exact" and long_decimal_of(a, b):
            same, self.stage = True, "decimal"
        for mark in ("percent", "deg"):
            if not same and holds(a, "fn", mark) != holds(b, "fn", mark):
                same, self.stage = terms_equal(without(a, mark), without(b, mark))
        return same

    def each(self, xs: tuple, ys: tuple) -> bool:
        return len(xs) == len(ys) and all(self.equal(x, y) for x, y in zip(xs, ys, strict=False))

    def any_order(self, xs: tuple, ys: tuple) -> bool:
        """Returns True if the nodes `xs` equal the nodes `ys` one to one in some order.

        Equality is transitive, so it is enough to match each x with the first unmatched y that equals it.
        """
        if len(xs) != len(ys):
            return False
        if len(xs) > MOST_ITEMS:
            values = [[exact_or_none(node) for node in nodes] for nodes in (xs, ys)]
            if None not in values[0] and None not in values[1]:
                return sorted(values[0]) == sorted(values[1])
            raise OverBudget(f"items: a list has more than {MOST_ITEMS} items")
        left = list(ys)
        for x in xs:
            found = next((i for i, y in enumerate(left) if x == y), None)
            if found is None:
                found = next((i for i, y in enumerate(left) if self.equal(x, y)), None)
            if found is None:
                return False
            del left[found]
        return True

    # one rule for each kind of node x; y may have any kind

    def rule_false(self, x: Node, y: Node) -> bool:
        return False

    def rule_quantity(self, x: Node, y: Node) -> bool:
        value, unit = x.args
        if (hour := clock_hours(x)) or clock_hours(y):
            other = clock_hours(y) or (y.args if y.kind == "ratio" and is_clock(y) else None)
            if hour and other:
                return self.each(hour, other) or (y.kind == "ratio" and self.equal(value, y))
        y = with_unit_letters(y) if measure(unit) else y
        if y.kind == "quantity":
            left, right = measure(unit), measure(y.args[1])
            if {unit, y.args[1]} & {"£"} and "pound" in (singular(unit), singular(y.args[1])):
                return self.equal(value, y.args[0])
            if left and right and left != right:
                if left[0] != right[0]:
                    return False
                scale = (Node("num", (left[1], "")), Node("num", (right[1], "")))
                return self.equal(Node("mul", (value, scale[0])), Node("mul", (y.args[0], scale[1])))
            return self.equal(value, y.args[0])
        if y.kind == "named":
            return self.equal(x, y.args[1])
        if holds(y, "fn", "deg") and (known := measure(unit)) and not known[0].startswith("temperature"):
            return False
        return self.equal(value, y)

    def rule_named(self, x: Node, y: Node) -> bool | None:
        name, value = x.args
        if y.kind == "named":
            if name.kind == y.args[0].kind == "tuple":
                return self.each(name.args[2:], y.args[0].args[2:]) and self.equal(value, y.args[1])
            same_kind = name.kind == y.args[0].kind and name.kind in ("sym", "apply", "const", "mul", "fn")
            if same_kind and name != y.args[0] and not self.equal(name, y.args[0]):
                return self.rule_equation(_equation(x), _equation(y)) if symbols(value) else False
            return self.equal(value, y.args[1])
        if y.kind == "equation":
            return self.equal(_equation(x), y)
        if y.kind in ("order", "false"):
            return False
        if y.kind in ("list", "set") and y.args and all(item.kind == "named" for item in y.args):
            return self.equal(Node("list", _components(x)), Node("list", y.args)) if name.kind == "tuple" else False
        return self.equal(value, y)

    def rule_equation(self, x: Node, y: Node) -> bool | None:
        if y.kind != "equation":
            return None if y.kind in ("named", "list", "set") else False
        if not (is_term(x.args[0]) and is_term(x.args[1]) and is_term(y.args[0]) and is_term(y.args[1])):
            pairs = (x.args, y.args), (x.args, y.args[::-1])
            return any(self.each(p, q) for p, q in pairs)
        self.stage = "equation"
        try:
            return proportional(*(without_denominators(_difference(*sides)) for sides in (x.args, y.args)))
        except Undefined:
            return False

    def rule_order(self, x: Node, y: Node) -> bool | None:
        if y.kind != "order":
            return self.sets(x, y)
        if x.args[0] == y.args[0] and self.each(x.args[1:], y.args[1:]):
            return True
        left, right = pieces(x), pieces(y)
        if left and right and symbols(x) == symbols(y):
            return self.match_pieces(left, right)
        if len(x.args) == len(y.args) == 3 and x.args[0] == y.args[0] and all(map(is_term, (*x.args[1:], *y.args[1:]))):
            self.stage = "equation"
            try:
                return proportional(_difference(*x.args[1:]), _difference(*y.args[1:]), positive=x.args[0] != ("!=",))
            except Undefined:
                return False
        return False

    def rule_member(self, x: Node, y: Node) -> bool:
        if y.kind == "member":
            return self.equal(x.args[0], y.args[0]) and self.equal(x.args[1], y.args[1])
        if x.args[0].kind == "sym" and x.args[1].kind == "set" and (is_term(y) or y.kind == "named"):
            return self.equal(x.args[1], y.args[1] if y.kind == "named" else y)
        return (
            self.equal(x.args[1], y) if y.kind in ("tuple", "union", "set", "order", "apply", "sym", "list") else False
        )

    def rule_relation(self, x: Node, y: Node) -> bool:
        return y.kind == "relation" and x.args[0] == y.args[0] and self.each(x.args[1:], y.args[1:])

    def rule_union(self, x: Node, y: Node) -> bool | None:
        return self.sets(x, y)

    def rule_list(self, x: Node, y: Node) -> bool | None:
        if y.kind in ("list", "set"):
            if self.any_order(x.args, y.args):
                return True
            return self.values_in_order(x, y) or self.values_in_order(y, x)
        if y.kind == "tuple" and y.args[:2] == ("(", ")"):
            return self.each(x.args, y.args[2:]) or self.values_in_order(x, Node("list", y.args[2:]))
        if y.kind in ("union", "order") or y.kind == "tuple":
            return self.sets(x, y)
        return None if y.kind in ("named", "quantity", "member") else False

    def values_in_order(self, x: Node, y: Node) -> bool:
        """Returns True if the list `x` names values, as in a=1, b=2, and the list `y` has the same values without
        names.

        The values in `y` must be in the order of `x`, or sorted by the names that `x` gives them.
        """
        if (
            not all(i.kind == "named" for i in x.args)
            or any(i.kind == "named" for i in y.args)
            or len(x.args) != len(y.args)
        ):
            return False
        values = tuple(item.args[1] for item in x.args)
        by_name = tuple(item.args[1] for item in sorted(x.args, key=lambda item: repr(item.args[0])))
        return self.each(values, y.args) or self.each(by_name, y.args)

    def rule_set(self, x: Node, y: Node) -> bool | None:
        if y.kind == "set":
            return self.covers(x.args, y.args) and self.covers(y.args, x.args)
        if y.kind in ("union", "order") or (
            len(x.args) == 1 and x.args[0].kind == "apply" and x.args[0].args[0] == "where"
        ):
            return self.sets(x, y)
        if y.kind in ("list", "member", "named", "quantity"):
            return None
        is_point = y.kind == "tuple" and y.args[:2] == ("(", ")")
        return len(x.args) == 1 and (is_term(y) or is_point) and self.equal(x.args[0], y)

    def covers(self, xs: tuple, ys: tuple) -> bool:
        """Returns True if each node of `xs` equals some node of `ys`."""
        if len(xs) * len(ys) > MOST_ITEMS**2:
            raise OverBudget(
                f"items: the two sets are too large to compare: at most {MOST_ITEMS**2} comparisons are allowed"
            )
        return all(any(x == y or self.equal(x, y) for y in ys) for x in xs)

    def rule_tuple(self, x: Node, y: Node) -> bool | None:
        if y.kind == "tuple":
            brackets = x.args[:2] == y.args[:2] or (len(x.args) > 4 and {*x.args[:2], *y.args[:2]} <= set("()[]"))
            return brackets and self.each(x.args[2:], y.args[2:])
        if y.kind == "matrix":
            vector = len(y.args) == 1 or all(len(row) == 1 for row in y.args)
            return vector and self.each(x.args[2:], tuple(cell for row in y.args for cell in row))
        if y.kind in ("union", "order", "sym", "apply"):
            return self.sets(x, y)
        return None if y.kind in ("list", "set", "member", "named", "quantity") else False

    def rule_matrix(self, x: Node, y: Node) -> bool | None:
        if y.kind == "matrix":
            return len(x.args) == len(y.args) and all(self.each(r, s) for r, s in zip(x.args, y.args, strict=False))
        return None if y.kind in ("tuple", "named") else False

    def rule_det(self, x: Node, y: Node) -> bool:
        return (
            y.kind == "det"
            and len(x.args) == len(y.args)
            and all(self.each(r, s) for r, s in zip(x.args, y.args, strict=False))
        )

    def rule_ratio(self, x: Node, y: Node) -> bool | None:
        if y.kind == "ratio":
            if len(x.args) != len(y.args):
                return False
            if self.each(x.args, y.args):
                return True
            if (is_clock(x) and is_clock(y)) or any(exact_or_none(t) == 0 for t in (*x.args, *y.args)):
                return False
            pairs = zip(x.args[1:], y.args[1:], strict=False)
            return all(self.equal(Node("mul", (x.args[0], v)), Node("mul", (y.args[0], u))) for u, v in pairs)
        if is_term(y) and len(x.args) == 2 and not is_clock(x):
            return self.equal(Node("mul", (x.args[0], Node("pow", (x.args[1], Node("num", (-1, "")))))), y)
        return None if y.kind in ("quantity", "named") else False

    def rule_based(self, x: Node, y: Node) -> bool | None:
        if y.kind == "based":
            return x.args[:2] == y.args[:2]
        if y.kind == "num":  # the question often states the base; but "5 in base 6" says more than 5
            return y.args[1] == x.args[0] and not x.args[2]
        return None if y.kind in ("named", "quantity") else False

    def rule_text(self, x: Node, y: Node) -> bool | None:
        self.stage = "text"
        return y.kind == "text" and bool(words_of(x.args[0])) and words_of(x.args[0]) == words_of(y.args[0])

    def rule_sym(self, x: Node, y: Node) -> bool | None:
        return self.sets(x, y) if x.args[0] in ("mathbbR", "emptyset") else None

    def rule_apply(self, x: Node, y: Node) -> bool | None:
        if y.kind == "apply":
            return (x.args[0] == y.args[0] and self.each(x.args[1:], y.args[1:])) or bool(self.sets(x, y))
        return self.sets(x, y)

    def sets(self, x: Node, y: Node) -> bool:
        """Returns True if both nodes are sets of real numbers that consist of the same intervals and points."""
        left, right = pieces(x), pieces(y)
        if not left or not right:
            return False
        return self.match_pieces(left, right)

    def match_pieces(self, left: list, right: list) -> bool:
        """Returns True if two lists of intervals and points (`_sets.Piece`) are equal one to one in some order."""
        self.stage = "set"
        left, right = (joined(part, self.equal) for part in (left, right))
        if len(left) != len(right):
            return False
        if all(a[2] == b[2] and a[:2] == b[:2] for a, b in zip(left, right, strict=True)):
            return True
        if len(left) > MOST_ITEMS:
            raise OverBudget(f"items: a union has more than {MOST_ITEMS} parts")
        waiting = list(right)
        for low, high, ends in left:
            found = next(
                (
                    i
                    for i, (a, b, marks) in enumerate(waiting)
                    if ends == marks and self.equal(low, a) and self.equal(high, b)
                ),
                None,
            )
            if found is None:
                return False
            del waiting[found]
        return True


def exact_or_none(node: Node):
    """Returns the rational value of a term.

    Returns None if the value is irrational, undefined or too costly, or if the term has variables. Also returns None
    for a node that is not a term.
    """
    try:
        return exact(node) if is_term(node) else None
    except (OverBudget, Undefined):
        return None


def _difference(a: Node, b: Node) -> Node:
    return Node("add", (a, negative(b)))


def _equation(named: Node) -> Node:
    return Node("equation", named.args)


def _components(named: Node) -> tuple:
    """Returns the named values of a named tuple: (x, y) = (1, 2) as x = 1, y = 2. Leaves other nodes as they are."""
    name, value = named.args
    if value.kind == "tuple" and len(value.args) == len(name.args):
        return tuple(Node("named", pair) for pair in zip(name.args[2:], value.args[2:], strict=False))
    return (named,)
