"""Attention kinds, and the `attend` closures that are their only seam.

`attend(q, k, v, how) -> (out, kept)` is all that differs between training, scoring, prefill and decoding: q [.., Q, H,
E], k and v [.., Q, K, E] are the rotated projections of the tokens fed in this call, `how` says what the scores are,
`out` [.., Q, H, E] is what the queries read, `kept` whatever the caller wants back from this layer (its keys and
values, an updated cache, nothing). Latent attention that is cached passes one key head and no v: its values are the
first numbers of its keys, so the cache holds one vector a token.
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
from r1jax.model.rope import Turn, apart, mscale, rotate

LATENT_EPS = 1e-6  # of the norms inside latent attention, whatever the config says (as DeepSeek's code)


class How(NamedTuple):
    """What the scores of one layer are: cap(q·k · scale), over keys less than `window` positions back.

    Attributes:
        positions: [.., Q] of the queries.
        scale: of the products.
        cap: soft cap of the scores; 0 = none.
        window: int, or an array where layers differ inside a scan and 0 means all; None = all.
        values: how many numbers of a key are its value, where v is None.
    """

    positions: Int[Array, "*rows Q"]
    scale: float
    cap: float = 0.0
    window: int | Array | None = None
    values: int = 0

    def near(self, distance: Int[Array, "..."]) -> Bool[Array, "..."]:
        """Whether keys this many positions back are within the window."""
        return (distance < self.window) | (jnp.asarray(self.window) == 0)


Attend = Callable[[Array, Array, Array | None, How], tuple[Array, Any]]


class Attention(nn.Module):
    """Grouped-query attention: projections around `attend`."""

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

    Expanded, each head's keys and values are made from the latent. Absorbed, the matrix that would make them moves into
    the query and behind the sum, and all heads read the latents themselves: (q Wᵏ)·c = q·(Wᵏc), Σ w (Wᵛc) = Wᵛ Σ w c.
    The numbers are the same; the first costs less where every key is new, the second where they lie in a cache.
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
            return rotate(apart(part) if m.interleaved else part, turn)

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
    """1/√E, times YaRN's temperature squared."""
    m, s = cfg.latent, cfg.rope_scaling
    scale = cfg.query_scale or (m.nope_width + m.rope_width) ** -0.5
    return scale * mscale(s.factor, s.mscale_all_dim) ** 2 if s and s.mscale_all_dim else scale


QUERY_BLOCK = 128


Rows = Callable[[Array, Array, Array, Array], Array]


def exactly(attention: Rows) -> Rows:
    """The same function of (q, k, v, mask), computed in float64 and rounded once; its gradient is made as before.

    Scores of a sharp head round to 1e-6 in float32, differently in each program; logits twenty apart may hang on them.
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
    """Every query reads the keys of its own call that `mask[r, query, key]` allows; no later key may be allowed.

    Queries go in blocks, each against the keys up to its end: the upper triangle is never computed. Scores, softmax and
    sums are float32 or wider, and the backward pass makes them again. A query that may read nothing (padding) gets a
    mean, never nan.

    Args:
        mask: causal; [1, S, S] serves all rows.
        keep: hand back (k, v).
        row_shards: shards the rows lie on; each then works through its rows one after the other, so that the scores of
            a row stay in a CPU's cache. None takes all rows at once.
        exact: forward in float64, see `exactly`.
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

        some_rows = exactly(some_rows) if exact else jax.checkpoint(some_rows)
        rows = q.shape[0]
        if row_shards is None or rows % row_shards:
            out = some_rows(q, k, v, allowed)
        else:
            whole = jnp.broadcast_to(allowed, (rows, *allowed.shape[1:]))
            in_turn = [x.reshape(row_shards, -1, *x.shape[1:]).swapaxes(0, 1) for x in (q, k, v, whole)]
            out = jax.lax.map(lambda row: some_rows(*row), in_turn).swapaxes(0, 1).reshape(*q.shape[:-1], v.shape[-1])
        # Of a layer that is made again this is the dearest part, and small to keep.
        return checkpoint_name(out, "attention"), (k, v) if keep else None

    return attend


def causal(length: int) -> Bool[Array, "1 S S"]:
    """Each slot reads itself and the slots before it."""
    return jnp.tril(jnp.ones((1, length, length), bool))
