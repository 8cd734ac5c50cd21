"""Grades multiple-choice answers: a text must name exactly one option letter. A text that names several is wrong."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Mapping

from r1jax.rewards.format import graded
from r1jax.rewards.verdict import Verdict, check_arguments

TAIL = 8192  # characters read, from the end of the graded part
SHORT = 100  # characters up to which a text may name its letter in any words

_BOX = re.compile(r"\\boxed\s*\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\}")
_FORMULA = re.compile(r"\\(?!text|math(?:bf|rm|sf|tt|it)?(?![a-z])|mbox|rm|bf|boxed|left|right|quad|[,;: ])[a-zA-Z]+|=")
_MARKUP = re.compile(
    r"\\(?:boxed|text(?:bf|rm|sf|tt|it)?|math(?:bf|rm|sf|tt|it)?|mbox|rm|bf|left|right|quad)(?![a-zA-Z])"
    r"|\\[(),;:! \[\]]|[*`$_{}\"'“”‘’《》「」]"
)
# an option letter in running text, but not the article A, the pronoun I, or a letter in a formula
_LETTER = re.compile(
    r"(?<![A-Za-z0-9\\])(?<![-+*/^=<] )(?<![-+*/^=<])"
    r"(?:A(?!\s+(?!or\b|and\b)[a-z0-9])|I(?!\s*[a-z])|[B-HJ-Z])"
    r"(?![A-Za-z0-9])(?!\s*[-+*/^=<])"
)
_WHOLE = re.compile(
    r"(?:(?:the\s+)?(?:final\s+|correct\s+)?(?:option|choice|answer)\s*(?:is\s*)?:?\s*|选项?\s*:?\s*)?"
    r"[(\[<]?\s*([A-Za-z])\s*(?:$|(?:选项|option)$|[)\]>.:,;、。!]+\s*(.*)$)",
    re.DOTALL | re.IGNORECASE,
)
_IS = r"(?:\s*(?:is|are|was|be|must\s+be|should\s+be|would\s+be|has\s+to\s+be)\s*:?|\s*[:=])"
_STATEMENTS = tuple(  # the first pattern that matches decides
    re.compile(f"(?:{pattern})" + r"\s*(?:option|choice|letter|选项)?\s*[(\[<]?\s*(?P<letter>" + _LETTER.pattern + ")")
    for pattern in (
        r"(?:\b[Aa]nswer|\bANSWER|[Cc]orrect\s+(?:option|choice))" + _IS,
        r"(?<!不)(?:答案|正确选项|正确答案)\s*(?:应该|应当|应|就|只能)?\s*(?:是|为|选)?\s*:?|(?:故|因此|所以|应|应该|综上)\s*,?\s*选择?",
        r"\b(?:[Cc]hoose|[Ss]elect|[Pp]ick)|(?<![不别没])选择?\s*:?",
    )
)
_NEGATION = re.compile(
    r"\b(?:not|never|neither|nor|except|cannot|(?:ca|is|wo|do|does|did|was|should|could|would)nt)\b|[不非没别]",
    re.IGNORECASE,
)
_REFUSED = re.compile(r"\b(?:not|rather\s+than|instead\s+of)\s+(?:option\s+)?\(?[A-Z](?![A-Za-z0-9])|不[是选]?\s*[A-Z]")


def verify(text: str, example: Mapping) -> Verdict:
    """Returns reward 1 if the text names the right option letter and no other letter, else 0.

    `format.graded` selects the part of the text to grade. The letters are read from a single place in this part. It is
    the first of these places that the part has:

    1. the boxes; if the last box is cut off, the text names no letter
    2. the whole part, if it is one option ("B", "(b)", "B. 42")
    3. statements ("the answer is B", "故选B")
    4. the last line, if it is one option
    5. the whole part with all letters that it mentions, if it is short and has no negation

    If this place names several different letters, the text is wrong.

    Args:
        example: a mapping. Its key `gold` holds the right option letter, brackets allowed. Its key `lenient` may be
            left out. If it is True and the text has no answer block, `format.lenient_answer` finds the part to grade.
    """
    check_arguments(text, example)
    start = time.perf_counter()

    def verdict(reward: float | None, name: str, stage: str, given=None, canonical=None) -> Verdict:
        return Verdict(reward, name, stage, given, canonical, (time.perf_counter() - start) * 1e3)

    gold = _WHOLE.match(_plain(str(example.get("gold", ""))))
    if not gold or gold[2]:
        return verdict(None, "gold_unusable", "gold")
    given = graded(text, bool(example.get("lenient")))
    if given is None:
        return verdict(0.0, "no_answer", "extract")
    given = given[-TAIL:]
    stage, letters = _settled(given)
    if not letters:
        return verdict(0.0, "no_answer", "extract", given)
    if len(letters) > 1:
        return verdict(0.0, "wrong", "hedge", given, ",".join(sorted(letters)))
    correct = letters == {gold[1].upper()}
    return verdict(float(correct), "correct" if correct else "wrong", stage, given, *letters)


def _plain(text: str) -> str:
    """Folds compatibility forms (（Ｂ） and Ⓑ become (B) and B) and removes markup."""
    return _MARKUP.sub("", unicodedata.normalize("NFKC", text)).strip()


def _settled(text: str) -> tuple[str, set[str]]:
    """Returns (place, letters): where the text names its option letters, and all different letters named there.

    The place is "box", "whole", "statement", "last line", "mention", or "" if the text names none; see `verify`.
    """
    if "\\boxed" in text:
        boxes = _BOX.findall(text) if _BOX.match(text, text.rindex("\\boxed")) else None
        if boxes is None:
            return "box", set()
        formulas = [box for box in boxes if _FORMULA.search(box)]
        if len(formulas) < len(boxes):
            said = [_settled(box)[1] for box in boxes if box not in formulas]
            return "box", set().union(*said) if all(said) else set()
        text = _BOX.sub(" ", text)  # a formula in a box names no option
    plain = _plain(text)
    if _WHOLE.match(plain):
        return "whole", _letters(plain)
    for pattern in _STATEMENTS:
        if found := list(pattern.finditer(plain)):
            return "statement", set().union(*({m["letter"]} | _joined(plain[m.end() :]) for m in found))
    lines = plain.split("\n")
    if len(lines) > 1 and _WHOLE.match(lines[-1]):
        return "last line", _letters(lines[-1])
    if len(plain) <= SHORT and not _NEGATION.search(plain):
        return "mention", set(_LETTER.findall(plain))
    return "", set()


def _letters(option: str) -> set[str]:
    """Returns all option letters in a text that should be one option, such as "B" or "B. 42, not C".

    Letters that the text rejects ("not C") are left out.
    """
    match = _WHOLE.match(option)
    if not match:
        return set(_LETTER.findall(option))
    return {match[1].upper()} | set(_LETTER.findall(_REFUSED.sub("", match[2] or "")))


def _joined(rest: str) -> set[str]:
    """Returns the letter that `rest`, the text right after a first letter, adds to it: C for "or C", "/C" or "和C"."""
    match = re.match(
        r"\s*[)\]>]?\s*(?:,?\s*(?:or|and|and/or)\b|[/,&|、]|或者?|和|与|以及|还是)\s*[(\[<]?\s*([A-Z])(?![A-Za-z0-9])",
        rest,
    )
    return {match[1]} if match else set()
