"""Defines two kinds of attention (grouped queries, latent), and the functions `attend` that compute attention itself.

`attend(q, k, v, how) -> (out, kept)` is the only difference between training, scoring, prefill and decoding. q [.., Q,
H, E] and k, v [.., Q, K, E] are the projections of the Q tokens fed in this call, for H query heads and K key heads of
width E. q and k are rotated already. `how` defines the scores. An `attend` may also hold further keys and values for
the queries to read, such as cached ones. `out` [.., Q, H, E] is the result of attention. `kept` is whatever the caller
wants back from this layer: keys and values, an updated cache, or None. Cached latent attention passes a single key head
and v = None: the first elements of a key serve as its value, so the cache holds one vector per token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Int

from r1jax.model.config import ModelConfig
from r1jax.model.layers import Kernel, Linear, RMSNorm, norm, soft_cap
from r1jax.model.rope import Turn, mscale, rotate, split_pairs

LATENT_EPS = 1e-6  # of the norms inside latent attention; DeepSeek's code ignores the config too


class How(NamedTuple):
    """Settings of one layer's attention scores, cap(q·k · scale).

    A query reads its own key and the keys of the `window` - 1 positions before it.

    Attributes:
        positions: [.., Q] positions of the queries.
        scale: factor on q·k.
        cap: soft cap of the scores (`soft_cap`); 0 for none.
        window: the number of positions that a query reads, its own included. None means no limit. Inside a scan over
            layers with different windows, `window` is an array, in which 0 means no limit.
        values: if v is None, how many of the first elements of a key serve as its value.
    """

    positions: Int[Array, "*rows Q"]
    scale: float
    cap: float = 0.0
    window: int | Array | None = None
    values: int = 0

    def near(self, distance: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Returns whether a key that lies `distance` positions before the query is within the window.

        `window` must not be None.
        """
        return (distance < self.window) | (jnp.asarray(self.window) == 0)


Attend = Callable[[Array, Array, Array | None, How], tuple[Array, Any]]


class Attention(nn.Module):
    """Grouped-query attention: projects x to q, k, v, calls `attend`, and projects the result back.

    Returns the output, and what `attend` returned as its second result (`kept`), such as an updated cache.
    """

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, turn: Turn, positions: Array, attend: Attend, window: Any = None) -> tuple[Array, Any]:
        c = self.cfg

        def heads(name: str, count: int) -> Array:
            return Linear((count, c.head_width), use_bias=c.qkv_bias, dtype=self.dtype, name=name)(x)

        q, k, v = heads("q", c.heads), heads("k", c.kv_heads), heads("v", c.kv_heads)
        if c.qk_norm:
            q, k = norm(c, self.dtype, "q_norm")(q), norm(c, self.dtype, "k_norm")(k)
        how = How(positions, c.query_scale or c.head_width**-0.5, c.attention_cap, window)
        out, kept = attend(rotate(q, turn), rotate(k, turn), v, how)
        return Linear(c.width, 2, dtype=self.dtype, name="o")(out), kept


class LatentAttention(nn.Module):
    """Multi-head latent attention (DeepSeek-AI 2024, section 2.1), expanded or absorbed.

    The latent c is one small vector per token. The expanded form computes each head's keys Wᵏc and values Wᵛc from the
    latent. The absorbed form applies Wᵏ to the query and Wᵛ after the weighted sum, so that all heads read the latents
    themselves: (q Wᵏ)·c = q·(Wᵏc), Σ w (Wᵛc) = Wᵛ Σ w c. Both forms give the same result. The expanded form costs less
    if every key is new, the absorbed form if the keys are cached.

    Returns the same as `Attention`.

    Attributes:
        absorbed: whether to use the absorbed form.
    """

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32
    absorbed: bool = False

    @nn.compact
    def __call__(self, x: Array, turn: Turn, positions: Array, attend: Attend, window: Any = None) -> tuple[Array, Any]:
        c, m = self.cfg, self.cfg.latent

        def inner(name: str) -> RMSNorm:
            return RMSNorm(epsilon=LATENT_EPS, dtype=self.dtype, name=name)

        def dense(name: str, features: int | tuple[int, int]) -> Linear:
            return Linear(features, dtype=self.dtype, name=name)

        per_head = (c.heads, m.nope_width + m.rope_width)
        q = (
            dense("q_up", per_head)(inner("q_norm")(dense("q_down", m.q_rank)(x)))
            if m.q_rank
            else dense("q", per_head)(x)
        )
        kv = dense("kv_down", m.kv_rank + m.rope_width)(x)
        latent = inner("kv_norm")(kv[..., : m.kv_rank])
        up = Kernel((m.kv_rank, c.heads, m.nope_width + m.value_width), name="kv_up")().astype(self.dtype)
        k_up, v_up = up[..., : m.nope_width], up[..., m.nope_width :]

        def turned(part: Array) -> Array:
            return rotate(split_pairs(part) if m.interleaved else part, turn)

        q_nope, q_rope = q[..., : m.nope_width], turned(q[..., m.nope_width :])
        k_rope = turned(kv[..., None, m.kv_rank :])
        how = How(positions, latent_scale(c), c.attention_cap, window, m.kv_rank)
        if self.absorbed:
            q = jnp.concatenate([jnp.einsum("...hn,rhn->...hr", q_nope, k_up), q_rope], axis=-1)
            k = jnp.concatenate([latent[..., None, :], k_rope], axis=-1)
            out, kept = attend(q, k, None, how)
            out = jnp.einsum("...hr,rhv->...hv", out, v_up)
        else:
            k_nope = jnp.einsum("...r,rhn->...hn", latent, k_up)
            k = jnp.concatenate([k_nope, jnp.broadcast_to(k_rope, (*k_nope.shape[:-1], m.rope_width))], axis=-1)
            v = jnp.einsum("...r,rhv->...hv", latent, v_up)
            out, kept = attend(jnp.concatenate([q_nope, q_rope], axis=-1), k, v, how)
        return Linear(c.width, 2, dtype=self.dtype, name="o")(out), kept


def latent_scale(cfg: ModelConfig) -> float:
    """Returns the factor on q·k in latent attention: 1/√(width of a query head), or `query_scale` if the config has it.

    For YaRN with `mscale_all_dim`, the factor is multiplied by the square of YaRN's temperature (`mscale`).
    """
    m, s = cfg.latent, cfg.rope_scaling
    scale = cfg.query_scale or (m.nope_width + m.rope_width) ** -0.5
    return scale * mscale(s.factor, s.mscale_all_dim) ** 2 if s and s.mscale_all_dim else scale


QUERY_BLOCK = 128  # queries that `attend_full` processes at a time


# (q, k, v, mask) -> attention output, for some packed rows
Rows = Callable[[Array, Array, Array, Array], Array]


def compute_in_float64(attention: Rows) -> Rows:
    """Returns a function that computes `attention` in float64, and rounds the result once, to the dtype of q.

    In float32, the scores of a head with large scores carry rounding errors of 1e-6. These errors differ between
    compiled programs, and later layers may amplify them. The gradient is still computed in the dtype of q.
    """

    @jax.custom_vjp
    def exact(q: Array, k: Array, v: Array, mask: Array) -> Array:
        with jax.enable_x64(True):
            return attention(*(x.astype(jnp.float64) for x in (q, k, v)), mask).astype(q.dtype)

    def backward(kept: tuple[Array, ...], g: Array) -> tuple[Array | None, ...]:
        *inputs, mask = kept
        return *jax.vjp(lambda q, k, v: attention(q, k, v, mask), *inputs)[1](g), None

    exact.defvjp(lambda *inputs: (exact(*inputs), inputs), backward)
    return exact


def attend_full(
    mask: Bool[Array, "R S S"], *, keep: bool = False, row_shards: int | None = None, exact: bool = False
) -> Attend:
    """Returns an `attend` whose queries read only keys of the same call, where `mask[r, query, key]` is True.

    Queries are processed in blocks. A block reads only the keys up to the block's end, so the upper triangle is never
    computed. Scores, softmax and sums are float32 or wider, and the backward pass recomputes the scores. A query that
    may read nothing (padding) gets a mean of values, never nan.

    Args:
        mask: must be causal; [1, S, S] serves all rows.
        keep: whether `attend` returns (k, v) as `kept`; otherwise None.
        row_shards: number of shards over which the rows are divided. Each shard processes its rows one after another,
            so that the scores of a row stay in a CPU's cache. If `row_shards` is None, or does not divide the number of
            rows, all rows are processed at once.
        exact: computes the forward pass in float64; see `compute_in_float64`.
    """

    def attend(q: Array, k: Array, v: Array, how: How) -> tuple[Array, Any]:
        allowed = mask
        if how.window is not None:
            allowed = mask & how.near(how.positions[:, :, None] - how.positions[:, None, :])

        def some_rows(q: Array, k: Array, v: Array, mask: Array) -> Array:
            rows, length, kv_heads, width = k.shape
            queries = (
                (q * how.scale).reshape(rows, length, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
            )  # [R, K, H/K, S, E]
            keys, values = k.transpose(0, 2, 1, 3), v.transpose(0, 2, 1, 3)
            blocks, sums = [], jnp.promote_types(q.dtype, jnp.float32)
            for start in range(0, length, QUERY_BLOCK):
                end = min(start + QUERY_BLOCK, length)
                scores = jnp.einsum(
                    "rkgqe,rkse->rkgqs",
                    queries[..., start:end, :],
                    keys[:, :, :end],
                    preferred_element_type=sums,
                )
                scores = jnp.where(mask[:, None, None, start:end, :end], soft_cap(scores, how.cap), -1e30)
                weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
                read = jnp.einsum(
                    "rkgqs,rkse->rkgqe", weights.astype(v.dtype), values[:, :, :end], preferred_element_type=sums
                )
                blocks.append(read / weights.sum(axis=-1, keepdims=True))
            out = jnp.concatenate(blocks, axis=3).transpose(0, 3, 1, 2, 4)
            return out.reshape(*q.shape[:-1], v.shape[-1]).astype(q.dtype)

        some_rows = compute_in_float64(some_rows) if exact else jax.checkpoint(some_rows)
        rows = q.shape[0]
        if row_shards is None or rows % row_shards:
            out = some_rows(q, k, v, allowed)
        else:
            whole = jnp.broadcast_to(allowed, (rows, *allowed.shape[1:]))
            in_turn = [x.reshape(row_shards, -1, *x.shape[1:]).swapaxes(0, 1) for x in (q, k, v, whole)]
            out = jax.lax.map(lambda row: some_rows(*row), in_turn).swapaxes(0, 1).reshape(*q.shape[:-1], v.shape[-1])
        # The most expensive part of a layer to recompute, and small to keep.
        return checkpoint_name(out, "attention"), (k, v) if keep else None

    return attend


def causal(length: int) -> Bool[Array, "1 S S"]:
    """Returns the causal mask [1, length, length]: True where the key is not after the query."""
    return jnp.tril(jnp.ones((1, length, length), bool))
