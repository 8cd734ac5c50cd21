"""Writing checkpoints in the background; `checkpoint` reads them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from r1jax.checkpoint import is_committed, latest
from r1jax.digest import write_checksums


class Saver:
    """Writes checkpoints into a directory, one at a time, while training goes on.

    A context manager. Every process makes one and calls it alike. What a crash left half-written is
    removed first.

    Args:
        keep: how many of the newest checkpoints to keep.
        keep_every: also keep those of steps that are multiples of this.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2, keep_every: int | None = None):
        self.directory = Path(directory).absolute()
        if jax.process_index() == 0:
            remove_uncommitted(self.directory)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("uncommitted checkpoints removed")
        policies = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)] + ([policies.EveryNSteps(keep_every)] if keep_every else [])
        policy = policies.AnyPreservationPolicy(kept)
        self._orbax = ocp.training.Checkpointer(self.directory, preservation_policy=policy)
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future | None = None
        self._failed = False

    def save(self, step: int, state: Any, meta: dict | None = None) -> None:
        """Starts writing, once the checkpoint before is on disk; `state` may then be donated.

        A step that is already there is left as it is.

        Args:
            state: a pytree of arrays, NamedTuples and optax states included.
            meta: what JSON can hold; `read_meta` returns it.

        Raises:
            ValueError: there is a later checkpoint, which retention would count as the newer one.
            OSError: the disk was full, now or for the one before; earlier checkpoints are whole.
        """
        self.wait()
        newest = latest(self.directory)
        if newest == step:
            return
        if newest is not None and newest > step:
            raise ValueError(
                f"{self.directory} has a checkpoint of step {newest}; step {step} cannot follow. "
                f"Go on from it, or use a new --workdir"
            )
        with self._explained(step):
            # force: the loop decides when. Orbax's own policy drops a save while another one runs.
            response = self._orbax.save_checkpointables_async(
                step, {"state": state}, force=True, custom_metadata=meta or {}
            )
        self._writing = self._background.submit(self._finish, step, response)

    def _finish(self, step: int, response: Any) -> None:
        with self._explained(step):
            response.result()
            write_checksums(self.directory / str(step))

    def wait(self) -> None:
        """Returns when the checkpoint is on disk, or raises why it is not."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._background.shutdown()
            # After a failure, which we have raised, Orbax would raise it once more.
            with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
                self._orbax.close()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """A full disk as an OSError that says so; what the failed checkpoint took is freed."""
        try:
            yield
        except Exception as err:
            self._failed = True
            if not is_disk_full(err):
                raise
            if jax.process_index() == 0:
                remove_uncommitted(self.directory)
            newest = latest(self.directory)
            raise OSError(
                errno.ENOSPC,
                f"the disk is full at the checkpoint of step {step}; the newest whole one is "
                f"{'none' if newest is None else f'that of step {newest}'}. "
                f"Free some space, then go on with --resume=True",
                str(self.directory),
            ) from None


def is_disk_full(err: BaseException) -> bool:
    codes = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # no space, a file limit (ulimit -f), a quota
    if isinstance(err, OSError):
        return err.errno in codes
    # TensorStore raises a ValueError and has the errno in its text.
    return any(f"os_error_code='{code}'" in str(err) for code in codes)


def remove_uncommitted(directory: Path) -> None:
    """Removes what is named like a step without being a checkpoint. Orbax takes it for one."""
    for path in directory.glob("*"):
        step, _, rest = path.name.partition(".")
        torn = rest.startswith("orbax-checkpoint-tmp") or (not rest and not is_committed(path))
        if step.isdecimal() and torn:
            shutil.rmtree(path, ignore_errors=True)


def remove(directory: str | Path, step: int) -> None:
    """Removes one checkpoint. Every process calls it."""
    if jax.process_index() == 0:
        shutil.rmtree(Path(directory) / str(step))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("checkpoint removed")
