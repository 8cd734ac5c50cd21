"""Computes attention over a row's own cache, only up to the row's length, with a Pallas kernel for decoding on TPUs.

The result is that of `gpu_decode.own_sums`, which says what a row's own cache is and why the kernel returns softmax
sums. A TPU core runs the steps of a kernel one after another, and fetches the blocks of the next step meanwhile. Each
step reads one block of one row's cache for one key head:

    grid      | row 0: blocks 0 1 2 | row 1: blocks 0 1 2 | row 2, finished | ...
    fetched   |               0 1 2 |               0 1 1 |             0 0 |

The lengths are known before the kernel starts. No row takes more steps than the longest row has blocks. A step past a
row's last block names that block again, and a block that is named twice in a row is fetched once. All finished rows in
succession name the same block.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int, Num

from r1jax.model.kernels.gpu_packed import NOTHING, dot

LANES = 128  # numbers in a row of a register: the kernel keeps a number of each query in every lane
QUERIES = 16  # rows in a tile of bfloat16: queries are padded to a multiple of it
BLOCKS = (1024, 512, 256, 128)  # cache slots in one block; the largest that divides the cache is used


def repeat_lanes(x: Num[Array, "b 128"], width: int) -> Num[Array, "b {width}"]:
    """Returns `width` columns, where all columns of x are equal, and so are those of the result."""
    return jnp.tile(x, (1, pl.cdiv(width, LANES)))[:, :width]


def kernel(length_ref: Any, q_ref: Any, k_ref: Any, v_ref: Any, out_ref: Any, total_ref: Any, top_ref: Any) -> None:
    """Adds one block of one row's cache to the softmax sums of `own_sums`, for one key head.

    s = q·k is the score of a slot, and t is a query's largest score so far.

    Args:
        length_ref: number of filled slots of all rows.
        q_ref, k_ref, v_ref: the m queries [m, E] that share the key head, keys [E, b] and values [b, E] of b slots.
        out_ref, total_ref, top_ref: the results in float32, Σ eˢ⁻ᵗ v [m, E], Σ eˢ⁻ᵗ and t. The last two are [m, 128],
            with equal columns. They stay in fast memory until the row's last step.
    """
    block, at, length = k_ref.shape[1], pl.program_id(2), length_ref[pl.program_id(0)]

    @pl.when(at == 0)
    def begin() -> None:
        out_ref[...], total_ref[...] = jnp.zeros_like(out_ref), jnp.zeros_like(total_ref)
        top_ref[...] = jnp.full_like(top_ref, NOTHING)

    @pl.when(at * block < length)
    def add() -> None:
        scores = dot(q_ref[...], k_ref[...])
        may = at * block + jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1) < length
        scores, top = jnp.where(may, scores, NOTHING), top_ref[...]
        new = jnp.maximum(top, scores.max(axis=1, keepdims=True))
        weights = jnp.where(may, jnp.exp(scores - repeat_lanes(new, block)), 0.0)
        shrunk, top_ref[...] = jnp.exp(top - new), new
        total_ref[...] = total_ref[...] * shrunk + weights.sum(axis=1, keepdims=True)
        read = dot(weights.astype(v_ref.dtype), v_ref[...])
        out_ref[...] = out_ref[...] * repeat_lanes(shrunk, out_ref.shape[1]) + read


def own_sums(
    q: Float[Array, "N K m E"], k: Float[Array, "N K E S"], v: Float[Array, "N K S E"], length: Int[Array, N]
) -> tuple[Float[Array, "N K m E"], Float[Array, "N K m 1"], Float[Array, "N K m 1"]]:
    """Returns the softmax sums (Σ eˢ⁻ᵗ v, Σ eˢ⁻ᵗ, t) of each query over the first `length` slots of its row.

    s = q·k is the score of a slot, and t is the query's largest score. CPUs interpret the kernel.

    Args:
        q: queries, already multiplied by the scale, grouped by key head (`cache.by_key_head`).
        k, v: the rows' own caches. S must be a multiple of 128, or at most 128. All slots must hold finite numbers.
        length: number of slots to read in each row.
    """
    from jax.experimental.pallas import tpu

    n, heads, m, width = q.shape
    slots, wide = k.shape[-1], -(-m // QUERIES) * QUERIES
    block = next((size for size in BLOCKS if slots % size == 0), slots)

    def place(row: Array, head: Array, at: Array, length: Any) -> tuple[Array, Array, Array]:
        live, last = length[row] > 0, jnp.maximum(pl.cdiv(length[row], block) - 1, 0)
        return jnp.where(live, row, 0), jnp.where(live, head, 0), jnp.minimum(at, last)

    def keys(*step: Any) -> tuple:
        row, head, at = place(*step)
        return row, head, 0, at

    def values(*step: Any) -> tuple:
        row, head, at = place(*step)
        return row, head, at, 0

    def rows(row: Array, head: Array, at: Array, length: Any) -> tuple:
        return row, head, 0, 0

    shapes = [(n, heads, wide, columns) for columns in (width, LANES, LANES)]
    out, total, top = pl.pallas_call(
        kernel,
        grid_spec=tpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(n, heads, jnp.maximum(pl.cdiv(length.max(), block), 1)),
            in_specs=[
                pl.BlockSpec((None, None, wide, width), rows),
                pl.BlockSpec((None, None, width, block), keys),
                pl.BlockSpec((None, None, block, width), values),
            ],
            out_specs=[pl.BlockSpec((None, None, *shape[2:]), rows) for shape in shapes],
        ),
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=jax.default_backend() == "cpu",
        name="decode_attention",
    )(length, jnp.pad(q, ((0, 0), (0, 0), (0, wide - m), (0, 0))), k, v)
    return out[:, :, :m], total[:, :, :m, :1], top[:, :, :m, :1]
