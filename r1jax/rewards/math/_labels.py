"""Decides which words may stand beside a number without changing its value: units, nouns, names, fillers."""

from __future__ import annotations

import re

from r1jax.rewards.math._lexicon import CHANGES_BEHIND, CHANGES_ZH, DENIALS_ZH, VERBS, is_ordinal
from r1jax.rewards.math._number_words import WORDS as NUMBER_WORDS
from r1jax.rewards.math._units import UNITS, measure

_LETTERS = set("x k".split())
_DENIES = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|but|except|wrong|incorrect|false|unlike)\b|n['’]t\b|[不非错除]"
)
_BOUNDS = re.compile(
    r"\b(?:least|most|less|more|fewer|greater|larger|smaller|above|below|over|under|minus|negative|than|half|twice|or)\b"
)
FILLER = set("approximately about exactly roughly around approx answer the is a an us usd rs hk".split())
_FILLER_ZH = re.compile("(?:答案|结果|最终|所以|因此|一共|总共|大约|等于|人民币|[共约有得即应是为的值第])+")


def is_filler(words: str) -> bool:
    """Returns True if words before a value, such as "about", do not change it; False for words such as "at least"."""
    parts = re.findall(r"[A-Za-z]+|[\u4e00-\u9fff]+", words)
    return all(part.lower() in FILLER or _FILLER_ZH.fullmatch(part) for part in parts)


def may_be_label(words: str, of_equation: bool) -> bool:
    """Returns True if words before a colon or an equal sign only name the value after that sign.

    Returns False if the words deny the value, as "not" does. Before a colon, also returns False if the words bound the
    value, as "at least" does. Before an equal sign, words that bound are part of a name, as in "the least value = 5".

    Args:
        of_equation: True if the words stand before an equal sign.
    """
    lower = words.lower()
    return not _DENIES.search(lower) and (of_equation or not _BOUNDS.search(lower))


def _changes(word: str) -> bool:
    """Returns True if a word behind a number changes it or ends the unit, so that it is no noun."""
    return word in CHANGES_BEHIND or word in VERBS or word in NUMBER_WORDS or word in _LETTERS or is_ordinal(word)


def may_be_unit(words: str) -> bool:
    """Returns True if the words after a number only name what the number counts or measures, like "apples" or "km/h".

    Returns False for words that may change the value, such as a condition, a negation or a second answer.
    """
    plain = re.sub(r"\^\{?-?\d\}?", "", words.replace(".", "").replace("-", " ")).strip()
    parts = [part for part in re.split(r"[\s/^{}()·*]+", plain) if part]
    if measure(words):
        return True
    if len(parts) > 6 or any(_changes(part.lower()) and part != "K" for part in parts):
        return False
    if plain not in UNITS and (CHANGES_ZH.search(plain) or DENIALS_ZH.search(plain)):
        return False
    return all(part.isalpha() or part == "°" for part in parts)
