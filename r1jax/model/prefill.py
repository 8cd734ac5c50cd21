"""Computes attention in prefill, where each row has many new tokens, block by block.

An array of all scores, [prompts, heads, queries, keys] in float32, is larger than the weights if the prompts are long.
It takes 12.9 GB for 64 prompts of 2,048 tokens and 12 heads. So queries and keys are cut into blocks of `BLOCK`
tokens, and the partial softmax sums of the blocks are merged (`cache.merge_sums`). Keys that come after all queries of
a block are never read.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.attention import Attend, How, causal
from r1jax.model.cache import (
    Part,
    Segment,
    Sums,
    by_token,
    in_precision_of,
    lay_out,
    mask_readable,
    merge_sums,
    read,
    sums,
    widen,
)
from r1jax.model.config import ModelConfig

BLOCK = 512  # queries and keys of a block; shorter prompts are read whole
TOKENS = 8192  # prompt tokens that a shard of rows runs through the network at once
SCORES = 1 << 29  # bytes of the scores that a shard of rows holds at once


def prompts_at_once(cfg: ModelConfig, slots: int) -> int:
    """Returns how many prompts a row shard runs through the network at once, if each prompt takes `slots` tokens.

    A row shard is one of the parts into which the mesh splits the rows of a batch (`sharding.row_shards`).
    `TOKENS` limits the number of tokens in these prompts. `SCORES` limits the bytes of a block of attention scores.
    """
    block = min(slots, BLOCK)
    return max(1, min(TOKENS // slots, SCORES // (4 * cfg.heads * block * block)))


def attend_prefill(
    segments: list[Segment], length: Int[Array, N], layer: Array | None = None, *, exact: bool = False
) -> Attend:
    """Returns an `attend` function (see `Attend`) for prefill. It computes attention for the new tokens of each row.

    Each new token reads the given segments, the new tokens before it in its row, and itself. The second result of the
    function, `kept`, is a `Segment` with the keys and values of the new tokens.

    Args:
        segments: cached text that precedes the new tokens, such as a shared prefix.
        length: [N] number of new tokens of each row; further tokens are padding.
        layer: index of the layer, if the segments are those of a stack of layers; None if they are those of one layer.
        exact: whether to compute attention in float64.
    """

    def attend(q: Array, k: Array, v: Array | None, how: How) -> tuple[Array, Segment]:
        mine = Segment(*lay_out(k, v), length)
        before = [s.of_layer(layer) for s in segments]
        readable = [*before, mine]
        if max(s.k.shape[-1] for s in readable) > BLOCK:
            return read_in_blocks(q, widen(readable) if exact else readable, how), mine
        own = causal(q.shape[1])
        if how.window is not None:
            slot = jnp.arange(q.shape[1])
            own = own & how.near(slot[None, :, None] - slot[None, None, :])
        parts = [*mask_readable(before, how), Part(mine.k, mine.v, own)]
        return read(q, widen(parts) if exact else parts, how), mine

    return attend


def read_in_blocks(q: Float[Array, "N Q H E"], segments: list[Segment], how: How) -> Float[Array, "N Q H W"]:
    """Computes the attention output of N·Q new tokens, one block of queries after another.

    Returns a vector of width W, the width of a value, for each token and head.

    The last segment holds the new tokens themselves. A token reads the slots of the last segment up to its own slot,
    and all filled slots of the other segments.
    """
    queries, size = q.shape[1], min(BLOCK, q.shape[1])
    more = -queries % size
    padded = jnp.pad(q, ((0, 0), (0, more), (0, 0), (0, 0)))
    positions = jnp.pad(jnp.broadcast_to(how.positions, q.shape[:2]), ((0, 0), (0, more)))
    wide = jnp.promote_types(q.dtype, segments[0].k.dtype)

    def one(first: Array) -> Array:
        some = jax.lax.dynamic_slice_in_dim(padded, first, size, axis=1)
        here = how._replace(positions=jax.lax.dynamic_slice_in_dim(positions, first, size, axis=1))
        with in_precision_of(segments[0].k):
            found, start = None, jnp.zeros(1, jnp.int32)
            for s in segments:
                slots = first + jnp.arange(size, dtype=jnp.int32) if s is segments[-1] else None
                found = read_segment(some.astype(wide), s, start, slots, here, found)
                start = start + s.length
            out, total, _ = found
            return by_token(out / total, size).astype(q.dtype)

    blocks = jax.lax.map(one, jnp.arange(0, queries, size, dtype=jnp.int32))  # [blocks, N, size, H, W]
    whole = jnp.moveaxis(blocks, 0, 1)
    return whole.reshape(q.shape[0], -1, *whole.shape[3:])[:, :queries]


def read_segment(
    q: Float[Array, "N Q H E"],
    segment: Segment,
    start: Int[Array, P],
    slots: Int[Array, Q] | None,
    how: How,
    found: Sums | None,
) -> Sums:
    """Adds the keys of one segment to the softmax sums `found`, block by block. Returns the new sums.

    Args:
        start: position of the segment's first slot.
        slots: slots of the queries, if they lie in this segment. A query then reads its own slot and earlier slots.
            None if the queries lie elsewhere, and read all filled slots.
        found: sums over other keys; None if there are none yet.
    """
    room = segment.k.shape[-1]
    size = min(BLOCK, room)
    count = -(-room // size) if slots is None else (slots[-1] + size) // size

    def block(i: Array, found: Sums) -> Sums:
        first = jnp.minimum(i * size, room - size).astype(jnp.int32)  # the last block may begin inside the one before
        k = jax.lax.dynamic_slice_in_dim(segment.k, first, size, axis=3)
        v = None if segment.v is None else jax.lax.dynamic_slice_in_dim(segment.v, first, size, axis=2)
        keys = first + jnp.arange(size, dtype=jnp.int32)
        mask = mask_block(segment.length, start, keys, slots, how) & (keys >= i * size)[None, None, :]
        return merge_sums(found, sums(q, [Part(k, v, mask)], how))

    if found is None:
        n, queries, heads, _ = q.shape
        kv_heads = segment.k.shape[1]
        shape = n, kv_heads, heads // kv_heads * queries
        wide = jnp.promote_types(segment.k.dtype, jnp.float32)
        width = how.values if segment.v is None else segment.v.shape[-1]
        nothing = jnp.zeros((*shape, 1), wide)
        found = jnp.zeros((*shape, width), wide), nothing, nothing - 1e30
    return jax.lax.fori_loop(0, count, block, found)


def mask_block(
    length: Int[Array, P], start: Int[Array, A], keys: Int[Array, S], slots: Int[Array, Q] | None, how: How
) -> Bool[Array, "B Q S"]:
    """Returns a mask over given slots of a segment: True where a query reads the slot.

    The mask is [N, Q, S] for a layer with a window. Without a window it is [P, Q, S] if `slots` is given, else
    [P, 1, S].

    Args:
        length: number of filled slots of each of the P entries (pieces of text) of the segment.
        start: position of the segment's first slot: one position for each entry (A = P), or one for all (A = 1).
        keys: indices of the given slots in the segment.
        slots: slots of the queries in the segment; None if the segment lies before the queries.
        how: positions and window of the queries.
    """
    mask = keys[None, None, :] < length[:, None, None]
    if slots is not None:
        mask = mask & (keys[None, None, :] <= slots[None, :, None])
    if how.window is not None:
        rows = how.positions.shape[0]
        position = jnp.repeat(start, rows // start.shape[0])[:, None, None] + keys[None, None, :]
        mask = jnp.repeat(mask, rows // mask.shape[0], axis=0) & how.near(how.positions[:, :, None] - position)
    return mask
