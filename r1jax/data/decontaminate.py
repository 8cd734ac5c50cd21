"""Keeps evaluation problems out of training prompts: drops training rows that share n-grams with an evaluation
problem.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W_\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+")


def decontaminate(
    train: Iterable[Mapping], evaluation: Iterable[Mapping], n: int = 10
) -> tuple[list[Mapping], list[tuple[Mapping, str]]]:
    """Drops every training row whose problem shares an n-gram with an evaluation problem.

    A word is a run of letters and digits, or a single Chinese or kana character; everything else only separates words.
    Texts are compared after NFKC normalisation and case folding. A problem shorter than n words counts as a single
    n-gram, so it matches only problems that have exactly the same words.

    Args:
        train, evaluation: questions as dictionaries ("rows") with the key `problem`.
        n: words in an n-gram; 10 in R1.

    Returns:
        The rows kept, and a list of (dropped row, the first of its n-grams that an evaluation problem has too). Both
        lists keep the order of `train`.

    Raises:
        ValueError: n < 1.

    Source: DeepSeek-AI 2025 (v2, appendix D.1): 10-gram filter of SFT and RL prompts against the evaluation sets.
    """
    if n < 1:
        raise ValueError(f"n={n} is not the size of an n-gram; use 1 or more (R1: 10)")
    known = {gram for row in evaluation for gram in _grams(row["problem"], n)}
    kept: list[Mapping] = []
    dropped: list[tuple[Mapping, str]] = []
    for row in train:
        shared = next((gram for gram in _grams(row["problem"], n) if gram in known), None)
        if shared is None:
            kept.append(row)
        else:
            dropped.append((row, " ".join(shared)))
    return kept, dropped


def _grams(text: str, n: int) -> Iterator[tuple[str, ...]]:
    """Yields the n-grams of words in a text; if it has fewer than n words, all its words as a single n-gram."""
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    if 0 < len(words) < n:
        yield tuple(words)
    for i in range(len(words) - n + 1):
        yield tuple(words[i : i + n])
