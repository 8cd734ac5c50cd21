"""Provides the functions that all benchmarks share, for timing calls in turn and for making the JSON line."""

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
    """Size of the workload. toy runs in seconds but says nothing about speed."""
    repeats: int = 5
    """How often each side (r1jax or a baseline) is timed."""
    tunix_python: str = sys.executable
    """An interpreter that can import tunix."""
    transformers_python: str = sys.executable
    """An interpreter that can import transformers and torch."""
    trl_python: str = sys.executable
    """An interpreter that can import trl."""


class Spent(NamedTuple):
    """Seconds of one repeat: wall time, and CPU time over all threads of the process."""

    wall: float
    cpu: float


def time_call(call: Callable[[], Any]) -> tuple[Spent, Any]:
    """Runs `call()` once. Returns the time that it took, and its result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu), result


def time_in_turn(calls: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[Spent]]:
    """Times each call `repeats` times; the calls take turns. Returns the times of each call, by the call's name.

    Every call first runs twice to warm up, because a program that is fed its own results may compile a second time.
    """
    for call in [*calls.values()] * 2:
        call()
    spent: dict[str, list[Spent]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            spent[name].append(time_call(call)[0])
    return spent


def middle(spent: Sequence[Spent], clock: str = "cpu") -> float:
    """Returns the median of the seconds. `clock` is "cpu" or "wall"."""
    return statistics.median(getattr(each, clock) for each in spent)


def spread(spent: Sequence[Spent], clock: str = "cpu") -> float:
    """Returns (maximum − minimum) / median of the seconds. `clock` is "cpu" or "wall"."""
    seconds = [getattr(each, clock) for each in spent]
    return (max(seconds) - min(seconds)) / statistics.median(seconds)


def round_floats(value: Any) -> Any:
    """Rounds all floats in nested values to four significant digits."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: round_floats(each) for key, each in value.items()}
    return [round_floats(each) for each in value] if isinstance(value, list | tuple) else value


def installed(name: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def line(
    name: str,
    value: Any,
    unit: str,
    *,
    goals: Mapping[str, bool | None] | None = None,
    versions: Mapping[str, str] | None = None,
    **figures: Any,
) -> dict[str, Any]:
    """Returns a benchmark's JSON line as a dict, with the machine's load and the versions of packages added.

    Args:
        name: the benchmark's name.
        value: the main result, in `unit`.
        goals: each goal in words -> whether the goal is met; None if it could not be measured.
        versions: package versions of peers.
        figures: other results. Every line has the following keys, with the value None if a result is not given:
            baseline: the result of the peer, in the unit of `value`; "missing" if the peer is not installed.
            ratio: the quotient of `value` and `baseline`; the benchmark says which of them is divided by the other.
            limit: the hardware's limit, in the unit of `value`.
            fraction: the part of the limit that is reached: value / limit for a speed, limit / value for a time.
            spread: (maximum − minimum) / median of the repeats.
    """
    always = {name: figures.pop(name, None) for name in ("baseline", "ratio", "limit", "fraction", "spread")}
    ours = {"python": platform.python_version(), "jax": installed("jax"), "r1jax": installed("r1jax") or "source"}
    return round_floats(
        {
            "name": name,
            "value": value,
            "unit": unit,
            **always,
            "goals": dict(goals or {}),
            **figures,
            "load": list(os.getloadavg()),
            "cores": os.cpu_count(),
            "versions": ours | dict(versions or {}),
        }
    )
