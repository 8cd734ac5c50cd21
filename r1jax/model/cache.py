"""Cached keys and values, and the `attend` closures that read them.

What one layer caches is (k, v): k [.., K, E, S] transposed, v [.., K, S, E]. Latent attention has one key head, whose
first numbers are its value, and caches k alone: v is None.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.attention import Attend, How, causal
from r1jax.model.layers import soft_cap


class Segment(NamedTuple):
    """Keys and values of one layer that several rows may share, head-major, keys transposed.

    Attributes:
        k: [P, K, E, S]; v: [P, K, S, E] or None. P divides the rows N: row n reads entry n // (N / P).
        length: [P] int32, slots filled.
    """

    k: Array
    v: Array | None
    length: Array


Part = tuple[Array, Array | None, Array]
Sums = tuple[Array, Array, Array]
ReadOwn = Callable[[Array, Array, Array, Array], Sums]


def lay_out(k: Float[Array, "N Q K E"], v: Float[Array, "N Q K E"] | None) -> tuple[Array, Array | None]:
    """Projected keys and values in the cache's order: [N, K, E, Q] and [N, K, Q, E]."""
    return k.transpose(0, 2, 3, 1), None if v is None else v.transpose(0, 2, 1, 3)


def widened(k: Float[Array, "N K E S"], v: Float[Array, "N K S E"] | None, slots: int) -> tuple[Array, Array | None]:
    """The same cache with room for `slots` tokens."""
    more = slots - k.shape[-1]
    return jnp.pad(k, ((0, 0), (0, 0), (0, 0), (0, more))), None if v is None else jnp.pad(
        v, ((0, 0), (0, 0), (0, more), (0, 0))
    )


def by_key_head(q: Float[Array, "N Q H E"], scale: float, kv_heads: int) -> Float[Array, "N K m E"]:
    """Scaled queries, those that share a key head side by side: m = H/K·Q."""
    n, queries, _, width = q.shape
    grouped = (q * scale).reshape(n, queries, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
    return grouped.reshape(n, kv_heads, -1, width)


def by_token(out: Float[Array, "N K m W"], queries: int) -> Float[Array, "N Q H W"]:
    """The inverse order."""
    n, kv_heads, _, width = out.shape
    return out.reshape(n, kv_heads, -1, queries, width).transpose(0, 3, 1, 2, 4).reshape(n, queries, -1, width)


def spread_products(
    x: Float[Array, "N K m A"],
    y: Float[Array, "P K A C"] | Float[Array, "P K C A"],
    inner: str,
    outer: str,
    order: str = "",
) -> Float[Array, "N K m C"]:
    """x·y by key head in float32 or wider, where entry p of y serves N / P rows: over axis `inner` to axis `outer`.

    Rows with an entry each get a product of their own form: an axis of length one for the rows of an entry would cost
    XLA's CPU backend four times the time.
    """
    order, wide = order or inner + outer, jnp.promote_types(y.dtype, jnp.float32)
    n, kv_heads, m, _ = x.shape
    if y.shape[0] == n:
        return jnp.einsum(f"nkm{inner},nk{order}->nkm{outer}", x, y, preferred_element_type=wide)
    shared = x.reshape(y.shape[0], -1, kv_heads, m, x.shape[-1])
    out = jnp.einsum(f"prkm{inner},pk{order}->prkm{outer}", shared, y, preferred_element_type=wide)
    return out.reshape(n, kv_heads, m, -1)


def sums(q: Float[Array, "N Q H E"], parts: Sequence[Part], how: How) -> Sums:
    """Σ eˢ⁻ᵗ v, Σ eˢ⁻ᵗ and t = max s, by key head, over the parts `(k [P, K, E, S], v [P, K, S, W], mask [P or N, Q or
    1, S])`."""
    n, queries, heads, _ = q.shape
    kv_heads = parts[0][0].shape[1]
    m = heads // kv_heads * queries  # queries that share one key head
    grouped = by_key_head(q, how.scale, kv_heads)
    scores = []
    for k, _, mask in parts:
        score = spread_products(grouped, k, "e", "s")
        score = soft_cap(score, how.cap).reshape(mask.shape[0], n // mask.shape[0], kv_heads, m // queries, queries, -1)
        score = jnp.where(mask[:, None, None, None], score, -1e30)
        scores.append(score.reshape(n, kv_heads, m, -1))
    top = functools.reduce(jnp.maximum, [score.max(axis=-1, keepdims=True) for score in scores])
    out, total = 0.0, 0.0
    for (k, v, _), score in zip(parts, scores, strict=True):
        weight = jnp.exp(score - top)
        total = total + weight.sum(axis=-1, keepdims=True)
        weight = weight.astype(k.dtype)
        out = out + (
            spread_products(weight, k[:, :, : how.values], "s", "e", "es")
            if v is None
            else spread_products(weight, v, "s", "e")
        )
    return out, total, top


def merged(one: Sums, two: Sums) -> Sums:
    """The sums over what both were taken over."""
    top = jnp.maximum(one[2], two[2])
    here, there = jnp.exp(one[2] - top), jnp.exp(two[2] - top)
    return one[0] * here + two[0] * there, one[1] * here + two[1] * there, top


def read(q: Float[Array, "N Q H E"], parts: Sequence[Part], how: How) -> Float[Array, "N Q H W"]:
    """softmax(scores)·v over the parts laid end to end; in float64 where keys and values are (see `widen`)."""
    with in_precision_of(parts[0][0]):
        out, total, _ = sums(q.astype(jnp.promote_types(q.dtype, parts[0][0].dtype)), parts, how)
        return by_token(out / total, q.shape[1]).astype(q.dtype)


def in_precision_of(x: Array) -> contextlib.AbstractContextManager:
    """JAX drops float64 unless told otherwise."""
    return jax.enable_x64(True) if x.dtype == jnp.float64 else contextlib.nullcontext()


def widen(tree: Any) -> Any:
    """Every cache of a tree in float64, so that what is read of it does not depend on how it is laid out."""
    with jax.enable_x64(True):
        return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def filled(length: Int[Array, P], slots: int) -> Bool[Array, "P 1 S"]:
    return jnp.arange(slots)[None, None, :] < length[:, None, None]


def readable(segments: Sequence[Segment], how: How) -> list[Part]:
    """The segments with what may be read of each. They follow one another: the first begins at position 0."""
    parts, start = [], jnp.zeros(1, jnp.int32)
    for s in segments:
        mask = filled(s.length, s.k.shape[-1])
        if how.window is not None:
            rows = how.positions.shape[0]
            position = (
                jnp.repeat(start, rows // start.shape[0])[:, None, None] + jnp.arange(s.k.shape[-1])[None, None, :]
            )
            near = how.near(how.positions[:, :, None] - position)
            mask = jnp.repeat(mask, rows // mask.shape[0], axis=0) & near
        parts.append((s.k, s.v, mask))
        start = start + s.length
    return parts


def attend_prefill(segments: Sequence[Segment], length: Int[Array, N], *, exact: bool = False) -> Attend:
    """Queries read the given segments and, causally, their own call. Keeps its keys and values as a `Segment`.

    Args:
        exact: read in float64.
    """

    def attend(q: Array, k: Array, v: Array | None, how: How) -> tuple[Array, Segment]:
        mine = Segment(*lay_out(k, v), length)
        own = causal(q.shape[1])
        if how.window is not None:
            slot = jnp.arange(q.shape[1])
            own = own & how.near(slot[None, :, None] - slot[None, None, :])
        parts = [*readable(segments, how), (mine.k, mine.v, own)]
        return read(q, widen(parts) if exact else parts, how), mine

    return attend


def attend_decode(
    segments: Sequence[Segment],
    k_cache: Array,
    v_cache: Array | None,
    slot: Array,
    done: Array | None = None,
    *,
    read_own: ReadOwn | None = None,
) -> Attend:
    """One new token a row: writes slot `slot` of its own cache, reads segments and slots 0..slot. Keeps the cache.

    Args:
        done: [N] rows whose results nobody looks at.
        read_own: `sums` over the own cache, `(q by key head, k, v, length [N])`, where layers have neither window, cap
            nor latents; None: by XLA.
    """  # fmt: skip

    def attend(q: Array, k: Array, v: Array | None, how: How) -> tuple[Array, tuple[Array, Array | None]]:
        with in_precision_of(k_cache):
            k_new, v_new = lay_out(k.astype(k_cache.dtype), v if v is None else v.astype(v_cache.dtype))
        k_all = jax.lax.dynamic_update_slice(k_cache, k_new, (0, 0, 0, slot))
        v_all = None if v is None else jax.lax.dynamic_update_slice(v_cache, v_new, (0, 0, slot, 0))
        if read_own and v is not None and how.window is None and not how.cap:
            length = jnp.broadcast_to(slot + 1, q.shape[:1])
            length = length if done is None else jnp.where(done, 0, length)
            own = read_own(by_key_head(q, how.scale, k_all.shape[1]), k_all, v_all, length)
            out, total, _ = merged(sums(q, readable(segments, how), how), own)
            return by_token(out / total, 1).astype(q.dtype), (k_all, v_all)
        own = filled(slot[None] + 1, k_all.shape[-1])
        if how.window is not None:
            own = own & how.near(slot - jnp.arange(k_all.shape[-1]))[None, None, :]
        return read(q, [*readable(segments, how), (k_all, v_all, own)], how), (k_all, v_all)

    return attend
