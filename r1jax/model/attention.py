"""Grouped-query attention, and the `attend` closures that are its only seam.

`attend(q, k, v) -> (out, kept)` is all that differs between training, scoring, prefill and decoding:
q [.., Q, H, E], k and v [.., Q, K, E] are the rotated projections of the tokens fed in this call, `out` [.., Q, H, E] is
what the queries read, `kept` whatever the caller wants back from this layer (its keys and values, an updated cache, nothing).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.config import ModelConfig

Attend = Callable[[Array, Array, Array], tuple[Array, Any]]


def rope(positions: Int[Array, "*rows Q"], head_width: int, theta: float) -> tuple[Array, Array]:
    """cos and sin, [.., Q, 1, E/2], of rotary positions. float32: bfloat16 cannot tell position 257 from 256."""
    # Constants of every program: computed inside, two programs could differ in the last bit, times the position.
    frequency = (theta ** (-np.arange(0, head_width, 2) / head_width)).astype(np.float32)
    angle = positions[..., None, None].astype(jnp.float32) * frequency.reshape((1,) * (positions.ndim + 1) + (-1,))
    return jnp.cos(angle), jnp.sin(angle)


def rotate(x: Float[Array, "*rows Q H E"], turn: tuple[Array, Array]) -> Float[Array, "*rows Q H E"]:
    """x with the pairs (i, i + E/2) of each head turned by their angles."""
    cos, sin = turn
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


class Attention(nn.Module):
    """Projections around `attend`."""

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows Q D"], turn: tuple[Array, Array], attend: Attend) -> tuple[Array, Any]:
        c = self.cfg

        def heads(name: str, count: int) -> Array:
            return nn.DenseGeneral((count, c.head_width), use_bias=c.qkv_bias, dtype=self.dtype, name=name)(x)

        q, k, v = heads("q", c.heads), heads("k", c.kv_heads), heads("v", c.kv_heads)
        if c.qk_norm:
            q = nn.RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name="q_norm")(q)
            k = nn.RMSNorm(epsilon=c.norm_eps, dtype=self.dtype, name="k_norm")(k)
        out, kept = attend(rotate(q, turn), rotate(k, turn), v)
        return nn.DenseGeneral(c.width, axis=(-2, -1), use_bias=False, dtype=self.dtype, name="o")(out), kept


QUERY_BLOCK = 128


def attend_full(mask: Bool[Array, "R S S"], *, keep: bool = False, row_shards: int | None = None) -> Attend:
    """Every query reads the keys of its own call that `mask[r, query, key]` allows; no later key may be allowed.

    Queries go in blocks, each against the keys up to its end: the upper triangle is never computed. Scores, softmax and sums
    are float32, and the backward pass makes them again. A query that may read nothing (padding) gets a mean, never nan.

    Args:
        mask: causal; [1, S, S] serves all rows.
        keep: hand back (k, v).
        row_shards: shards the rows lie on; each then works through its rows one after the other, so that the scores of a row
            stay in a CPU's cache. None takes all rows at once.
    """

    @jax.checkpoint
    def some_rows(q: Array, k: Array, v: Array, mask: Array) -> Array:
        rows, length, kv_heads, width = k.shape
        queries = (q * width**-0.5).reshape(rows, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)  # [R, K, H/K, S, E]
        keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
        blocks = []
        for start in range(0, length, QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, length)
            scores = jnp.einsum(
                "rkgqe,rkse->rkgqs", queries[..., start:end, :], keys[:, :, :end], preferred_element_type=jnp.float32
            )
            scores = jnp.where(mask[:, None, None, start:end, :end], scores, -1e30)
            weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
            read = jnp.einsum(
                "rkgqs,rkse->rkgqe", weights.astype(v.dtype), values[:, :, :end], preferred_element_type=jnp.float32
            )
            blocks.append(read / weights.sum(axis=-1, keepdims=True))
        return jnp.concatenate(blocks, axis=3).transpose(0, 3, 1, 2, 4).reshape(q.shape).astype(q.dtype)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
        rows = q.shape[0]
        if row_shards is None or rows % row_shards:
            out = some_rows(q, k, v, mask)
        else:
            whole = jnp.broadcast_to(mask, (rows, *mask.shape[1:]))
            in_turn = [x.reshape(row_shards, -1, *x.shape[1:]).swapaxes(0, 1) for x in (q, k, v, whole)]
            out = jax.lax.map(lambda row: some_rows(*row), in_turn).swapaxes(0, 1).reshape(q.shape)
        return out, (k, v) if keep else None

    return attend


def causal(length: int) -> Bool[Array, "1 S S"]:
    """Each slot reads itself and the slots before it."""
    return jnp.tril(jnp.ones((1, length, length), bool))
