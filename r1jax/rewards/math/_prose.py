"""Finds the answer in running text, and rejects an answer that the words beside it deny, bound, hedge or change.

For example "is not 5" denies, "at least 5" bounds, "maybe 5" hedges, and "half of 5" changes the number.

This module gets only texts that the parser cannot parse as a whole. It takes the last sentence with a value, and cuts
this sentence into four parts: the subject (before the verb), the words between verb and value, the value, and the rest.
`_lexicon` lists the words that each part must not contain.
"""

from __future__ import annotations

import re
from fractions import Fraction

from r1jax.rewards.math import _lexicon as lexicon
from r1jax.rewards.math._denials import (
    CLAUSE_STARTS,
    SUBORDINATE,
    TAKEN_BACK,
    ZH_STARTS,
    changes_zh,
    denies_claim,
    is_link,
    sentences_of,
    words_in,
)
from r1jax.rewards.math._labels import may_be_label
from r1jax.rewards.math._number_words import WORDS as NUMBER_WORDS
from r1jax.rewards.math._number_words import number_of
from r1jax.rewards.math._pieces import Piece, split
from r1jax.rewards.math._units import measure

_DENIED_ASIDE = set(
    "not never neither cannot wrong incorrect false mistake mistaken doubt impossible unlikely rejected".split()
)
_CODE = set("lambda def return print import eval exec for in if else list dict set int str float".split())
_MEASURES = set("length area volume height width perimeter radius diameter average mean median count number".split())
_RELATIVE = set("that which who whose such where when if whether".split())
_CLOSING = set("we that's that this so therefore thus hence i it nothing".split())
_GROWS = set("increases decreases grows drops rises falls changes shrinks increase decrease".split())
_COPULAS = set("is are was were be being equals equal it's that's there's becomes".split())
_NOT_BEFORE = set("by than from with without per into onto versus vs".split())
_SAFE_PAIRS = {
    "in all", "left over", "at all", "over all", "of all", "and done", "all together", "in between", "each other",
    "as well", "all in", "per person", "per day", "per hour", "per week", "every day", "every week", "every hour",
    "every month", "every year", "and only", "the only", "after all", "above all", "any more", "all the", "the same",
    "the right", "no doubt", "without doubt", "without loss", "other than",
}  # fmt: skip
_SAFE_PAIRS -= {"other than"}
_ASIDE_CHANGES = re.compile(
    r"^\s*(?:or|if|not|mod|modulo|base|unless|when|for|and|minus|plus|times|only|assuming|at|more|less|in\s+base|wrong|"
    r"incorrect|false|或|如果|若|不|非|错|模|进制|以上|以下)(?![A-Za-z])",
    re.IGNORECASE,
)
_PLAIN_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:/\d+)?")


def values(text: str) -> list[str]:
    """Returns the answer of a running text: [answer with unit, answer without unit], or [answer] if it has no unit.

    Returns [] if there is no answer, or if the words beside it deny, bound, hedge or change it.
    """
    sentences = sentences_of(split(text))
    index = next((i for i in reversed(range(len(sentences))) if any(p.is_value for p in sentences[i])), None)
    if index is None:
        return _in_aside(sentences)
    sentence = sentences[index]
    for later in sentences[index + 1 :]:
        said = text[later[0].start : later[-1].end] if later else ""
        if TAKEN_BACK.match(said):
            return []
    if index and len(sentence) == 1 and _is_bare(sentences[index - 1]):
        return []  # a list of numbers, one after the other
    return _of_sentence(text, sentence)


def _is_bare(sentence: list[Piece]) -> bool:
    """Returns True for a sentence that ends with a number on its own, such as "4" or "list: 4"."""
    is_alone = len(sentence) == 1 or sentence[-2].kind == "colon"
    return sentence[-1].is_value and is_alone and "=" not in sentence[-1].text


def _in_aside(sentences: list[list[Piece]]) -> list[str]:
    """Returns the number of "forty-two (42)", in which the number stands in brackets behind its words."""
    for sentence in reversed(sentences):
        if sentence and sentence[-1].kind == "aside":
            words = [p.text for p in sentence[:-1] if p.kind == "word"]
            number = _PLAIN_NUMBER.fullmatch(sentence[-1].text)
            if number and _tail_number(words) == Fraction(number[0].replace(",", "")):
                return [number[0]]
    return []


def _tail_number(words: list[str]) -> Fraction | None:
    """Returns the number that the last words name, such as 42 for "the answer is forty-two"; None without one."""
    tail = []
    for word in reversed(words):
        if not all(part in NUMBER_WORDS for part in word.split("-")):
            break
        tail.insert(0, word)
    return number_of(tail) if tail else None


def _last_clause(sentence: list[Piece]) -> list[Piece]:
    """Returns the clause that states the answer: what follows the last "so", "which", "it's" and the like."""
    start = 0
    last_value = max(i for i, p in enumerate(sentence) if p.is_value)
    for i, piece in enumerate(sentence[:last_value]):
        follows = sentence[i + 1]
        if piece.kind == "word" and (
            piece.text in lexicon.BOUNDARIES
            or (piece.text == "but" and any(is_link(p) for p in sentence[i:last_value]))
        ):
            start = i + 1
        elif piece.kind == "comma" and any(p.is_value for p in sentence[start:i]):
            links = any(is_link(p) or "=" in p.text for p in sentence[i + 1 : last_value + 1])
            if links and (
                (follows.kind == "word" and follows.text in CLAUSE_STARTS)
                or (follows.kind == "zh" and ZH_STARTS.match(follows.text))
            ):
                start = i + 1
    return sentence[start:]


def _of_sentence(text: str, sentence: list[Piece]) -> list[str]:
    clause = _without_reason(_last_clause(sentence))
    if not clause:
        return []
    if clause[0].kind == "word" and clause[0].text in SUBORDINATE - {"if"}:
        commas = [i for i, p in enumerate(clause) if p.kind == "comma" and any(q.is_value for q in clause[i:])]
        clause = clause[commas[-1] + 1 :] if commas else clause
    at = [i for i, p in enumerate(clause) if p.is_value]
    link = max((i for i, p in enumerate(clause) if is_link(p) and i < at[-1]), default=-1)
    at = [i for i in at if i > link]
    first = at[0]
    last = first
    for i in at[1:]:
        gap = clause[last + 1 : i]
        if any(
            p.kind != "comma" and not (p.kind in ("word", "zh") and p.text in ("and", "和", "或", "or", "与"))
            for p in gap
        ):
            return []  # several numbers that form no list
        last = i
    subject, middle, after = clause[: max(link, 0)], clause[link + 1 : first], clause[last + 1 :]
    if denies_claim(subject, clause[link] if link >= 0 else None) or _states(subject):
        return []
    if link >= 0 and clause[link].kind == "colon" and not _may_name(subject):
        return []
    if any(p.text in ("if", "unless") for p in clause[: max(link, 0)]):
        return []
    value = text[clause[first].start : clause[last].end] if last > first else clause[first].text
    if link >= 0 and clause[link].kind == "zh":
        middle = [clause[link], *middle]
        subject = []
    if not _may_precede(subject, middle, clause[link] if link >= 0 else None, value, after):
        return []
    if not _may_follow(after, value, last > first):
        return []
    return _with_unit(text, clause, first, last, value)


def _may_name(subject: list[Piece]) -> bool:
    """Returns True if the words before a colon only name the value behind it."""
    texts = {p.text for p in subject if p.kind == "word"}
    return may_be_label(words_in(subject), of_equation=False) and not texts & _CODE


def _states(subject: list[Piece]) -> bool:
    """Returns True if the words before the verb state another value already: "it is 3 and it is 5".

    A clause in the subject may: "the probability that the sum is 9".
    """
    return any(
        is_link(subject[i]) and subject[i + 1].is_value and not any(p.text in _RELATIVE for p in subject[:i])
        for i in range(len(subject) - 1)
    )


def _has_claim(pieces: list[Piece]) -> bool:
    """Returns True if a verb with a value behind it is among the pieces."""
    last = max((i for i, p in enumerate(pieces) if p.is_value), default=-1)
    return any(map(is_link, pieces[: max(last, 0)]))


def _without_reason(clause: list[Piece]) -> list[Piece]:
    """Returns the clause up to a reason behind its first value; [] if the reason denies the value."""
    valued = False
    for i, piece in enumerate(clause):
        follows = clause[i + 1].text if i + 1 < len(clause) else ""
        is_reason = piece.kind == "word" and (
            (
                piece.text in lexicon.REASONS
                and not (piece.text == "by" and i + 1 < len(clause) and clause[i + 1].is_value)
            )
            or (piece.text == "as" and follows in lexicon.AS)
            or piece.text == "which"
        )
        if piece.kind == "zh" and re.match("因为|由于", piece.text):
            is_reason = True
        if piece.text == "and" and follows in _CLOSING and not any(p.is_value for p in clause[i:]):
            is_reason = True
        if valued and is_reason and not (_has_claim(clause[i:]) and not any(map(is_link, clause[:i]))):
            said = " ".join(p.text for p in clause[i:])
            if lexicon.STRONG_DENIAL.search(said):
                return []
            return clause[:i]
        valued |= piece.is_value
    return clause


def _may_precede(subject: list[Piece], middle: list[Piece], link: Piece | None, value: str, after: list[Piece]) -> bool:
    words = [p for p in middle if p.kind == "word"]
    for piece in middle:
        if (piece.kind == "zh" and changes_zh(piece.text)) or (piece.kind == "aside" and _aside_changes(piece, value)):
            return False
    texts = [p.text for p in words]
    if any(p.kind == "math" for p in middle):
        return all(
            not any(c.isalnum() for c in p.text)
            and not re.search(r"[-+*/^<>~!≠≤≥]|\\(?!therefore|because|quad|Rightarrow|implies)", p.text)
            for p in middle
            if p.kind == "math"
        ) and not (set(texts) & lexicon.CHANGES)
    named = _tail_number(texts)
    if named is not None:
        number = _PLAIN_NUMBER.fullmatch(value.strip("()"))
        if not number or Fraction(number[0].replace(",", "")) != named:
            return False
        while texts and all(part in NUMBER_WORDS for part in texts[-1].split("-")):
            texts.pop()
    if not texts:
        return True
    has_unit_of_time = bool(after) and after[0].kind == "word" and (measure(after[0].text) or ("",))[0] == "time^1"
    before = link.text if link is not None else ""
    for i, word in enumerate(texts):
        previous = texts[i - 1] if i else before
        following = texts[i + 1] if i + 1 < len(texts) else ""
        if (
            word in ("after", "before", "in", "within")
            and i == len(texts) - 1
            and word != "within"
            and has_unit_of_time
        ):
            continue
        if word == "to" and not (previous in lexicon.TO or following in ("be", "equal", "get", "find")):
            return False
        if word == "by" and (before in _GROWS or not _GROWS.isdisjoint(texts[:i])):
            continue
        if word == "of" and i == len(texts) - 1 and previous not in lexicon.OF:
            return False
        if f"{previous} {word}" in _SAFE_PAIRS or f"{word} {following}" in _SAFE_PAIRS:
            continue
        if following == "of" and (word in ("minimum", "maximum") or (word == "sum" and texts[i - 1 : i] != ["a"])):
            return False
        if following == "of" and previous == "the" and i + 2 == len(texts) and word in _MEASURES:
            return False  # "the length of 5"
        if word in ("minimum", "maximum") and previous == "at":
            return False
        if word == "sum":
            continue
        if word in lexicon.CHANGES or word.endswith("n't") or lexicon.is_ordinal(word):
            return False
        if word in NUMBER_WORDS and i == len(texts) - 1:
            return False
    if texts[-1] in _NOT_BEFORE and not (texts[-1] == "by" and not _GROWS.isdisjoint([before, *texts])):
        return False
    known = all(
        word in lexicon.FILLERS or word in lexicon.TO or word in lexicon.OF or word.endswith("ly") for word in texts
    )
    if known:
        return True
    if link is not None:
        return (link.text not in _COPULAS and link.kind != "zh") or (len(texts) > 1 and texts[0] in lexicon.SUBJECTS)
    return len(texts) > 1 and (texts[0] in lexicon.SUBJECTS or words[0].begins_capital)


def _may_follow(after: list[Piece], value: str, is_list: bool) -> bool:
    texts = [p.text for p in after if p.kind == "word"]
    if texts == ["times"]:
        return True
    for piece in after:
        if piece.kind == "zh" and (lexicon.CHANGES_ZH.search(piece.text) or lexicon.DENIALS_ZH.search(piece.text)):
            return False
        if piece.kind == "aside" and _aside_changes(piece, value):
            return False
        if piece.kind == "colon":
            return False
        if piece.kind == "math" and not re.fullmatch(r"[\s.,;!'\"*_`)\]}-]*|(?:\\\w+\s*)+", piece.text):
            return False
    for i, word in enumerate(texts):
        previous = texts[i - 1] if i else ""
        following = texts[i + 1] if i + 1 < len(texts) else ""
        if f"{previous} {word}" in _SAFE_PAIRS or f"{word} {following}" in _SAFE_PAIRS:
            continue
        if word in lexicon.CHANGES_BEHIND or word.endswith("n't"):
            return False
        if lexicon.is_ordinal(word) or word in NUMBER_WORDS:
            return False
    return True


def _aside_changes(piece: Piece, value: str) -> bool:
    """Returns True if a remark in brackets changes or denies the value beside it."""
    words = re.findall(r"[A-Za-z]+(?:-[A-Za-z]+)*", piece.text.lower())
    named = number_of(words) if words and all(w in NUMBER_WORDS for part in words for w in part.split("-")) else None
    if named is not None:
        number = _PLAIN_NUMBER.fullmatch(value)
        return bool(number) and Fraction(number[0].replace(",", "")) != named
    if _ASIDE_CHANGES.match(piece.text):
        return True
    other = any(c.isdigit() for c in piece.text) and value not in piece.text
    return not other and bool(lexicon.STRONG_DENIAL.search(piece.text) or set(words) & _DENIED_ASIDE)


def _with_unit(text: str, clause: list[Piece], first: int, last: int, value: str) -> list[str]:
    """Returns the value with the unit behind it, and without it."""
    end = last
    while end + 1 < len(clause) and clause[end + 1].kind in ("word", "zh") and end - last < 5:
        if clause[end + 1].text in lexicon.LINKS | {
            "will",
            "would",
            "can",
            "in",
            "of",
            "and",
            "for",
            "at",
            "on",
            "to",
            "a",
            "i",
            "the",
        }:
            break
        end += 1
    if end == last:
        return [value]
    return [value + text[clause[last].end : clause[end].end], value]
