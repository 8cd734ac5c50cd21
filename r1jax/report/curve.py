"""Thins curves (`thin`), smooths curves (`smooth`), and computes confidence intervals of shares (`wilson`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

POINTS = 240  # more than a chart of a third of a page has room for


class Curve(NamedTuple):
    """A logged quantity: steps in ascending order, and the value at each step; None at a step without a value."""

    steps: list[int]
    values: list[float | None]


class Thinned(NamedTuple):
    """A curve with fewer points: each point holds the mean, least and greatest value of `width` neighbouring steps."""

    steps: list[float]
    mean: list[float | None]
    low: list[float | None]
    high: list[float | None]
    width: int  # steps in a point


def thin(curve: Curve, points: int = POINTS) -> Thinned:
    """Merges neighbouring steps so that the curve has at most `points` points. A shorter curve keeps all its points."""
    width = max(1, math.ceil(len(curve.steps) / points))
    out = Thinned([], [], [], [], width)
    for start in range(0, len(curve.steps), width):
        steps = curve.steps[start : start + width]
        values = [v for v in curve.values[start : start + width] if v is not None]
        out.steps.append((steps[0] + steps[-1]) / 2)
        out.mean.append(math.fsum(values) / len(values) if values else None)
        out.low.append(min(values, default=None))
        out.high.append(max(values, default=None))
    return out


def smooth(values: Sequence[float | None]) -> list[float | None]:
    """Returns the curve's values smoothed by centred, triangular weights.

    The weights reach len(values) // 20 values to each side. Gaps (None) stay gaps. Curves of fewer than 24 values are
    returned unchanged.
    """
    half = len(values) // 20 if len(values) >= 24 else 0
    out: list[float | None] = []
    for i, value in enumerate(values):
        if value is None:
            out.append(None)
            continue
        near = [
            (half + 1 - abs(k - i), v)
            for k in range(max(0, i - half), min(len(values), i + half + 1))
            if (v := values[k]) is not None
        ]
        out.append(math.fsum(w * v for w, v in near) / sum(w for w, _ in near))
    return out


def wilson(share: float, count: float) -> tuple[float, float]:
    """Returns the 95 % interval (low, high) of a share measured over `count` independent trials (Wilson 1927).

    Args:
        share: the share of trials that succeeded, in [0, 1].
    """
    z = 1.959964
    middle = share + z * z / (2 * count)
    # A mean of floats may be 1 + 1e-16; the root must not be of a negative number.
    spread = z * math.sqrt(max(0.0, share * (1 - share)) / count + z * z / (4 * count * count))
    return (middle - spread) / (1 + z * z / count), (middle + spread) / (1 + z * z / count)
