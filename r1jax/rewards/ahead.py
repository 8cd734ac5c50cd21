"""Judges the finished completions of a round while other completions are still being sampled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait

from r1jax.distributed import beat
from r1jax.rewards._batch import plain
from r1jax.rewards.isolate import Pool
from r1jax.rewards.verdict import Verdict


class Ahead:
    """Stands in for a `Pool` while the completions of one training round are sampled.

    `begin` starts jobs early; `run` starts the other jobs and waits for all.

    A job is (kind of question, text to grade, example), as for `Pool`. The example is what the verifier needs besides
    the text, such as {"gold": "1/2"}. `run` returns the same verdicts as `Pool.run`. A job that both methods get is
    judged once.
    """

    def __init__(self, pool: Pool):
        self._pool = pool
        self._begun: dict[str, tuple[Future[list[Verdict]], int]] = {}

    def begin(self, jobs: Sequence[tuple[str, str, Mapping]]) -> None:
        """Hands jobs to the pool and returns before they are judged."""
        new = {key: job for job in jobs if (key := name(job)) not in self._begun}
        if new:
            future = self._pool.submit(list(new.values()))
            self._begun |= {key: (future, i) for i, key in enumerate(new)}

    def run(self, jobs: Sequence[tuple[str, str, Mapping]]) -> list[Verdict]:
        """Returns one verdict per job, in the order of the jobs. Waits until all are judged."""
        self.begin(jobs)
        begun = [self._begun[name(job)] for job in jobs]
        waiting = {future for future, _ in begun}
        while waiting:
            beat("verifying answers")  # every job has a deadline, so to wait for one is progress
            waiting = wait(waiting, timeout=10).not_done
        return [future.result()[i] for future, i in begun]


def name(job: tuple[str, str, Mapping]) -> str:
    """Returns the job as JSON text, which serves as a key: equal jobs have equal keys."""
    kind, text, example = job
    return json.dumps([kind, text, dict(example)], default=plain)
