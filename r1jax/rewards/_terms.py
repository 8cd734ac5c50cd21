"""Terms of an answer: sums, products, powers, functions, brackets, matrices."""

from __future__ import annotations

from fractions import Fraction

from r1jax.rewards._ast import Node, OverBudget, Unreadable, mul, negative, num, over, power, sym
from r1jax.rewards._tokens import END, FUNCTIONS, Token

DEEPEST = 64
_CONSTANTS = {"pi": "pi", "infty": "inf"}
_FUNCTIONS = FUNCTIONS | {"abs", "floor", "ceil", "arcsinh", "arccosh", "arctanh"}
_UNKNOWN_FUNCTIONS = set("fghFGH")
_OPEN, _CLOSE = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}, {")", "]", "\\}", "}", "rangle"}
_MATRICES = {"pmatrix", "bmatrix", "matrix", "array", "vmatrix", "Bmatrix", "smallmatrix", "Vmatrix"}
_LISTS = {"cases", "aligned", "align", "gathered", "split", "gather", "equation"}
_GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi "
    "varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega ell hbar mho nabla aleph zzz Pi partial".split()
)
_SIGNS = set("ldots angle triangle mathbb emptyset circ prime star".split())


class Terms:
    """Recursive descent over tokens; one method per level of binding."""

    def __init__(self, tokens: list[Token]):
        self.tokens, self.at, self.depth, self.bars, self.bars_colon = tokens, 0, 0, 0, False

    def peek(self, ahead: int = 0) -> Token:
        at = self.at + ahead
        return self.tokens[at] if at < len(self.tokens) else END

    def next(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def expect(self, value: str) -> None:
        if self.next().value != value:
            raise Unreadable(f"no {value}")

    def at_close(self) -> bool:
        token = self.peek()
        return token.value in _CLOSE and token.kind in ("op", "cmd") or token.value in ("|", "\\|") and self.bars > 0

    def additive(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise OverBudget("depth")
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
            elif token.value in ("/", "div") and token.kind in ("op", "cmd") and self.peek(1).kind not in ("text", "word"):
                self.next()
                terms = [over(mul(*terms), self.signed_factor())]
            elif token.value in ("bmod",) and token.kind == "cmd":
                self.next()
                terms = [Node("apply", ("bmod", mul(*terms), self.factor()))]
            elif self.starts_factor():
                terms.append(self.mixed(terms[-1], self.factor()) if len(terms) == 1 else self.factor())
                if terms[-1].kind == "num" and terms[-1].args[1] == "mixed":
                    terms.pop(0)
            else:
                return mul(*terms)
        return mul(*terms)

    def mixed(self, whole: Node, part: Node) -> Node:
        """3 1/2 is three and a half: a whole number with a proper fraction of whole numbers after it."""
        if whole.kind == "num" and whole.args[1].isdigit() and part.kind == "mul" and len(part.args) == 2:
            top, bottom = part.args
            if top.kind == "num" and bottom.kind == "pow" and bottom.args[0].kind == "num" and bottom.args[1] == num(-1):
                below = bottom.args[0].args[0]
                if top.args[1].isdigit() and bottom.args[0].args[1].isdigit() and 0 < top.args[0] < below:
                    return num(whole.args[0] + top.args[0] / below, "mixed")
        if whole.kind == "num" and part.kind == "num" and self.peek().value == "/" and self.peek(1).kind == "num":
            below = Fraction(self.peek(1).value)
            if whole.args[1].isdigit() and part.args[1].isdigit() and 0 < part.args[0] < below:
                self.at += 2
                return num(whole.args[0] + part.args[0] / below, "mixed")
        if whole.kind == part.kind == "num":
            raise Unreadable("two numbers side by side")
        return part

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("num", "let"):
            return not (token == Token("let", "U", True) and self.peek(1).value in ("(", "[", "\\{"))
        if token.kind == "op":
            return token.value in ("(", "[", "{") or token.value == "|" and not self.bars
        return token.kind == "cmd" and (
            token.value in _FUNCTIONS or token.value in _CONSTANTS or token.value in _GREEK
            or token.value in ("frac", "sqrt", "binom", "lfloor", "lceil", "cbrt", "overline", "bar", "angle", "triangle")
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
            elif token.value == "!" and not (self.peek(1).value == "=" and (self.peek(1).spaced is False) and
                                             (token.spaced or node.kind == "sym")):
                self.next()
                double = self.peek().value == "!" and not self.peek().spaced
                self.at += double
                node = Node("fn", ("doublefact" if double else "fact", node))
            elif token.value == "%":
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
        """f(x) for the names that are functions whenever a bracket follows."""
        if name.args[0][0] in _UNKNOWN_FUNCTIONS and self.peek().value == "(":
            inner = self.bracket()
            return Node("apply", (name.args[0], *(inner.args[2:] if inner.kind == "tuple" else (inner,))))
        return name

    def subscript(self) -> str:
        if self.peek().value != "{":
            token = self.next()
            if token is END:
                raise Unreadable("an empty subscript")
            return token.value
        depth, parts = 0, []
        while True:
            token = self.next()
            if token is END:
                raise Unreadable("an open subscript")
            depth += (token.value == "{") - (token.value == "}")
            if not depth:
                return "".join(parts[1:])
            parts.append(token.value)

    def raised(self, base: Node) -> Node:
        token = self.peek()
        if token.value in ("circ", "prime", "star", "T", "top") and token.kind == "cmd" or token.value in ("'", "*"):
            self.next()
            return self.marked(base, token.value)
        if token.value == "{" and self.peek(2).value == "}" and self.peek(1).value in ("circ", "prime", "'", "*"):
            self.at += 3
            return self.marked(base, self.tokens[self.at - 2].value)
        if token.value == "-":
            self.next()
            return power(base, negative(self.whole_argument()))
        if token.kind in ("word", "text"):
            raise Unreadable("words in an exponent")
        return power(base, self.whole_argument())

    def marked(self, base: Node, mark: str) -> Node:
        if mark == "circ":
            if self.peek().kind == "let" and self.peek().value in "CF" and not self.starts_call():
                self.next()  # degrees Celsius
                return base
            return Node("fn", ("deg", base))
        return sym(base.args[0] + "'") if base.kind == "sym" else Node("apply", (mark, base))

    def starts_call(self) -> bool:
        return self.peek(1).value == "("

    def whole_argument(self) -> Node:
        """An exponent: 2^10 is meant as two to the ten, whatever TeX would print."""
        if self.peek().kind == "num":
            return number(self.next().value)
        return self.argument()

    def argument(self) -> Node:
        """What a TeX command takes: a group, or one letter or digit."""
        token = self.peek()
        if token.value == "{" and token.kind == "op":
            return self.bracket()
        if token.kind == "num" and token.value.isdigit() and len(token.value) > 1:
            self.tokens[self.at] = Token("num", token.value[1:], False)
            return number(token.value[0])
        if token.kind == "num":
            return number(self.next().value)
        if token.kind == "op" and token.value not in ("(", "[", "|"):
            raise Unreadable("no argument")
        return self.primary()

    def primary(self) -> Node:
        self.depth += 1
        if self.depth > DEEPEST:
            raise OverBudget("depth")
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
            if token.value in _OPEN:
                return self.bracket()
            if token.value == "]":  # the French open interval
                return self.bracket()
            if token.value in ("|", "\\|") and not self.bars:
                self.next()
                self.bars += 1
                inner = self.additive()
                self.bars -= 1
                if self.next().value != token.value:
                    raise Unreadable("an open bar")
                return Node("fn", ("abs", inner)) if token.value == "|" else Node("apply", ("norm", inner))
            if token.value == "$":
                self.next()
                return self.primary_inside()
            raise Unreadable(f"a stray {token.value}")
        if token.kind == "cmd":
            self.next()
            return self.command(token.value)
        raise Unreadable(f"a stray {token.value or 'end'}")

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
        if name in _CONSTANTS:
            return Node("const", (_CONSTANTS[name],))
        if name in _FUNCTIONS:
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
        if name in _GREEK:
            return self.called(sym(name))
        if name in _SIGNS:
            return sym(name)
        raise Unreadable(f"\\{name}")

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
        """sin x, sin^2 x, log_2 8, sin(x)."""
        exponent = base = None
        while self.peek().value in ("^", "_") and self.peek().kind == "op":
            if self.next().value == "^":
                if self.peek().value == "-":
                    raise Unreadable("a bare negative exponent of a function")
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
            while self.starts_factor() and self.peek().value not in ("(", "[") and self.peek().value not in _FUNCTIONS:
                terms.append(self.factor())
            args = (negative(mul(*terms)) if sign else mul(*terms),)
        if exponent is not None and exponent == num(-1):
            name, exponent = "arc" + name, None
        if name == "exp":
            node = power(Node("const", ("e",)), args[0])
        elif base is not None:
            node = Node("fn", ("log", args[0], base)) if name in ("log", "lg", "ln") else Node("apply", (name, *args, base))
        else:
            node = Node("fn", (name, *args))
        return power(node, exponent) if exponent is not None else node

    def bracket(self) -> Node:
        """A group, a tuple, an interval or a set."""
        opening = self.next().value
        self.depth += 1
        if self.depth > DEEPEST:
            raise OverBudget("depth")
        bars, self.bars = self.bars, 0
        if opening == "\\{" and self.peek().value == "\\}":
            self.next()
            self.bars, self.depth = bars, self.depth - 1
            return sym("emptyset")
        inner = self.set_builder() if opening == "\\{" else self.answer()
        token = self.next()
        if opening == "]":
            if token.value not in ("[", "]"):
                raise Unreadable("an open bracket")
        elif token.value not in _CLOSE:
            raise Unreadable("an open bracket")
        self.bars = bars
        self.depth -= 1
        items = inner.args if inner.kind == "list" else (inner,)
        if opening in ("\\{", "{"):
            if token.value != ("\\}" if opening == "\\{" else "}"):
                raise Unreadable("braces that do not match")
            if opening == "{" and len(items) == 1:
                return inner
            return Node("set", items)
        if len(items) == 1 and _OPEN.get(opening) == token.value:
            return inner
        if token.value not in (")", "]", "["):
            raise Unreadable("brackets that do not match")
        if opening == "]" or token.value == "[":
            opening, closing = {"]": "(", "[": "["}.get(opening, opening), {"[": ")"}.get(token.value, token.value)
        else:
            closing = token.value
        return Node("tuple", (opening, closing, *items))

    def set_builder(self) -> Node:
        """The elements of a set, or the condition after the bar."""
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
        """A matrix, or the lines of a system."""
        if name == "array" and self.peek().value == "{":
            self.subscript()
        if name not in _MATRICES | _LISTS:
            raise Unreadable(f"environment {name}")
        rows: list[list[Node]] = [[]]
        while self.peek().value != f"end {name}":
            token = self.peek()
            if token is END:
                raise Unreadable("an open environment")
            if token.value == "\\\\":
                self.next()
                rows.append([])
            elif token.value in ("&", ",", "quad") or token.value == "hline":
                self.next()
            else:
                rows[-1].append(self.item())
        self.next()
        rows = [row for row in rows if row]
        if not rows:
            raise Unreadable("an empty environment")
        if name in _MATRICES:
            kind = "det" if name == "vmatrix" else "matrix"
            return Node(kind, tuple(tuple(row) for row in rows))
        if all(len(row) == 1 for row in rows):
            items = tuple(row[0] for row in rows)
            return items[0] if len(items) == 1 else Node("list", items)
        return Node("apply", ("cases", *(Node("tuple", ("(", ")", *row)) for row in rows)))


def number(literal: str) -> Node:
    """A number from its literal; 0.1(6) repeats."""
    if literal.endswith(")"):
        head, repeated = literal[:-1].split("(")
        whole, _, decimals = head.partition(".")
        shift, period = 10 ** len(decimals), 10 ** len(repeated) - 1
        value = Fraction(int(whole or 0)) + Fraction(int(decimals or 0), shift) + Fraction(int(repeated), period * shift)
        return num(value)
    mantissa, _, exponent = literal.replace("E", "e").partition("e")
    if exponent and abs(int(exponent)) > 3000:
        raise OverBudget("digits")
    return num(Fraction(mantissa) * Fraction(10) ** int(exponent or 0), literal)
