"""Computes attention over a row's own cache, only up to the row's length, with a Pallas kernel for decoding on GPUs.

A row's own cache holds the keys and values of its sampled tokens. The sampler doubles a full cache, so a cache may be
half empty. Finished rows stay in the batch until the sampler drops them. XLA reads every slot of a cache. This kernel
reads only as many slots as the row has tokens, and none for a finished row.

If there are few rows, several programs share the cache of one row.

A row also attends to its prompt. Other code computes the softmax sums over the prompt, once for all completions of the
prompt. So the kernel returns the softmax sums over the cache (`cache.sums`) instead of their quotient, and
`cache.merge_sums` adds the sums over prompt and cache.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from r1jax.model.kernels.gpu_packed import NOTHING, dot

QUERIES = 16  # the GPU's matrix units need at least so many queries
SLOTS = 64  # cache slots in one block
PROGRAMS = 512  # programs to reach by splitting caches: about four for each multiprocessor of a large GPU


def kernel(q_ref, k_ref, v_ref, length_ref, out_ref, total_ref, top_ref, *, blocks: int):
    """Computes the softmax sums of `own_sums` over a part of one row's cache, for one key head.

    s = q·k is the score of a slot, and t is a query's largest score in the part.

    Args:
        q_ref, k_ref, v_ref: the m queries [m, E] that share the key head, keys [E, S] and values [S, E] of the row.
        length_ref: number of filled slots of the row.
        out_ref, total_ref, top_ref: the results in float32, Σ eˢ⁻ᵗ v [m, E], Σ eˢ⁻ᵗ [m] and t [m].
        blocks: number of blocks of `SLOTS` slots in the part.
    """
    m, width = q_ref.shape
    begin = pl.program_id(2) * blocks
    length = length_ref[()]
    q, slot = q_ref[...], jnp.arange(SLOTS)

    def body(at: Array, carry: tuple) -> tuple:
        out, total, top = carry
        here = pl.ds(at * SLOTS, SLOTS)
        may = (at * SLOTS + slot < length)[None, :]
        scores = jnp.where(may, dot(q, k_ref[:, here]), NOTHING)
        new = jnp.maximum(top, scores.max(axis=1))
        weights = jnp.where(may, jnp.exp(scores - new[:, None]), 0.0)
        shrunk = jnp.exp(top - new)
        out = out * shrunk[:, None] + dot(weights.astype(v_ref.dtype), v_ref[here, :])
        return out, total * shrunk + weights.sum(axis=1), new

    zero = jnp.zeros((m, width), jnp.float32), jnp.zeros(m, jnp.float32), jnp.full(m, NOTHING, jnp.float32)
    end = jnp.minimum((length + SLOTS - 1) // SLOTS, begin + blocks)
    out_ref[...], total_ref[...], top_ref[...] = jax.lax.fori_loop(begin, end, body, zero)


def own_sums(
    q: Float[Array, "N K m E"], k: Float[Array, "N K E S"], v: Float[Array, "N K S E"], length: Int[Array, N]
) -> tuple[Float[Array, "N K m E"], Float[Array, "N K m 1"], Float[Array, "N K m 1"]]:
    """Returns the softmax sums (Σ eˢ⁻ᵗ v, Σ eˢ⁻ᵗ, t) of each query over the first `length` slots of its row.

    s = q·k is the score of a slot, and t is the query's largest score. CPUs interpret the kernel.

    Args:
        q: queries, already multiplied by the scale, grouped by key head (`cache.by_key_head`).
        k, v: the rows' own caches. S must be a multiple of 64 and E a power of 2.
        length: number of slots to read in each row.
    """
    from jax.experimental.pallas import triton

    n, heads, m, width = q.shape
    wide = max(QUERIES, pl.next_power_of_2(m))
    slots = k.shape[-1] // SLOTS
    splits = 1
    while n * heads * splits < PROGRAMS and slots % (2 * splits) == 0 and slots // splits > 4:
        splits *= 2
    shape = (n, heads, splits, wide)

    def rows(n: Array, h: Array, s: Array) -> tuple:
        return n, h, 0, 0

    out, total, top = pl.pallas_call(
        functools.partial(kernel, blocks=slots // splits),
        grid=(n, heads, splits),
        in_specs=[
            pl.BlockSpec((None, None, wide, width), rows),
            pl.BlockSpec((None, None, width, k.shape[-1]), rows),
            pl.BlockSpec((None, None, k.shape[-1], width), rows),
            pl.BlockSpec((None,), lambda n, h, s: (n,)),
        ],
        out_specs=[
            pl.BlockSpec((None, None, None, wide, width), lambda n, h, s: (n, h, s, 0, 0)),
            *[pl.BlockSpec((None, None, None, wide), lambda n, h, s: (n, h, s, 0))] * 2,
        ],
        out_shape=[jax.ShapeDtypeStruct((*shape, width), jnp.float32), *[jax.ShapeDtypeStruct(shape, jnp.float32)] * 2],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=2),
        interpret=jax.default_backend() == "cpu",
        name="decode_attention",
    )(jnp.pad(q, ((0, 0), (0, 0), (0, wide - m), (0, 0))), k, v, length)
    highest = top.max(axis=2, keepdims=True)
    share = jnp.exp(top - highest)
    out, total = (out * share[..., None]).sum(axis=2), (total * share).sum(axis=2)
    return out[:, :, :m], total[:, :, :m, None], highest[:, :, 0, :m, None]
