"""Turns the completions of a round into minibatches: splits, weights and packs rows, and adds log-probabilities."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.losses import Objective, row_weights
from r1jax.model.buckets import rung
from r1jax.model.packed_rows import PackedRows
from r1jax.rl.rounds import Round
from r1jax.sharding import row_shards, shard_rows
from r1jax.training.logprobs import Network
from r1jax.training.packing import Minibatch, find_wanted, pack, spread, spread_routes
from r1jax.training.step import score

WANTED_PARTS = 8  # the slots to unembed are rounded up to eighths of a row
SMALLEST = 4  # the last micro-batch of a minibatch has at least a quarter of --batch-rows

RefLogprobs = Callable[[PackedRows], jax.Array]  # log π_ref of packed rows, [R, S]


class Layout(NamedTuple):
    """How an update packs completions and places them on the mesh.

    Attributes:
        row_length: S, slots of a packed row.
        batch_rows: packed rows of a micro-batch.
        mesh: the device mesh.
        all_rows: whether an update also trains on rows of advantage 0. They have no policy gradient, but they matter
            for a KL term, for an entropy bonus and for the balance of experts.
        charged: whether the KL is subtracted from the reward. If so, all optimizer steps of a round must have their
            `old_logp` before the first of these steps begins.
        numbered: whether micro-batches hold the index of each token's completion, `Minibatch.row`.
        mask_truncated: whether completions that were cut off are left out of the loss.
    """

    row_length: int
    batch_rows: int
    mesh: Mesh
    all_rows: bool
    charged: bool = False
    numbered: bool = False
    mask_truncated: bool = False


def split_rows(groups: int, group_size: int, minibatches: int) -> list[np.ndarray]:
    """Splits the rows of a round between its optimizer steps, by whole groups and as evenly as possible. Returns the
    row indices of each step.

    Args:
        groups: number of groups in the round.
        group_size: G, rows of a group.
        minibatches: number of optimizer steps of the round.
    """
    return [rows_of(part, group_size) for part in np.array_split(np.arange(groups), minibatches)]


def rows_of(groups: np.ndarray, size: int) -> np.ndarray:
    """Returns the indices of all rows of some groups, [n·G], group after group.

    Args:
        groups: [n] group indices.
        size: G, rows of a group.
    """
    return (groups[:, None] * size + np.arange(size)).reshape(-1)


def find_moving(advantages: np.ndarray, all_rows: bool) -> np.ndarray:
    """Returns [N] bool, True for rows that an update trains on. Rows of advantage 0 have no policy gradient.

    Args:
        advantages: [N].
        all_rows: whether to return True for all rows; see `Layout`.
    """
    return (advantages != 0) | all_rows


def pack_minibatches(
    round_: Round, minibatches: int, objective: Objective, layout: Layout, max_tokens: int
) -> list[list[Minibatch]]:
    """Splits a round between its optimizer steps, by whole groups.

    Returns, for each step, a list of micro-batches of packed rows [R, S].

    An update does not train on every row. It leaves out two kinds of rows. The rows that `find_moving` rejects still
    count in the normaliser of the loss, so leaving them out does not change the weights of the other rows. The rows
    that `layout.mask_truncated` masks do not count in the normaliser.

    Args:
        round_: the round, with scores and advantages.
        minibatches: number of optimizer steps of the round.
        objective: the loss, which sets the weights.
        layout: how rows are packed.
        max_tokens: T, the largest number of tokens in a completion.
    """
    found = []
    for rows in split_rows(len(round_.rollout.prompts), round_.rollout.group_size, minibatches):
        trained = round_.rollout.stopped[rows] | (not layout.mask_truncated)
        weight = weigh_rows(objective, round_, rows, max_tokens, trained)
        moving = find_moving(round_.advantages[rows], layout.all_rows) & trained
        found.append(pack_rows(round_, rows[moving], weight[moving], layout))
    return found


def weigh_rows(
    objective: Objective, round_: Round, rows: np.ndarray, max_tokens: int, trained: np.ndarray | bool = True
) -> np.ndarray:
    """Returns the weight that every token of a row has in the loss, for each of the n rows of a minibatch, [n] float64.

    The weights are computed from the whole minibatch. So they do not depend on how the minibatch is later divided into
    micro-batches, packed and sharded.

    Args:
        objective: the loss, which sets the weights.
        rows: [n] indices of the rows of the minibatch.
        max_tokens: T, the largest number of tokens in a completion.
        trained: [n] bool, False for rows that are left out of the loss and of its normaliser.
    """
    valid, lengths = round_.scores.valid[rows] & trained, round_.rollout.lengths[rows].astype(np.float64)
    count, tokens = int(valid.sum()), int(lengths[valid].sum())
    return row_weights(objective, lengths, valid, rows=count, tokens=tokens, max_tokens=max_tokens)


def pack_rows(round_: Round, rows: np.ndarray, weight: np.ndarray, layout: Layout) -> list[Minibatch]:
    """Packs rows of a round into micro-batches [R, S] on the mesh. Leaves their `old_logp` and `ref_logp` at None.

    Args:
        rows: [n] indices of the rows in the round.
        weight: [n] the weight that every token of a row has in the loss.
    """
    rollout, group_size = round_.rollout, round_.rollout.group_size
    of = [(int(i) // group_size, int(i)) for i in rows]
    completions = [(prompt, rollout.tokens[i, : rollout.lengths[i]]) for prompt, i in of]
    packed, places = pack(rollout.prompts, completions, layout.row_length)
    if rollout.routes is not None:
        packed = packed._replace(routes=spread_routes(rollout, of, packed, places))
    shape = packed.tokens.shape
    per_token = {
        "weight": [np.full(rollout.lengths[i], w) for i, w in zip(rows, weight, strict=True)],
        "advantage": [np.full(rollout.lengths[i], round_.advantages[i]) for i in rows],
        "rollout_logp": [rollout.logp[i, : rollout.lengths[i]] for i in rows],
    }
    if layout.numbered:
        per_token["row"] = [np.full(rollout.lengths[i], i) for i in rows]
    arrays = {name: spread(values, places, shape) for name, values in per_token.items()}
    packed = packed._replace(wanted=find_wanted(arrays["weight"] != 0, WANTED_PARTS))
    sizes = size_micro_batches(shape[0], layout.batch_rows, row_shards(layout.mesh))
    total = sum(sizes)
    padded = jax.tree.map(lambda x: np.pad(x, [(0, total - x.shape[0])] + [(0, 0)] * (x.ndim - 1)), (packed, arrays))
    batches = []
    for start, size in zip(np.cumsum([0, *sizes]), sizes, strict=False):
        piece, values = shard_rows(jax.tree.map(lambda x, s=slice(start, start + size): x[s], padded), layout.mesh)
        batches.append(Minibatch(PackedRows(*piece), **values, old_logp=None, ref_logp=None))
    return batches


def size_micro_batches(rows: int, batch_rows: int, shards: int) -> list[int]:
    """Divides `rows` packed rows into micro-batches. Returns the number of rows of each micro-batch.

    All micro-batches but the last have `batch_rows` rows. The last is filled up with empty rows, which cost as much
    time as other rows. So the last has only half or a quarter of `batch_rows` if that is enough for the remaining rows.
    No other sizes are used, because each size needs a compiled program of its own.

    Args:
        shards: number of row shards. Every micro-batch has the same number of rows for each shard, at least one.
    """
    size = max(batch_rows, shards)
    whole, rest = divmod(rows, size)
    least = size
    while least % 2 == 0 and least // 2 % shards == 0 and least > size // SMALLEST:
        least //= 2
    return [size] * whole + ([rung(rest, least)] if rest or not whole else [])


def add_old_logprobs(
    network: Network, params: dict, minibatches: list[list[Minibatch]], source: str = "trainer", every: bool = False
) -> list[list[Minibatch]]:
    """Returns the minibatches of a round with `old_logp` set to log π_old of each token, [R, S].

    Args:
        network: the network of the trainer.
        params: the trainer's parameters before the first update of the round.
        minibatches: for each optimizer step, its micro-batches.
        source: "trainer" computes the log-probabilities with `params`. The first optimizer step gets None, because its
            own forward pass computes these log-probabilities. "sampler" takes the log-probabilities of the rollout.
        every: whether to compute the log-probabilities for the first optimizer step too.
    """
    if source == "sampler":
        return [[b._replace(old_logp=b.rollout_logp) for b in batches] for batches in minibatches]
    scored = 0 if every else 1
    others = ([b._replace(old_logp=score(network, params, b.rows)[0]) for b in part] for part in minibatches[scored:])
    return [*minibatches[:scored], *others]


def add_ref_logprobs(ref_logprobs: RefLogprobs, minibatches: list[list[Minibatch]]) -> list[list[Minibatch]]:
    """Returns the minibatches of a round with `ref_logp` set to log π_ref of each token, [R, S].

    Args:
        ref_logprobs: a function `packed rows -> [R, S]` that computes log π_ref.
        minibatches: for each optimizer step, its micro-batches.
    """
    return [[b._replace(ref_logp=ref_logprobs(b.rows)) for b in batches] for batches in minibatches]
