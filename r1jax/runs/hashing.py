"""Computes SHA-256 of files, to detect damage on disk, and of parameters, to identify the weights of a run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from r1jax import storage
from r1jax.weights.files import file_sha256

PIECE_BYTES = 1 << 26  # `arrays_sha256` reads an array in pieces of this size


def write_checksums(directory: Path) -> None:
    """Hashes every file below `directory` and writes the hashes to checksums_PROCESS.json in `directory`.

    The files are divided among the processes, and each process writes the hashes of its files. Every process must call
    this function.
    """
    process = jax.process_index()
    files = [p for p in storage.list_files(directory) if "checksums" not in p.name]
    sums = {p.relative_to(directory).as_posix(): file_sha256(p) for p in files[process :: jax.process_count()]}
    text = json.dumps(sums, indent=0)
    if storage.scheme_of(directory):  # an object is put whole
        (directory / f"checksums_{process}.json").write_text(text, encoding="utf-8")
        return
    torn = directory / f"checksums_{process}.tmp"
    torn.write_text(text, encoding="utf-8")
    torn.rename(torn.with_suffix(".json"))


def read_checksums(directory: Path) -> dict[str, str]:
    """Returns {file name relative to `directory`: SHA-256} from the checksum files; {} if there are none."""
    sums: dict[str, str] = {}
    for path in sorted(directory.glob("checksums_*.json")):
        try:
            sums |= json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            sums[path.name] = "unreadable"
    return sums


def find_damage(directory: Path, sums: dict[str, str]) -> str | None:
    """Returns a description of the first file that is missing or differs from its checksum; None if all files are
    intact.

    The files are divided among the processes, and this process checks only its own files.

    Args:
        sums: the expected checksums, from `read_checksums`.
    """
    for name in sorted(sums)[jax.process_index() :: jax.process_count()]:
        path = directory / name
        if not path.is_file():
            return f"{name} is missing"
        if file_sha256(path) != sums[name]:
            return f"{name} is damaged or truncated"
    return None


def params_sha256(params: Any) -> str:
    """Returns the SHA-256, in hex, of the '/'-joined paths, dtypes, shapes and values of parameters.

    The hash does not depend on the mesh. This process must be able to address every array. `checkpoint.sha256` computes
    the same hash from the files of a checkpoint.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    return arrays_sha256(zip(names, (x for _, x in leaves), strict=True))


def arrays_sha256(arrays: Iterable[tuple[str, Any]]) -> str:
    """Returns the SHA-256, in hex, of named arrays, hashed in the order of their names.

    Args:
        arrays: (name, array) pairs. An array has a shape and a NumPy dtype, and can be sliced along its first axis.
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
    """Splits an array along the first axis into pieces of about PIECE_BYTES. `dtype` is the array's dtype."""
    if not array.shape:
        return [np.asarray(array)]
    row_bytes = dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
    rows = max(1, PIECE_BYTES // max(1, row_bytes))
    count = array.shape[0]
    return (np.asarray(array[start : min(start + rows, count)]) for start in range(0, count, rows))
