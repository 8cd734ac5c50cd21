"""Writes the metrics.jsonl line of each step while the device works on the next step."""

from __future__ import annotations

import concurrent.futures
import io
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from r1jax.runs.health import Alarms
from r1jax.runs.logs import Logs
from r1jax.runs.progress import Progress


class Times(NamedTuple):
    """Times of a step, in seconds of `time.monotonic`.

    Attributes:
        before: when the metrics of the previous step arrived on the host; 0 for the first step.
        ready: when the device had the batch of this step and had finished the previous step.
        done: when the metrics of this step arrived on the host.
    """

    before: float
    ready: float
    done: float

    @property
    def seconds(self) -> float:
        """Seconds from `ready` or `before`, the later of the two, to `done`."""
        return self.done - max(self.before, self.ready)


Describe = Callable[[dict[str, float], Times], dict]  # (metrics of the update, times) -> line of metrics.jsonl


class Entry(NamedTuple):
    """A step that was dispatched to the device, and whose line is not written yet.

    Attributes:
        step: the step, counted from 1.
        describe: a function `(figures, times) -> line` that makes the line of metrics.jsonl.
        batch: the micro-batches of the step, which are saved if the update is not finite.
        ready: a future of `Times.ready`.
        figures: a future of ({name: value} of the update's metrics, the time at which they arrived on the host).
    """

    step: int
    describe: Describe
    batch: Sequence[Any]
    ready: Future[float]
    figures: Future[tuple[dict[str, float], float]]


class StepLogger:
    """Writes the line of each step one step late, and ends a run whose updates are not finite.

    The host dispatches a step without waiting for the result. `enter` takes the step that was just dispatched, then
    waits for the metrics of the previous step and writes the previous step's line. `settle` waits for the last step;
    `Run` calls `settle` before evaluations and checkpoints.

    Warnings come when a line is written, and so does the error after non-finite updates. Both come at most one step
    after the update that caused them, and before a checkpoint contains the result of this update.

    Args:
        workdir: the run's directory.
        logs: the logs to write to.
        progress: the progress bar.
        max_skips: number of non-finite updates in a row that a run survives.
        shown: keys of the line whose values the progress bar shows.
        alarms: the warnings to check after each step; if None, no warnings.
        warnings: a {"step", "text"} for each warning that the run gave before it was resumed.

    Attributes:
        warnings: a {"step", "text"} for each warning so far, those before a resume included.
    """

    def __init__(
        self,
        workdir: Path,
        logs: Logs,
        progress: Progress,
        *,
        max_skips: int,
        shown: Sequence[str],
        alarms: Alarms | None = None,
        warnings: Sequence[dict] = (),
    ):
        self.warnings = list(warnings)
        self._workdir, self._logs, self._progress = workdir, logs, progress
        self._max_skips, self._shown, self._alarms = max_skips, shown, alarms
        self._watch = concurrent.futures.ThreadPoolExecutor(
            1, "figures"
        )  # one thread, so that steps are handled in order
        self._entry: Entry | None = None
        self._skipped = 0
        self._done = 0.0  # `Times.done` of the previous step

    def watch(self, batch: Any) -> Future[float]:
        """Returns a future of the time when the device has `batch` and has finished the previous step: `Times.ready`.

        Call this method before the update.
        """
        return self._watch.submit(lambda: (jax.block_until_ready(batch), time.monotonic())[1])

    def enter(
        self,
        step: int,
        figures: Mapping[str, jax.Array],
        describe: Describe,
        ready: Future[float],
        batch: Sequence[Any] = (),
    ) -> None:
        """Takes a step that was just dispatched, then writes the line of the previous step.

        Args:
            step: the step, counted from 1.
            figures: {name: scalar} of the update's metrics, still on the device.
            describe: a function `(figures, times) -> line` that makes the line of metrics.jsonl.
            ready: from `watch`.
            batch: the micro-batches of the step, which are saved if the update is not finite.

        Raises:
            FloatingPointError: the last `max_skips` + 1 updates, up to the previous step, were not finite.
        """
        entry = Entry(step, describe, batch, ready, self._watch.submit(fetch, figures))
        self.settle()
        self._entry = entry

    def settle(self) -> None:
        """Waits for the last step and writes its line, unless it is written already. Raises the errors of `enter`."""
        entry, self._entry = self._entry, None
        if entry is None:
            return
        figures, now = entry.figures.result()
        times, self._done = Times(self._done, entry.ready.result(), now), now
        line = entry.describe(figures, times)
        self._logs.write("metrics", {"step": entry.step, **line})
        self._progress.update(entry.step, {key: line[key] for key in self._shown if key in line})
        self._count_skips(entry, figures)
        for text in self._alarms.check(line) if self._alarms else ():
            self._progress.say(f"step {entry.step}: warning: {text}")
            self.warnings.append({"step": entry.step, "text": text})

    def _count_skips(self, entry: Entry, figures: Mapping[str, float]) -> None:
        """Saves the batch of a non-finite update. Raises FloatingPointError after too many in a row."""
        self._skipped = self._skipped + 1 if figures["skipped"] else 0
        if figures["skipped"]:
            save_batch(self._workdir, entry.step, entry.batch)
        if self._skipped > self._max_skips:
            raise FloatingPointError(
                f"{self._skipped} updates in a row were not finite; "
                f"the last batch is in {self._workdir}/nonfinite-{entry.step}.npz. Lower --learning-rate"
            )

    def close(self) -> None:
        self._watch.shutdown()


def fetch(figures: Mapping[str, jax.Array]) -> tuple[dict[str, float], float]:
    """Fetches metrics from the device. Returns ({name: value}, the time at which they arrived on the host)."""
    values = {k: float(v) for k, v in jax.device_get(figures).items()}
    return values, time.monotonic()


def save_batch(workdir: Path, step: int, batches: Sequence[Any]) -> None:
    """Writes this process's part of a step's micro-batches to nonfinite-STEP.npz."""
    arrays = {}
    for i, batch in enumerate(batches):
        for path, x in jax.tree_util.tree_leaves_with_path(batch):
            local = [np.asarray(shard.data) for shard in x.addressable_shards if shard.replica_id == 0]
            name = jax.tree_util.keystr(path, simple=True, separator="/").removeprefix("rows/")
            arrays[f"{name}/{i}"] = np.concatenate(local)
    held = io.BytesIO()
    np.savez_compressed(held, **arrays)
    (workdir / f"nonfinite-{step}.npz").write_bytes(held.getvalue())
