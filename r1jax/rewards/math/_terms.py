"""Parses the terms of an answer: sums, products, powers, and what follows a factor, such as ! or %."""

from __future__ import annotations

import math
from fractions import Fraction

from r1jax.rewards.math._ast import Node, Unreadable, mul, negative, num, over, power, sym
from r1jax.rewards.math._commands import CONSTANTS, GREEK, KNOWN, OPEN, Commands, number
from r1jax.rewards.math._tokens import END, Token

_UNKNOWN_FUNCTIONS = set("fghFGH")


def _of_combination(base: Node) -> str:
    """Returns "5" for the variable C_5, which with an exponent (C_5^2) is a binomial coefficient, else ""."""
    name = base.args[0] if base.kind == "sym" else ""
    return name[2:] if name[:2] == "C_" and name[2:].isdigit() else ""


def _remainder(value: Node, modulus: Node) -> Node:
    """Returns the node of a remainder such as 17 mod 5.

    Raises:
        Unreadable: a number below the modulus, as in 3 mod 7: a class of numbers, not a value.
    """
    parts = [_rational(part) for part in (value.args if value.kind == "mul" else (value,))]
    if modulus.kind == "num" and None not in parts and 0 <= math.prod(parts) < modulus.args[0]:
        raise Unreadable("a residue class, such as 3 mod 7, is not a value")
    return Node("apply", ("bmod", value, modulus))


def _rational(node: Node) -> Fraction | None:
    """Returns the value of a number or of 1 over a number; None for other nodes."""
    if node.kind == "num":
        return node.args[0]
    is_inverse = node.kind == "pow" and node.args[0].kind == "num" and node.args[1] == num(-1) and node.args[0].args[0]
    return 1 / node.args[0].args[0] if is_inverse else None


class Terms(Commands):
    """A recursive-descent parser of terms. Each method parses one level of precedence, such as sums or products."""

    def additive(self) -> Node:
        self.deeper()
        terms = [self.signed()]
        while (token := self.peek()).value in ("+", "-", "pm", "mp") and token.kind in ("op", "cmd"):
            terms.append(self.signed())
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Node("add", tuple(terms))

    def signed(self) -> Node:
        token = self.peek()
        if token.kind in ("op", "cmd") and token.value in ("+", "-", "pm", "mp"):
            self.next()
            term = self.signed() if self.peek().value in ("+", "-") else self.product()
            if token.value in ("pm", "mp"):
                return Node("pm", (1 if token.value == "pm" else -1, term))
            return negative(term) if token.value == "-" else term
        return self.product()

    def product(self) -> Node:
        node = self.factor()
        terms = [node]
        while True:
            token = self.peek()
            if token.value in ("*", "cdot", "times", "ast") and token.kind in ("op", "cmd"):
                if token.value == "times" and terms[-1].kind in ("set", "tuple", "union"):
                    break
                self.next()
                terms.append(self.signed_factor())
            elif (
                token.value in ("/", "div")
                and token.kind in ("op", "cmd")
                and self.peek(1).kind not in ("text", "word")
            ):
                self.next()
                terms = [over(mul(*terms), self.signed_factor())]
            elif token.value in ("bmod",) and token.kind == "cmd":
                self.next()
                terms = [_remainder(mul(*terms), self.factor())]
            elif self.starts_factor():
                if self.peek().value == "(" and self.peek(1).kind in ("word", "text"):
                    raise Unreadable("a remark in brackets follows a term")
                terms.append(self.mixed(terms[-1], self.factor()) if len(terms) == 1 else self.factor())
                if terms[-1].kind == "num" and terms[-1].args[1] == "mixed":
                    terms.pop(0)
            else:
                return mul(*terms)
        return mul(*terms)

    def mixed(self, whole: Node, part: Node) -> Node:
        """Returns a mixed number, such as 3 1/2, if `whole` and `part` form one. Otherwise returns `part`.

        A mixed number is a whole number followed by a fraction of whole numbers that is below 1. The node of a number
        holds its value and its spelling; a mixed number has "mixed" as its spelling.

        Raises:
            Unreadable: both are numbers, but they form no mixed number.
        """
        if part.kind == "fn" and part.args[0] in ("percent", "deg"):
            inner = self.mixed(whole, part.args[1])
            is_mixed = inner.kind == "num" and inner.args[1] == "mixed"
            return num(inner.args[0] / 100, "mixed") if is_mixed and part.args[0] == "percent" else part
        if whole.kind == "num" and whole.args[1].isdigit() and part.kind == "mul" and len(part.args) == 2:
            top, bottom = part.args
            if (
                top.kind == "num"
                and bottom.kind == "pow"
                and bottom.args[0].kind == "num"
                and bottom.args[1] == num(-1)
            ):
                below = bottom.args[0].args[0]
                if top.args[1].isdigit() and bottom.args[0].args[1].isdigit() and 0 < top.args[0] < below:
                    return num(whole.args[0] + top.args[0] / below, "mixed")
        if whole.kind == "num" and part.kind == "num" and self.peek().value == "/" and self.peek(1).kind == "num":
            below = Fraction(self.peek(1).value)
            if whole.args[1].isdigit() and part.args[1].isdigit() and 0 <= part.args[0] < below:
                self.at += 2
                return num(whole.args[0] + part.args[0] / below, "mixed")
        if whole.kind == part.kind == "num" and whole.args[1] and part.args[1]:
            raise Unreadable("two numbers stand side by side")
        return part

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("num", "let"):
            return not (token == Token("let", "U", True) and self.peek(1).value in ("(", "[", "\\{"))
        if token.kind == "op":
            return token.value in ("(", "[", "{") or (token.value == "|" and not self.bars)
        return token.kind == "cmd" and (
            token.value in KNOWN
            or token.value in CONSTANTS
            or token.value in GREEK
            or token.value
            in ("frac", "sqrt", "binom", "lfloor", "lceil", "cbrt", "overline", "bar", "angle", "triangle")
            or token.value.startswith("begin ")
        )

    def signed_factor(self) -> Node:
        if self.peek().value in ("+", "-") and self.peek().kind == "op":
            sign = self.next().value
            return negative(self.signed_factor()) if sign == "-" else self.signed_factor()
        return self.factor()

    def factor(self) -> Node:
        node = self.primary()
        while True:
            token = self.peek()
            if token.kind != "op" and token.value != "prime":
                return node
            if token.value == "^":
                self.next()
                node = self.raised(node)
                if node.kind == "pow" and node.args[1].kind == "num" and (lower := _of_combination(node.args[0])):
                    node = Node("fn", ("binom", number(lower), node.args[1]))
            elif token.value == "!" and not (
                self.peek(1).value == "=" and (self.peek(1).spaced is False) and (token.spaced or node.kind == "sym")
            ):
                self.next()
                double = self.peek().value == "!" and not self.peek().spaced
                self.at += double
                node = Node("fn", ("doublefact" if double else "fact", node))
            elif token.value == "%" and not (node.kind == "fn" and node.args[0] == "percent"):
                self.next()
                node = Node("fn", ("percent", node))
            elif token.value == "'" and node.kind in ("sym", "apply"):
                self.next()
                node = self.called(sym(node.args[0] + "'")) if node.kind == "sym" else node
            elif token.value == "_" and node.kind in ("sym", "num"):
                self.next()
                name = str(node.args[0] if node.kind == "sym" else node.args[1]) + "_" + self.subscript()
                node = self.called(sym(name))
            else:
                return node

    def called(self, name: Node) -> Node:
        """Returns f(x) for a function name with a bracket after it. Otherwise returns the name and reads no bracket.

        f, g, h, F, G and H are functions whenever a bracket follows. Another name is a function only if the answer
        defines it by an equation such as P(x) = x + 1. C(5, 2) is parsed as a binomial coefficient.
        """
        if self.peek().value != "(":
            return name
        start = self.at
        known = name.args[0][0] in _UNKNOWN_FUNCTIONS
        if name.args[0] == "C" and (chosen := self.combinations()):
            return chosen
        if not known and self.tokens[self.item_at].value != name.args[0][0]:
            return name
        inner = self.bracket()
        args = inner.args[2:] if inner.kind == "tuple" else (inner,)
        if known or (self.peek().value == "=" and all(arg.kind in ("num", "sym") for arg in args)):
            return Node("apply", (name.args[0], *args))
        self.at = start
        return name

    def combinations(self) -> Node | None:
        """Returns the binomial coefficient C(5, 2) if the bracket after a C holds two numbers; else None."""
        numbers = [self.peek(ahead) for ahead in range(1, 5)]
        if [token.value if token.kind == "op" else token.kind for token in numbers] != ["num", ",", "num", ")"]:
            return None
        self.at += 5
        return Node("fn", ("binom", number(numbers[0].value), number(numbers[2].value)))

    def subscript(self) -> str:
        if self.peek().value != "{":
            token = self.next()
            if token is END:
                raise Unreadable("a subscript is empty")
            return token.value
        depth, parts = 0, []
        while True:
            token = self.next()
            if token is END:
                raise Unreadable("a subscript is not closed")
            depth += (token.value == "{") - (token.value == "}")
            if not depth:
                return "".join(parts[1:])
            parts.append(token.value)

    def raised(self, base: Node) -> Node:
        token = self.peek()
        if (token.value in ("circ", "prime", "star", "T", "top") and token.kind == "cmd") or token.value in ("'", "*"):
            self.next()
            return self.marked(base, token.value)
        if token.value == "{" and self.peek(2).value == "}" and self.peek(1).value in ("circ", "prime", "'", "*"):
            self.at += 3
            return self.marked(base, self.tokens[self.at - 2].value)
        if token.value == "-":
            self.next()
            return power(base, negative(self.whole_argument()))
        if token.kind in ("word", "text"):
            raise Unreadable("an exponent contains words")
        return power(base, self.whole_argument())

    def marked(self, base: Node, mark: str) -> Node:
        if mark == "circ":
            if self.peek().kind == "let" and self.peek().value in "CF" and not self.starts_call():
                scale = {"C": "celsius", "F": "fahrenheit"}[self.next().value]
                return Node("quantity", (base, scale))
            return Node("fn", ("deg", base))
        return sym(base.args[0] + "'") if base.kind == "sym" else Node("apply", (mark, base))

    def starts_call(self) -> bool:
        return self.peek(1).value == "("

    def whole_argument(self) -> Node:
        """Parses an exponent. 2^10 is two to the power of ten, although TeX would print 2¹0."""
        if self.peek().kind == "num":
            return number(self.next().value)
        return self.argument()

    def argument(self) -> Node:
        """Parses the argument of a TeX command: a group in braces, or one letter or digit."""
        token = self.peek()
        if token.value == "{" and token.kind == "op":
            return self.bracket()
        if token.kind == "num" and token.value.isdigit() and len(token.value) > 1:
            # split into two tokens: another reading may begin before this place
            self.tokens[self.at : self.at + 1] = [Token("num", token.value[0]), Token("num", token.value[1:])]
            return number(self.next().value)
        if token.kind == "num":
            return number(self.next().value)
        if token.kind == "op" and token.value not in ("(", "[", "|"):
            raise Unreadable("a command has no argument")
        return self.primary()

    def primary(self) -> Node:
        self.deeper()
        node = self.primary_inside()
        self.depth -= 1
        return node

    def primary_inside(self) -> Node:
        token = self.peek()
        if token.kind == "num":
            return number(self.next().value)
        if token.kind == "let":
            self.next()
            if token.value in ("e", "i") and self.peek().value != "_":
                return Node("const", (token.value,))
            return self.called(sym(token.value))
        if token.kind == "op":
            if token.value in OPEN:
                return self.bracket()
            if token.value == "]":  # the French open interval
                return self.bracket()
            if token.value in ("|", "\\|") and not self.bars:
                self.next()
                self.bars += 1
                inner = self.additive()
                self.bars -= 1
                if self.next().value != token.value:
                    raise Unreadable("a bar | is not closed")
                return Node("fn", ("abs", inner)) if token.value == "|" else Node("apply", ("norm", inner))
            if token.value == "$":
                self.next()
                return self.primary_inside()
            raise Unreadable(f"{token.value} stands where a value should begin")
        if token.kind == "cmd":
            self.next()
            return self.command(token.value)
        raise Unreadable(f"{token.value or 'the end'} stands where a value should begin")
