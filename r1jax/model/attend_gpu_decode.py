"""A row's own cache read up to its length: a Pallas kernel for decoding on GPUs.

Room for sampled tokens doubles, so a cache is up to half empty, and finished rows stay until the next compaction: XLA
reads it all. The kernel stops at each row's length, 0 for finished rows. Long caches are split among programs while
rows are few. It returns sums, not their quotient: prompts are read elsewhere, once for their group, and `cache.merged`
brings both together.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from r1jax.model.attend_gpu import NOTHING, dot

QUERIES = 16  # the fewest rows a matrix unit takes
SLOTS = 64  # of the cache in one block
PROGRAMS = 512  # about four for each multiprocessor of a large GPU


def kernel(q_ref, k_ref, v_ref, length_ref, out_ref, total_ref, top_ref, *, blocks: int):
    """A split of one row's cache under one key head: q [m, E], k [E, S], v [S, E]; sums in float32."""
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
    """Σ eˢ⁻ᵗ v, Σ eˢ⁻ᵗ and t = max s over the first `length` slots, s = q·k. CPUs interpret the kernel.

    Args:
        q: scaled. S is a multiple of 64, E a power of 2.
    """  # fmt: skip
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
