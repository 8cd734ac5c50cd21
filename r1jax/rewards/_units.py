"""Units and the other words that may stand beside a number."""

from __future__ import annotations

import re
from fractions import Fraction

# fmt: off
_TABLE = {  # dimension: {names: size}
    "length": {
        "mm millimeter millimetre 毫米": Fraction(1, 1000), "cm centimeter centimetre 厘米": Fraction(1, 100),
        "dm decimeter 分米": Fraction(1, 10), "m meter metre 米": 1, "km kilometer kilometre 千米 公里": 1000,
        "inch in": Fraction(254, 10000), "foot feet ft": Fraction(3048, 10000), "yard yd": Fraction(9144, 10000),
        "mile mi": Fraction(1609344, 1000),
    },
    "time": {
        "millisecond ms": Fraction(1, 1000), "second sec s 秒": 1, "minute min 分钟": 60, "hour hr h 小时": 3600,
        "day 天": 86400, "week 周": 604800,
    },
    "mass": {
        "mg milligram 毫克": Fraction(1, 1000), "g gram 克": 1, "kg kilogram 千克 公斤": 1000, "ton tonne 吨": 10**6,
        "ounce oz": Fraction(28349523125, 10**9), "pound lb": Fraction(45359237, 10**5),
    },
    "money": {
        "cent": Fraction(1, 100), "dollar usd buck": 1, "euro": "€", "yuan rmb 元": "¥", "rupee": "₹",
        "jiao 角": "¥/10", "pence": "p",
    },
    "volume": {
        "ml milliliter millilitre 毫升": Fraction(1, 1000), "l liter litre 升": 1, "gallon gal": "gallon", "cup": "cup",
    },
    "half of the day": {"am": "am", "pm": "pm"},
    "angle": {"radian rad": "radian"},
}
# fmt: on
UNITS = {
    name: (dimension, size if isinstance(size, str) else Fraction(size))
    for dimension, names in _TABLE.items()
    for key, size in names.items()
    for name in key.split()
}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
TIMES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "百": 10**2,
    "千": 10**3,
    "万": 10**4,
    "百万": 10**6,
    "千万": 10**7,
    "亿": 10**8,
    "万亿": 10**12,
}
_TIMES_ZH = re.compile("万亿|千万|百万|万|亿")
DEGREES = {"degree", "degrees", "deg", "度"}
PERCENT = {"percent", "pct", "percentage", "percents", "per cent"}
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
_DENIES = re.compile(r"\b(?:not|no|never|neither|nor|cannot|but|except|wrong|incorrect|false|unlike)\b|n['’]t\b|不|非|错|除")
_BOUNDS = re.compile(
    r"\b(?:least|most|less|more|fewer|greater|larger|smaller|above|below|over|under|minus|negative|than|half|twice|or)\b"
)
FILLER = set("approximately about exactly roughly around approx answer the is a an us usd rs hk".split())
_FILLER_ZH = re.compile("(?:答案|结果|最终|所以|因此|共有|一共|总共|大约|等于|共|约|有|得|即|应|是|为|的|值)+")
_WORD = re.compile(r"[A-Za-z]+|[\u4e00-\u9fff]+|\^\{?-?\d\}?|/|²|³")


def is_filler(words: str) -> bool:
    """Whether words before a value leave it what it is. 小于 (less than) and 不是 (is not) do not."""
    parts = re.findall(r"[A-Za-z]+|[\u4e00-\u9fff]+", words)
    return all(part.lower() in FILLER or _FILLER_ZH.fullmatch(part) for part in parts)


def may_be_label(words: str, of_equation: bool) -> bool:
    """Whether words before a colon or an equal sign only name the value."""
    lower = words.lower()
    return not _DENIES.search(lower) and (of_equation or not _BOUNDS.search(lower))


def times(words: str) -> tuple[int, str]:
    """The factor a word such as million or 万 begins with, and the words after it."""
    first, _, rest = words.partition(" ")
    if first.lower() in TIMES:
        return TIMES[first.lower()], rest.strip()
    match = _TIMES_ZH.match(words)
    return (TIMES[match[0]], words[match.end() :]) if match else (1, words)


def singular(word: str) -> str:
    word = word.lower()
    for ending, instead in (("inches", "inch"), ("feet", "foot"), ("ies", "y"), ("s", "")):
        if len(word) > 3 and word.endswith(ending):
            return word[: -len(ending)] + instead
    return word


def may_be_unit(words: str) -> bool:
    """Whether these words only name what is counted: no condition, no negation, no second answer."""
    plain = re.sub(r"\^\{?-?\d\}?", "", words.replace(".", "").replace("-", " ")).strip()
    parts = [part for part in re.split(r"[\s/^{}()·*]+", plain) if part]
    if len(parts) > 6 or any(part.lower() in STOP for part in parts):
        return False
    if _STOP_ZH.search(plain) and plain not in UNITS:
        return False
    return all(part.isalpha() or part == "°" for part in parts)


def measure(words: str) -> tuple[str, Fraction] | None:
    """The dimension of a known unit and its size, None for what we do not know: a noun, a currency sign.

    Square and cubic forms belong to a dimension of their own.
    """
    plain = words.replace(".", "").replace("\\", "").strip()
    parts = [part for part in _WORD.findall(plain) if part not in ("per",)]
    if not parts or "/" in parts or "per" in plain.split():
        return None
    exponent, known = 1, None
    for part in parts:
        for cjk, value in (("平方", 2), ("立方", 3)):
            if part.startswith(cjk):
                exponent, part = value, part[2:]
        if part.startswith("^"):
            exponent = int(part.strip("^{}"))
        elif part.lower() in _POWERS:
            exponent = _POWERS[part.lower()]
        else:
            found = UNITS.get(part.lower()) or UNITS.get(singular(part)) or UNITS.get(part)
            if not found or known:
                return None
            known = found
    if not known or not exponent:
        return None
    dimension, size = known
    if isinstance(size, str):
        return f"{dimension} {size}^{exponent}", Fraction(1)
    return f"{dimension}^{exponent}", size**exponent
