"""Two cohorts of rows in one wave: those that begin with it, and those that an earlier wave left unfinished.

They share the clock and every product with the weights. Each has a cache and segments of its own: a carried row has
what it sampled before in its prompt's segment, which would be as much padding to the others. Rows lie shard by shard,
and within a shard cohort by cohort, so that no row leaves its shard:

    | shard 0: begins  begins  begins  carried | shard 1: begins  begins  begins  carried |

A third cohort may stand behind them, of spare rows: they make the products with the weights longer, and nothing of them
is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from r1jax.model.attention import Attend, How


def split(x: jax.Array, sizes: Sequence[int], shards: int) -> list[jax.Array]:
    """The rows of each cohort of an array [N, ..], as arrays [size, ..]."""
    if len(sizes) == 1:
        return [x]
    by_shard, parts, start = x.reshape(shards, -1, *x.shape[1:]), [], 0
    for size in sizes:
        parts.append(by_shard[:, start : start + size // shards].reshape(size, *x.shape[1:]))
        start += size // shards
    return parts


def join(parts: Sequence[jax.Array], shards: int) -> jax.Array:
    """The inverse of `split`."""
    if len(parts) == 1:
        return parts[0]
    by_shard = [x.reshape(shards, -1, *x.shape[1:]) for x in parts]
    return jnp.concatenate(by_shard, axis=1).reshape(-1, *parts[0].shape[1:])


def spared(x: jax.Array, spare: int, shards: int) -> jax.Array:
    """[N, ..] with `spare` rows more, each its shard's first again."""
    by_shard = x.reshape(shards, -1, *x.shape[1:])
    again = jnp.repeat(by_shard[:, :1], spare // shards, axis=1)
    return jnp.concatenate([by_shard, again], axis=1).reshape(-1, *x.shape[1:])


def attend_nothing(q: jax.Array, k: jax.Array, v: jax.Array | None, how: How) -> tuple[jax.Array, None]:
    """What spare rows read."""
    return jnp.zeros((*q.shape[:3], how.values if v is None else v.shape[-1]), q.dtype), None


def attend_each(attends: Sequence[Attend], sizes: Sequence[int], shards: int) -> Attend:
    """The queries of each cohort by its own `attend`. Keeps what each keeps, in a tuple."""

    def attend(q: jax.Array, k: jax.Array, v: jax.Array | None, how: How) -> tuple[jax.Array, tuple[Any, ...]]:
        values = [None] * len(sizes) if v is None else split(v, sizes, shards)
        parts = zip(*(split(x, sizes, shards) for x in (q, k, how.positions)), values, strict=True)
        found = [
            attend(q, k, v, how._replace(positions=positions))
            for attend, (q, k, positions, v) in zip(attends, parts, strict=True)
        ]
        return join([out for out, _ in found], shards), tuple(kept for _, kept in found)

    return attend
