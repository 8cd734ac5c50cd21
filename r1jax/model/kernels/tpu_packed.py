"""Computes flash attention over packed rows on TPUs, with a Pallas kernel for shared prompts.

`gpu_packed` says which keys a token reads, and which two ranges of key blocks hold them. The kernels here visit the
same blocks. A TPU core runs the steps of a kernel one after another, and each step takes one block of queries and one
block of keys. The list of steps is computed before the kernel starts, so the core can fetch the blocks of the next step
while it computes. The steps of four blocks, one with a prompt and one with each of its three completions:

    step      |    0    |    1    |    2    |    3    |    4    |    5    |    6    |
    mine      |    0    |    1    |    1    |    2    |    2    |    3    |    3    |    blocks of queries
    other     |    0    |    0    |    1    |    0    |    2    |    0    |    3    |    blocks of keys that they read
    edge      | first,  |  first  |  last   |  first  |  last   |  first  |  last   |
              |    last |         |         |         |         |         |         |

A row of n blocks has at most n(n+1)/2 steps, and there is no array with a number for each query and key.

Padding (group 0) reads nothing and gets 0. Scores and sums are float32. The backward pass recomputes the scores from
the log-sum-exp of each query (Dao 2023, FlashAttention-2), with one kernel for queries and one for keys and values.

Sources: jax.experimental.pallas.ops.tpu, splash_attention (layout of numbers) and megablox (lists of steps).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jaxtyping import Array, Float, Int

from r1jax.model.kernels.gpu_packed import NOTHING, Pulled, dot, key_ranges, query_ranges
from r1jax.model.kernels.tpu_decode import LANES, repeat_lanes

BLOCK = 512  # slots in a block; shorter rows are one block
SUBLANES = 8  # rows of a register: an array that lies along the slots repeats its numbers in so many rows
FIRST, LAST, IDLE = 1, 2, 4  # flags of a step
PROMPT = -65536  # all bits of a slot's number (`tell_apart`) except the segment's


class Steps(NamedTuple):
    """The steps of a kernel over each row: [R, P] arrays for P steps.

    Attributes:
        mine: the block that the step adds to.
        other: the block that the step reads.
        edge: flags: `FIRST` at the first step of a block `mine`, `LAST` at its last, both if there is one step. `IDLE`
            at a step that does nothing, because the row has fewer steps than another row.
    """

    mine: Any
    other: Any
    edge: Any


class Inputs(NamedTuple):
    """The inputs of every kernel: q, k, v, and the numbers of the slots (`tell_apart`) as queries and as keys."""

    q: Any
    k: Any
    v: Any
    q_number: Any
    k_number: Any


def block_of(slots: int) -> int:
    """Returns the number of slots in a block, for rows of `slots` slots. Rows must be padded to whole blocks."""
    return min(BLOCK, -(-slots // LANES) * LANES)


def list_steps(ranges: Int[Array, "R n r"]) -> tuple[Steps, Int[Array, ""]]:
    """Returns the steps of each row, and the number of steps of the row that has most.

    Args:
        ranges: for each block of n, half-open ranges (start, end, start, end ..) of the blocks to read for it. At least
            one of its ranges is not empty. A row's ranges hold at most n(n+1)/2 blocks.
    """
    rows, n, _ = ranges.shape
    starts, sizes = ranges[..., 0::2], ranges[..., 1::2] - ranges[..., 0::2]
    parts = starts.shape[2]
    step = jnp.arange(n * (n + 1) // 2, dtype=jnp.int32)

    def of_row(starts: Array, sizes: Array) -> tuple[Steps, Array]:
        after = jnp.cumsum(sizes)  # number of steps up to the end of each range
        at = jnp.minimum(step, after[-1] - 1)  # an idle step names the blocks of the last one: nothing is fetched
        found = jnp.searchsorted(after, at, side="right").astype(jnp.int32)
        before = after - sizes
        mine, other = found // parts, starts[found] + at - before[found]
        first, last = at == before[::parts][mine], at == after[parts - 1 :: parts][mine] - 1
        edge = jnp.where(step < after[-1], FIRST * first + LAST * last, IDLE)
        return Steps(mine, other, edge), after[-1]

    steps, count = jax.vmap(of_row)(starts.reshape(rows, -1), sizes.reshape(rows, -1))
    return jax.tree.map(lambda x: x.astype(jnp.int32), steps), count.max()


def query_steps(group: Int[Array, "R S"], segment: Int[Array, "R S"], block: int) -> tuple[Steps, Array]:
    """Returns `list_steps` with blocks of queries as `mine`, and as `other` the blocks of keys that they may read."""
    first, end, own, after = jnp.moveaxis(key_ranges(group, segment, block), -1, 0)
    return list_steps(jnp.stack([first, end, jnp.minimum(own, after - 1), after], -1))  # padding visits its own block


def key_steps(group: Int[Array, "R S"], segment: Int[Array, "R S"], block: int) -> tuple[Steps, Array]:
    """Returns `list_steps` with blocks of keys as `mine`, and as `other` the blocks of queries that may read them."""
    here, end = jnp.moveaxis(query_ranges(group, segment, block), -1, 0)
    return list_steps(jnp.stack([here, jnp.maximum(end, here + 1)], -1))


def tell_apart(group: Int[Array, "R S"], segment: Int[Array, "R S"]) -> tuple[Array, Array]:
    """Returns the number of each slot as a query and as a key, both [R, S].

    The number is 65,536 · group + segment. Both must be less than 65,536. A query in padding has -1, which no key has.
    """
    number = (group << 16) + segment
    return jnp.where(group > 0, number, -1), number


def readable(q_number: Array, k_number: Array, q_start: Array, k_start: Array) -> Array:
    """Returns the mask `packed_rows.visible` for b queries and b keys; padding reads nothing.

    The mask is [queries, keys] if `q_number` is upright, and [keys, queries] if it lies.

    Args:
        q_number, k_number: numbers of the slots (`tell_apart`). One of them is upright, [b, 128] with equal columns.
            The other lies, [1, b].
        q_start, k_start: first slot of the queries and of the keys.
    """
    queries = int(q_number.shape[0] == 1)  # the axis of the queries

    def whole(x: Array) -> Array:
        return x if x.shape[0] == 1 else repeat_lanes(x, x.shape[0])

    key = whole(k_number)
    same = (key == whole(q_number)) | (key == whole(q_number & PROMPT))
    q_slot, k_slot = (jax.lax.broadcasted_iota(jnp.int32, same.shape, axis) for axis in (queries, 1 - queries))
    return same & (q_start + q_slot >= k_start + k_slot)


def dot_rows(a: Array, b: Array) -> Array:
    """Returns the matrix product a·bᵀ, accumulated in float32."""
    return jax.lax.dot_general(a, b, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def now(steps: Steps) -> tuple[Array, Array, Array]:
    """Returns the block `mine`, the block `other` and the flags of the step that runs now."""
    row, step = pl.program_id(0), pl.program_id(2)
    return steps.mine[row, step], steps.other[row, step], steps.edge[row, step]


def forward_kernel(
    steps: Steps, inputs: Inputs, out_ref: Any, lse_ref: Any, sum_ref: Any, total_ref: Any, top_ref: Any
) -> None:
    """Adds one block of keys to attention for one block of queries of one head.

    The last step of the block of queries writes the output, and the log-sum-exp of the scores.

    Shapes, for b slots in a block, head width E and width W of a value: q, k [b, E]; v, out [b, W]; q_number [b, 128];
    k_number, lse [8, b]. Sums of the steps so far: of values [b, W] and of weights [b, 128], and the largest score
    [b, 128].
    """
    q_ref, k_ref, v_ref, q_number, k_number = inputs
    block, (mine, other, edge) = q_ref.shape[0], now(steps)

    @pl.when((edge & FIRST) != 0)
    def begin() -> None:
        sum_ref[...], total_ref[...] = jnp.zeros_like(sum_ref), jnp.zeros_like(total_ref)
        top_ref[...] = jnp.full_like(top_ref, NOTHING)

    @pl.when(edge < IDLE)
    def add() -> None:
        may = readable(q_number[...], k_number[:1, :], mine * block, other * block)
        scores, top = jnp.where(may, dot_rows(q_ref[...], k_ref[...]), NOTHING), top_ref[...]
        new = jnp.maximum(top, scores.max(axis=1, keepdims=True))
        weights = jnp.where(may, jnp.exp(scores - repeat_lanes(new, block)), 0.0)
        shrunk, top_ref[...] = jnp.exp(top - new), new
        total_ref[...] = total_ref[...] * shrunk + weights.sum(axis=1, keepdims=True)
        read = dot(weights.astype(v_ref.dtype), v_ref[...])
        sum_ref[...] = sum_ref[...] * repeat_lanes(shrunk, sum_ref.shape[1]) + read

    @pl.when((edge & LAST) != 0)
    def end() -> None:
        total = jnp.maximum(total_ref[...], 1e-30)
        out_ref[...] = (sum_ref[...] / repeat_lanes(total, sum_ref.shape[1])).astype(out_ref.dtype)
        lse_ref[...] = (top_ref[...] + jnp.log(total)).T[:SUBLANES]


def dq_kernel(steps: Steps, inputs: Inputs, pulled: Pulled, dq_ref: Any, sum_ref: Any) -> None:
    """Adds one block of keys to the gradient of the loss with respect to one block of queries of one head.

    Shapes as in `forward_kernel`; dout [b, W]; lse, delta [8, b]; dq [b, E], and the same for the sum so far.
    """
    q_ref, k_ref, v_ref, q_number, k_number = inputs
    dout_ref, lse_ref, delta_ref = pulled
    block, (mine, other, edge) = q_ref.shape[0], now(steps)

    @pl.when((edge & FIRST) != 0)
    def begin() -> None:
        sum_ref[...] = jnp.zeros_like(sum_ref)

    @pl.when(edge < IDLE)
    def add() -> None:
        may = readable(q_number[...], k_number[:1, :], mine * block, other * block)
        k, lse, delta = k_ref[...], lse_ref[0][:, None], delta_ref[0][:, None]
        weights = jnp.where(may, jnp.exp(dot_rows(q_ref[...], k) - lse), 0.0)
        dscores = weights * (dot_rows(dout_ref[...], v_ref[...]) - delta)
        sum_ref[...] += dot(dscores.astype(k.dtype), k)

    @pl.when((edge & LAST) != 0)
    def end() -> None:
        dq_ref[...] = sum_ref[...].astype(dq_ref.dtype)


def dkv_kernel(
    steps: Steps, inputs: Inputs, pulled: Pulled, dk_ref: Any, dv_ref: Any, dk_sum: Any, dv_sum: Any
) -> None:
    """Adds one block of queries of one head to the gradients of the loss with respect to one block of keys and values.

    `mine` is a block of keys here. In each step the query heads of the key head take turns, and add to the same sums.

    Shapes as in `dq_kernel`, but for q_number [8, b] and k_number [b, 128]; dk [b, E]; dv [b, W]; the same for the sums
    so far.
    """
    q_ref, k_ref, v_ref, q_number, k_number = inputs
    dout_ref, lse_ref, delta_ref = pulled
    block, (mine, other, edge), head = q_ref.shape[0], now(steps), pl.program_id(3)

    @pl.when(((edge & FIRST) != 0) & (head == 0))
    def begin() -> None:
        dk_sum[...], dv_sum[...] = jnp.zeros_like(dk_sum), jnp.zeros_like(dv_sum)

    @pl.when(edge < IDLE)
    def add() -> None:
        may = readable(q_number[:1, :], k_number[...], other * block, mine * block)
        q, dout = q_ref[...], dout_ref[...]
        weights = jnp.where(may, jnp.exp(dot_rows(k_ref[...], q) - lse_ref[:1, :]), 0.0)
        dv_sum[...] += dot(weights.astype(dout.dtype), dout)
        dscores = weights * (dot_rows(v_ref[...], dout) - delta_ref[:1, :])
        dk_sum[...] += dot(dscores.astype(q.dtype), q)

    @pl.when(((edge & LAST) != 0) & (head == pl.num_programs(3) - 1))
    def end() -> None:
        dk_ref[...], dv_ref[...] = dk_sum[...].astype(dk_ref.dtype), dv_sum[...].astype(dv_ref.dtype)


class Grid(NamedTuple):
    """The grid of a kernel: (rows, heads, steps, query heads that take turns in a step).

    Attributes:
        block: number of slots in a block.
        shared: number of query heads that share a key head.
        steps: the steps of each row.
        count: number of steps of the row that has most.
        by_keys: whether `steps.mine` are blocks of keys. Then the grid's heads are key heads, and the query heads of a
            key head take turns. Otherwise the grid's heads are query heads.
    """

    block: int
    shared: int
    steps: Steps
    count: Array
    by_keys: bool = False

    def spec(self, kind: str, shape: Sequence[int]) -> pl.BlockSpec:
        """Returns the `BlockSpec` of an array, which says which part of it a step reads or writes.

        Args:
            kind: "queries" or "keys" for an array [R, heads, S, width], "lying queries" or "lying keys" for an array
                [R, heads, 8, S].
            shape: shape of the array. If it has one head, all heads use this head.
        """
        lying, side = kind.startswith("lying"), kind.split()[-1]

        def place(row: Array, head: Array, step: Array, turn: Array, steps: Steps) -> tuple:
            mine, other = steps.mine[row, step], steps.other[row, step]
            if side == "queries":
                head, at = (head * self.shared + turn, other) if self.by_keys else (head, mine)
            else:
                head, at = (head, mine) if self.by_keys else (jax.lax.div(head, self.shared), other)
            head = head if shape[1] > 1 else 0
            return (row, head, 0, at) if lying else (row, head, at, 0)

        part = (shape[2], self.block) if lying else (self.block, shape[3])
        return pl.BlockSpec((None, None, *part), place)

    def run(
        self,
        kernel: Any,
        ins: Sequence[Inputs | Pulled],
        outs: Sequence[tuple[str, jax.ShapeDtypeStruct]],
        widths: Sequence[int],
        name: str,
    ) -> Any:
        """Runs a kernel over the grid and returns its outputs. CPUs interpret the kernel.

        Args:
            ins: `Inputs`, and for a backward kernel also `Pulled`. Each field is (kind, array); see `spec`.
            outs: (kind, shape and dtype) of each output.
            widths: the widths of the float32 sums that the kernel keeps for each slot of a block between steps.
            name: name of the kernel in profiles.
        """
        from jax.experimental.pallas import tpu

        rows, heads = ins[0].q[1].shape[:2]
        turns = self.shared if self.by_keys else 1
        return pl.pallas_call(
            kernel,
            grid_spec=tpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1,
                grid=(rows, heads // turns, self.count, turns),
                in_specs=[part._make(self.spec(kind, x.shape) for kind, x in part) for part in ins],
                out_specs=[self.spec(kind, x.shape) for kind, x in outs],
                scratch_shapes=[tpu.VMEM((self.block, width), jnp.float32) for width in widths],
            ),
            out_shape=[x for _, x in outs],
            compiler_params=tpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary", "arbitrary")),
            interpret=jax.default_backend() == "cpu",
            name=name,
        )(self.steps, *(part._make(x for _, x in part) for part in ins))


def upright(x: Array) -> Array:
    """Returns [R, 1, S, 128] for numbers [R, S] of slots: each number fills all lanes of a row."""
    return jnp.broadcast_to(x[:, None, :, None], (x.shape[0], 1, x.shape[1], LANES))


def lying(x: Array) -> Array:
    """Returns [R, h, 8, S] for numbers [R, h, S] of slots, which lie along the lanes."""
    return jnp.broadcast_to(x[:, :, None, :], (*x.shape[:2], SUBLANES, x.shape[2]))


def forward(q: Array, k: Array, v: Array, group: Array, segment: Array) -> tuple[Array, Array]:
    """Returns the output [R, H, S, W] of `heads_first`, and the log-sum-exp of each query's scores [R, H, S]."""
    rows, heads, length, _ = q.shape
    block = block_of(length)
    grid = Grid(block, heads // k.shape[1], *query_steps(group, segment, block))
    q_number, k_number = tell_apart(group, segment)
    numbers = ("queries", upright(q_number)), ("lying keys", lying(k_number[:, None]))
    outs = [
        ("queries", jax.ShapeDtypeStruct((rows, heads, length, v.shape[3]), q.dtype)),
        ("lying queries", jax.ShapeDtypeStruct((rows, heads, SUBLANES, length), jnp.float32)),
    ]
    ins = Inputs(("queries", q), ("keys", k), ("keys", v), *numbers)
    out, lse = grid.run(forward_kernel, (ins,), outs, (v.shape[3], LANES, LANES), "packed_attention")
    # Named, so that a remat policy can keep them: flash attention is never worth recomputing.
    return checkpoint_name(out, "attention"), checkpoint_name(lse[:, :, 0], "attention")


@jax.custom_vjp
def heads_first(
    q: Float[Array, "R H S E"],
    k: Float[Array, "R K S E"],
    v: Float[Array, "R K S W"],
    group: Int[Array, "R S"],
    segment: Int[Array, "R S"],
) -> Float[Array, "R H S W"]:
    """Returns the result of `packed_attention`, for S a multiple of `block_of(S)`.

    The queries are multiplied by the scale already.
    """
    return forward(q, k, v, group, segment)[0]


def packed_forward(q: Array, k: Array, v: Array, group: Array, segment: Array) -> tuple[Array, tuple]:
    """Forward pass of `heads_first` for `custom_vjp`. Returns the output, and what the backward pass needs."""
    out, lse = forward(q, k, v, group, segment)
    return out, (q, k, v, group, segment, out, lse)


def packed_backward(kept: tuple, dout: Array) -> tuple:
    """Backward pass of `heads_first` for `custom_vjp`. `dout` is the gradient of the output."""
    q, k, v, group, segment, out, lse = kept
    block, shared = block_of(q.shape[2]), q.shape[1] // k.shape[1]
    delta = jnp.einsum("rhsw,rhsw->rhs", out.astype(jnp.float32), dout.astype(jnp.float32))
    pulled = Pulled(("queries", dout), ("lying queries", lying(lse)), ("lying queries", lying(delta)))
    q_number, k_number = tell_apart(group, segment)
    arrays = ("queries", q), ("keys", k), ("keys", v)
    ins = Inputs(*arrays, ("queries", upright(q_number)), ("lying keys", lying(k_number[:, None])))
    outs = [("queries", jax.ShapeDtypeStruct(q.shape, q.dtype))]
    grid = Grid(block, shared, *query_steps(group, segment, block))
    (dq,) = grid.run(dq_kernel, (ins, pulled), outs, (q.shape[3],), "packed_attention_dq")
    ins = Inputs(*arrays, ("lying queries", lying(q_number[:, None])), ("keys", upright(k_number)))
    outs = [("keys", jax.ShapeDtypeStruct(x.shape, x.dtype)) for x in (k, v)]
    grid = Grid(block, shared, *key_steps(group, segment, block), by_keys=True)
    dk, dv = grid.run(dkv_kernel, (ins, pulled), outs, (k.shape[3], v.shape[3]), "packed_attention_dkv")
    return dq, dk, dv, None, None


heads_first.defvjp(packed_forward, packed_backward)


def packed_attention(
    q: Float[Array, "R S H E"],
    k: Float[Array, "R S K E"],
    v: Float[Array, "R S K W"],
    group: Int[Array, "R S"],
    segment: Int[Array, "R S"],
    scale: float,
) -> Float[Array, "R S H W"]:
    """Returns the attention output softmax(q·k · scale)·v, over the keys that each slot of packed rows may read.

    `group` and `segment` (see `PackedRows`) determine which keys these are. Rows are padded to whole blocks.
    """
    more = -q.shape[1] % block_of(q.shape[1])

    def turned(x: Array) -> Array:
        return jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).swapaxes(1, 2)

    group, segment = (jnp.pad(x, ((0, 0), (0, more))) for x in (group, segment))
    out = heads_first(turned((q * scale).astype(q.dtype)), turned(k), turned(v), group, segment)
    return out.swapaxes(1, 2)[:, : q.shape[1]]
