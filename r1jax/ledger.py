"""The line of each step in metrics.jsonl, written while the device works on the next."""

from __future__ import annotations

import concurrent.futures
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from r1jax.alarms import Alarms
from r1jax.metrics import step_metrics
from r1jax.pace import Pace
from r1jax.progress import Progress
from r1jax.recipe import RLRecipe
from r1jax.rollout import Minibatch
from r1jax.rounds import moving
from r1jax.run import Logs

SHOWN = ("reward/accuracy", "reward/format", "completion/length")


class Sampled(NamedTuple):
    """What a round's wave sampled, and when the host began and ended (`time.monotonic`).

    Attributes:
        prompts, lengths: of all processes, as `limits.rollout_seconds` takes them.
    """

    prompts: np.ndarray
    lengths: np.ndarray
    began: float
    ended: float


class Entry(NamedTuple):
    """An update under way.

    Attributes:
        rows: its part of the round's.
        ready: when the device had its batch.
        figures: of the update, and when they were there.
    """

    step: int
    sampled: Sampled
    rows: Mapping[str, np.ndarray]
    batch: Sequence[Minibatch]
    ready: Future[float]
    figures: Future[tuple[dict[str, float], float]]


class Ledger:
    """Writes what updates measured, one step late.

    The host begins an update and goes on; the figures stay on the device until it has them. `enter` notes an update
    that was begun, and only then waits for the one before and writes its line. `settle` waits for the last: call it
    before whatever counts on its line, such as a checkpoint. Warnings, and the stop after non-finite updates, come with
    the line: at latest one step after their cause, and never after a checkpoint that has it.

    A context manager.

    Args:
        warnings: of the steps before, {"step", "text"} each; new ones are added to a list of its own.
        whole: every parameter is trained; if not, the share of the ceiling that an update reached is not known.
    """

    def __init__(
        self, workdir: Path, recipe: RLRecipe, logs: Logs, alarms: Alarms, progress: Progress, pace: Pace,
        warnings: Sequence[dict] = (), *, whole: bool = True,
    ):  # fmt: skip
        self.warnings = list(warnings)
        self._workdir, self._recipe, self._whole = workdir, recipe, whole
        self._logs, self._alarms, self._progress, self._pace = logs, alarms, progress, pace
        self._watch = concurrent.futures.ThreadPoolExecutor(1, "figures")  # one: it sees updates in their order
        self._entry: Entry | None = None
        self._skipped = 0
        self._done = 0.0  # when the update before was done
        self._round: tuple[Sampled, float, dict[str, float]] | None = None

    def ready(self, batch: Sequence[Minibatch]) -> Future[float]:
        """When the device has a batch and is done with the update before: ask before the next update is begun."""
        return self._watch.submit(lambda: (jax.block_until_ready(batch), time.monotonic())[1])

    def enter(
        self, step: int, sampled: Sampled, rows: Mapping[str, np.ndarray], batch: Sequence[Minibatch],
        ready: Future[float], figures: Mapping[str, jax.Array],
    ) -> None:  # fmt: skip
        """Notes an update that was begun, then writes the line of the one before.

        Raises:
            FloatingPointError: that one was the last of `max_skips` + 1 in a row that were not finite.
        """
        entry = Entry(step, sampled, rows, batch, ready, self._watch.submit(fetched, figures))
        self.settle()
        self._entry = entry

    def settle(self) -> None:
        """Writes the line that is still open, if there is one. Raises as `enter` does."""
        entry, self._entry = self._entry, None
        if entry is None:
            return
        figures, now = entry.figures.result()
        metrics = step_metrics(entry.rows, figures, self._recipe.group_size)
        self._logs.write("metrics", {"step": entry.step, **metrics, **self._perf(entry, now)})
        self._progress.update(entry.step, {k: metrics[k] for k in SHOWN if k in metrics})
        self._skipped = self._skipped + 1 if figures["skipped"] else 0
        if figures["skipped"]:
            save_batch(self._workdir, entry.step, entry.batch)
        if self._skipped > self._recipe.max_skips:
            raise FloatingPointError(
                f"{self._skipped} updates in a row were not finite; "
                f"the last batch is {self._workdir}/nonfinite-{entry.step}.npz. Lower --learning-rate"
            )
        for text in self._alarms.check(metrics):
            self._progress.say(f"step {entry.step}: warning: {text}")
            self.warnings.append({"step": entry.step, "text": text})

    def _perf(self, entry: Entry, now: float) -> dict[str, float]:
        """Figures of the machine. A step begins with its round, but not before the one before was done."""
        sampled, began = entry.sampled, max(entry.sampled.began, self._done)
        if self._round is None or self._round[0] is not sampled:
            seconds = sampled.ended - began
            shares = self._pace.rollout(sampled.prompts, sampled.lengths, seconds)
            self._round = sampled, began, {"perf/rollout_s": seconds, **shares}
        _, first, shares = self._round
        self._done = now
        perf = {"perf/step_s": now - began, "perf/tokens_per_s": sampled.lengths.sum() / (now - first), **shares}
        if not self._whole:
            return perf
        rows = entry.rows
        seen = moving(self._recipe, rows["advantage"])
        seconds = now - entry.ready.result()
        return perf | self._pace.update(rows["prompt"][:: self._recipe.group_size], rows["length"], seen, seconds)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.shutdown()


def fetched(figures: Mapping[str, jax.Array]) -> tuple[dict[str, float], float]:
    """Figures on the host, and when they were there."""
    values = {k: float(v) for k, v in jax.device_get(figures).items()}
    return values, time.monotonic()


def save_batch(workdir: Path, step: int, batches: Sequence[Minibatch]) -> None:
    """A minibatch whose update was not finite, for a look at it: this process's part of it."""
    local = jax.tree.map(
        lambda x: np.concatenate([np.asarray(s.data) for s in x.addressable_shards if s.replica_id == 0]), list(batches)
    )
    named = [
        (f"{name}/{i}", value) for i, b in enumerate(local) for name, value in (b._asdict() | b.rows._asdict()).items()
    ]
    arrays = {name: x for name, x in named if isinstance(x, np.ndarray)}
    np.savez_compressed(workdir / f"nonfinite-{step}.npz", **arrays)
