"""Parses the commands and brackets of an answer: fractions, roots, functions, sets, intervals, matrices."""

from __future__ import annotations

from fractions import Fraction

from r1jax.rewards.math._ast import Node, OverBudget, Unreadable, mul, negative, num, over, power, sym
from r1jax.rewards.math._tokens import END, FUNCTIONS, Token

DEEPEST = 96  # levels of recursion; each nested bracket takes three
CONSTANTS = {"pi": "pi", "infty": "inf"}
KNOWN = FUNCTIONS | {"abs", "floor", "ceil", "arcsinh", "arccosh", "arctanh"}
OPEN, CLOSE = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}, {")", "]", "\\}", "}", "rangle"}
_MATRICES = {"pmatrix", "bmatrix", "matrix", "array", "vmatrix", "Bmatrix", "smallmatrix", "Vmatrix"}
_LISTS = {"cases", "aligned", "align", "gathered", "split", "gather", "equation"}
GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar "
    "mho nabla aleph zzz Pi partial".split()
)
_SIGNS = set("ldots angle triangle mathbb emptyset circ prime star".split())


class Commands:
    """Parses LaTeX commands and brackets. `Commands` is the base class of the parser classes `Terms` and `Answer`.

    To parse the content of brackets, `Commands` calls methods of these two subclasses.

    Attributes:
        tokens, at: the tokens, and the index of the next one.
        depth: levels of nesting at this place.
        bars: how many |...| are open at this place.
        bars_colon: True while a colon ends the current item, as in {x : x > 0}.
        item_at: index of the token with which the current item of a list begins.
    """

    def __init__(self, tokens: list[Token]):
        self.tokens, self.at, self.depth, self.bars, self.bars_colon = tokens, 0, 0, 0, False
        self.item_at = 0

    def peek(self, ahead: int = 0) -> Token:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else END

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def expect(self, value: str) -> None:
        if self.next().value != value:
            raise Unreadable(f"{value} is missing")

    def at_close(self) -> bool:
        token = self.peek()
        return (token.value in CLOSE and token.kind in ("op", "cmd")) or (token.value in ("|", "\\|") and self.bars > 0)

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST:
            raise OverBudget(f"depth: the answer is nested more than {DEEPEST} levels deep")

    def command(self, name: str) -> Node:
        if name == "frac":
            top = self.argument()
            return over(top, self.argument())
        if name in ("sqrt", "cbrt"):
            index = num(3 if name == "cbrt" else 2)
            if name == "sqrt" and self.peek().value == "[":
                self.next()
                index = self.additive()
                self.expect("]")
            return power(self.argument(), over(num(1), index))
        if name in CONSTANTS:
            return Node("const", (CONSTANTS[name],))
        if name in KNOWN:
            return self.function(name)
        if name == "binom":
            top = self.argument()
            return Node("fn", ("binom", top, self.argument()))
        if name in ("lfloor", "lceil", "langle"):
            return self.enclosed(name)
        if name in ("overline", "bar"):
            return Node("apply", (name, self.argument()))
        if name in ("angle", "triangle"):
            return self.product()
        if name.startswith("mathbb "):
            letter = name[7:]
            mark = ""
            while self.peek().value in ("^", "_"):
                mark += self.next().value + self.subscript()
            return sym("mathbb" + letter + mark)
        if name.startswith("begin "):
            return self.environment(name[6:])
        if name in GREEK:
            return self.called(sym(name))
        if name in _SIGNS:
            return sym(name)
        raise Unreadable(f"the command \\{name} is unknown")

    def enclosed(self, name: str) -> Node:
        closing = {"lfloor": "rfloor", "lceil": "rceil", "langle": "rangle"}[name]
        items = [self.additive()]
        while self.peek().value == "," and name == "langle":
            self.next()
            items.append(self.additive())
        self.expect(closing)
        if name == "langle":
            return Node("tuple", ("(", ")", *items))
        return Node("fn", ({"lfloor": "floor", "lceil": "ceil"}[name], items[0]))

    def function(self, name: str) -> Node:
        """Parses the call of a function after its name, as in sin x, sin^2 x, log_2 8, sin(x)."""
        exponent = base = None
        while self.peek().value in ("^", "_") and self.peek().kind == "op":
            if self.next().value == "^":
                exponent = self.whole_argument()
            else:
                base = self.whole_argument()
        token = self.peek()
        if token.value in ("(", "{", "[") and token.kind == "op":
            inner = self.bracket()
            args = inner.args[2:] if inner.kind == "tuple" else (inner,)
        else:
            sign = self.next().value if token.value == "-" and token.kind == "op" else ""
            terms = [self.factor()]
            while self.starts_factor() and self.peek().value not in ("(", "[") and self.peek().value not in KNOWN:
                terms.append(self.factor())
            args = (negative(mul(*terms)) if sign else mul(*terms),)
        if exponent is not None and exponent.kind == "num" and exponent.args[0] == -1 and f"arc{name}" in KNOWN:
            name, exponent = f"arc{name}", None
        if name == "exp":
            node = power(Node("const", ("e",)), args[0])
        elif base is not None:
            node = (
                Node("fn", ("log", args[0], base))
                if name in ("log", "lg", "ln")
                else Node("apply", (name, *args, base))
            )
        else:
            node = Node("fn", (name, *args))
        return power(node, exponent) if exponent is not None else node

    def bracket(self) -> Node:
        """Parses a bracket up to its partner: a group, a tuple, an interval or a set."""
        opening = self.next().value
        self.deeper()
        bars, self.bars = self.bars, 0
        if opening == "\\{" and self.peek().value == "\\}":
            self.next()
            self.bars, self.depth = bars, self.depth - 1
            return sym("emptyset")
        inner = self.set_builder() if opening == "\\{" else self.answer()
        token = self.next()
        if opening == "]":
            if token.value not in ("[", "]"):
                raise Unreadable("a bracket is not closed")
        elif token.value not in CLOSE:
            raise Unreadable("a bracket is not closed")
        self.bars = bars
        self.depth -= 1
        items = inner.args if inner.kind == "list" else (inner,)
        if opening in ("\\{", "{"):
            if token.value != ("\\}" if opening == "\\{" else "}"):
                raise Unreadable("a brace { is closed by a bracket other than }")
            if opening == "{" and len(items) == 1:
                return inner
            return Node("set", items)
        if len(items) == 1 and OPEN.get(opening) == token.value:
            return num(inner.args[0]) if inner.kind == "num" else inner
        if token.value not in (")", "]", "["):
            raise Unreadable("a bracket is closed by one that does not match")
        if opening == "]" or token.value == "[":
            opening, closing = {"]": "(", "[": "["}.get(opening, opening), {"[": ")"}.get(token.value, token.value)
        else:
            closing = token.value
        return Node("tuple", (opening, closing, *items))

    def set_builder(self) -> Node:
        """Parses what stands between the braces of a set: its elements, or an element and a condition (x | x > 0)."""
        start = self.at
        self.bars, self.bars_colon = 1, True
        try:
            first = self.item()
        finally:
            self.bars, self.bars_colon = 0, False
        if self.peek().value in ("|", ":"):
            self.next()
            return Node("list", (Node("apply", ("where", first, self.answer())),))
        self.at = start
        return self.answer()

    def environment(self, name: str) -> Node:
        """Parses the LaTeX environment `name` after its \\begin: a matrix, or the lines of a system of equations."""
        if name == "array" and self.peek().value == "{":
            self.subscript()
        if name not in _MATRICES | _LISTS:
            raise Unreadable(f"the environment {name} is unknown")
        rows: list[list[Node]] = [[]]
        while self.peek().value != f"end {name}":
            token = self.peek()
            if token is END:
                raise Unreadable("an environment is not closed")
            if token.value == "\\\\":
                self.next()
                rows.append([])
            elif token.value in ("&", ",", "quad", ".", ";") or token.value == "hline":
                self.next()
            else:
                rows[-1].append(self.item())
        self.next()
        rows = [row for row in rows if row]
        if not rows:
            raise Unreadable("an environment is empty")
        if name in _MATRICES:
            kind = "det" if name == "vmatrix" else "matrix"
            return Node(kind, tuple(tuple(row) for row in rows))
        if all(len(row) == 1 for row in rows):
            items = tuple(row[0] for row in rows)
            return items[0] if len(items) == 1 else Node("list", items)
        return Node("apply", ("cases", *(Node("tuple", ("(", ")", *row)) for row in rows)))


def number(literal: str) -> Node:
    """Returns the node of a number written as `literal`. In 0.1(6) the digit 6 repeats without end."""
    if literal.endswith(")"):
        head, repeated = literal[:-1].split("(")
        whole, _, decimals = head.partition(".")
        shift, period = 10 ** len(decimals), 10 ** len(repeated) - 1
        value = (
            Fraction(int(whole or 0)) + Fraction(int(decimals or 0), shift) + Fraction(int(repeated), period * shift)
        )
        return num(value)
    mantissa, _, exponent = literal.replace("E", "e").partition("e")
    if exponent and abs(int(exponent)) > 3000:
        raise OverBudget("digits: an exponent of ten exceeds 3000")
    return num(Fraction(mantissa) * Fraction(10) ** int(exponent or 0), literal)
