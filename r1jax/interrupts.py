"""Handles Ctrl-C while a command starts or ends, when no run handles signals.

This module imports only `signal`, so that a command can import this module before all others.
"""

from __future__ import annotations

import signal

GC_CALLBACK = "_xla_gc_callback"  # JAX's callback of the garbage collector
_interrupted, _remembers = False, False


def remember() -> None:
    """Makes Ctrl-C set a flag in addition to raising KeyboardInterrupt.

    Call this function in the main thread, before anything else.

    Python drops an exception that is raised inside a callback of the garbage collector. JAX has such a callback, so a
    Ctrl-C during start-up could be lost, and the command would go on. `raise_lost` raises the lost exception later.
    """

    def handle(number: int, frame: object) -> None:
        global _interrupted
        _interrupted = True
        if getattr(getattr(frame, "f_code", None), "co_name", "") != GC_CALLBACK:
            raise KeyboardInterrupt

    global _remembers
    _remembers = True
    signal.signal(signal.SIGINT, handle)


def raise_lost() -> None:
    """Raises KeyboardInterrupt if Ctrl-C was pressed after `remember`, or after the last call of `raise_lost`."""
    global _interrupted
    if _interrupted:
        _interrupted = False
        raise KeyboardInterrupt


def ignore_at_exit() -> None:
    """Makes Ctrl-C do nothing while Python exits after a complete command. Has no effect unless `remember` was called.

    JAX frees its caches during the exit. A KeyboardInterrupt would then print a traceback but leave exit code 0.
    """
    if _remembers:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
