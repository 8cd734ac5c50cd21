"""Defines a batch of jobs that worker processes judge, and collects the verdicts."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from r1jax.rewards.verdict import Verdict

CHUNK_JOBS = 64
CHUNK_BYTES = 1 << 18


class Batch:
    """The jobs of one call of `Pool.submit` or `Pool.run`, and their verdicts as the verdicts come in.

    A payload is one job as JSON text. Equal jobs share one payload, so they are judged once.

    Args:
        jobs: one (kind of question, text to grade, gold answer for the verifier) per job.
        expires: the value of `time.monotonic()` at which jobs without a verdict are given up; None for never.
    Attributes:
        future: a `Future` whose result is the list of verdicts, in the order of the jobs.
        payloads: the distinct jobs, as JSON.
        kinds: [payloads] the kind of question of each payload.
        verdicts: [payloads] the verdict on each payload; None until the payload is judged.
        which: [jobs] the index in `payloads` of each job's payload.
        open: number of payloads that have no verdict yet.
    """

    def __init__(self, jobs: Sequence[tuple[str, str, Mapping]], expires: float | None):
        self.expires = expires
        self.future: Future[list[Verdict]] = Future()
        first: dict[str, int] = {}
        self.which = []  # row -> payload
        self.kinds = []
        for kind, text, example in jobs:
            payload = json.dumps([kind, text, dict(example)], default=plain)
            if payload not in first:
                first[payload] = len(first)
                self.kinds.append(kind)
            self.which.append(first[payload])
        self.payloads = list(first)
        self.verdicts: list[Verdict | None] = [None] * len(self.payloads)
        self.open = len(self.payloads)
        self.lock = threading.Lock()
        self.future.set_running_or_notify_cancel()
        if not self.payloads:
            self.future.set_result([])

    def chunks(self, workers: int) -> list[list[int]]:
        """Returns lists of payload indices. One worker process gets one list at a time.

        The lists are long enough to save round trips, and short enough to keep all workers busy.

        Args:
            workers: number of worker processes.
        """
        most = max(1, min(CHUNK_JOBS, -(-len(self.payloads) // (2 * workers))))
        chunks, size = [], CHUNK_BYTES
        for index, payload in enumerate(self.payloads):
            if size + len(payload) > CHUNK_BYTES or len(chunks[-1]) >= most:
                chunks.append([])
                size = 0
            chunks[-1].append(index)
            size += len(payload)
        return chunks

    def expired(self) -> bool:
        """Returns True if the time `expires` has passed, so that jobs without a verdict are to be given up."""
        return self.expires is not None and time.monotonic() > self.expires

    def settle(self, index: int, verdict: Verdict) -> None:
        """Records the verdict on `payloads[index]`. The last missing verdict completes `future`."""
        with self.lock:
            if self.verdicts[index] is None:
                self.open -= 1
            self.verdicts[index] = verdict
            done = not self.open and not self.future.done()
        if done:
            self.future.set_result([self.verdicts[which] for which in self.which])


def plain(value: object) -> object:
    """Converts a value that JSON lacks: a numpy array or scalar to Python lists or numbers, any other value to text."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
