"""Writes checkpoints in the background. The module `checkpoint` reads them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import logging
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from r1jax import storage
from r1jax.distributed import wait_for_all
from r1jax.runs.checkpoint import COMMITTED, is_committed, latest
from r1jax.runs.hashing import write_checksums

ORBAX_LOG = logging.getLogger("absl")


class Saver:
    """A context manager that writes checkpoints into a directory, one at a time, while training continues.

    Every process makes a `Saver` and calls the same methods. Checkpoints that a crash left incomplete are removed at
    the beginning.

    Args:
        directory: the directory of the checkpoints.
        keep: number of checkpoints to keep; older ones are removed.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2):
        self.directory = storage.absolute(storage.path_of(directory))
        self._keep = keep
        if jax.process_index() == 0:
            remove_uncommitted(self.directory)
        wait_for_all("uncommitted checkpoints removed")
        # Orbax cannot write to s3://, so it writes to a local folder, of which a whole checkpoint is uploaded.
        staged = storage.scheme_of(self.directory) == "s3"
        self._stage = tempfile.TemporaryDirectory(prefix="r1jax-") if staged else None
        newest = ocp.training.preservation_policies.LatestN(keep if self._stage is None else 1)
        place = self.directory if self._stage is None else Path(self._stage.name)
        self._orbax = ocp.training.Checkpointer(place, preservation_policy=newest)
        self._background = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._writing: concurrent.futures.Future | None = None
        self._failed = False

    def save(self, step: int, state: Any, meta: dict | None = None) -> None:
        """Waits until the previous checkpoint is written, then starts writing this one in the background.

        `state` may be donated once this method returns. If a checkpoint of this step exists already, that checkpoint
        stays unchanged.

        Args:
            state: a pytree of arrays; it may contain NamedTuples and optax states.
            meta: JSON values to store beside the state. `checkpoint.read_meta` returns them.

        Raises:
            ValueError: there is a checkpoint of a later step, which would be taken for the newest one.
            OSError: the directory cannot be written, or the disk was full while this checkpoint or the previous one was
                written. Earlier checkpoints are intact.
        """
        self.wait()
        newest = latest(self.directory)
        if newest == step:
            return
        if newest is not None and newest > step:
            raise ValueError(
                f"{self.directory} has a checkpoint of step {newest}; step {step} cannot follow. "
                f"Continue from step {newest} with --resume=True, or use a new --workdir"
            )
        with self._explained(step):
            if jax.process_index() == 0 and not storage.scheme_of(self.directory):
                try_writing(self.directory)
            # force: the training loop decides when to save. Orbax's policy would skip a save while one is running.
            response = self._orbax.save_checkpointables_async(
                step, {"state": state}, force=True, custom_metadata=meta or {}
            )
        self._writing = self._background.submit(self._finish, step, response)

    def _finish(self, step: int, response: Any) -> None:
        with self._explained(step):
            response.result()
            if self._stage is None:
                write_checksums(self.directory / str(step))
            else:
                self._upload(Path(self._stage.name) / str(step))

    def _upload(self, folder: Path) -> None:
        """Uploads a whole checkpoint, then removes those that are too old. It counts once its last file is there."""
        write_checksums(folder)
        storage.put_folder(folder, self.directory / folder.name, last=(COMMITTED,))
        steps = sorted(int(path.name) for path in self.directory.glob("*") if path.name.isdecimal())
        for step in steps[: -self._keep]:
            storage.remove_tree(self.directory / str(step))

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk. Raises an error if it could not be written: see `save`."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._background.shutdown()
            # Orbax would raise a failure that was raised already a second time.
            with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
                self._orbax.close()
            if self._stage is not None:
                self._stage.cleanup()

    def __enter__(self) -> Saver:
        ORBAX_LOG.addFilter(has_other_cause)
        self._hook = sys.unraisablehook
        sys.unraisablehook = drop_closed_loops(self._hook)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            # After a failure, other threads may still be writing. They would print errors about removed files.
            if not self._failed:
                ORBAX_LOG.removeFilter(has_other_cause)
                sys.unraisablehook = self._hook

    @contextlib.contextmanager
    def _explained(self, step: int) -> Iterator[None]:
        """Runs a `with` block that writes the checkpoint of `step`.

        If the disk is full, removes the incomplete checkpoint and raises an OSError that says what to do.
        """
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
                f"the disk is full: the checkpoint of step {step} is incomplete. "
                f"{'No checkpoint' if newest is None else f'The checkpoint of step {newest}'} is complete. "
                f"Free some space, then continue with --resume=True",
                str(self.directory),
            ) from None


def is_disk_full(err: BaseException) -> bool:
    """Returns whether an error means that the disk is full, or that a quota or a file-size limit is reached."""
    codes = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)  # no space, a file limit (ulimit -f), a quota
    if isinstance(err, OSError):
        return err.errno in codes
    # TensorStore raises a ValueError whose text contains the errno.
    return any(f"os_error_code='{code}'" in str(err) for code in codes)


def has_other_cause(record: logging.LogRecord) -> bool:
    """Filters Orbax's log. Returns False, which drops a line, if the line reports an error that `Saver` raises.

    When the disk is full, each of Orbax's threads logs the same error with its stack, a thousand lines in all.
    """
    error = record.exc_info[1] if record.exc_info else None
    known = isinstance(error, OSError) or "orbax-checkpoint-tmp" in str(error)  # of a checkpoint being written
    return not (known or (error is not None and is_disk_full(error)))


def drop_closed_loops(hook: Callable[[Any], object]) -> Callable[[Any], object]:
    """Returns a `sys.unraisablehook` that drops errors about a closed event loop, and passes all others to `hook`.

    When one write of a checkpoint fails, Orbax closes its event loop, although the remaining writes are still running.
    When such a write ends, TensorStore reports it to the closed loop, which prints a traceback.
    """

    def filtered(raised: Any) -> None:
        if not (isinstance(raised.exc_value, RuntimeError) and str(raised.exc_value) == "Event loop is closed"):
            hook(raised)

    return filtered


def try_writing(directory: Path) -> None:
    """Makes a test file in a subdirectory of `directory`, and removes it. Raises OSError if that fails.

    Without this check, Orbax's threads would wait five minutes for a directory that could not be made.
    """
    probe = directory / ".probe"
    shutil.rmtree(probe, ignore_errors=True)
    try:
        (probe / "state" / "d").mkdir(parents=True)
        (probe / "state" / "d" / "file").write_bytes(bytes(4096))
    finally:
        shutil.rmtree(probe, ignore_errors=True)


def remove_uncommitted(directory: Path) -> None:
    """Removes incomplete checkpoints from a directory, because Orbax would take them for complete ones."""
    for path in directory.glob("*"):
        step, _, rest = path.name.partition(".")
        torn = rest.startswith("orbax-checkpoint-tmp") or (not rest and not is_committed(path))
        if step.isdecimal() and torn:
            with contextlib.suppress(OSError):
                storage.remove_tree(path)


def remove(directory: str | Path, step: int) -> None:
    """Removes the checkpoint of `step` from `directory`. Every process must call this function."""
    if jax.process_index() == 0:
        storage.remove_tree(storage.path_of(directory) / str(step))
    wait_for_all("checkpoint removed")
