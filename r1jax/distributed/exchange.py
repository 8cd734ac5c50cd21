"""Exchanges values between the processes of a run. Every process calls these functions, and every process gets the
result."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from r1jax.distributed.phases import waiting
from r1jax.distributed.store import Store

LEAST_BYTES = 1 << 12  # messages are padded to a power of two of at least this size: every size is a compiled program
MOST_BYTES = 1 << 28  # the most bytes that a device holds of a message, of all processes together

_store: ContextVar[Store | None] = ContextVar("store", default=None)  # over which this thread exchanges values


@contextlib.contextmanager
def exchange_over(store: Store | None) -> Iterator[None]:
    """Makes this thread exchange values over a store in place of devices while the `with` block runs.

    With None, this thread goes on as before.
    """
    token = _store.set(store or _store.get())
    try:
        yield
    finally:
        _store.reset(token)


def is_main() -> bool:
    """Returns whether this is process 0, which writes the files."""
    return jax.process_index() == 0


def wait_for_all(what: str) -> None:
    """Waits until every process has called this function.

    `what` describes this wait in errors; all processes give the same text.
    """
    if jax.process_count() > 1:
        with waiting():
            if store := _store.get():
                store.gather(b"")
                return
            multihost_utils.sync_global_devices(what)


def gather_numbers(values: Sequence[int]) -> np.ndarray:
    """Gathers a few integers from every process. Returns an array [processes, n].

    Args:
        values: this process's n numbers below 2³¹; n is the same in every process.
    """
    if jax.process_count() == 1:
        return np.asarray([values])
    with waiting():
        if store := _store.get():
            found = store.gather(np.asarray(values, np.int32).tobytes())
            return np.stack([np.frombuffer(each, np.int32) for each in found])
        return np.asarray(multihost_utils.process_allgather(np.asarray(values, np.int32)))


def agree(value: int, reduce: Callable = max) -> int:
    """Combines one value from every process into one result, which every process gets.

    Args:
        value: this process's value.
        reduce: combines a list of the values; by default `max`.
    """
    return int(reduce(gather_numbers([value])[:, 0].tolist()))


def gather_bytes(data: bytes) -> list[bytes]:
    """Gathers a message of any length from every process. Returns the messages in the order of the processes."""
    count = jax.process_count()
    if count == 1:
        return [data]
    if store := _store.get():
        with waiting():
            return store.gather(data)
    sizes = gather_numbers([len(data) >> 24, len(data) & 0xFFFFFF]).astype(np.int64)
    sizes = sizes[:, 0] * (1 << 24) + sizes[:, 1]
    mine, most = np.frombuffer(data, np.uint8), MOST_BYTES // count
    parts: list[list[bytes]] = [[] for _ in range(count)]
    for start in range(0, int(sizes.max()), most):
        room = LEAST_BYTES
        while room < min(int(sizes.max()) - start, most):
            room *= 2
        piece = mine[start : start + most]
        found = multihost_utils.process_allgather(np.pad(piece, (0, room - len(piece))))
        for of, row, size in zip(parts, found, sizes, strict=True):
            of.append(row[: max(0, min(int(size) - start, most))].tobytes())
    return [b"".join(of) for of in parts]


def gather_json(value: Any) -> list[Any]:
    """Gathers a JSON value from every process. Returns the values in the order of the processes."""
    if jax.process_count() == 1:
        return [value]
    return [json.loads(text) for text in gather_bytes(json.dumps(value).encode())]


def gather_arrays(arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Gathers named host arrays from every process. Names, shapes and dtypes may differ between processes.

    Returns one {name: array} per process, in the order of the processes.
    """
    if jax.process_count() == 1:
        return [dict(arrays)]
    file = io.BytesIO()
    np.savez(file, **arrays)
    return [dict(np.load(io.BytesIO(data))) for data in gather_bytes(file.getvalue())]


def gather_rows(values: Mapping[str, np.ndarray], rows: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Gathers values of rows from all processes.

    Args:
        values: {name: [n] values of the rows of this process}. Names may differ between processes, because a user's
            reward may fail on one process and not on another.
        rows: [n] indices, in 0..N-1, of this process's rows. Every row belongs to one process.
        count: N, the number of rows of all processes.

    Returns:
        {name: [N] float64}. A value is nan if the row's process gave no values of this name. With one process, `values`
        is returned unchanged.
    """
    if jax.process_count() == 1:
        return dict(values)
    found: dict[str, np.ndarray] = {}
    for part in gather_arrays({"": rows} | {name: np.asarray(x, np.float64) for name, x in values.items()}):
        at = part.pop("")
        for name, x in part.items():
            found.setdefault(name, np.full(count, np.nan))[at] = x
    return found
