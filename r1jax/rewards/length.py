"""Computes DAPO's length penalty for completions that are too long, the "soft overlong punishment"."""

from __future__ import annotations


def overlong(length: int, *, max_length: int, cache: int) -> float:
    """Returns the penalty in [-1, 0] to add to the reward of a completion of `length` tokens.

         0                                        up to max_length - cache
         ((max_length - cache) - length) / cache  from there to max_length
        -1                                        beyond

    Args:
        length: number of tokens (not characters) of the completion, including the stop token.
        max_length: L_max, the length at which the penalty reaches -1; 20,480 in DAPO.
        cache: L_cache, the number of tokens over which the penalty grows; 4,096 in DAPO.
    Raises:
        ValueError: `cache` is 0 or less, or more than `max_length`.
    Source: Yu et al. 2025 (DAPO), eq. 13.
    """
    if not 0 < cache <= max_length:
        raise ValueError(f"cache={cache} must lie in 1..max_length={max_length}")
    free = max_length - cache
    return max(-1.0, min(0.0, (free - length) / cache))
