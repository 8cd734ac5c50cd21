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
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.config import ModelConfig

Attend = Callable[[Array, Array, Array], tuple[Array, Any]]




def rope(positions: Int[Array, "*rows Q"], head_width: int, theta: float) -> tuple[Array, Array]:
    """cos and sin, [.., Q, 1, E/2], of rotary positions. float32: bfloat16 cannot tell position 257 from 256."""
    frequency = theta ** (-jnp.arange(0, head_width, 2, dtype=jnp.float32) / head_width)
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


def attend_full(mask: Bool[Array, "R S S"], *, keep: bool = False) -> Attend:
    """Every query reads the keys of its own call that `mask[r, query, key]` allows; no later key may be allowed.

    Queries go in blocks, each against the keys up to its end: the upper triangle is never computed, and the scores of a block
    stay in cache. Scores, softmax and sums are float32. A query that may read nothing (padding) gets a mean, never nan.

    Args:
        mask: causal; [1, S, S] serves all rows.
        keep: hand back (k, v).
    """

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, Any]:
        grouped = q.reshape(*q.shape[:-2], k.shape[-2], -1, q.shape[-1])  # [R, S, K, H/K, E]
        blocks = []
        for start in range(0, q.shape[1], QUERY_BLOCK):
            end = min(start + QUERY_BLOCK, q.shape[1])
            scores = jnp.einsum(
                "rqkge,rske->rkgqs", grouped[:, start:end], k[:, :end], preferred_element_type=jnp.float32
            )
            allowed = mask[:, None, None, start:end, :end]
            weights = jax.nn.softmax(jnp.where(allowed, scores * q.shape[-1] ** -0.5, -1e30), axis=-1)
            blocks.append(jnp.einsum(
                "rkgqs,rske->rqkge", weights.astype(v.dtype), v[:, :end], preferred_element_type=jnp.float32
            ))  # fmt: skip
        out = jnp.concatenate(blocks, axis=1).reshape(q.shape).astype(q.dtype)
        return out, (k, v) if keep else None

    return attend


def causal(length: int) -> Bool[Array, "1 S S"]:
    """Each slot reads itself and the slots before it."""
    return jnp.tril(jnp.ones((1, length, length), bool))
