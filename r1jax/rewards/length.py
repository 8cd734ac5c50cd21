"""DAPO's soft overlong punishment."""

from __future__ import annotations


def overlong(length: int, *, max_length: int, cache: int) -> float:
    """A penalty in [-1, 0] to add to the reward of a completion of `length` tokens.

        0 up to max_length - cache;  ((max_length - cache) - length) / cache up to max_length;  -1
        beyond

    Args:
        length: tokens of the completion, the stop token included. Tokens, not characters.
        max_length: L_max, the length from which the penalty is whole; 20,480 in DAPO.
        cache: L_cache, the tokens over which it grows; 4,096 in DAPO.
    Raises:
        ValueError: not 0 < cache <= max_length.
    Source: Yu et al. 2025 (DAPO), eq. 13.
    """
    if not 0 < cache <= max_length:
        raise ValueError(f"cache={cache} must lie in 1..max_length={max_length}")
    free = max_length - cache
    return max(-1.0, min(0.0, (free - length) / cache))
