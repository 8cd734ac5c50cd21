"""Defines the cache of keys and values, and the functions `attend` that read the cache (see the module `attention`).

Each layer has a cache (k, v): k [.., K, E, S] transposed, v [.., K, S, E], for K key heads of width E and S token
slots. Latent attention has a single key head, and the first elements of a key serve as its value. So the cache of
latent attention holds only k, and v is None. The cache of a stack of L layers has a leading axis of size L.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.attention import Attend, How
from r1jax.model.config import ModelConfig
from r1jax.model.layers import soft_cap
from r1jax.sharding import ROWS, fit


class Sharing(NamedTuple):
    """Says which row reads which entry (cached text) of a `Segment`, after finished rows were dropped.

    When rows are dropped, the entries stay as they were. To read each entry only once, attention is computed on an
    array with r places for each entry: places 0..r-1 belong to entry 0, the next r places to entry 1, and so on. Each
    row is copied to a place of the entry that it reads. Rows, places and entries are counted within a shard, which has
    n rows and p entries.

    Attributes:
        readers: [shards, p·r] for each place, the index of the row in this place. For an empty place, the index is that
            of any row, and the place's result is not used.
        place: [shards, n] for each row, the index of its place.
    """

    readers: Array
    place: Array

    def lay_out(self, x: Array) -> Array:
        """Copies the element of each row to the row's place: x [N, ..] becomes [P·r, ..].

        P is the number of entries in all shards, and r the number of places for each entry.
        """
        return pick(x, self.readers)

    def collect(self, x: Array) -> Array:
        """Takes the element of each row from the row's place: x [P·r, ..] becomes [N, ..]. The inverse of `lay_out`."""
        return pick(x, self.place)

    def of_rows(self, x: Array) -> Array:
        """Takes for each row the element of the entry that the row reads: x [P, ..] becomes [N, ..]."""
        each = self.readers.size // x.shape[0]
        return pick(x, self.place // each)


def pick(x: Array, index: Int[Array, "shards n"]) -> Array:
    """Returns the rows `index` of each shard of x, where `index` counts within the shard.

    x holds all rows of the first shard, then all rows of the next shard, and so on.
    """
    local = x.reshape(index.shape[0], -1, *x.shape[1:])
    return jax.vmap(lambda a, i: a[i])(local, index).reshape(-1, *x.shape[1:])


class Segment(NamedTuple):
    """Cached keys and values of one layer for a piece of text, such as a prompt, that several rows may share.

    There are P entries, one for each piece. P divides the number of rows N: row n reads entry n // (N / P), unless
    `sharing` says otherwise. The segment of a stack of layers has a leading layer axis in k, v and length.

    Attributes:
        k: [P, K, E, S] keys, transposed.
        v: [P, K, S, E] values; None for latent attention.
        length: [P] int32, number of filled slots of each entry.
        sharing: which row reads which entry; None before rows were dropped.
    """

    k: Array
    v: Array | None
    length: Array
    sharing: Sharing | None = None

    @property
    def entries(self) -> int:
        """P, the number of entries."""
        return self.k.shape[-4]

    def of_layer(self, layer: Array | None) -> Segment:
        """Returns the segment of one layer of a stack; the segment itself if `layer`, the layer's index, is None."""
        if layer is None:
            return self
        return self._replace(**{name: take_layer(getattr(self, name), layer) for name in ("k", "v", "length")})


def take_layer(x: Array | None, layer: Array) -> Array | None:
    """Returns the part of one layer in an array [L, ..] of a stack of L layers. Returns None if x is None."""
    return None if x is None else jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)


class Part(NamedTuple):
    """Some of the keys and values that queries read.

    Attributes:
        k, v: keys [P, K, E, S] and values [P, K, S, W], as in a `Segment`. W is the width of a value. v may be None.
        mask: [P or N, Q or 1, S] bool, True where a query reads a key.
        sharing: as in a `Segment`.
    """

    k: Array
    v: Array | None
    mask: Array
    sharing: Sharing | None = None


Sums = tuple[Array, Array, Array]  # weighted sum of values, sum of weights, largest score (see `sums`)
ReadOwn = Callable[[Array, Array, Array, Array], Sums]


def lay_out(k: Float[Array, "N Q K E"], v: Float[Array, "N Q K E"] | None) -> tuple[Array, Array | None]:
    """Returns keys and values of new tokens in the layout of the cache: k [N, K, E, Q] and v [N, K, Q, E] or None."""
    return k.transpose(0, 2, 3, 1), None if v is None else v.transpose(0, 2, 1, 3)


def pad_slots(
    k: Float[Array, "*stack N K E S"], v: Float[Array, "*stack N K S E"] | None, slots: int
) -> tuple[Array, Array | None]:
    """Returns the cache (k, v), padded with zeros to room for `slots` tokens."""
    more, before = (0, slots - k.shape[-1]), ((0, 0),) * (k.ndim - 2)
    return jnp.pad(k, (*before, (0, 0), more)), None if v is None else jnp.pad(v, (*before, more, (0, 0)))


def write(cache: Array, new: Array, start: tuple[Any, ...], layer: Array | None) -> tuple[Array, Array]:
    """Writes keys or values of new tokens into a cache. Returns (the whole new cache, its part of one layer).

    Args:
        new: keys or values of one layer, with the axes of the cache of one layer.
        start: index of the first new element in the cache of one layer.
        layer: index of the layer if `cache` is that of a stack of layers; None if it is that of one layer.
    """
    if layer is None:
        cache = jax.lax.dynamic_update_slice(cache, new, start)
        return cache, cache
    # Only the new elements are written, so that the cache of the stack is not copied.
    cache = jax.lax.dynamic_update_slice(cache, jax.lax.expand_dims(new, (0,)), (layer, *start))
    return cache, take_layer(cache, layer)


def by_key_head(q: Float[Array, "N Q H E"], scale: float, kv_heads: int) -> Float[Array, "N K m E"]:
    """Returns the queries times `scale`, grouped by the key head that they read. A group has m = (H/K)·Q queries."""
    n, queries, _, width = q.shape
    grouped = (q * scale).reshape(n, queries, kv_heads, -1, width).transpose(0, 2, 3, 1, 4)
    return grouped.reshape(n, kv_heads, -1, width)


def by_token(out: Float[Array, "N K m W"], queries: int) -> Float[Array, "N Q H W"]:
    """Turns results that are grouped by key head back into one result per token and head: the inverse of `by_key_head`.

    `queries` is Q, the number of tokens.
    """
    n, kv_heads, _, width = out.shape
    return out.reshape(n, kv_heads, -1, queries, width).transpose(0, 3, 1, 2, 4).reshape(n, queries, -1, width)


def spread_products(
    x: Float[Array, "N K m A"],
    y: Float[Array, "P K A C"] | Float[Array, "P K C A"],
    inner: str,
    outer: str,
    order: str = "",
    sharing: Sharing | None = None,
) -> Float[Array, "N K m C"]:
    """Returns the matrix products x·y for each row and key head, in float32 or wider.

    Entry p of y serves N / P rows, or the rows that `sharing` names.

    The einsum has an axis over the rows that share an entry, but not if P = N: there its length would be 1, and XLA's
    CPU backend would be four times slower.

    Args:
        x: one matrix for each row and key head.
        y: one matrix for each entry and key head.
        inner, outer: einsum letters of the axis A to sum over and of the axis C of the result.
        order: the letters in the order of the last two axes of y; "" means `inner + outer`.
        sharing: which row reads which entry of y.
    """
    if sharing is not None:
        return sharing.collect(spread_products(sharing.lay_out(x), y, inner, outer, order))
    order, wide = order or inner + outer, jnp.promote_types(y.dtype, jnp.float32)
    n, kv_heads, m, _ = x.shape
    if y.shape[0] == n:
        return jnp.einsum(f"nkm{inner},nk{order}->nkm{outer}", x, y, preferred_element_type=wide)
    shared = x.reshape(y.shape[0], -1, kv_heads, m, x.shape[-1])
    out = jnp.einsum(f"prkm{inner},pk{order}->prkm{outer}", shared, y, preferred_element_type=wide)
    return out.reshape(n, kv_heads, m, -1)


def sums(q: Float[Array, "N Q H E"], parts: Sequence[Part], how: How) -> Sums:
    """Returns the partial softmax sums of attention: Σ eˢ⁻ᵗ v, Σ eˢ⁻ᵗ and t = max s, where s are a query's scores.

    The sums are over all keys of all parts. Results are grouped by key head (`by_key_head`).

    Args:
        parts: the keys and values to read.
        how: scale and cap of the scores. `how.window` is ignored: the masks of `parts` must already exclude keys
            outside the window.
    """
    n, queries, heads, _ = q.shape
    kv_heads = parts[0][0].shape[1]
    m = heads // kv_heads * queries  # queries that share one key head
    grouped = by_key_head(q, how.scale, kv_heads)
    scores = []
    for k, _, mask, sharing in parts:
        score = spread_products(grouped, k, "e", "s", sharing=sharing)
        score = soft_cap(score, how.cap).reshape(mask.shape[0], n // mask.shape[0], kv_heads, m // queries, queries, -1)
        score = jnp.where(mask[:, None, None, None], score, -1e30)
        scores.append(score.reshape(n, kv_heads, m, -1))
    top = functools.reduce(jnp.maximum, [score.max(axis=-1, keepdims=True) for score in scores])
    out, total = 0.0, 0.0
    for (k, v, _, sharing), score in zip(parts, scores, strict=True):
        weight = jnp.exp(score - top)
        total = total + weight.sum(axis=-1, keepdims=True)
        weight = weight.astype(k.dtype)
        out = out + (
            spread_products(weight, k[:, :, : how.values], "s", "e", "es", sharing)
            if v is None
            else spread_products(weight, v, "s", "e", sharing=sharing)
        )
    return out, total, top


def merge_sums(one: Sums, two: Sums) -> Sums:
    """Merges the partial softmax sums (see `sums`) over two disjoint sets of keys. Returns the sums over both sets."""
    top = jnp.maximum(one[2], two[2])
    here, there = jnp.exp(one[2] - top), jnp.exp(two[2] - top)
    return one[0] * here + two[0] * there, one[1] * here + two[1] * there, top


def read(q: Float[Array, "N Q H E"], parts: Sequence[Part], how: How) -> Float[Array, "N Q H W"]:
    """Returns the attention output softmax(scores)·v over the keys of all parts (see `sums`).

    Computes in float64 if the keys and values are float64 (see `widen`).
    """
    with in_precision_of(parts[0].k):
        out, total, _ = sums(q.astype(jnp.promote_types(q.dtype, parts[0].k.dtype)), parts, how)
        return by_token(out / total, q.shape[1]).astype(q.dtype)


def in_precision_of(x: Array) -> contextlib.AbstractContextManager:
    """Returns a context that enables float64 in JAX if the dtype of x is float64. Without this context, JAX would use
    float32.
    """
    return jax.enable_x64(True) if x.dtype == jnp.float64 else contextlib.nullcontext()


def widen(tree: Any) -> Any:
    """Returns a tree of caches with all floating-point arrays cast to float64.

    A sum that is computed in float64 and rounded to float32 does not depend on the layout of the cache or on the order
    of addition.
    """
    with jax.enable_x64(True):
        return jax.tree.map(lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def mask_filled(length: Int[Array, A], slots: int) -> Bool[Array, "A 1 S"]:
    """Returns a mask over S = `slots` slots: True for the first `length` slots of each entry."""
    return jnp.arange(slots)[None, None, :] < length[:, None, None]


def mask_readable(segments: Sequence[Segment], how: How) -> list[Part]:
    """Returns a `Part` for each segment. Its mask is True for the filled slots that are within the window.

    The text of a segment follows the text of the previous segment. The first segment begins at position 0.
    """
    parts, start = [], jnp.zeros(1, jnp.int32)
    for s in segments:
        length = s.length if s.sharing is None else s.sharing.of_rows(s.length)
        mask = mask_filled(length, s.k.shape[-1])
        if how.window is not None:
            rows = how.positions.shape[0]
            position = (
                jnp.repeat(start, rows // start.shape[0])[:, None, None] + jnp.arange(s.k.shape[-1])[None, None, :]
            )
            near = how.near(how.positions[:, :, None] - position)
            mask = jnp.repeat(mask, rows // mask.shape[0], axis=0) & near
        parts.append(Part(s.k, s.v, mask, s.sharing))
        start = start + length
    return parts


def attend_decode(
    segments: Sequence[Segment],
    k_cache: Array,
    v_cache: Array | None,
    slot: Array,
    done: Array | None = None,
    layer: Array | None = None,
    *,
    read_own: ReadOwn | None = None,
) -> Attend:
    """Returns an `attend` for decoding one new token per row. Its result `kept` is the updated cache (k, v).

    Rows may share the segments, but each row has its own part of `k_cache` and `v_cache`. The `attend` writes the new
    key and value to slot `slot` of this part. The new token reads the segments, and the slots 0..slot of this part.

    Args:
        segments: cached text that precedes the decoded tokens, such as the prompts.
        k_cache, v_cache: keys and values of the decoded tokens of all rows, for one layer; v_cache is None for latent
            attention.
        done: [N] bool, True for finished rows, whose results are not used; None if all results are used.
        layer: index of the layer, if segments and cache are those of a stack of layers; None if they are those of one
            layer. `kept` is the cache of the whole stack.
        read_own: a kernel `(q grouped by key head, k, v, length [N]) -> partial sums`. It does what `sums` does, over
            the first `length` slots of each row in `k_cache` and `v_cache`. Layers with a window, a soft cap or latent
            attention use XLA instead, and so do all layers if `read_own` is None.
    """

    def attend(q: Array, k: Array, v: Array | None, how: How) -> tuple[Array, tuple[Array, Array | None]]:
        with in_precision_of(k_cache):
            k_new, v_new = lay_out(k.astype(k_cache.dtype), v if v is None else v.astype(v_cache.dtype))
        k_cached, k_all = write(k_cache, k_new, (0, 0, 0, slot), layer)
        v_cached, v_all = (None, None) if v is None else write(v_cache, v_new, (0, 0, slot, 0), layer)
        here, kept = [s.of_layer(layer) for s in segments], (k_cached, v_cached)
        if read_own and v is not None and how.window is None and not how.cap:
            length = jnp.broadcast_to(slot + 1, q.shape[:1])
            length = length if done is None else jnp.where(done, 0, length)
            own = read_own(by_key_head(q, how.scale, k_all.shape[1]), k_all, v_all, length)
            out, total, _ = merge_sums(sums(q, mask_readable(here, how), how), own)
            return by_token(out / total, 1).astype(q.dtype), kept
        own = mask_filled(slot[None] + 1, k_all.shape[-1])
        if how.window is not None:
            own = own & how.near(slot - jnp.arange(k_all.shape[-1]))[None, None, :]
        return read(q, [*mask_readable(here, how), Part(k_all, v_all, own)], how), kept

    return attend


def empty_cache(
    cfg: ModelConfig, rows: int, slots: int, mesh: Mesh, dtype: DTypeLike, layers: int = 0
) -> tuple[jax.Array, jax.Array | None]:
    """Returns an empty (zero) cache of one layer: keys [N, K, E, S] and values [N, K, S, E].

    Rows are sharded over the mesh, and key heads over the mesh axis `tensor`. For latent attention the keys are latents
    [N, 1, E, S], and the values are None.

    Args:
        rows: N, number of rows of all processes.
        slots: S, the number of tokens that a row of the cache has room for.
        layers: number of layers, for the cache of a stack of layers; 0 for one layer, without a layer axis.
    """
    heads, width = (1, cfg.cache_width) if cfg.latent else (cfg.kv_heads, cfg.head_width)
    stack = (layers,) if layers else ()
    spec = P(*(None for _ in stack), *ROWS, None if cfg.latent else "tensor")
    where = NamedSharding(mesh, fit(spec, (*stack, rows, heads), mesh))
    with jax.enable_x64(dtype == jnp.float64):
        k = jnp.zeros((*stack, rows, heads, width, slots), dtype, device=where)
        return k, None if cfg.latent else jnp.zeros((*stack, rows, heads, slots, width), dtype, device=where)
