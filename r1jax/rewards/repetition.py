"""Measures how much a text repeats itself: the share of its n-grams that repeat, and a penalty from this share."""

from __future__ import annotations

import re
from collections.abc import Sequence

# each Chinese or kana character is a word, as in `language`
_CHARACTER = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\s{_CHARACTER}]+")


def repeated_share(text: str | Sequence[int], n: int) -> float:
    """Returns the share of a text's n-grams that occurred earlier in the text: 1 - distinct/all, in [0, 1).

    A text of fewer than n words has the share 0.

    Args:
        text: a text or token ids. Each Chinese or kana character of a text is a word. White space and Chinese or kana
            characters separate all other words. Case does not matter.
        n: words or tokens in an n-gram, at least 1.
    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n={n} is not the size of an n-gram; use 1 or more")
    words = _WORD.findall(text.lower()) if isinstance(text, str) else text
    total = len(words) - n + 1
    if total < 1:
        return 0.0
    return 1.0 - len(set(zip(*(words[i:] for i in range(n)), strict=False))) / total


def penalty(text: str | Sequence[int], *, n: int, max_penalty: float) -> float:
    """Returns `repeated_share(text, n)` times `max_penalty`, a number <= 0 to add to a reward.

    Args:
        text, n: as in `repeated_share`.
        max_penalty: the penalty of a text in which every n-gram repeats, a number <= 0.
    Raises:
        ValueError: n < 1 or max_penalty > 0.
    Source: Yeo et al. 2025 (arXiv 2502.03373), appendix C.2.
    """
    if max_penalty > 0:
        raise ValueError(f"max_penalty={max_penalty} would reward repetition; use a number <= 0")
    return repeated_share(text, n) * max_penalty
