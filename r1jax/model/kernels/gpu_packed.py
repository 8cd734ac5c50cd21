"""Computes flash attention over packed rows on GPUs, with a Pallas kernel for shared prompts.

A token may read two runs of slots (`packed_rows.visible`): its group's prompt, and its own completion up to itself.
Runs are contiguous, so a block of queries needs two ranges of key blocks. The ranges are computed outside the kernel,
from the group and segment ids. Inside the kernel, these ids give the exact mask. Blocks of other completions are never
loaded, so a completion costs no more in a shared row than in a row without other completions.

    keys      | prompt A | completion A1 | completion A2 |
    queries of A2: ##########               ######/         first range, second range

Padding (group 0) reads nothing and gets 0. Scores and sums are float32. The backward pass recomputes the scores from
the log-sum-exp of each query (Dao 2023, FlashAttention-2), with one kernel for queries and one for keys and values.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

BLOCKS = (64, 32, 16)  # slots in a block; the largest is used whose tiles fit (`block_of`)
STAGES = 2  # tiles of each array that a loop reads ahead
SHARED_MEMORY = 227 * 1024  # bytes for one program on Hopper, for lowering without a GPU
NOTHING = -1e30  # score of a key that must not be read


def dot(a: Array, b: Array) -> Array:
    """Returns the matrix product a·b, accumulated in float32."""
    return jax.lax.dot_general(a, b, (((1,), (0,)), ((), ())), preferred_element_type=jnp.float32)


def warps(width: int) -> int:
    """Returns how many warps of 32 threads share the work of a program, for heads of width `width`."""
    return 4 if width <= 64 else 8


def tile_bytes(block: int, width: int, value_width: int, size: int, *, backward: bool) -> int:
    """Returns the bytes of shared memory that the tiles of a program take. This is an estimate.

    A loop reads a tile of `width` and a tile of `value_width` numbers per slot, `STAGES` times because it reads ahead.
    In the forward pass, a program also holds its queries, and the weights of a block as a factor of a product. In the
    backward pass, it holds two arrays of its slots (keys and values, or queries and the output's gradients), and as
    factors the weights and the gradients of the scores.

    Args:
        block: number of slots in a block.
        width, value_width: widths of a key and of a value.
        size: bytes of a number.
        backward: whether the program belongs to the backward pass.
    """
    both = width + value_width
    held, squares = (both, 2) if backward else (width, 1)
    return size * (block * (held + STAGES * both) + squares * block * block)


def block_of(width: int, value_width: int, size: int, *, backward: bool) -> int:
    """Returns how many slots a block has: the largest number in `BLOCKS` for which the tiles fit shared memory.

    Without a GPU, the shared memory is that of Hopper. The products of Hopper's matrix units have 64 rows. Blocks of 64
    fit Hopper in bfloat16 for all widths up to 256, forward and backward. The float32 sums and scores of a block take
    block · (width + value_width + 2 · block) / (32 · `warps`) registers of a thread in the backward pass, at most 160
    of 255.

    Args:
        width, value_width, size, backward: see `tile_bytes`.
    """
    most = getattr(jax.local_devices()[0], "shared_memory_per_block_optin", SHARED_MEMORY)
    fitting = [b for b in BLOCKS if tile_bytes(b, width, value_width, size, backward=backward) <= most]
    return fitting[0] if fitting else BLOCKS[-1]


def run_bounds(group: Int[Array, "R S"], segment: Int[Array, "R S"]) -> tuple[Array, Array, Array, Array]:
    """Returns which slots each slot of packed rows reads, and which slots may read that slot.

    Returns:
        Prompt start, prompt end, own start and reach, each [R, S]. Slot s reads the slots [prompt start, prompt end) of
        its prompt, and [own start, s] of its own run (prompt or completion). The prompt range is empty if s lies in a
        prompt. The slots that may read s all lie before `reach`, which is 0 in padding.
    """
    rows, length = group.shape
    slot = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), group.shape)
    edge = jnp.full((rows, 1), -1, group.dtype)
    last_group = jnp.concatenate([edge, group[:, :-1]], axis=1)
    last_segment = jnp.concatenate([edge, segment[:, :-1]], axis=1)
    new_group = group != last_group
    new_run = new_group | (segment != last_segment)

    def latest(at: Array) -> Array:
        return jax.lax.cummax(jnp.where(at, slot, 0), axis=1)

    def upcoming(at: Array) -> Array:
        after = jnp.concatenate([jnp.where(at, slot, length)[:, 1:], jnp.full((rows, 1), length, jnp.int32)], axis=1)
        return jax.lax.cummin(after, axis=1, reverse=True)

    prompt_start, own_start = latest(new_group), latest(new_run)
    prompt_end = jnp.maximum(latest(new_run & ~new_group & (last_segment == 0)), prompt_start)
    prompt_end = jnp.where(segment == 0, prompt_start, prompt_end)
    reach = jnp.where(segment == 0, upcoming(new_group), upcoming(new_run))
    return prompt_start, prompt_end, own_start, jnp.where(group > 0, reach, 0)


def key_ranges(group: Int[Array, "R S"], segment: Int[Array, "R S"], block: int) -> Int[Array, "R n 4"]:
    """Returns two half-open ranges of key blocks, (start, end, start, end), for each of the n blocks of queries.

    The two ranges hold all keys that the queries of the block may read, and never overlap. They are computed from the
    block's first slot alone. A run (prompt or completion) that begins at a later slot adds only keys of the block
    itself, and the second range includes these keys.

    Args:
        block: number of slots in a block.
    """
    prompt_start, prompt_end, own_start, _ = (x[:, ::block] for x in run_bounds(group, segment))
    here = jnp.arange(group.shape[1] // block, dtype=jnp.int32)[None, :]
    own = own_start // block
    first = jnp.minimum(prompt_start // block, own)
    end = jnp.clip(-(-prompt_end // block), first, own)
    padding = group[:, ::block] == 0  # ends a row: nothing follows it
    return jnp.stack([first, jnp.where(padding, first, end), jnp.where(padding, here + 1, own), here + 1 + 0 * own], -1)


def query_ranges(group: Int[Array, "R S"], segment: Int[Array, "R S"], block: int) -> Int[Array, "R n 2"]:
    """Returns, for each of the n blocks of keys, the half-open range of query blocks that may read keys of this block.

    `block` is the number of slots in a block.
    """
    reach = run_bounds(group, segment)[3].reshape(group.shape[0], -1, block).max(-1)
    here = jnp.broadcast_to(jnp.arange(group.shape[1] // block, dtype=jnp.int32), reach.shape)
    return jnp.stack([here, jnp.maximum(-(-reach // block), here)], -1)


def readable(group_ref: Any, segment_ref: Any, queries: Any, keys: Any, q_slot: Array, k_slot: Array) -> Array:
    """Returns the mask `packed_rows.visible` for a block of queries and a block of keys; padding reads nothing.

    Args:
        group_ref, segment_ref: group and segment of all slots of the row.
        queries, keys: the blocks, as slices of `group_ref` and `segment_ref`.
        q_slot, k_slot: for each slot of the two blocks, its index in the row.
    """
    q_group, k_group = group_ref[queries], group_ref[keys]
    q_segment, k_segment = segment_ref[queries], segment_ref[keys]
    same = (q_group[:, None] == k_group[None, :]) & (q_group > 0)[:, None]
    own = (k_segment == 0)[None, :] | (q_segment[:, None] == k_segment[None, :])
    return same & own & (q_slot[:, None] >= k_slot[None, :])


class Inputs(NamedTuple):
    """The inputs of every kernel: q, k, v, group and segment of each slot, and the range of blocks to visit."""

    q: Any
    k: Any
    v: Any
    group: Any
    segment: Any
    range: Any


class Pulled(NamedTuple):
    """Further inputs of the backward kernels.

    Attributes:
        dout: the gradient of the output.
        lse: the log-sum-exp of each query's scores.
        delta: for each query, the sum of gradient · output over the head width.
    """

    dout: Any
    lse: Any
    delta: Any


def forward_kernel(inputs: Inputs, out_ref: Any, lse_ref: Any, *, scale: float) -> None:
    """Computes attention for one block of queries of one head. Writes the output and the log-sum-exp of the scores.

    Shapes, for b slots in a block, S slots in a row, head width E and width W of a value: q [b, E]; k [S, E]; v [S, W];
    group, segment [S]; range [4], from `key_ranges`.
    """
    q_ref, k_ref, v_ref, group_ref, segment_ref, range_ref = inputs
    block = q_ref.shape[0]
    here = pl.program_id(0)
    queries = pl.ds(here * block, block)
    q, offset = q_ref[...], jnp.arange(block)

    def body(at: Array, carry: tuple) -> tuple:
        out, top, total = carry
        keys = pl.ds(at * block, block)
        may = readable(group_ref, segment_ref, queries, keys, here * block + offset, at * block + offset)
        scores = jnp.where(may, dot(q, k_ref[keys, :].T) * scale, NOTHING)
        new = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.where(may, jnp.exp(scores - new[:, None]), 0.0)
        shrunk = jnp.exp(top - new)
        out = out * shrunk[:, None] + dot(weights.astype(v_ref.dtype), v_ref[keys, :])
        return out, new, total * shrunk + weights.sum(axis=1)

    carry = jnp.zeros((block, v_ref.shape[1]), jnp.float32), jnp.full(block, NOTHING), jnp.zeros(block)
    carry = jax.lax.fori_loop(range_ref[0], range_ref[1], body, carry)
    out, top, total = jax.lax.fori_loop(range_ref[2], range_ref[3], body, carry)
    total = jnp.maximum(total, 1e-30)
    out_ref[...] = (out / total[:, None]).astype(out_ref.dtype)
    lse_ref[...] = top + jnp.log(total)


def dq_kernel(inputs: Inputs, pulled: Pulled, dq_ref: Any, *, scale: float) -> None:
    """Computes the gradient of the loss with respect to one block of queries of one head."""
    q_ref, k_ref, v_ref, group_ref, segment_ref, range_ref = inputs
    dout_ref, lse_ref, delta_ref = pulled
    block, width = q_ref.shape
    here = pl.program_id(0)
    queries = pl.ds(here * block, block)
    q, dout, lse, delta, offset = q_ref[...], dout_ref[...], lse_ref[...], delta_ref[...], jnp.arange(block)

    def body(at: Array, dq: Array) -> Array:
        keys = pl.ds(at * block, block)
        k = k_ref[keys, :]
        may = readable(group_ref, segment_ref, queries, keys, here * block + offset, at * block + offset)
        weights = jnp.where(may, jnp.exp(dot(q, k.T) * scale - lse[:, None]), 0.0)
        dscores = weights * (dot(dout, v_ref[keys, :].T) - delta[:, None])
        return dq + dot(dscores.astype(k.dtype), k)

    dq = jax.lax.fori_loop(range_ref[0], range_ref[1], body, jnp.zeros((block, width), jnp.float32))
    dq = jax.lax.fori_loop(range_ref[2], range_ref[3], body, dq)
    dq_ref[...] = (dq * scale).astype(dq_ref.dtype)


def dkv_kernel(inputs: Inputs, pulled: Pulled, dk_ref: Any, dv_ref: Any, *, scale: float) -> None:
    """Computes one query head's part of the gradient of the loss with respect to one block of keys and values.

    Shapes, for b slots in a block, S slots in a row, head width E and width W of a value: q [S, E]; dout [S, W];
    k [b, E]; v [b, W]; lse, delta [S].
    """
    q_ref, k_ref, v_ref, group_ref, segment_ref, range_ref = inputs
    dout_ref, lse_ref, delta_ref = pulled
    block = k_ref.shape[0]
    here = pl.program_id(0)
    keys = pl.ds(here * block, block)
    k, v, offset = k_ref[...], v_ref[...], jnp.arange(block)

    def body(at: Array, carry: tuple) -> tuple:
        dk, dv = carry
        queries = pl.ds(at * block, block)
        q, dout = q_ref[queries, :], dout_ref[queries, :]
        may = readable(group_ref, segment_ref, queries, keys, at * block + offset, here * block + offset)
        weights = jnp.where(may, jnp.exp(dot(q, k.T) * scale - lse_ref[queries][:, None]), 0.0)
        dv = dv + dot(weights.astype(dout.dtype).T, dout)
        dscores = weights * (dot(dout, v.T) - delta_ref[queries][:, None])
        return dk + dot(dscores.astype(q.dtype).T, q), dv

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    dk, dv = jax.lax.fori_loop(range_ref[0], range_ref[1], body, zeros)
    dk_ref[...], dv_ref[...] = dk * scale, dv


def spec(kind: str, shape: Sequence[int], block: int, shared: int) -> pl.BlockSpec:
    """Returns the `BlockSpec` of an array.

    A `BlockSpec` says which part of the array a program instance reads or writes. There is one instance for each block
    i, row r and query head h.

    Args:
        kind: "block" or "row" for an array [R, S, heads, width], of which an instance sees a block or a row of its
            head, and "block of keys" or "row of keys" of its key head; "ids" for [R, S]; "range" for [R, blocks, ..];
            "block of numbers" and "row of numbers" for [R, heads, S].
        shape: shape of the array.
        block: number of slots in a block.
        shared: number of query heads that share a key head.
    """
    last = shape[-1]
    return {
        "block": pl.BlockSpec((None, block, None, last), lambda i, r, h: (r, i, h, 0)),
        "row": pl.BlockSpec((None, shape[1], None, last), lambda i, r, h: (r, 0, h, 0)),
        "block of keys": pl.BlockSpec((None, block, None, last), lambda i, r, h: (r, i, h // shared, 0)),
        "row of keys": pl.BlockSpec((None, shape[1], None, last), lambda i, r, h: (r, 0, h // shared, 0)),
        "ids": pl.BlockSpec((None, last), lambda i, r, h: (r, 0)),
        "range": pl.BlockSpec((None, None, last), lambda i, r, h: (r, i, 0)),
        "block of numbers": pl.BlockSpec((None, None, block), lambda i, r, h: (r, h, i)),
        "row of numbers": pl.BlockSpec((None, None, last), lambda i, r, h: (r, h, 0)),
    }[kind]


def run(
    kernel: Any, block: int, scale: float, ins: tuple[Inputs | Pulled, ...], outs: list[tuple[str, Any]], name: str
) -> Any:
    """Runs a kernel over all (blocks, rows, query heads) and returns its outputs. CPUs interpret the kernel.

    Args:
        block: number of slots in a block.
        ins: `Inputs`, and for a backward kernel also `Pulled`. Each field is (kind, array); see `spec`.
        outs: (kind, shape and dtype) for each output.
        name: name of the kernel in profiles.
    """
    from jax.experimental.pallas import triton

    (_, q), (_, k), *_ = ins[0]
    rows, length, heads, width = q.shape
    see = functools.partial(spec, block=block, shared=heads // k.shape[2])
    return pl.pallas_call(
        functools.partial(kernel, scale=scale),
        grid=(length // block, rows, heads),
        in_specs=[part._make(see(kind, x.shape) for kind, x in part) for part in ins],
        out_specs=[see(kind, x.shape) for kind, x in outs],
        out_shape=[shape for _, shape in outs],
        compiler_params=triton.CompilerParams(num_warps=warps(width), num_stages=STAGES),
        interpret=jax.default_backend() == "cpu",
        name=name,
    )(*(part._make(array for _, array in part) for part in ins))


def forward(q: Array, k: Array, v: Array, group: Array, segment: Array, scale: float) -> tuple[Array, Array]:
    """Returns the output [R, S, H, W] of `packed_attention`, and the log-sum-exp of each query's scores [R, H, S]."""
    rows, length, heads, width = q.shape
    block = block_of(width, v.shape[3], q.dtype.itemsize, backward=False)
    ids, ranges = (("ids", group), ("ids", segment)), ("range", key_ranges(group, segment, block))
    inputs = Inputs(("block", q), ("row of keys", k), ("row of keys", v), *ids, ranges)
    lse = jax.ShapeDtypeStruct((rows, heads, length), jnp.float32)
    outs = [("block", jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), q.dtype)), ("block of numbers", lse)]
    out, lse = run(forward_kernel, block, scale, (inputs,), outs, "packed_attention")
    # Named, so that a remat policy can keep them: flash attention is never worth recomputing.
    return checkpoint_name(out, "attention"), checkpoint_name(lse, "attention")


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def whole_blocks(
    q: Float[Array, "R S H E"],
    k: Float[Array, "R S K E"],
    v: Float[Array, "R S K W"],
    group: Int[Array, "R S"],
    segment: Int[Array, "R S"],
    scale: float,
) -> Float[Array, "R S H W"]:
    """Returns the result of `packed_attention`, for S a multiple of 64, and E and W powers of 2."""
    return forward(q, k, v, group, segment, scale)[0]


def packed_forward(q: Array, k: Array, v: Array, group: Array, segment: Array, scale: float) -> tuple[Array, tuple]:
    """Forward pass of `whole_blocks` for `custom_vjp`. Returns the output, and what the backward pass needs."""
    out, lse = forward(q, k, v, group, segment, scale)
    return out, (q, k, v, group, segment, out, lse)


def packed_backward(scale: float, kept: tuple, dout: Array) -> tuple:
    """Backward pass of `whole_blocks` for `custom_vjp`. `dout` is the gradient of the output."""
    q, k, v, group, segment, out, lse = kept
    block = block_of(q.shape[3], v.shape[3], q.dtype.itemsize, backward=True)
    delta = jnp.einsum("rshw,rshw->rhs", out.astype(jnp.float32), dout.astype(jnp.float32))
    ids, ranges = (("ids", group), ("ids", segment)), ("range", key_ranges(group, segment, block))
    inputs = Inputs(("block", q), ("row of keys", k), ("row of keys", v), *ids, ranges)
    pulled = Pulled(("block", dout), ("block of numbers", lse), ("block of numbers", delta))
    outs = [("block", jax.ShapeDtypeStruct(q.shape, q.dtype))]
    (dq,) = run(dq_kernel, block, scale, (inputs, pulled), outs, "packed_attention_dq")
    ranges = ("range", query_ranges(group, segment, block))
    inputs = Inputs(("row", q), ("block of keys", k), ("block of keys", v), *ids, ranges)
    pulled = Pulled(("row", dout), ("row of numbers", lse), ("row of numbers", delta))
    outs = [("block", jax.ShapeDtypeStruct((*q.shape[:3], x.shape[3]), jnp.float32)) for x in (k, v)]
    dk, dv = run(dkv_kernel, block, scale, (inputs, pulled), outs, "packed_attention_dkv")

    def whole(x: Array, like: Array) -> Array:  # sums over the query heads of a key head
        return x.reshape(*like.shape[:3], -1, like.shape[3]).sum(axis=3).astype(like.dtype)

    return dq, whole(dk, k), whole(dv, v), None, None


whole_blocks.defvjp(packed_forward, packed_backward)


def packed_attention(
    q: Float[Array, "R S H E"],
    k: Float[Array, "R S K E"],
    v: Float[Array, "R S K W"],
    group: Int[Array, "R S"],
    segment: Int[Array, "R S"],
    scale: float,
) -> Float[Array, "R S H W"]:
    """Returns the attention output softmax(q·k · scale)·v, over the keys that each slot of packed rows may read.

    `group` and `segment` (see `PackedRows`) determine which keys these are. Rows are padded to whole blocks, and widths
    to powers of 2, because Triton has no other tiles. Zeros in q and k add nothing to a score.
    """
    more = -q.shape[1] % BLOCKS[0]

    def padded(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, pl.next_power_of_2(x.shape[3]) - x.shape[3])))

    group, segment = (jnp.pad(x, ((0, 0), (0, more))) for x in (group, segment))
    return whole_blocks(padded(q), padded(k), padded(v), group, segment, scale)[:, : q.shape[1], :, : v.shape[3]]
