"""Verdicts under way before they are asked for: completions are judged while others are still being sampled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from r1jax.rewards._batch import plain
from r1jax.rewards.isolate import Pool
from r1jax.rewards.verdict import Verdict


class Ahead:
    """Stands in for a `Pool` in one round: `run` waits for what `begin` started, and starts the rest.

    The verdicts are those of `Pool.run`; each job is judged once, whoever asked first.
    """

    def __init__(self, pool: Pool):
        self._pool = pool
        self._begun: dict[str, tuple[Future[list[Verdict]], int]] = {}

    def begin(self, jobs: Sequence[tuple[str, str, Mapping]]) -> None:
        """Hands jobs to the pool and returns at once."""
        new = {key: job for job in jobs if (key := name(job)) not in self._begun}
        if new:
            future = self._pool.submit(list(new.values()))
            self._begun |= {key: (future, i) for i, key in enumerate(new)}

    def run(self, jobs: Sequence[tuple[str, str, Mapping]]) -> list[Verdict]:
        """The verdicts, in the order of the jobs."""
        self.begin(jobs)
        begun = [self._begun[name(job)] for job in jobs]
        return [future.result()[i] for future, i in begun]


def name(job: tuple[str, str, Mapping]) -> str:
    """Equal for equal jobs."""
    kind, text, example = job
    return json.dumps([kind, text, dict(example)], default=plain)
