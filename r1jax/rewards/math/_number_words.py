"""Reads English number words: "forty-two" is 42, "one half" is 1/2."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9}
_VALUES = {word: value for value, word in enumerate(_ONES)} | {word: 20 + 10 * i for i, word in enumerate(_TENS)}
_PARTS = {
    "half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7, "eighth": 8,
    "ninth": 9, "tenth": 10,
}  # fmt: skip
_PARTS |= {f"{word}s": value for word, value in _PARTS.items() if word != "halves"}
WORDS = frozenset(_VALUES) | frozenset(_SCALES) | frozenset(_PARTS)


def number_of(words: Sequence[str]) -> Fraction | None:
    """Returns the number that the words name; None if they name none."""
    parts = [part for word in words for part in word.lower().split("-") if part not in ("and", "a", "an")]
    if not parts:
        return None
    below = _PARTS.get(parts[-1])
    if below:
        above = number_of(parts[:-1]) if len(parts) > 1 else Fraction(1)
        return None if above is None else above / below
    total = current = 0
    for part in parts:
        if part in _VALUES:
            value = _VALUES[part]
            if current % 100 and not (current % 100 >= 20 and current % 10 == 0 and 0 < value < 10):
                return None
            current += value
        elif part == "hundred" and 0 < current < 10:
            current *= 100
        elif part in _SCALES and part != "hundred" and current:
            total, current = total + current * _SCALES[part], 0
        else:
            return None
    return Fraction(total + current)
