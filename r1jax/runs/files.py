"""Writes files atomically, and hashes files for manifests."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from r1jax import storage


def write_atomically(path: Path, text: str) -> None:
    """Writes a text file so that a crash leaves either the old file or the new one. Creates the file's folder.

    In a bucket, a write always replaces the whole object.
    """
    if storage.scheme_of(path):
        path.write_bytes(text.encode("utf-8"))
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.with_name(f".{path.name}.tmp")
    with open(torn, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(torn, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename has to reach the disk, too
    finally:
        os.close(folder)


def write_lines(path: Path, records: Iterable[Mapping]) -> None:
    """Writes a JSON-lines file with one line for each record, atomically (see `write_atomically`)."""
    write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def hash_files(*paths: str | Path) -> list[dict[str, str]]:
    """Returns a list of {"path", "sha256"}, one for each file: the form in which a manifest's `data` names files."""
    return [
        {"path": str(path), "sha256": hashlib.sha256(storage.path_of(path).read_bytes()).hexdigest()} for path in paths
    ]
