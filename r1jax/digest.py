"""Fingerprints: of files, to notice damage on disk; of parameters, to name a run's parent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

PIECE_BYTES = 1 << 26  # what `arrays_sha256` holds of an array at a time


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(directory: Path) -> None:
    """Writes the SHA-256 of every file below `directory` into it; each process does a share."""
    process = jax.process_index()
    files = sorted(p for p in directory.rglob("*") if p.is_file() and "checksums" not in p.name)
    sums = {
        p.relative_to(directory).as_posix(): file_sha256(p)
        for p in files[process :: jax.process_count()]
    }
    torn = directory / f"checksums_{process}.tmp"
    torn.write_text(json.dumps(sums, indent=0), encoding="utf-8")
    torn.rename(torn.with_suffix(".json"))


def read_checksums(directory: Path) -> dict[str, str]:
    """File names below `directory` and their SHA-256; empty if none were written."""
    sums: dict[str, str] = {}
    for path in sorted(directory.glob("checksums_*.json")):
        try:
            sums |= json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            sums[path.name] = "unreadable"
    return sums


def damage(directory: Path, sums: dict[str, str]) -> str | None:
    """What is wrong with the first file that differs from its checksum; None if all is well.

    Each process reads a share.
    """
    for name in sorted(sums)[jax.process_index() :: jax.process_count()]:
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if file_sha256(path) != sums[name]:
            return f"{name} is damaged or truncated"
    return None


def params_sha256(params: Any) -> str:
    """SHA-256 of parameters: '/'-joined paths, dtypes, shapes and values, on whatever mesh.

    Every array must be addressable by this process. `checkpoint.sha256` gives the same from disk.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    return arrays_sha256(zip(names, (x for _, x in leaves), strict=True))


def arrays_sha256(arrays: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 of named arrays in the order of their names.

    Args:
        arrays: anything with a shape and a NumPy dtype that NumPy can slice along the first axis.
    """
    total = hashlib.sha256()
    for name, array in sorted(arrays, key=lambda pair: pair[0]):
        array = np.asarray(array) if isinstance(array, jax.Array) else array
        dtype = np.dtype(array.dtype)
        total.update(f"{name} {dtype.name} {list(array.shape)}\n".encode())
        for piece in pieces(array, dtype):
            total.update(np.ascontiguousarray(piece, dtype.newbyteorder("<")).tobytes())
    return total.hexdigest()


def pieces(array: Any, dtype: np.dtype) -> Iterable[np.ndarray]:
    """The array in runs of rows of about PIECE_BYTES."""
    if not array.shape:
        return [np.asarray(array)]
    row_bytes = dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    rows = max(1, PIECE_BYTES // max(1, row_bytes))
    count = array.shape[0]
    return (np.asarray(array[start : min(start + rows, count)]) for start in range(0, count, rows))
