"""The words that may stand beside a number without changing what it says: a unit, a noun, a name before it."""

from __future__ import annotations

import re

from r1jax.rewards._units import UNITS, measure

# words that change what a number says: never a unit
STOP = set(
    "if else or and not no nor where when for is are was be wait yes maybe perhaps but unless except more "
    "less than least most import lambda in from to with without over under above below only exactly half "
    "double triple twice squared cubed dozen dozens negative minus plus times divided either neither "
    "infinity undefined none both all any every some other another possibly probably otherwise instead "
    "until true false impossible unknown th st nd rd pi mod even odd prime wrong incorrect mistake error guess "
    "alternatively x k one two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty "
    "seventy eighty ninety hundred thousand million billion trillion tens hundreds halves thirds quarters fourths "
    "fifths sixths sevenths eighths ninths tenths hundredths thousandths remainder".split()
)
_STOP_ZH = re.compile("以上|以下|以内|以外|左右|多|余|至|到|或|不|非|成|折|分之|半|百|十|[零一二三四五六七八九]")
_DENIES = re.compile(
    r"\b(?:not|no|never|neither|nor|cannot|but|except|wrong|incorrect|false|unlike)\b|n['’]t\b|[不非错除]"
)
_BOUNDS = re.compile(
    r"\b(?:least|most|less|more|fewer|greater|larger|smaller|above|below|over|under|minus|negative|than|half|twice|or)\b"
)
FILLER = set("approximately about exactly roughly around approx answer the is a an us usd rs hk".split())
_FILLER_ZH = re.compile("(?:答案|结果|最终|所以|因此|一共|总共|大约|等于|人民币|[共约有得即应是为的值第])+")


def is_filler(words: str) -> bool:
    """Whether words before a value leave it what it is. 小于 (less than) and 不是 (is not) do not."""
    parts = re.findall(r"[A-Za-z]+|[\u4e00-\u9fff]+", words)
    return all(part.lower() in FILLER or _FILLER_ZH.fullmatch(part) for part in parts)


def may_be_label(words: str, of_equation: bool) -> bool:
    """Whether words before a colon or an equal sign only name the value."""
    lower = words.lower()
    return not _DENIES.search(lower) and (of_equation or not _BOUNDS.search(lower))


def may_be_unit(words: str) -> bool:
    """Whether these words only name what is counted: no condition, no negation, no second answer."""
    plain = re.sub(r"\^\{?-?\d\}?", "", words.replace(".", "").replace("-", " ")).strip()
    parts = [part for part in re.split(r"[\s/^{}()·*]+", plain) if part]
    if measure(words):
        return True
    if len(parts) > 6 or any(part.lower() in STOP and part != "K" for part in parts):
        return False
    if _STOP_ZH.search(plain) and plain not in UNITS:
        return False
    return all(part.isalpha() or part == "°" for part in parts)
