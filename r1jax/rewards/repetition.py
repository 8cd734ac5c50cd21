"""How much of a text repeats itself."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Chinese and kana characters stand for words, as they do in `language`
_CHARACTER = r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\s{_CHARACTER}]+")


def repeated_share(text: str | Sequence[int], n: int) -> float:
    """The share of n-grams that occurred before, in [0, 1): 1 - distinct / all; 0 below n words.

    Args:
        text: a text, whose words are runs between white space in lower case and single Chinese or
            kana characters; or token ids.
        n: words or tokens in an n-gram, at least 1.
    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n={n} is no size of an n-gram; use 1 or more")
    words = _WORD.findall(text.lower()) if isinstance(text, str) else text
    total = len(words) - n + 1
    if total < 1:
        return 0.0
    return 1.0 - len(set(zip(*(words[i:] for i in range(n)), strict=False))) / total


def penalty(text: str | Sequence[int], *, n: int, max_penalty: float) -> float:
    """`repeated_share` times `max_penalty`, which is negative or zero: a term to add to a reward.

    Raises:
        ValueError: n < 1 or max_penalty > 0.
    Source: Yeo et al. 2025 (arXiv 2502.03373), appendix C.2.
    """
    if max_penalty > 0:
        raise ValueError(f"max_penalty={max_penalty} would reward repetition; use a number <= 0")
    return repeated_share(text, n) * max_penalty
