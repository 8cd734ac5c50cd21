"""Rounds sizes of arrays up to a few sizes, because every shape compiles another program."""

from __future__ import annotations

LADDER = 2  # factor by which the number of rows shrinks, and the time axis grows


def rung(value: int, least: int) -> int:
    """Returns `value` rounded up to one of the sizes `least`·(1, 2, 4, 8 ..).

    Each size is `LADDER` = 2 times the size before it.
    """
    while least < value:
        least *= LADDER
    return least


def half_rung(value: int, least: int) -> int:
    """Returns `value` rounded up to one of the sizes `least`·(1, 3/2, 2, 3, 4, 6 ..).

    There are few such sizes. A size above `least` is at most 1.5 times `value`.

    Args:
        least: a power of two.
    """
    while least < value:
        least += least // 3 if least % 3 == 0 else least // 2
    return least
