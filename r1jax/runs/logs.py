"""Writes the logs of a run: metrics.jsonl, eval.jsonl and samples.jsonl, and TensorBoard or W&B if --track asks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.distributed import is_main
from r1jax.jsonl import JsonLines, cut_back
from r1jax.recipes import RunOptions
from r1jax.runs.trackers import Write, tensorboard, wandb

LOGS = ("metrics", "eval", "samples")
TRACKED = {"metrics": "", "eval": "held_out/"}  # log sent to --track -> prefix of its names there


class Logs:
    """Appends to metrics.jsonl, eval.jsonl and samples.jsonl of a working directory. Only process 0 writes.

    Args:
        workdir: the run's directory.
        step: the step of the checkpoint from which the run continues; -1 for a new run. Lines of later steps are
            removed from metrics.jsonl and samples.jsonl.
        evaluated: the step of the newest evaluation to keep. Lines of later steps are removed from eval.jsonl.
        options: flags of the run. --track chooses TensorBoard or Weights & Biases.
        fields: fields of the recipe, which Weights & Biases stores.
    """

    def __init__(self, workdir: Path, step: int, evaluated: int, options: RunOptions, fields: Mapping[str, Any]):
        self._files: dict[str, JsonLines] = {}
        self._track: Write | None = None
        if is_main():
            if options.track == "tensorboard":
                self._track = tensorboard(workdir / "tensorboard", resume_step=step if step >= 0 else None)
            elif options.track == "wandb":
                self._track = wandb(workdir / "wandb", project="r1jax", name=workdir.name, config=fields)
            for name in LOGS:
                cut_back(workdir / f"{name}.jsonl", evaluated if name == "eval" else step)
                self._files[name] = JsonLines(workdir / f"{name}.jsonl")

    def write(self, name: str, line: Mapping[str, Any]) -> None:
        """Appends a line to a log, and sends its numbers to TensorBoard or Weights & Biases if --track asks.

        Args:
            name: "metrics", "eval" or "samples", the name of the log. Samples are not sent.
            line: {name: value}. One of the names must be "step".
        """
        if self._files:
            self._files[name].write(line)
        if self._track and name in TRACKED:
            self._track(line["step"], {f"{TRACKED[name]}{key}": x for key, x in line.items() if key != "step"})

    def sync(self) -> None:
        """Waits until every line is on disk. Call this method before a checkpoint is saved."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
