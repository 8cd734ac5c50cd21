"""Cached keys and values, and the `attend` closures that read them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.attention import Attend, causal


class Segment(NamedTuple):
    """Keys and values of one layer that several rows may share, head-major, keys transposed.

    Attributes:
        k: [P, K, E, S]; v: [P, K, S, E]. P divides the rows N: row n reads entry n // (N / P).
        length: [P] int32, slots filled.
    """

    k: Array
    v: Array
    length: Array


def lay_out(k: Float[Array, "N Q K E"], v: Float[Array, "N Q K E"]) -> tuple[Array, Array]:
    """Projected keys and values in the cache's order: [N, K, E, Q] and [N, K, Q, E]."""
    return k.transpose(0, 2, 3, 1), v.transpose(0, 2, 1, 3)


def read(
    q: Float[Array, "N Q H E"], parts: Sequence[tuple[Array, Array, Array]]
) -> Float[Array, "N Q H E"]:
    """softmax(q·k/√E)·v over the concatenation of parts `(k [P, K, E, S], v [P, K, S, E], mask [P or N, Q or 1, S])`."""
    n, queries, heads, width = q.shape
    kv_heads = parts[0][0].shape[1]
    m = heads // kv_heads * queries  # queries that share one key head
    grouped = (q * width**-0.5).reshape(n, queries, kv_heads, -1, width).transpose(0, 2, 3, 1, 4).reshape(n, kv_heads, m, width)
    scores = []
    for k, _, mask in parts:
        shared = grouped.reshape(k.shape[0], -1, kv_heads, m, width)
        score = jnp.einsum("prkme,pkes->prkms", shared, k, preferred_element_type=jnp.float32)
        score = score.reshape(mask.shape[0], n // mask.shape[0], kv_heads, m // queries, queries, -1)
        score = jnp.where(mask[:, None, None, None], score, -1e30)
        scores.append(score.reshape(n, kv_heads, m, -1))
    top = functools.reduce(jnp.maximum, [score.max(axis=-1, keepdims=True) for score in scores])
    out, total = 0.0, 0.0
    for (k, v, _), score in zip(parts, scores, strict=True):
        weight = jnp.exp(score - top)
        total = total + weight.sum(axis=-1, keepdims=True)
        shared = weight.astype(v.dtype).reshape(k.shape[0], -1, kv_heads, m, v.shape[2])
        part = jnp.einsum("prkms,pkse->prkme", shared, v, preferred_element_type=jnp.float32)
        out = out + part.reshape(n, kv_heads, m, width)
    out = (out / total).reshape(n, kv_heads, -1, queries, width).transpose(0, 3, 1, 2, 4)
    return out.reshape(q.shape).astype(q.dtype)


def filled(length: Int[Array, P], slots: int) -> Bool[Array, "P 1 S"]:
    return jnp.arange(slots)[None, None, :] < length[:, None, None]


def attend_prefill(segments: Sequence[Segment], length: Int[Array, N]) -> Attend:
    """Queries read the given segments and, causally, their own call. Keeps its keys and values as a `Segment`."""

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, Segment]:
        mine = Segment(*lay_out(k, v), length)
        own = causal(q.shape[1])
        parts = [(s.k, s.v, filled(s.length, s.k.shape[-1])) for s in segments]
        return read(q, [*parts, (mine.k, mine.v, own)]), mine

    return attend


def attend_decode(segments: Sequence[Segment], k_cache: Array, v_cache: Array, slot: Array) -> Attend:
    """One new token a row: writes slot `slot` of the row's own cache, reads the segments and slots 0..slot. Keeps the cache."""

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
        k_new, v_new = lay_out(k.astype(k_cache.dtype), v.astype(v_cache.dtype))
        k_all = jax.lax.dynamic_update_slice(k_cache, k_new, (0, 0, 0, slot))
        v_all = jax.lax.dynamic_update_slice(v_cache, v_new, (0, 0, slot, 0))
        parts = [(s.k, s.v, filled(s.length, s.k.shape[-1])) for s in segments]
        own = filled(slot[None] + 1, k_all.shape[-1])
        return read(q, [*parts, (k_all, v_all, own)]), (k_all, v_all)

    return attend
