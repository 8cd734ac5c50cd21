"""Jobs on their way to the workers, and their verdicts on the way back."""

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
    """Jobs as JSON, and their verdicts as they come in. Equal jobs share a payload."""

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
        """Payload indices by chunk: long enough to save round trips, short enough to keep all workers busy."""
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
        return self.expires is not None and time.monotonic() > self.expires

    def settle(self, index: int, verdict: Verdict) -> None:
        with self.lock:
            if self.verdicts[index] is None:
                self.open -= 1
            self.verdicts[index] = verdict
            done = not self.open and not self.future.done()
        if done:
            self.future.set_result([self.verdicts[which] for which in self.which])


def plain(value: object) -> object:
    """What numpy and friends are as JSON."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
