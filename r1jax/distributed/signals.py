"""Stops all processes of a run together after a signal: between two chunks of sampled tokens, or between two optimizer
steps.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from r1jax.distributed.exchange import agree
from r1jax.interrupts import raise_lost

AGAIN = 75  # exit code after SIGTERM: start the same command again, with --resume=True (EX_TEMPFAIL of sysexits.h)
LEFT = 130  # exit code after Ctrl-C, as of a shell
_asked = 0  # the exit code that a signal to this process asks for; 0: none
_ended: ContextVar[threading.Event | None] = ContextVar("ended", default=None)  # after which this thread is to stop


class Stop(Exception):
    """Raised on all processes by `stop_together`. `Run` then saves the state of the last complete step, and exits.

    Attributes:
        code: the exit code.
    """

    def __init__(self, code: int):
        super().__init__(f"a signal asked to stop, exit code {code}")
        self.code = code


class Stopped(SystemExit):
    """Ends a process that a signal asked to stop. The constructor prints its argument `text` on standard error."""

    def __init__(self, code: int, text: str):
        super().__init__(code)
        print(text, file=sys.stderr, flush=True)


def asked() -> int:
    """Returns the exit code that a signal to this process asks for; 0 without a signal.

    The code is `AGAIN` (75) after SIGTERM, and `LEFT` (130) after Ctrl-C. It is also `LEFT` in a thread that is to
    stop: see `until`.
    """
    ended = _ended.get()
    return _asked or (LEFT if ended is not None and ended.is_set() else 0)


@contextlib.contextmanager
def until(ended: threading.Event) -> Iterator[None]:
    """Makes `asked` tell this thread to stop once the event `ended` is set, while the `with` block runs.

    Sampling then raises `Stop` after its current chunk, in the threads of all processes that sample together.
    """
    token = _ended.set(ended)
    try:
        yield
    finally:
        _ended.reset(token)


def stop_together(code: int | None = None) -> None:
    """Raises `Stop` if a signal asked to stop.

    Call this function only between two optimizer steps or inside sampling, where nothing is half done.

    Args:
        code: the largest `asked()` of all processes, if the caller has gathered it. With None, this function gathers
            it, and every process must call this function.
    """
    if code := agree(asked()) if code is None else code:
        raise Stop(code)


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], int]]:
    """Yields a function `stopping()`, which returns an exit code once Ctrl-C or SIGTERM asks to stop, and 0 before.

    `stopping()` returns the same on all processes, because a signal to one process stops all processes. Every process
    must call `stopping()` equally often. A second Ctrl-C stops the process at once. Python can install signal handlers
    only in the main thread; in other threads, both signals keep their usual effect.
    """

    def ask(number: int, _: object) -> None:
        global _asked
        if _asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        _asked = AGAIN if number == signal.SIGTERM else LEFT
        # os.write, because the signal may have interrupted a print.
        os.write(2, b"\nstopping with a checkpoint; Ctrl-C stops at once, without one\n")

    global _asked
    raise_lost()
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM) if main}
    _asked = 0
    try:
        yield lambda: agree(asked())
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = 0
