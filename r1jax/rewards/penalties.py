"""Adds penalties to the rewards of completions that are too long or that repeat themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from r1jax.rewards.length import overlong
from r1jax.rewards.repetition import penalty
from r1jax.rewards.rule import Scores, combine_parts


class Penalties(NamedTuple):
    """Settings of the penalties that are added to a reward. A weight of 0 turns a penalty off.

    Attributes:
        max_tokens: the length in tokens at which the overlong penalty reaches -1.
        overlong: weight of the overlong penalty, see `length.overlong`.
        cache: the number of tokens over which the overlong penalty grows. 0 means a fifth of `max_tokens`, as in DAPO.
        repetition: weight of the penalty on repeated n-grams, see `repetition.penalty`.
        ngram: number of words in an n-gram.
    """

    max_tokens: int
    overlong: float = 0.0
    cache: int = 0
    repetition: float = 0.0
    ngram: int = 8


def parts(texts: Sequence[str], lengths: np.ndarray, asked: Penalties) -> dict[str, np.ndarray]:
    """Returns {"overlong": [N], "repetition": [N]}: the penalties of N completions, in [-1, 0], without their weights.

    A penalty of weight 0 is left out.

    Args:
        texts: the N completions.
        lengths: [N] tokens of each completion, including the stop token.
        asked: which penalties to compute, with their settings.
    """
    found = {}
    if asked.overlong:
        cache = asked.cache or max(1, asked.max_tokens // 5)
        found["overlong"] = [overlong(int(n), max_length=asked.max_tokens, cache=cache) for n in lengths]
    if asked.repetition:
        found["repetition"] = [penalty(text, n=asked.ngram, max_penalty=-1.0) for text in texts]
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def add_penalties(scores: Scores, texts: Sequence[str], lengths: np.ndarray, asked: Penalties) -> Scores:
    """Returns the scores of N completions with weight·penalty added to the total of each valid completion.

    The penalties, without their weights, become further entries of `Scores.parts`.

    Args:
        texts: the N completions.
        lengths: [N] tokens of each completion, including the stop token.
        asked: which penalties to add, with their weights.
    """
    found = parts(texts, lengths, asked)
    if not found:
        return scores
    total, _ = combine_parts(found, {"overlong": asked.overlong, "repetition": asked.repetition}, scores.valid)
    return scores._replace(total=scores.total + total, parts=scores.parts | found)
