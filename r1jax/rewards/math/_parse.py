"""Parses an answer to its syntax tree. This module parses lists, relations and sets; `_terms` parses the terms."""

from __future__ import annotations

import re

from r1jax.rewards.math._ast import Node, Unreadable, num, over
from r1jax.rewards.math._labels import is_filler, may_be_label, may_be_unit
from r1jax.rewards.math._letters import spelling
from r1jax.rewards.math._terms import Terms
from r1jax.rewards.math._tokens import END, Token, scan
from r1jax.rewards.math._units import DEGREES, PERCENT, measure, times

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
    r"\(?(?:\\text\{|\\mathrm\{|\{)?([0-9A-Z]+|[0-9a-f]+)\}?\)?"
    r"_(?:\{?\(?(\d{1,2})\)?\}?|\{?(?:\\text\{|\\mathrm\{)?([a-z]+)\}?\}?)"
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


_NAMED_BASES = {"binary": 2, "ternary": 3, "octal": 8, "decimal": 10, "hexadecimal": 16, "hex": 16}
_IN_BASE = re.compile(
    r"^\s*([0-9A-Fa-f]+)\s*(?:\\[ ,;]|\\q?quad|\s|"
    r"~)*(?:_\s*\{)?\s*(?:\\text\s*\{\s*)?\(?\s*(?:\\text\s*\{\s*)?(?:in\s+)?"
    r"(?:base[\s-]*\}?\s*(\d{1,2}|[a-z]+)|(binary|ternary|octal|decimal|hexadecimal|hex))\s*\}?\s*\)?\s*\}?\s*$"
)


def _with_index(match: re.Match) -> str:
    """Rewrites "1101 in base 2" as 1101_{2}. `match` is a match of `_IN_BASE`."""
    word = match[2] or match[3]
    base = int(word) if word.isdigit() else _BASE_WORDS.get(word) or _NAMED_BASES.get(word)
    return f"{match[1]}_{{{base}}}" if base else match[0]


def parse(tidied: str, commas: bool = True) -> Node:
    """Returns the syntax tree of an answer.

    Args:
        tidied: the answer after `_letters.tidy` and `_letters.unwrap`.
        commas: if True, 28,800 outside brackets is one number; if False, two.
    Raises:
        Unreadable: the answer is not mathematics that this parser knows.
        OverBudget: the answer is too long or nested too deeply.
    """
    in_words = _IN_BASE.match(tidied) if "base" in tidied or "nary" in tidied or "al" in tidied else None
    tidied = _with_index(in_words) if in_words else tidied
    based = _BASED.fullmatch(re.sub(r"\s|\\[,;!]", "", tidied))
    if based:
        base = int(based[2]) if based[2] else _BASE_WORDS.get(based[3] or "", 0)
        is_number = based[1][0].isdigit() or (len(based[1]) > 1 and base > 10)  # but A_{16} is a letter with an index
        if is_number and 2 <= base <= 36 and all(int(digit, 36) < base for digit in based[1]):
            return Node("based", (based[1].upper().lstrip("0") or "0", base, bool(in_words)))
    parser = Answer(scan(_OUTWARD.sub(_inward, tidied), commas))
    node = parser.answer()
    if parser.peek() is not END:
        raise Unreadable(f"the answer goes on with {parser.peek().value} where it should end")
    return node


def _inward(interval: re.Match) -> str:
    """Rewrites an interval with outward brackets, ]1, 2[, as (1, 2). `interval` is a match of `_OUTWARD`."""
    opening, inside, closing = interval.groups()
    return f"{'(' if opening == ']' else '['}{inside}{')' if closing == '[' else ']'}"


class Answer(Terms):
    """The parser. It parses one answer.

    Its base class `Terms` parses terms, and calls `answer` again for the content of each bracket.
    """

    def answer(self) -> Node:
        """Parses items between separators such as commas. Returns one item, or a `list` node of several.

        The assignments of each solution stay together: "x=1, y=2 or x=3, y=4" gives a list of two lists.
        """
        groups: list[list[Node]] = [[]]
        continued = False
        while self.peek() is not END and not self.at_close():
            groups[-1].append(self.item())
            if continued and not _is_smaller(*groups[-1][-2:]):
                raise Unreadable("two numbers stand side by side")
            continued = False
            strong = weak = joined = False
            while self.peek().value in _STRONG | _WEAK and self.peek().kind == "op":
                token = self.next()
                strong |= token.value in _STRONG
                joined |= token.value in ("and", "or", "和", "或")
                weak = True
            if joined and (self.peek() is END or self.at_close()):
                raise Unreadable("nothing follows the word 'and' or 'or'")
            if strong and self.peek() is not END:
                groups.append([])
            elif not weak and self.continues(groups[-1][-1]):  # 2 hours 30 minutes
                weak = continued = True
            elif not weak and self.peek() is not END and not self.at_close():
                raise Unreadable(f"a separator is missing before {self.peek().value}")
        groups = [group for group in groups if group]
        if not groups:
            raise Unreadable("the answer or a bracket is empty")
        if len(groups) > 1 and any(len(group) > 1 for group in groups) and all(_is_system(group) for group in groups):
            return Node("list", tuple(Node("list", tuple(group)) if len(group) > 1 else group[0] for group in groups))
        items = [item for group in groups for item in group]
        return items[0] if len(items) == 1 else Node("list", tuple(items))

    def continues(self, item: Node) -> bool:
        """Returns True if a number follows the quantity `item`, as in 2 hours 30 minutes.

        `answer` then requires the next item to be a quantity in a smaller unit.
        """
        return item.kind == "quantity" and self.peek().kind == "num" and measure(item.args[1]) is not None

    def item(self) -> Node:
        """Parses a relation, a chain of relations, or one value with the words beside it."""
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
        """Consumes the words at the start of an item. Returns them if they are a label or the whole item.

        Words are a label if a relation sign or a colon follows. Returns None if there are no words, or only words that
        do not count, such as "about" before a number.

        Raises:
            Unreadable: the words may change the value that follows.
        """
        start, words = self.at, []
        while self.peek().kind in ("word", "text"):
            words.append(self.next().value)
        if not words:
            return None
        text = " ".join(words)
        token = self.peek()
        if self.peek_relation() and not may_be_label(text, of_equation=True):
            raise Unreadable("the words before an equals sign contain a negation, such as 'not'")
        if token is END or self.at_close() or self.at_separator() or self.peek_relation() or token.value == ":":
            return text
        if is_filler(text) or (text.endswith(":") and may_be_label(text, of_equation=False)):
            return None
        self.at = start
        raise Unreadable("words before an expression may change its value")

    def side(self) -> Node:
        """Parses one side of a relation: a term or a union of sets, then the unit if one follows."""
        if self.peek().value == ":":
            raise Unreadable("a colon stands where a value should begin")
        node = self.sets()
        return self.unit(node)

    def sets(self) -> Node:
        """Parses sets joined by union, intersection, difference or product."""
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
        """Parses a term, or a ratio of terms that are separated by colons."""
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
        """Parses the words after `node`, if any: a unit, "percent", "degrees" or a multiplier such as "million".

        Returns a node of the value with these words; `node` itself if there are none.
        """
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
            elif (
                words
                and token.value == "^"
                and [self.peek(i).value for i in (1, 2)] == ["{", "-"]
                and self.peek(4).value == "}"
            ):
                words[-1] += "^-" + self.peek(3).value
                self.at += 5
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
            raise Unreadable("words after an expression are not a unit")
        return Node("quantity", (node, " ".join(words)))

    def modulus(self) -> tuple[Node, ...]:
        """Parses (mod n) after a congruence. Returns a tuple with the node of the modulus; () if none follows."""
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
        """Returns the relation of the next token, such as "<" or "in"; None if the token is not a relation sign.

        Consumes nothing.
        """
        token = self.peek()
        if token.kind == "op" and token.value in ("=", "<", ">"):
            return _RELATIONS[token.value]
        if token.kind == "op" and token.value == "!" and self.peek(1).value == "=":
            return "!="
        if token.kind == "cmd" and (token.value in _RELATIONS or token.value == "not"):
            return _RELATIONS.get(token.value, "not")
        return None

    def relation_ahead(self) -> str | None:
        """Consumes the next relation sign and returns its relation, such as "<="; None if there is no such sign."""
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
    """Returns True if all items are equations for different names, as in x=1, y=2, so that they form one solution."""
    names = [item.args[1] for item in group if item.kind == "rel" and item.args[0] == ("=",)]
    return len(names) == len(group) == len(set(names))


def _is_smaller(big: Node, small: Node) -> bool:
    """Returns True if both nodes are quantities of the same dimension, and `small` has the smaller unit."""
    left, right = (measure(node.args[1]) if node.kind == "quantity" else None for node in (big, small))
    return bool(left and right) and left[0] == right[0] and left[1] > right[1]


def _missing() -> Node:
    raise Unreadable("nothing follows a relation sign")


def words_of(text: str) -> str:
    """Returns the form in which two answers in words are compared: without case, spaces, articles and plural s."""
    plain = re.sub(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox|operatorname)\s*(?![a-zA-Z])", "", text)
    plain = re.sub(r"\\[,;:! ]|[~${}\"'.,]", " ", plain)
    plain = re.sub(r"\b(?:the|a|an)\b", " ", plain.lower())
    plain = re.sub(r"\b([a-z]{3,}[^s\W])s\b", r"\1", plain)  # solutions -> solution
    return spelling(re.sub(r"\s+", "", plain))
