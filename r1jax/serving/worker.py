"""Runs the work of many clients on one model, with a queue and one thread that samples waves of requests.

A wave samples the oldest request together with the waiting requests that have the same sampling settings. The thread
runs a wave to its end before it starts the next wave. So a new request first waits for the wave in progress. After
that, each wave that runs before the request's own wave contains an older request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from r1jax.serving.models import Model
from r1jax.serving.replies import Request, reply


class Waiting(NamedTuple):
    """One piece of work in the queue: a request to sample, or a function to call.

    Attributes:
        request: the request to sample; None if there is a function to call.
        work: the function to call in the worker's thread; None if there is a request.
        ended: a function that the worker's thread calls after the work. Its only argument is the error that ended the
            work, or None.
    """

    request: Request | None
    work: Callable[[], Any] | None
    ended: Callable[[Exception | None], None]


class Worker:
    """Samples requests in a thread of its own, beginning with the oldest.

    Args:
        rows: largest number of requests that are sampled together.
    """

    def __init__(self, model: Model, rows: int):
        self._model, self._rows = model, rows
        self._queue: list[Waiting] = []
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True, name="sampler")
        self._thread.start()

    def ask(self, request: Request, ended: Callable[[Exception | None], None]) -> None:
        """Queues a request. Unless an error occurs, the field `request.finish` is set before `ended` is called."""
        self._put(Waiting(request, None, ended))

    def call(self, work: Callable[[], Any], ended: Callable[[Exception | None], None]) -> None:
        """Queues a function that uses the model, such as scoring. `ended` is called after it."""
        self._put(Waiting(None, work, ended))

    def _put(self, waiting: Waiting) -> None:
        with self._change:
            self._queue.append(waiting)
            self._change.notify()

    def _take(self) -> list[Waiting]:
        """Waits for work. Returns the oldest piece, and the requests that can share its wave."""
        with self._change:
            self._change.wait_for(lambda: self._queue)
            first = self._queue[0]
            together = [first]
            if first.request is not None:
                together = [
                    x for x in self._queue if x.request is not None and x.request.settings == first.request.settings
                ][: self._rows]
            self._queue = [x for x in self._queue if x not in together]
            return together

    def _work(self) -> None:
        while True:
            together, error = self._take(), None
            try:
                if together[0].request is None:
                    together[0].work()
                else:
                    live = [x.request for x in together if not x.request.given_up()]
                    for waiting in together:
                        if waiting.request not in live:
                            waiting.request.finish = "given up"
                    if live:
                        reply(self._model.policy, self._model.weights, self._model.mesh, live)
            except Exception as caught:  # a client's request must not end the server
                error = caught
            for waiting in together:
                waiting.ended(error)
