"""Appends to, reads and truncates JSON-lines files, such as the logs and samples of a run."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from r1jax import storage

UPLOAD_S = 60.0  # a log in a bucket is uploaded this often, besides at each `sync`


class JsonLines:
    """An append-only file with one JSON object per line. `write` hands each line to the operating system at once.

    Opening the file removes an incomplete last line. An instance is also a context manager.

    A file in a cloud bucket cannot be appended to. Its lines go to a local file. The whole local file is then uploaded
    by `sync`, by `close`, and by a `write` that comes at least UPLOAD_S seconds after the last upload.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = storage.path_of(path)
        storage.make_folder(self.path.parent)
        self._spool = storage.spool(self.path) if storage.scheme_of(self.path) else None
        self._uploaded, self._changed = time.monotonic(), False
        local = self.path if self._spool is None else self._spool
        # Unbuffered: a line is one write, so a killed process leaves at most one incomplete line.
        self._file = open(local, "ab", buffering=0)  # noqa: SIM115 - closed with this object
        self._file.truncate(_whole_size(local))

    def write(self, figures: Mapping[str, object]) -> None:
        """Appends `figures`, {name: value}, as one line.

        A float is written as its shortest `repr`, so it reads back bit for bit. A float32 reads back as a float64 of
        the same value. None becomes null. nan and ±inf become null too, and the line then lists their keys under
        `nonfinite`, with nested keys joined by dots. Arrays and array scalars are written as numbers.

        Raises:
            OSError: the line cannot be written, for example because the disk is full. The file is then unchanged.
            TypeError: JSON cannot hold a value in `figures`; the message names the key of the value.
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
                left = left[self._file.write(left) :]
        except OSError:
            self._file.truncate(start)
            raise
        self._changed = True
        if time.monotonic() - self._uploaded >= UPLOAD_S:
            self._upload()

    def sync(self) -> None:
        """Waits until all lines are on disk (fsync), or in the bucket.

        Call this method before a checkpoint is committed.
        """
        os.fsync(self._file.fileno())
        self._upload()

    def _upload(self) -> None:
        """Uploads the file if it lies in a bucket and has lines that are not there yet."""
        if self._spool is not None and self._changed:
            storage.put(self._spool, self.path)
            self._uploaded, self._changed = time.monotonic(), False

    def close(self) -> None:
        try:
            self._upload()
        finally:
            self._file.close()
            if self._spool is not None:
                self._spool.unlink(missing_ok=True)

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _plain(value: object, key: str, nonfinite: list[str]) -> object:
    """Returns `value` in types that JSON can hold. nan and ±inf become None.

    Args:
        key: the key of `value` in the line, nested keys joined by dots, for errors and for `nonfinite`.
        nonfinite: a list to which the keys of nan and ±inf are appended.
    """
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
    raise TypeError(
        f"{key}: a log line cannot hold a {type(value).__name__}, because JSON has no such type. "
        "Give a number, a text, a list, a dictionary or None"
    )


def _whole_size(path: Path) -> int:
    """Returns the size in bytes of the file's complete lines, without an incomplete last line."""
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
    """Yields the objects of a JSON-lines file. Skips an incomplete last line, one without a newline.

    Raises:
        ValueError: a complete line is not a JSON object; the message names the file and the line.
    """
    # Bytes, because only a newline ends a line here: U+2028 and U+0085 may occur within one.
    with storage.path_of(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.endswith(b"\n"):
                yield _object(line, path, number)


def read(path: str | os.PathLike[str]) -> list[dict]:
    """Returns all objects of a JSON-lines file; see `stream`."""
    return list(stream(path))


def _object(line: bytes, path: str | os.PathLike[str], number: int) -> dict:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: not JSON ({error}); delete the line to go on") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}, line {number}: not a JSON object; delete the line to go on")
    return value


def cut_back(path: str | os.PathLike[str], step: int) -> int:
    """Removes the lines whose "step" is above `step`, and an incomplete last line.

    Returns the number of removed lines, which is 0 if there is no file.

    The file is replaced atomically: a crash leaves the old file or the new one. The kept lines are unchanged, byte for
    byte.

    Raises:
        ValueError: a complete line is not a JSON object or has no "step". The file is then unchanged.
    """
    path = storage.path_of(path)
    if not path.exists():
        return 0
    if not storage.scheme_of(path):
        return _cut_file(path, step, path)
    held = storage.spool(path)
    try:
        if dropped := _cut_file(held, step, path):
            storage.put(held, path)
    finally:
        held.unlink()
    return dropped


def _cut_file(path: Path, step: int, shown: Path) -> int:
    """Does the work of `cut_back` for a local file. shown: the file's path for errors."""
    dropped = 0
    part = path.with_name(path.name + ".part")
    try:
        with open(path, "rb") as old, open(part, "wb") as new:
            for number, line in enumerate(old, 1):
                whole = line.endswith(b"\n")
                if whole:
                    at = _object(line, shown, number).get("step")
                    if not isinstance(at, int):
                        raise ValueError(f"{shown}, line {number} has no 'step'; delete the line to go on")
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
