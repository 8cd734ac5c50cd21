"""What all benchmarks share: clocks, turns, and the line they print."""

from __future__ import annotations

import dataclasses
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, NamedTuple


@dataclasses.dataclass(frozen=True)
class Options:
    """Flags of every benchmark."""

    size: Literal["full", "toy"] = "full"
    """toy runs in seconds and says nothing about speed."""
    repeats: int = 5
    """Of each side."""
    tunix_python: str = sys.executable
    """An interpreter that can import tunix."""
    transformers_python: str = sys.executable
    """An interpreter that can import transformers and torch."""
    trl_python: str = sys.executable
    """An interpreter that can import trl."""


class Spent(NamedTuple):
    """Seconds of one repeat: on the wall, and of CPU over all threads of the process."""

    wall: float
    cpu: float


def timed(call: Callable[[], Any]) -> tuple[Spent, Any]:
    """What a call took, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), result


def turns(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Spent]]:
    """Repeats of each call, in turn, after two that are dropped: a program that is fed its own results may compile once
    more."""
    for call in [*calls.values()] * 2:
        call()
    spent: dict[str, list[Spent]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            spent[name].append(timed(call)[0])
    return spent


def middle(spent: Sequence[Spent], clock: str = "cpu") -> float:
    """Median seconds."""
    return statistics.median(getattr(each, clock) for each in spent)


def spread(spent: Sequence[Spent], clock: str = "cpu") -> float:
    """Range over median."""
    seconds = [getattr(each, clock) for each in spent]
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def rounded(value: Any) -> Any:
    """Floats to four digits, everywhere inside."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list | tuple) else value


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def line(
    name: str,
    value: Any,
    unit: str,
    *,
    baseline: Any = None,
    ratio: Any = None,
    limit: Any = None,
    fraction: Any = None,
    spread: Any = None,
    goals: Mapping[str, bool | None] | None = None,
    versions: Mapping[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """A benchmark's JSON line.

    Args:
        baseline: what stands beside `value`, in the same unit; "missing" where a peer is not installed.
        ratio: how many times better than the baseline `value` is; above 1 is better, unless the goal says otherwise.
        limit: of the hardware, in the same unit; fraction: value over limit.
        goals: each in words, and whether it is met; None where it could not be measured.
        versions: of peers.
    """
    ours = {"python": platform.python_version(), "jax": installed("jax"), "r1jax": installed("r1jax") or "source"}
    return rounded(
        {
            "name": name,
            "value": value,
            "unit": unit,
            "baseline": baseline,
            "ratio": ratio,
            "limit": limit,
            "fraction": fraction,
            "spread": spread,
            "goals": dict(goals or {}),
            **more,
            "load": list(os.getloadavg()),
            "cores": os.cpu_count(),
            "versions": ours | dict(versions or {}),
        }
    )
