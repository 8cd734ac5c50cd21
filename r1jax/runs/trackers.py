"""Sends the metrics of a run to TensorBoard or Weights & Biases, in addition to the logs on disk."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from r1jax.jsonl import _plain

Write = Callable[[int, Mapping[str, object]], None]


def _numbers(figures: Mapping[str, object]) -> dict[str, float]:
    """Returns the finite numbers in `figures`, {name: value}. Leaves out all other values, and "step"."""
    plain = {key: _plain(value, key, []) for key, value in figures.items()}
    return {
        key: value
        for key, value in plain.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "step"
    }


def tensorboard(directory: str | os.PathLike[str], *, resume_step: int | None = None) -> Write:
    """Returns a function `(step, figures)` that writes metrics, {name: value}, to a TensorBoard event file in
    `directory`. Values that are not finite numbers are left out.

    Args:
        resume_step: the step from which a run resumes. TensorBoard then hides events of later steps in the directory.
            None for a new run.

    Raises:
        ValueError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ValueError(
            "TensorBoard logs need tensorboardX, which is not installed: "
            "pip install 'r1jax[tensorboard]', or leave --track out"
        ) from None
    purge = None if resume_step is None else resume_step + 1
    writer = SummaryWriter(os.fspath(directory), purge_step=purge, flush_secs=10)
    # Only close waits for the queue of the writer's background thread; flush does not.
    atexit.register(writer.close)

    def write(step: int, figures: Mapping[str, object]) -> None:
        for key, value in _numbers(figures).items():
            writer.add_scalar(key, value, step)

    return write


def wandb(directory: str | os.PathLike[str], *, project: str, name: str, config: Mapping[str, object]) -> Write:
    """Returns a function `(step, figures)` that logs metrics, {name: value}, to Weights & Biases.

    Values that are not finite numbers are left out.

    With the environment variable `WANDB_MODE=offline`, wandb writes into `directory` and needs neither network nor key.

    Args:
        directory: the folder for the files of Weights & Biases.
        project: the project to log to.
        name: name of the run, also used as its id, so that a resumed run continues the same curves.
        config: the hyperparameters to store with the run.

    Raises:
        ValueError: wandb is not installed.
    """
    try:
        import wandb as client
    except ImportError:
        raise ValueError(
            "Weights & Biases logs need wandb, which is not installed: pip install 'r1jax[wandb]', or leave --track out"
        ) from None
    # wandb writes into the system's temporary folder if `directory` does not exist.
    Path(directory).mkdir(parents=True, exist_ok=True)
    run = client.init(
        project=project,
        name=name,
        id=name,
        resume="allow",
        dir=os.fspath(directory),
        config=dict(config),
    )

    def write(step: int, figures: Mapping[str, object]) -> None:
        run.log(_numbers(figures), step=step)

    return write
