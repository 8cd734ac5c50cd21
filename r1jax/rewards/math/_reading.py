"""Finds the possible answers in a text, and parses each of them to a `Reading`."""

from __future__ import annotations

import functools
import re
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from r1jax.rewards.math import _extract, _variants
from r1jax.rewards.math._ast import Node, OverBudget, Unreadable
from r1jax.rewards.math._denials import SENTENCE_START, is_denied
from r1jax.rewards.math._letters import COMMAS, spelling, tidy, unwrap
from r1jax.rewards.math._parse import parse, words_of
from r1jax.rewards.math._prose import values
from r1jax.rewards.math._units import CURRENCIES

LONGEST = 4096  # most characters of an answer that is parsed
SHORT_DIGITS = 1000
PROSE = 200
LEAST_SAID = 400
MOST_SAID = 1500  # characters of running text that are read for a value, from its end
LONGEST_NAME = 3  # most words of an answer without mathematics
_DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d{2}|\d{4,})|([-+]?0),(\d+)")
_NUMBER = re.compile(
    r"([-+]?)\s*(?:\\\$|\$)?\s*(?:(\d+(?:,\d{3})*|\d+)?(\.\d+)?|(\d+)\s*/\s*(\d+)|\\frac\{(-?\d+)\}\{(-?\d+)\})"
)
_FORMULA = re.compile(r"\$[^$]*[\w][^$]*\$|\\[(\[]")
_SENTENCE = re.compile(r"[A-Za-z]{2}|[\u4e00-\u9fff]|[.,;]\s|\n|[*_`]|[\[(]|<")
_WORD = re.compile(r"(?<![\\A-Za-z{])(?!and\b)[A-Za-z]{3,}|[\u4e00-\u9fff]")
_CONCLUDES = re.compile(r"(?:^|[.!?\n。])\s*(?:Therefore|Thus|Hence|So|In conclusion|因此|所以|综上)\b[^.\n]*[\d$\\]")
_BRACES = re.compile(r"\\.|[{}]")
_MONEY = re.compile(r"^(?:\W{0,4}USD|[^\w$€£¥₹]{0,4}\\?([$€£¥₹]))\s*[\d.]|^\s*[\d.,]+\s*\\?([$€£¥₹])")
_FONT = r"(?:\\(?:text|textbf|textrm|mathbf|mathrm|bf)\s*\{\s*)?"
_OPTION = re.compile(_FONT + r"(?:\(\s*)?([A-J])\s*[).:]\s*\}?(?:\\[ ,;:]|\\q?quad|[\s~}])*(\S.*)")
_BARE_OPTION = re.compile(
    _FONT + r"(?:(?:option|choice|answer)\s*)?\}?\s*" + _FONT + r"\(?([A-J])\)?\.?\s*\}?", re.IGNORECASE
)
_NAME = re.compile(r"[a-z]{3,}")
_SIGNS = re.compile(r"\\[()\[\]]|(?:\b(?:US|HK))?\\?\$|[€£¥₹]|\bUSD\s*(?=\d)|\bRs\.?\s*(?=\d)")


@dataclass
class Reading:
    """An answer in the forms in which answers are compared.

    Attributes:
        extracted: the answer as it stands in the text.
        tidied: equivalent plain LaTeX, see `_letters.tidy`.
        spelling: the form that is compared letter by letter, see `_letters.spelling`.
        currency: the unit that a currency sign beside the number stands for, such as "dollars"; "" without such a sign.
    """

    extracted: str
    tidied: str
    spelling: str
    currency: str = ""

    @functools.cached_property
    def number(self) -> Fraction | str | None:
        """The value of an answer that is a plain number, or its digits as text if there are too many; None for other
        answers.
        """
        return plain_number(self.tidied)

    @functools.cached_property
    def trees(self) -> list[Node]:
        """The syntax tree of the answer, in a list.

        The list has two trees if the answer has a comma such as in 1,234, and it is unclear whether the comma groups
        digits or separates two numbers. If the answer cannot be
        parsed as mathematics, the tree is a text node.

        Raises:
            OverBudget: the answer is too long or nested too deeply.
        """
        if len(self.tidied) > LONGEST:
            raise OverBudget(f"length: the answer has more than {LONGEST} characters")
        if not _is_balanced(self.tidied):
            return [Node("false", ())]
        found = []
        grouped = COMMAS.search(self.tidied)
        for commas in (True, False) if grouped and ",0" not in grouped[0] else (True,):
            try:
                tree = parse(self.tidied, commas)
                found.append(Node("quantity", (tree, self.currency)) if self.currency and tree.kind == "num" else tree)
            except Unreadable:
                continue
            except RecursionError:
                raise OverBudget("depth: the answer is nested too deeply") from None
        return found or [Node("text", (self.tidied,))]

    @property
    def readable(self) -> bool:
        """True if the whole answer could be parsed as mathematics."""
        try:
            tree = self.trees[0]
        except OverBudget:
            return True
        return tree.kind not in ("text", "false") and not (
            tree.kind == "list" and any(item.kind == "text" for item in tree.args)
        )


def same_word(one: Reading, other: Reading) -> bool:
    r"""Returns True if both answers are the same word, like \text{red} and Red.

    Case matters for what may be a product of variables: abc and ABC differ.
    """
    if words_of(one.tidied) != words_of(other.tidied):
        return False
    word = words_of(one.tidied)
    if not _NAME.fullmatch(word) or word in string.ascii_lowercase:
        return False
    return any(text.startswith("\\text") or (text.isalpha() and text.istitle()) for text in (one.tidied, other.tidied))


def same_option(one: Reading, other: Reading) -> bool:
    """Returns True if the answers are the same option of a multiple-choice question.

    An option with its label, (B) 42, equals the letter B and the number 42. The letter may stand in words: option B.
    """
    letters = [_BARE_OPTION.fullmatch(reading.tidied) for reading in (one, other)]
    if all(letters) and any(letter[0] != letter[1] for letter in letters):
        return letters[0][1] == letters[1][1]
    for labelled, bare in ((one, other), (other, one)):
        option = _OPTION.fullmatch(labelled.tidied)
        value = plain_number(unwrap(option[2])) if option else None
        if value is None or _OPTION.fullmatch(bare.tidied):
            continue
        letter = _BARE_OPTION.fullmatch(bare.tidied)
        if letter[1] == option[1] if letter else bare.number == value:
            return True
    return False


def without_name(answer: Reading, gold: Reading) -> list[Reading]:
    """Returns readings of an answer, each with one part removed.

    The part is a name (x = 5), a unit (6 m) or the letters of points (A(1,2)). Returns [] if the answer has none of
    these parts, or if the gold has a relation sign such as =. Keeps the answer's unit if the gold has a letter or a
    word.
    """
    if _variants.RELATION.search(gold.tidied):
        return []
    plain = _variants.unqualified(answer.tidied)
    texts = [answer.tidied, plain[0]] if plain else [answer.tidied]
    found = [read(text) for text in texts for read in (_variants.value_named, _variants.without_letters)]
    if not _variants.WORD.search(gold.tidied):
        found.append(_variants.without_unit(answer.tidied))
    return [read for text in found if text for read in [reading(text)] if read and read.readable]


def without_qualifiers(gold: Reading, answer: Reading) -> tuple[Reading, Reading] | None:
    """Returns the readings of gold and answer without qualifiers such as "for all x"; None if neither has a qualifier.

    Also returns None if both have a qualifier and the two differ.
    """
    plain, qualifiers = [], []
    for read in (gold, answer):
        found = _variants.unqualified(read.tidied)
        if found:
            qualifiers.append(found[1])
        plain.append(reading(found[0]) if found else read)
    if not qualifiers or None in plain or (len(qualifiers) == 2 and len(set(qualifiers)) > 1):
        return None
    return plain[0], plain[1]


def reading(extracted: str) -> Reading | None:
    """Returns the `Reading` of an extracted answer; None if the answer has no letter or digit."""
    tidied = unwrap(tidy(unwrap(extracted)))
    tidied = unwrap(_SIGNS.sub(" ", tidied)) if _SIGNS.search(tidied) else tidied
    tidied = tidied.replace("**", "^")
    letters = spelling(tidied)
    if not re.search(r"[^\W_]|\\[A-Za-z]", re.sub(r"\\(?:text|boxed|mathrm|mbox|ldots)(?![a-zA-Z])", "", letters)):
        return None
    money = _MONEY.search(extracted)
    currency = CURRENCIES.get(money[1] or money[2] or "$", "") if money else ""
    return Reading(extracted, tidied, letters, currency)


def answers(text: str, rule: str = "auto") -> Iterator[Reading]:
    """Yields the answer in a completion as a `Reading`. Yields nothing if there is no answer.

    If the rule is "auto" and the answer may be a sentence, also yields the value that the sentence states.

    Args:
        rule: how to find the answer, as in `math.extract`.
    """
    found = [_by_rule(text, rule)] if rule != "auto" else _automatic(text)
    for extracted in found:
        read = reading(extracted) if extracted else None
        if read:
            yield read


@functools.lru_cache(maxsize=8192)
def references(gold: str) -> tuple[Reading, ...]:
    """Returns the readings of a gold answer (right answer). An answer that equals any of them is right.

    If the gold has boxes, the boxes are the answer. Otherwise the whole gold is one reading. If the gold is a longer
    text, the answer found in this text is another reading.
    """
    if "\\boxed" in gold or "\\fbox" in gold:
        found = [_extract.joined_boxes(gold)]
    else:
        found = [gold, _decimal_comma(gold.strip().strip("$"))]
        whole = reading(gold)
        may_be_sentence = len(gold) > PROSE or (_WORD.search(gold) and _FORMULA.search(gold))
        if may_be_sentence and whole and not whole.readable:
            found += [said for said in _automatic(gold) if said]
    return tuple(r for r in map(reading, filter(None, dict.fromkeys(found))) if r and _is_balanced(r.tidied))


def _is_balanced(text: str) -> bool:
    """Returns True if every brace in the text has its partner. A gold answer with unbalanced braces is damaged."""
    depth = 0
    for brace in _BRACES.findall(text):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return not depth


def extract(text: str, rule: str = "auto") -> str | None:
    """Returns the answer in a text; None if there is none. See `math.extract` for the rules."""
    if rule != "auto":
        return _by_rule(text, rule)
    read = best(answers(text))
    if read is None or read.readable:
        return read and read.extracted
    is_prose = len(read.tidied.split()) > LONGEST_NAME and read.extracted == text.strip()
    return None if is_prose else read.extracted


def best(read: Iterable[Reading]) -> Reading | None:
    """Returns the first reading that is mathematics, else the first reading; None if there are no readings."""
    first = None
    for one in read:
        if one.readable:
            return one
        first = first or one
    return first


def _by_rule(text: str, rule: str) -> str | None:
    """Returns the answer in a text by the rule "boxed", "answer_tag" or "hash"; None if there is none."""
    if rule == "hash":
        return _extract.hashed(text)
    if rule == "boxed":
        return _extract.boxed(text)
    if "<answer>" in text:
        return _extract.answer_tag(text)
    return _extract.boxed(text)


def _automatic(text: str) -> Iterator[str]:
    """Yields the answer in a text by the rule "auto" of `math.extract`: all of it, then the value in its words."""
    yield from _in_words(find_place(text)[1])


def find_place(text: str) -> tuple[str, str | None]:
    """Finds where a text gives its answer, by the rule "auto" of `math.extract`.

    Returns:
        (the place in words, the text at this place). The text is None if there is no answer.
    """
    region = _extract.after_thinking(text.rstrip())
    if region is None:
        return "the thinking never ends", None
    region = region[-_extract.TAIL :]
    blocks = _extract.answer_blocks(region)
    if len(blocks) != region.count("<answer>") or len(blocks) > 1:
        return "an answer block is cut off, or there are several", None
    inside = " in the answer block" if blocks else ""
    region = blocks[-1] if blocks else region
    if "\\boxed" in region or ("\\f" in region and ("\\fbox" in region or "\\framebox" in region)):
        said = _extract.joined_boxes(region)
        denied = "the last box is cut off, or words beside it deny it or offer a choice"
        return (denied, None) if said is None else (f"the last box{inside}", said)
    if "####" in region:
        return f"the line behind ####{inside}", _extract.hashed(region)
    region = _extract.before_chat(region)
    stated = _extract.statement(region)
    if stated is None or (len(stated[2]) > 1 and _CONCLUDES.search(stated[2])):  # a later conclusion counts
        return "the answer block" if blocks else "the whole text", region.strip()
    if is_denied(stated[0], stated[2]):
        return "words beside the statement of the answer deny it", None
    return f"a statement such as 'the answer is'{inside}", stated[1]


def _in_words(said: str | None) -> Iterator[str]:
    """Yields an answer, and after it, if it may be a sentence, the value that it states."""
    if not said:
        return
    if len(said) <= LONGEST or plain_number(said) is not None:
        yield _decimal_comma(said)
    if _SENTENCE.search(said):
        yield from map(_decimal_comma, values(_last_sentences(said)))


def _last_sentences(said: str) -> str:
    """Returns the end of a text, from the start of a sentence on: enough for a value and the words that may deny it."""
    tail = said[-MOST_SAID:]
    starts = [match.end() for match in SENTENCE_START.finditer(tail, 0, max(0, len(tail) - LEAST_SAID))]
    return tail[starts[-1] :] if starts else tail


def _decimal_comma(region: str) -> str:
    """Returns a text that is one number with a decimal comma, as 1000,99, with a decimal point; others unchanged."""
    match = _DECIMAL_COMMA.fullmatch(region)
    return f"{match[1] or match[3]}.{match[2] or match[4]}" if match else region


def plain_number(tidied: str) -> Fraction | str | None:
    """Returns the exact value of a plain number, or its digits as text if there are too many; None for other texts."""
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
