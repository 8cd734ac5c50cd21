"""Defines the flags of the GPU measurements, and times a call."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

Measurement = Callable[[], dict[str, Any]]
Plan = Iterator[tuple[str, Measurement]]


@dataclasses.dataclass(frozen=True)
class Command:
    """Flags of the GPU measurements."""

    parts: tuple[str, ...] = ("G0", "G1", "G2", "G3", "G4", "G5")
    """Parts to run, in this order. G0 measures the limits that the other parts need."""
    out: str = "gpu.jsonl"
    """File (.jsonl) that results are appended to."""
    toy: bool = False
    """Use a toy model and toy sizes, which run on any machine."""
    seconds: float = 540.0
    """After this many seconds no new measurement begins."""
    repeats: int = 5
    """Repeats of each call; the fastest repeat counts."""
    torch_python: str = "python"
    """An interpreter with torch and transformers, for the baselines of decoding (G1) and update (G4); "" skips them."""


def best(call: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """Times `repeats` + 1 calls; the first call also compiles.

    Returns (seconds of the fastest call after the first, seconds of the first call).
    """
    import jax

    def spent() -> float:
        start = time.perf_counter()
        jax.block_until_ready(call())
        return time.perf_counter() - start

    first = spent()
    return min(spent() for _ in range(repeats)), first
