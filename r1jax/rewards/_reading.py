"""From a text to the answers it can be read as, each with its spelling, its number if it is one, and its tree."""

from __future__ import annotations

import functools
import re
import string
from dataclasses import dataclass
from fractions import Fraction

from r1jax.rewards import _extract
from r1jax.rewards._ast import Node, OverBudget, Unreadable
from r1jax.rewards._letters import COMMAS, spelling, tidy, unwrap
from r1jax.rewards._parse import parse, words_of

LONGEST = 4096  # characters of an answer that is read as more than its letters
SHORT_DIGITS = 1000
PROSE = 200
LONGEST_NAME = 3  # words of an answer without mathematics
_DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d{2}|\d{4,})|([-+]?0),(\d+)")
_NUMBER = re.compile(
    r"([-+]?)\s*(?:\\\$|\$)?\s*(?:(\d+(?:,\d{3})*|\d+)?(\.\d+)?|(\d+)\s*/\s*(\d+)|\\frac\{(-?\d+)\}\{(-?\d+)\})"
)
_MARKED = re.compile(r"\$[^$]*\$|\\[(\[]|\*\*|</?\w+>")
_WORD = re.compile(r"(?<![\\A-Za-z{])(?!and\b)[A-Za-z]{3,}|[\u4e00-\u9fff]")
_BRACES = re.compile(r"\\.|[{}]")
_MONEY = re.compile(r"^\W{0,4}\\\$\s*[\d.]")
_FONT = r"(?:\\(?:text|textbf|textrm|mathbf|mathrm|bf)\s*\{\s*)?"
_OPTION = re.compile(_FONT + r"(?:\(\s*)?([A-J])\s*[).:]\s*\}?(?:\\[ ,;:]|\\q?quad|[\s~}])*(\S.*)")
_BARE_OPTION = re.compile(_FONT + r"\(?([A-J])\)?\}?")
_NAME = re.compile(r"[a-z]{3,}")
_SIGNS = re.compile(r"\\[()\[\]]|\\?\$|[€£¥₹]")


@dataclass
class Reading:
    """One way to read an answer. `extracted` is verbatim; `spelling` is what is compared letter by letter."""

    extracted: str
    tidied: str
    spelling: str
    is_money: bool = False

    @functools.cached_property
    def number(self) -> Fraction | str | None:
        """A plain number: exact, or its digits where they are too many."""
        return plain_number(self.tidied)

    @functools.cached_property
    def trees(self) -> list[Node]:
        """The tree; two where 1,234 may be one number or two. A text where nothing else can be read.

        Raises:
            OverBudget.
        """
        if len(self.tidied) > LONGEST:
            raise OverBudget("length")
        if not _is_balanced(self.tidied):
            return [Node("false", ())]
        found = []
        grouped = COMMAS.search(self.tidied)
        for commas in (True, False) if grouped and ",0" not in grouped[0] else (True,):
            try:
                tree = parse(self.tidied, commas)
                found.append(Node("quantity", (tree, "dollars")) if self.is_money and tree.kind == "num" else tree)
            except Unreadable:
                continue
            except RecursionError:
                raise OverBudget("depth") from None
        return found or [Node("text", (self.tidied,))]

    @property
    def readable(self) -> bool:
        """Whether all of it is mathematics."""
        try:
            tree = self.trees[0]
        except OverBudget:
            return True
        return tree.kind not in ("text", "false") and not (
            tree.kind == "list" and any(item.kind == "text" for item in tree.args)
        )


def same_word(one: Reading, other: Reading) -> bool:
    """\\text{red} and Red, which could also be products of letters. Never abc and ABC."""
    if words_of(one.tidied) != words_of(other.tidied):
        return False
    word = words_of(one.tidied)
    if not _NAME.fullmatch(word) or word in string.ascii_lowercase:
        return False
    return any(text.startswith("\\text") or (text.isalpha() and text.istitle()) for text in (one.tidied, other.tidied))


def same_option(one: Reading, other: Reading) -> bool:
    """(B) 42 says B, and says 42: against a bare letter the letter counts, against a number the value."""
    for labelled, bare in ((one, other), (other, one)):
        option = _OPTION.fullmatch(labelled.tidied)
        value = plain_number(unwrap(option[2])) if option else None
        if value is None or _OPTION.fullmatch(bare.tidied):
            continue
        letter = _BARE_OPTION.fullmatch(bare.tidied)
        if letter[1] == option[1] if letter else bare.number == value:
            return True
    return False


def reading(extracted: str) -> Reading | None:
    """The reading of an extracted answer, None if nothing is in it."""
    tidied = unwrap(tidy(unwrap(extracted)))
    tidied = unwrap(_SIGNS.sub(" ", tidied)) if _SIGNS.search(tidied) else tidied
    tidied = tidied.replace("**", "^")
    letters = spelling(tidied)
    if not re.search(r"[^\W_]|\\[A-Za-z]", re.sub(r"\\(?:text|boxed|mathrm|mbox|ldots)(?![a-zA-Z])", "", letters)):
        return None
    return Reading(extracted, tidied, letters, bool(_MONEY.search(extracted)))


def answers(text: str, rule: str = "auto") -> list[Reading]:
    """The readings of the answer of a completion, the one to grade first; none if it has no answer."""
    found = [_by_rule(text, rule)] if rule != "auto" else _automatic(text)
    read = (reading(extracted) for extracted in found if extracted)
    return [r for r in read if r]


@functools.lru_cache(maxsize=8192)
def references(gold: str) -> tuple[Reading, ...]:
    """The readings of a reference answer: what is boxed in it; itself, and the last formula of a longer text."""
    if "\\boxed" in gold or "\\fbox" in gold:
        found = [_extract.joined_boxes(gold)]
    else:
        found = [gold, _decimal_comma(gold.strip().strip("$"))]
        if len(gold) > PROSE or (_WORD.search(gold) and _extract.last_span(gold)[0]):
            found += _extract.free(gold)[0]
    return tuple(r for r in map(reading, filter(None, dict.fromkeys(found))) if r and _is_balanced(r.tidied))


def _is_balanced(text: str) -> bool:
    """Whether every brace has its partner. A reference answer without is damaged."""
    depth = 0
    for brace in _BRACES.findall(text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return not depth


def extract(text: str, rule: str = "auto") -> str | None:
    """As `math.extract`."""
    if rule != "auto":
        return _by_rule(text, rule)
    read = best(answers(text))
    if read is None or read.readable:
        return read and read.extracted
    is_prose = len(read.tidied.split()) > LONGEST_NAME and read.extracted == text.strip()
    return None if is_prose else read.extracted


def best(read: list[Reading]) -> Reading | None:
    """The first that is mathematics, else the first."""
    return next((r for r in read if r.readable), read[0] if read else None)


def _by_rule(text: str, rule: str) -> str | None:
    if rule == "hash":
        return _extract.hashed(text)
    if rule == "boxed":
        return _extract.boxed(text)
    if "<answer>" in text:
        return _extract.answer_tag(text)
    return _extract.boxed(text)


def _automatic(text: str) -> list[str | None]:
    region = _extract.after_thinking(text.rstrip())
    if region is None:
        return []
    region = region[-_extract.TAIL :]
    blocks = _extract.answer_blocks(region)
    if len(blocks) != region.count("<answer>") or len({block.strip() for block in blocks}) > 1:
        return []  # cut off, nested, or two different answers
    region = blocks[-1] if blocks else region
    if "\\boxed" in region or "\\fbox" in region:
        return [_extract.joined_boxes(region)]
    if "####" in region:
        return [_extract.hashed(region)]
    region = region.strip()
    whole = [region] if len(region) <= LONGEST or plain_number(region) is not None else []
    is_sentence = _WORD.search(region) or _MARKED.search(region)
    if not is_sentence or (len(region) < PROSE and not _is_balanced(region)):  # nothing is picked out of a formula
        return [_decimal_comma(found) for found in whole]
    said, stated = _extract.free(region)
    # a statement goes before the whole, and both before the last formula of no statement
    ordered = [*said, *whole] if stated else [*whole, *said]
    return [_decimal_comma(found) for found in ordered]


def _decimal_comma(region: str) -> str:
    """1000,99 as a whole text is one number."""
    match = _DECIMAL_COMMA.fullmatch(region)
    return f"{match[1] or match[3]}.{match[2] or match[4]}" if match else region


def plain_number(tidied: str) -> Fraction | str | None:
    match = _NUMBER.fullmatch(tidied.strip())
    if not match or not (match[2] or match[3] or match[4] or match[6]):
        return None
    sign = -1 if match[1] == "-" else 1
    if match[4] or match[6]:
        top, bottom = (match[4], match[5]) if match[4] else (match[6], match[7])
        if len(top) + len(bottom) > SHORT_DIGITS or not int(bottom):
            return None
        return Fraction(sign * int(top), int(bottom))
    whole = match[2] or "0"
    if "," in whole and not COMMAS.fullmatch(whole):
        return None
    whole, decimals = whole.replace(",", "").lstrip("0"), (match[3] or "")[1:].rstrip("0")
    if len(whole) + len(decimals) > SHORT_DIGITS:
        return f"{match[1].strip('+')}{whole}.{decimals}"
    return Fraction(f"{'-' if sign < 0 else ''}{whole or 0}.{decimals or 0}")
