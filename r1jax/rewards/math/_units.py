"""Defines the table of units, and other words that may stand beside a number: percent, degrees, million."""

from __future__ import annotations

import re
from collections import Counter
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
        "millisecond ms": Fraction(1, 1000), "second sec s 秒": 1, "minute min 分钟 分": 60, "hour hr h 小时 时": 3600,
        "day 天": 86400, "week 周": 604800,
    },
    "mass": {
        "mg milligram 毫克": Fraction(1, 1000), "g gram 克": 1, "kg kilogram 千克 公斤": 1000, "ton tonne 吨": 10**6,
        "ounce oz": Fraction(28349523125, 10**9), "pound lb": Fraction(45359237, 10**5),
    },
    "money": {
        "cent": Fraction(1, 100), "dollar usd buck": 1, "euro": "€", "yuan rmb 元": "¥", "rupee": "₹",
        "jiao 角": "¥/10", "pence": "p", "£ gbp": "£",
    },
    "volume": {
        "ml milliliter millilitre 毫升": Fraction(1, 10**6), "cl centiliter centilitre": Fraction(1, 10**5),
        "l liter litre L 升": Fraction(1, 1000), "gallon gal": "gallon", "cup": "cup",
    },
    "area": {"hectare ha 公顷": 10**4},
    "half of the day": {"am": "am", "pm": "pm"},
    "angle": {"radian rad": "radian"},
    "temperature": {"celsius": "C", "fahrenheit": "F", "kelvin": "K"},
}
# fmt: on
UNITS = {
    name: (dimension, size if isinstance(size, str) else Fraction(size))
    for dimension, names in _TABLE.items()
    for key, size in names.items()
    for name in key.split()
}
_DERIVED = {"volume": ("length", 3), "area": ("length", 2)}  # dimensions whose sizes are in cubic and square meters
SPEEDS = {"mph": Fraction(1609344, 1000), "kph": Fraction(1000), "kmh": Fraction(1000), "kmph": Fraction(1000)}
_POWERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "平方": 2, "立方": 3}
TIMES = {
    "dozen": 12,
    "dozens": 12,
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
CURRENCIES = {"$": "dollars", "€": "euros", "£": "£", "¥": "yuan", "₹": "rupees"}
_WORD = re.compile(r"[A-Za-z£]+|[\u4e00-\u9fff]+|\^\{?-?\d\}?|/|²|³")


def times(words: str) -> tuple[int, str]:
    """Splits off a multiplier: "million dollars" gives (10**6, "dollars"). Other words give (1, the words)."""
    first, _, rest = words.partition(" ")
    if first.lower() in TIMES:
        return TIMES[first.lower()], rest.strip()
    match = _TIMES_ZH.match(words)
    return (TIMES[match[0]], words[match.end() :]) if match else (1, words)


def singular(word: str) -> str:
    """Returns the word in lower case and in the singular."""
    word = word.lower()
    for ending, instead in (("inches", "inch"), ("feet", "foot"), ("ies", "y"), ("s", "")):
        if len(word) > 3 and word.endswith(ending):
            return word[: -len(ending)] + instead
    return word


def measure(words: str) -> tuple[str, Fraction] | None:
    """Returns (dimension, size) of a known unit, such as ("length^1", 1000) for km; None for other words.

    The size is a multiple of the basic unit of its dimension, such as the meter or the gram. km/h and meters per second
    have the same dimension. A square meter has another dimension than a meter.
    """
    plain = words.replace(".", "").replace("\\", "").replace("每", " per ").strip()
    if _WORD.sub("", plain).strip(" ·*()-"):
        return None
    factors: list[tuple[str, Fraction, int]] = []
    sign, waiting = 1, 1
    for part in _WORD.findall(plain):
        lower = part.lower()
        if part == "/" or lower == "per":
            sign = -1
        elif part.startswith("^"):
            if not factors:
                return None
            dimension, size, exponent = factors.pop()
            factors.append((dimension, size, exponent * int(part.strip("^{}"))))
        elif lower in _POWERS:
            waiting = _POWERS[lower]
        elif lower in SPEEDS:
            factors += [("length", SPEEDS[lower], 1), ("time", Fraction(3600), -1)]
        else:
            for cjk, exponent in (("平方", 2), ("立方", 3)):
                if part.startswith(cjk):
                    waiting, part = exponent, part[2:]
            found = UNITS.get(part.lower()) or UNITS.get(singular(part)) or UNITS.get(part)
            if not found:
                return None
            dimension, size = found
            factors.append((dimension, size, sign * waiting))
            waiting = 1
    sizes, exponents = Fraction(1), Counter()
    for dimension, size, exponent in factors:
        name, power = (f"{dimension} {size}", 1) if isinstance(size, str) else _DERIVED.get(dimension, (dimension, 1))
        sizes *= 1 if isinstance(size, str) else size**exponent
        exponents[name] += power * exponent
    known = sorted((name, exponent) for name, exponent in exponents.items() if exponent)
    return (" ".join(f"{name}^{exponent}" for name, exponent in known), sizes) if known else None
