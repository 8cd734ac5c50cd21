"""Records what this process is doing and when it last made progress, for the watchdog and for error messages."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import NamedTuple


class Pulse(NamedTuple):
    """The state of this process: what it is doing, and when it last made progress.

    Attributes:
        phase: what the process is doing, such as "sampling".
        since: time of the last progress, in seconds of `time.monotonic`.
        waits: whether a thread of the process waits for other processes.
    """

    phase: str
    since: float
    waits: bool = False


_phase, _since = "starting", time.monotonic()
_waiting: set[int] = set()  # the threads that wait for other processes
_beside: ContextVar[bool] = ContextVar("beside", default=False)  # whether this thread works beside the main thread


def beat(phase: str) -> None:
    """Records that this process made progress now. `phase` is what the process does next, such as "sampling".

    A thread that works `beside` the main thread records the progress, but leaves the phase of the main thread.
    """
    global _phase, _since
    if not _beside.get():
        _phase = phase
    _since = time.monotonic()


def pulse() -> Pulse:
    """Returns the last recorded state of this process."""
    return Pulse(_phase, _since, waits=bool(_waiting))


@contextlib.contextmanager
def beside() -> Iterator[None]:
    """Makes this thread work beside the main thread while the `with` block runs: see `beat`."""
    token = _beside.set(True)
    try:
        yield
    finally:
        _beside.reset(token)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Records that this thread waits for other processes while the `with` block runs."""
    global _since
    thread = threading.get_ident()
    _since = time.monotonic()
    _waiting.add(thread)
    try:
        yield
    finally:
        _waiting.discard(thread)
        _since = time.monotonic()
