"""From the tokens of an answer to its syntax tree: lists, relations, sets. Terms are in `_terms`."""

from __future__ import annotations

import re

from r1jax.rewards._ast import Node, Unreadable, num, over
from r1jax.rewards._letters import spelling
from r1jax.rewards._terms import Terms
from r1jax.rewards._tokens import END, Token, scan
from r1jax.rewards._units import DEGREES, PERCENT, is_filler, may_be_label, may_be_unit, times

_RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    "le": "<=",
    "ge": ">=",
    "ne": "!=",
    "in": "in",
    "notin": "notin",
    "approx": "~",
    "equiv": "mod",
    "subset": "sub",
    "subseteq": "sub",
    "sim": "like",
    "ll": "<",
    "gg": ">",
    "parallel": "||",
    "perp": "perp",
}
_OUTWARD = re.compile(r"(?:(?<=^)|(?<=cup)|(?<=cup ))([\[\]])([^\[\](){}]*[,;][^\[\](){}]*)([\[\]])(?=\s*(?:$|\\cup))")
_STRONG = {";", "and", "or", "\\\\", "和", "或"}
_WEAK = {",", "quad"}
_BASED = re.compile(
    r"\(?(?:\\text\{|\\mathrm\{|\{)?([0-9A-Z]+)\}?\)?_(?:\{?(\d{1,2})\}?|\{?(?:\\text\{|\\mathrm\{)?([a-z]+)\}?\}?)"
)
_BASE_WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
}


def parse(tidied: str, commas: bool = True) -> Node:
    """The tree of a tidied, unwrapped answer.

    Raises:
        Unreadable, OverBudget.
    """
    based = _BASED.fullmatch(re.sub(r"\s|\\[,;!]", "", tidied))
    if based:
        base = int(based[2]) if based[2] else _BASE_WORDS.get(based[3] or "", 0)
        is_number = based[1][0].isdigit() or (len(based[1]) > 1 and base > 10)  # A_{16} is a letter with an index
        if is_number and 2 <= base <= 36 and all(int(digit, 36) < base for digit in based[1]):
            return Node("based", (based[1].lstrip("0") or "0", base))
    parser = Answer(scan(_OUTWARD.sub(_inward, tidied), commas))
    node = parser.answer()
    if parser.peek() is not END:
        raise Unreadable(f"left over: {parser.peek().value}")
    return node


def _inward(interval: re.Match) -> str:
    """]1, 2[ as (1, 2)."""
    opening, inside, closing = interval.groups()
    return f"{'(' if opening == ']' else '['}{inside}{')' if closing == '[' else ']'}"


class Answer(Terms):
    """Reads one answer. `Terms` gives it `additive`; brackets in terms come back here for their content."""

    def answer(self) -> Node:
        """Items between separators: a single item, or a `list`; items of one group of assignments stay together."""
        groups: list[list[Node]] = [[]]
        while self.peek() is not END and not self.at_close():
            groups[-1].append(self.item())
            strong = weak = joined = False
            while self.peek().value in _STRONG | _WEAK and self.peek().kind == "op":
                token = self.next()
                strong |= token.value in _STRONG
                joined |= token.value in ("and", "or", "和", "或")
                weak = True
            if joined and (self.peek() is END or self.at_close()):
                raise Unreadable("nothing after and, or")
            if strong and self.peek() is not END:
                groups.append([])
            elif not weak and self.peek() is not END and not self.at_close():
                raise Unreadable(f"no separator before {self.peek().value}")
        groups = [group for group in groups if group]
        if not groups:
            raise Unreadable("empty")
        if len(groups) > 1 and any(len(group) > 1 for group in groups) and all(_is_system(group) for group in groups):
            return Node("list", tuple(Node("list", tuple(group)) if len(group) > 1 else group[0] for group in groups))
        items = [item for group in groups for item in group]
        return items[0] if len(items) == 1 else Node("list", tuple(items))

    def item(self) -> Node:
        """A relation, a chain of relations, or one value with what stands beside it."""
        if self.peek_relation() in ("=", "~"):
            self.next()  # "= 5", "≈ 5"
        self.item_at = self.at
        words = self.leading_words()
        if words is not None and (self.peek() is END or self.at_close() or self.at_separator()):
            return Node("text", (words,))
        if words is not None and self.peek().value == ":" and is_filler(words):
            self.next()  # "Answer: 5"
            words = None
        side = Node("text", (words,)) if words is not None and self.peek_relation() else self.side()
        sides, operators = [side], []
        while (operator := self.relation_ahead()) is not None:
            operators.append(operator)
            sides.append(self.side() if self.peek() is not END else _missing())
        if len(sides) == 1:
            return sides[0]
        modulus = self.modulus()
        return Node("rel", (tuple(operators), *sides, *modulus))

    def leading_words(self) -> str | None:
        """The words at the start of an item; fillers such as "about" before a number are passed over."""
        start, words = self.at, []
        while self.peek().kind in ("word", "text"):
            words.append(self.next().value)
        if not words:
            return None
        text = " ".join(words)
        token = self.peek()
        if self.peek_relation() and not may_be_label(text, of_equation=True):
            raise Unreadable("words that deny")
        if token is END or self.at_close() or self.at_separator() or self.peek_relation() or token.value == ":":
            return text
        if is_filler(text) or (text.endswith(":") and may_be_label(text, of_equation=False)):
            return None
        self.at = start
        raise Unreadable("words before an expression")

    def side(self) -> Node:
        """A union of sets or a term, with its unit."""
        if self.peek().value == ":":
            raise Unreadable("a colon")
        node = self.sets()
        return self.unit(node)

    def sets(self) -> Node:
        node = self.ratio()
        while (self.peek().kind == "cmd" and self.peek().value in ("cup", "cap", "setminus", "bigcup", "times")) or (
            self.peek() == Token("let", "U", True) and node.kind in ("tuple", "set", "union")
        ):
            name = self.next().value
            other = self.ratio()
            kind = "union" if name in ("cup", "U", "bigcup") else name
            if node.kind == kind == "union":
                node = Node("union", (*node.args, other))
            elif kind == "union":
                node = Node("union", (node, other))
            else:
                node = Node("apply", (kind, node, other))
        return node

    def ratio(self) -> Node:
        terms = [self.additive()]
        if self.peek().kind == "cmd" and self.peek().value in ("over", "choose"):  # {a \over b}
            kind = self.next().value
            other = self.additive()
            terms = [over(terms[0], other) if kind == "over" else Node("fn", ("binom", terms[0], other))]
        while self.peek().kind == "op" and self.peek().value == ":" and not self.bars_colon:
            self.next()
            terms.append(self.additive())
        return terms[0] if len(terms) == 1 else Node("ratio", tuple(terms))

    def unit(self, node: Node) -> Node:
        """The node with the unit that follows it, if any."""
        words: list[str] = []
        factor = 1
        while True:
            token = self.peek()
            if token.kind in ("word", "text"):
                lower = token.value.lower().strip(".")
                more, rest = (1, token.value) if words else times(token.value)
                if more != 1:
                    factor *= more
                    words += [rest] if rest else []
                elif not words and lower in PERCENT:
                    node = Node("fn", ("percent", node))
                elif not words and lower in DEGREES:
                    node = Node("fn", ("deg", node))
                else:
                    words.append(token.value)
                self.next()
            elif words and token.value == "^" and self.peek(1).kind == "num":
                words[-1] += "^" + self.peek(1).value
                self.at += 2
            elif words and token.value == "^" and self.peek(1).value == "{" and self.peek(3).value == "}":
                words[-1] += "^" + self.peek(2).value
                self.at += 4
            elif words and token.value == "/" and self.peek(1).kind in ("word", "text", "let"):
                words.append("/" + self.peek(1).value)
                self.at += 2
            elif words and token.value == "cdot" and self.peek(1).kind in ("word", "text"):
                self.next()
            else:
                break
        if factor != 1:
            node = Node("mul", (node, num(factor)))
        if not words:
            return node
        if not may_be_unit(" ".join(words)):
            raise Unreadable("words after an expression")
        return Node("quantity", (node, " ".join(words)))

    def modulus(self) -> tuple[Node, ...]:
        """(mod n) after a congruence."""
        if self.peek().kind == "cmd" and self.peek().value in ("pmod", "mod"):
            self.next()
            return (Node("fn", ("modulus", self.argument())),)
        if self.peek().value == "(" and self.peek(1).value in ("mod", "bmod"):
            self.at += 2
            node = self.additive()
            self.expect(")")
            return (Node("fn", ("modulus", node)),)
        return ()

    def peek_relation(self) -> str | None:
        token = self.peek()
        if token.kind == "op" and token.value in ("=", "<", ">"):
            return _RELATIONS[token.value]
        if token.kind == "op" and token.value == "!" and self.peek(1).value == "=":
            return "!="
        if token.kind == "cmd" and (token.value in _RELATIONS or token.value == "not"):
            return _RELATIONS.get(token.value, "not")
        return None

    def relation_ahead(self) -> str | None:
        """The relation sign at this place, taken; None if there is none."""
        operator = self.peek_relation()
        if operator is None:
            return None
        token = self.next()
        follow = self.peek().value if self.peek().kind == "op" else ""
        if operator == "not":
            inner = self.relation_ahead()
            return {"=": "!=", "in": "notin"}.get(inner or "", "not")
        if token.value == "!" or (token.value in "=<>" and follow == "="):
            self.next()
            return {"!": "!=", "=": "=", "<": "<=", ">": ">="}[token.value]
        if token.value == "<" and follow == ">":
            self.next()
            return "!="
        return operator

    def at_separator(self) -> bool:
        return self.peek().kind == "op" and self.peek().value in _STRONG | _WEAK


def _is_system(group: list[Node]) -> bool:
    """Assignments to different names: values that belong together."""
    names = [item.args[1] for item in group if item.kind == "rel" and item.args[0] == ("=",)]
    return len(names) == len(group) == len(set(names))


def _missing() -> Node:
    raise Unreadable("nothing after a relation sign")


def words_of(text: str) -> str:
    """What two texts are compared by: letters and digits, without case, spaces and articles."""
    plain = re.sub(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*(?![a-zA-Z])", "", text)
    plain = re.sub(r"\\[,;:! ]|[~${}\"'.,]", " ", plain)
    plain = re.sub(r"\b(?:the|a|an)\b", " ", plain.lower())
    return spelling(re.sub(r"\s+", "", plain))
