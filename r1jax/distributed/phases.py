"""Records what this process is doing and when it last made progress, for the watchdog and for error messages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import NamedTuple


class Pulse(NamedTuple):
    """The state of this process: what it is doing, and when it last made progress.

    Attributes:
        phase: what the process is doing, such as "sampling".
        since: time of the last progress, in seconds of `time.monotonic`.
        waits: whether the process waits for other processes.
    """

    phase: str
    since: float
    waits: bool = False


_pulse = Pulse("starting", time.monotonic())


def beat(phase: str) -> None:
    """Records that this process made progress now. `phase` is what the process does next, such as "sampling"."""
    global _pulse
    _pulse = Pulse(phase, time.monotonic())


def pulse() -> Pulse:
    """Returns the last recorded state of this process."""
    return _pulse


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Records that this process waits for other processes while the `with` block runs."""
    global _pulse
    _pulse = Pulse(_pulse.phase, time.monotonic(), waits=True)
    try:
        yield
    finally:
        _pulse = Pulse(_pulse.phase, time.monotonic())
