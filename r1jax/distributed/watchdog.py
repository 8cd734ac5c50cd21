"""Ends this process if another process of the run is lost, or if this process makes no progress.

The error names the process that was lost or made no progress, and this process's phase. A phase says what a process
is doing, such as "sampling".

Without the watchdog, the remaining processes would wait for ever in a collective operation. Each process writes its
phase to the key-value store of JAX's coordinator every few seconds. Process 0 reads the phases of all processes. The
other processes read what process 0 found.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import jax
from jax._src import distributed as jax_distributed  # the store has no public name

from r1jax.distributed.phases import beat, pulse
from r1jax.distributed.signals import AGAIN

PULSE_S = 2.0  # seconds between two signs of life; more if there are more than 256 processes
MISSED = 10  # a process that missed so many signs of life is lost
STUCK = 70  # exit code of a process that made no progress (EX_SOFTWARE of sysexits.h)
STATUS = ("UNKNOWN", "INTERNAL", "UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "FAILED_PRECONDITION")
GO_ON = "The run goes on from its newest checkpoint with --resume=True"
PULSES, FOUND = "r1jax/pulse/", "r1jax/lost"


class Watchdog:
    """The thread that watches the processes of a run. `watch` starts it.

    Attributes:
        lost: a sentence that says which process was lost, and in which phase; "" while all processes are alive.
    """

    def __init__(self, minutes: float):
        self.lost = ""
        self._seconds, self._count, self._me = minutes * 60, jax.process_count(), jax.process_index()
        self._every = max(PULSE_S, self._count / 128)
        self._client = jax_distributed.global_state.client
        self._seen: dict[str, tuple[str, float]] = {}
        self._pulses, self._ended = 0, threading.Event()
        beat("starting")
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def name_lost(self) -> str:
        """Waits until a lost process is found, but at most about half a minute. Returns `lost`."""
        end = time.monotonic() + (MISSED + 3) * self._every
        while not self.lost and time.monotonic() < end:
            time.sleep(0.1)
        return self.lost

    def close(self, error: str = "") -> None:
        """Ends the watch.

        Args:
            error: the first line of the error that ends this process, which the other processes then report; "" if this
                process ends without an error.
        """
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Exception):  # the coordinator may be gone
            self._tell(f"ended: {error}" if error else "done")

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            try:
                self._pulses += 1
                self._tell(f"{self._pulses} {pulse().phase}")
                self.lost = self._find_lost()
            except Exception as error:  # the coordinator does not answer
                self.lost = f"process 0 was lost: {str(error).splitlines()[0]}"
            if self.lost:
                # A collective mostly fails by itself now, and the main thread ends the run; but it may wait for ever.
                if not self._ended.wait(3 * self._every):
                    end_now(self.lost, AGAIN)
                return
            now, seconds = pulse(), self._seconds
            # A process that waits for others leaves them the time to find that they hang: they know where.
            if time.monotonic() - now.since > seconds * (2 if now.waits else 1):
                faulthandler.dump_traceback()
                what = f"{now.phase}, waiting for other processes" if now.waits else now.phase
                text = f"no progress for {seconds / 60:g} minutes (--watchdog), in the phase: {what}"
                with contextlib.suppress(Exception):
                    self._tell(f"ended: {text}")
                end_now(f"process {self._me} of {self._count}: {text}. The stack above shows where it waits", STUCK)

    def _tell(self, text: str) -> None:
        value = f"{socket.gethostname()}|{text}"
        self._client.key_value_set(f"{PULSES}{self._me}", value, allow_overwrite=True)

    def _find_lost(self) -> str:
        """Returns which process was lost; "" if all are there."""
        if self._me == 0:
            told = dict(self._client.key_value_dir_get(PULSES))
        else:
            told = {f"{PULSES}0": self._read(f"{PULSES}0")}
        now = time.monotonic()
        for key, value in told.items():
            process = int(key.removeprefix(PULSES))
            if key not in self._seen or value != self._seen[key][0]:
                self._seen[key] = value, now
            host, _, text = value.partition("|")
            silent, where = now - self._seen[key][1], f"process {process} of {self._count} ({host})"
            if process == self._me or text == "done" or not value:
                continue
            if text.startswith("ended: "):
                return self._publish(f"{where} ended with an error: {text.removeprefix('ended: ')}")
            if silent > MISSED * self._every:
                what = f"no sign of life for {silent:.0f} s, last in the phase: {text.partition(' ')[2]}"
                return self._publish(f"{where} was lost: {what}")
        return "" if self._me == 0 else self._read(FOUND)

    def _publish(self, text: str) -> str:
        if self._me == 0:
            self._client.key_value_set(FOUND, text, allow_overwrite=True)
        return text

    def _read(self, key: str) -> str:
        try:
            return self._client.key_value_try_get(key)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                return ""
            raise


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _explain_abort(_: int) -> None:
    lost = "process 0 was lost: JAX's coordinator, which runs in it, no longer answers"
    os.write(2, f"error: {lost}. This process was in the phase: {pulse().phase}. {GO_ON}\n".encode())
    os._exit(AGAIN)


def explain_abort() -> None:
    """Makes this process report that process 0 was lost, if JAX aborts for this reason.

    Without the report, the process would end with a C++ stack. JAX aborts from a thread of its own, in which Python's
    signal handlers do not run. JAX's callback for this case cannot be used from Python (jaxlib 0.10: std::bad_cast).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).signal(signal.SIGABRT, _explain_abort)


def is_runtime_error(error: BaseException | None) -> bool:
    """Returns whether an error comes from XLA's runtime, such as a failed collective operation with a lost process.

    jaxlib raises some runtime errors as ValueError. Their text begins with a status code, as in "UNKNOWN: Gloo
    AllGather failed".
    """
    return isinstance(error, jax.errors.JaxRuntimeError) or str(error).split(":")[0] in STATUS


def end_now(text: str, code: int) -> None:
    """Prints an error and ends the process. An ordinary exit would wait for the other processes."""
    print(f"error: {text}. {GO_ON}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


@contextlib.contextmanager
def watch(minutes: float) -> Iterator[Watchdog | None]:
    """Watches the processes of a run while the `with` block runs. Yields None if there is one process.

    Args:
        minutes: the longest time without progress before this process is ended. With 0, only lost processes are
            detected.
    """
    if jax.process_count() == 1:
        yield None
        return
    if jax.process_index():
        explain_abort()
    watchdog = Watchdog(minutes or float("inf"))
    try:
        yield watchdog
    except BaseException as error:
        watchdog.close(f"{type(error).__name__}: {error}".splitlines()[0][:300])
        raise
    watchdog.close()
