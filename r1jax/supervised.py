"""Supervised training without its loop: documents in packed rows, mixed by weight; micro-batches; the optimizer."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from r1jax.rollout import PackedRows
from r1jax.sharding import shard_rows
from r1jax.update import SoftBatch, TokenBatch

PACKING_BINS = 32  # rows a packer keeps open
Targets = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class SFTRecipe:
    """Every number of a supervised run. Fields are flags."""

    steps: int
    """Optimizer steps."""
    learning_rate: float
    """Highest learning rate, reached after the warm-up."""
    final_learning_rate: float
    """Where the cosine ends."""
    warmup_steps: int
    """Steps of linear warm-up."""
    optimizer: str
    """adamw or muon (Muon for matrices, AdamW for the rest)."""
    weight_decay: float
    grad_clip: float
    """Largest global norm of a gradient."""
    row_length: int
    """Slots of a packed row; longer documents are cut."""
    batch_rows: int
    """Packed rows of one step; a multiple of the mesh's row shards."""
    save_every: int
    """Steps between two checkpoints."""


class Documents:
    """Random access to token documents for Grain: `make(i) -> (tokens, weights)`.

    Args:
        first: where the weighted tokens of document i begin in what a teacher said, if there is one.
    """

    def __init__(
        self, count: int, make: Callable[[int], tuple[list[int], list[float]]], row_length: int,
        first: Callable[[int], int] | None = None,
    ):  # fmt: skip
        self._count, self._make, self._row_length, self._first = count, make, row_length, first

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        tokens, weights = (x[: self._row_length] for x in self._make(index))
        found = {"tokens": np.asarray(tokens, np.int32), "weights": np.asarray(weights, np.float32)}
        if self._first is None:
            return found
        taught = found["weights"] > 0
        return found | {"place": np.where(taught, self._first(index) + np.cumsum(taught) - 1, 0).astype(np.int64)}


def batches(
    documents: Sequence[Documents], shares: Sequence[float], recipe: SFTRecipe, shuffled: int | None = None
) -> grain.DatasetIterator:
    """Packed batches, endless; the iterator's state is saved beside the checkpoint.

    Args:
        documents: one or more sets of them.
        shares: how many documents of each are drawn, relative to each other.
        shuffled: a seed orders each set anew at each of its epochs; None leaves the order.
    """
    sets = [grain.MapDataset.source(some) for some in documents]
    sets = [(some if shuffled is None else some.seed(shuffled + i).shuffle()).repeat() for i, some in enumerate(sets)]
    mixed = sets[0] if len(sets) == 1 else grain.MapDataset.mix(sets, [share / sum(shares) for share in shares])
    packed = grain.experimental.FirstFitPackIterDataset(
        mixed.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=256)),
        length_struct=dict.fromkeys(documents[0][0], recipe.row_length), num_packing_bins=PACKING_BINS,
    )  # fmt: skip
    return iter(packed.batch(recipe.batch_rows, drop_remainder=True))


def token_batches(
    batch: dict[str, np.ndarray], mesh: Mesh, micro_rows: int = 0, taught: Targets | None = None
) -> list[TokenBatch] | list[SoftBatch]:
    """A Grain batch, the same in every process, as micro-batches on the mesh.

    The weights of all together sum to one; a document's first token is predicted by nothing and has none.

    Args:
        micro_rows: packed rows of one forward pass; 0: all.
        taught: the targets of each token and their shares, given tokens, places and weights.
    """
    group, positions = batch["tokens_segment_ids"], batch["tokens_positions"]
    source = np.broadcast_to(np.maximum(np.arange(group.shape[1]) - 1, 0), group.shape)
    weight = np.where((positions > 0) & (group > 0), batch["weights"], 0.0).astype(np.float64)
    weight = (weight / max(weight.sum(), 1e-9)).astype(np.float32)
    arrays = (batch["tokens"], positions, group, np.zeros_like(group), source)
    size, me = micro_rows or len(group), jax.process_index()
    mine = size // jax.process_count()
    found = []
    for first in range(me * mine, len(group), size):
        rows = PackedRows(*(np.ascontiguousarray(x[first : first + mine], np.int32) for x in arrays))
        some = slice(first, first + mine)
        if taught is None:
            found.append(TokenBatch(*shard_rows((rows, weight[some]), mesh)))
        else:
            soft = taught(batch["tokens"][some], batch["place"][some], weight[some])
            found.append(SoftBatch(*shard_rows((rows, weight[some], *soft), mesh)))
    return found


@functools.cache
def optimizer(recipe: SFTRecipe) -> optax.GradientTransformation:
    """Clipping and AdamW or Muon under a warm-up and a cosine. Cached: equal recipes share their compiled updates.

    Raises:
        ValueError: an unknown optimizer.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.warmup_steps, recipe.steps, recipe.final_learning_rate
    )
    if recipe.optimizer == "adamw":
        inner = optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=recipe.weight_decay)
    elif recipe.optimizer == "muon":
        inner = optax.contrib.muon(
            schedule, adam_learning_rate=lambda step: 0.6 * schedule(step), weight_decay=recipe.weight_decay,
            consistent_rms=0.2, adam_b2=0.95, muon_weight_dimension_numbers=matrices,
        )  # fmt: skip
    else:
        raise ValueError(f"--optimizer={recipe.optimizer} is unknown: use adamw or muon")
    return optax.chain(optax.clip_by_global_norm(recipe.grad_clip), inner)


def matrices(params: dict) -> dict:
    """Which axes of each kernel are the input and the output of its matrix, for Muon; None leaves a leaf to AdamW."""

    def leaf(path: tuple, x: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith("kernel") or not name.startswith("layers"):
            return None
        if name.endswith("o/kernel"):
            return optax.contrib.MuonDimensionNumbers((1, 2), (3,))
        return optax.contrib.MuonDimensionNumbers((1,), tuple(range(2, x.ndim)))

    return jax.tree_util.tree_map_with_path(leaf, params)


def response_only(prompt: Sequence[int], response: Sequence[int]) -> tuple[list[int], list[float]]:
    """A document whose loss lies on the response alone."""
    return [*prompt, *response], [0.0] * len(prompt) + [1.0] * len(response)
