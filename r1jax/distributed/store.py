"""Exchanges bytes between the processes of a run over the key-value store of JAX's coordinator, without devices.

Devices run programs in the order in which they got them. If two threads of each process start programs that wait for
other processes, two processes may start them in different orders, and then wait for each other for ever. A run that
samples beside its updates therefore exchanges values over a `Store`, one for each thread.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import jax
from jax._src import distributed as jax_distributed  # the store has no public name

PIECE = 1 << 20  # bytes of a value in the store; a longer message is divided
SHORT = 1 << 11  # bytes of a message that process 0 hands on to all others together with the lengths
LENGTH = 8  # bytes of the number that says how long a message is
POLL_MS = 1000  # after so many milliseconds, a process that waits looks whether it should end


class Store:
    """Exchanges messages between the processes of a run. Every process makes the same stores, and calls `gather`
    equally often.

    Args:
        name: name of the store. No other store of the run has the same name.
        ended: an event after which this process waits no longer for the others.
    """

    def __init__(self, name: str, ended: threading.Event):
        self._client = jax_distributed.global_state.client
        self._name, self._ended, self._calls = name, ended, 0

    def gather(self, data: bytes) -> list[bytes]:
        """Gathers a message of any length from every process. Returns the messages in the order of the processes.

        Process 0 collects the lengths, and short messages with them, and hands them on. Long messages are read piece
        by piece from the process that wrote them.

        Raises:
            CancelledError: the event `ended` was set.
        """
        me, count = jax.process_index(), jax.process_count()
        home, self._calls = f"r1jax/exchange/{self._name}/{self._calls}", self._calls + 1
        long = len(data) > SHORT
        for i in range(0, len(data) if long else 0, PIECE):
            self._client.key_value_set_bytes(f"{home}/{me}/{i}", data[i : i + PIECE])
        length = len(data).to_bytes(LENGTH, "big")
        self._client.key_value_set_bytes(f"{home}/{me}/length", length if long else length + data)
        if me == 0:
            every = b"".join(self._get(f"{home}/{process}/length") for process in range(count))
            self._client.key_value_set_bytes(f"{home}/lengths", every)
            # Every process has written to this call, so all have read what they need of the call before.
            if self._calls > 1:
                self._client.key_value_delete(f"r1jax/exchange/{self._name}/{self._calls - 2}")
        else:
            every = self._get(f"{home}/lengths")
        found, at = [], 0
        for process in range(count):
            size, at = int.from_bytes(every[at : at + LENGTH], "big"), at + LENGTH
            if size <= SHORT:
                found.append(every[at : at + size])
                at += size
            elif process == me:
                found.append(data)
            else:
                found.append(b"".join(self._get(f"{home}/{process}/{i}") for i in range(0, size, PIECE)))
        return found

    def _get(self, key: str) -> bytes:
        """Returns the value of a key. Waits until a process has written it."""
        while not self._ended.is_set():
            try:
                return self._client.blocking_key_value_get_bytes(key, POLL_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
        raise CancelledError("the other processes are not waited for any longer")
