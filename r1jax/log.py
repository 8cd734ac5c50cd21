"""A run's logs: JSON lines on disk (the truth), TensorBoard and Weights & Biases beside them."""

from __future__ import annotations

import atexit
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

Write = Callable[[int, Mapping[str, object]], None]


class JsonLines:
    """An append-only file of JSON objects, one a line, each on disk before `write` returns.

    Opening drops a torn last line. Also a context manager.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # Unbuffered: a line is one write, so a killed process leaves at most one torn line.
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - closed with this object
        self._file.truncate(_whole_size(self.path))

    def write(self, figures: Mapping[str, object]) -> None:
        """Appends one object.

        A float is written as its shortest `repr`, so that it reads back bit for bit (a float32 as
        the equal float64). None, say an empty mean, becomes null; nan and ±inf become null too and
        their keys are listed in the same line under `nonfinite`, nested ones joined by a dot.
        Arrays and array scalars are written as their numbers.

        Raises:
            OSError: the disk is full; the file is as it was before the call.
            TypeError: a value JSON cannot hold, with its key.
        """
        nonfinite: list[str] = []
        plain = {key: _plain(value, str(key), nonfinite) for key, value in figures.items()}
        if nonfinite:
            plain["nonfinite"] = nonfinite
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False) + "\n"
        # A lone surrogate has no UTF-8 form; Python's backslash form of it is also JSON's.
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        start = self._file.seek(0, os.SEEK_END)
        try:
            while left:
                left = left[self._file.write(left):]
        except OSError:
            self._file.truncate(start)
            raise

    def sync(self) -> None:
        """Waits until all lines are on the medium; call it before a checkpoint is committed."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(value: object, key: str, nonfinite: list[str]) -> object:
    """`value` in types JSON holds; keys of nan and inf are appended to `nonfinite`."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        nonfinite.append(key)
        return None
    if isinstance(value, Mapping):
        return {str(k): _plain(v, f"{key}.{k}", nonfinite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, f"{key}.{i}", nonfinite) for i, v in enumerate(value)]
    if hasattr(value, "tolist"):  # numpy and jax arrays and their scalars, without importing either
        return _plain(value.tolist(), key, nonfinite)
    raise TypeError(f"{key}: a log line cannot hold a {type(value).__name__}")


def _whole_size(path: Path) -> int:
    """The file's size in bytes without a torn last line, that is up to its last newline."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def stream(path: str | os.PathLike[str]) -> Iterator[dict]:
    """The objects of a JSON-lines file one by one, without a torn last line (no newline there).

    Raises:
        ValueError: a whole line is not a JSON object; names the file and the line.
    """
    # Bytes, because text mode would be right only by luck: U+2028 and U+0085 may stand in a line.
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _object(line, path, number)


def read(path: str | os.PathLike[str]) -> list[dict]:
    """All objects of a JSON-lines file, see `stream`."""
    return list(stream(path))


def _object(line: bytes, path: str | os.PathLike[str], number: int) -> dict:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(
            f"{path}, line {number}: not JSON ({error}); delete the line to go on"
        ) from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}, line {number}: not a JSON object; delete the line to go on")
    return value


def cut_back(path: str | os.PathLike[str], step: int) -> int:
    """Keeps the lines up to `step`; the number of lines dropped, a torn last one included.

    The file is replaced in one move: killed at any moment it is the old one or the new one. Kept
    lines keep their bytes. A missing file has nothing to cut.

    Raises:
        ValueError: a whole line is no JSON object or has no `step`; the file is untouched.
    """
    path = Path(path)
    if not path.exists():
        return 0
    dropped = 0
    part = path.with_name(path.name + ".part")
    try:
        with open(path, "rb") as old, open(part, "wb") as new:
            for number, line in enumerate(old, 1):
                whole = line.endswith(b"\n")
                if whole:
                    at = _object(line, path, number).get("step")
                    if not isinstance(at, int):
                        raise ValueError(
                            f"{path}, line {number}: no step; delete the line to go on"
                        )
                if whole and at <= step:
                    new.write(line)
                else:
                    dropped += 1
            new.flush()
            os.fsync(new.fileno())
        if dropped:
            os.replace(part, path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        part.unlink(missing_ok=True)
    return dropped


def _numbers(figures: Mapping[str, object]) -> dict[str, float]:
    """The finite numbers among the figures."""
    plain = {key: _plain(value, key, []) for key, value in figures.items()}
    return {
        key: value for key, value in plain.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and key != "step"
    }


def tensorboard(directory: str | os.PathLike[str], *, resume_step: int | None = None) -> Write:
    """A function (step, figures) that writes the finite numbers to a TensorBoard event file.

    Args:
        resume_step: the checkpoint's step when a run goes on; later events in the directory are
            hidden.

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
    # Its own flush overtakes the queue of a background thread; only close waits for it.
    atexit.register(writer.close)

    def write(step: int, figures: Mapping[str, object]) -> None:
        for key, value in _numbers(figures).items():
            writer.add_scalar(key, value, step)

    return write


def wandb(
    directory: str | os.PathLike[str], *, project: str, name: str, config: Mapping[str, object]
) -> Write:
    """A function (step, figures) that logs the finite numbers to Weights & Biases.

    `WANDB_MODE=offline` writes into `directory` with neither network nor key. `name` is also the
    run's id, so a resumed run goes on in the same curves.

    Raises:
        ValueError: wandb is not installed.
    """
    try:
        import wandb as client
    except ImportError:
        raise ValueError(
            "Weights & Biases logs need wandb, which is not installed: "
            "pip install 'r1jax[wandb]', or leave --track out"
        ) from None
    # wandb writes into the system's temp folder when its own does not exist.
    Path(directory).mkdir(parents=True, exist_ok=True)
    run = client.init(
        project=project, name=name, id=name, resume="allow", dir=os.fspath(directory),
        config=dict(config),
    )

    def write(step: int, figures: Mapping[str, object]) -> None:
        run.log(_numbers(figures), step=step)

    return write
