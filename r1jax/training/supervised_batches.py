"""Packs documents for supervised training into rows, mixes sets of documents, and puts micro-batches on the mesh."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import grain
import numpy as np
from jax.sharding import Mesh

from r1jax.model.packed_rows import PackedRows
from r1jax.sharding import shard_rows
from r1jax.training.packing import SoftBatch, TokenBatch, find_wanted

PACKING_BINS = 32  # rows that the packer fills at the same time
WANTED_PARTS = 4  # the slots to unembed are rounded up to quarters of a row
# (tokens, index of each token in the teacher's stored targets, weights) -> (target tokens, their probabilities)
Targets = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


class Documents:
    """A set of tokenised documents with random access, as Grain needs it.

    Element i is {tokens, weights}. With a teacher, an element also has `place`: the index of each weighted token in the
    teacher's stored targets.

    Args:
        count: number of documents.
        make: `make(i)` returns (tokens, loss weight of each token) of document i.
        row_length: documents are cut to at most this many tokens.
        first: `first(i)` returns the index, in the teacher's stored targets, of the first weighted token of document i.
            None without a teacher.
    """

    def __init__(
        self,
        count: int,
        make: Callable[[int], tuple[list[int], list[float]]],
        row_length: int,
        first: Callable[[int], int] | None = None,
    ):
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
    documents: Sequence[Documents],
    shares: Sequence[float],
    row_length: int,
    batch_rows: int,
    shuffled: int | None = None,
) -> grain.DatasetIterator:
    """Returns an endless iterator over batches of packed documents, for `token_batches`.

    The iterator's state can be saved and restored.

    Args:
        documents: sets of documents to mix.
        shares: relative number of documents to draw from each set.
        row_length: number of slots in a packed row.
        batch_rows: number of packed rows in a batch.
        shuffled: seed by which the documents of a set are shuffled anew in each epoch; if None, their order is kept.
    """
    sets = [grain.MapDataset.source(some) for some in documents]
    sets = [(some if shuffled is None else some.seed(shuffled + i).shuffle()).repeat() for i, some in enumerate(sets)]
    mixed = sets[0] if len(sets) == 1 else grain.MapDataset.mix(sets, [share / sum(shares) for share in shares])
    packed = grain.experimental.FirstFitPackIterDataset(
        mixed.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=256)),
        length_struct=dict.fromkeys(documents[0][0], row_length),
        num_packing_bins=PACKING_BINS,
    )
    return iter(packed.batch(batch_rows, drop_remainder=True))


def token_batches(
    batch: dict[str, np.ndarray], mesh: Mesh, micro_rows: int = 0, taught: Targets | None = None
) -> list[TokenBatch] | list[SoftBatch]:
    """Turns a batch from `batches` into micro-batches on the mesh, of the form that a `Learner.loss` reads.

    The loss weights of all micro-batches together sum to 1. The first token of a document has weight 0, because no
    token precedes it.

    Args:
        batch: the same batch in every process.
        micro_rows: packed rows in a micro-batch; 0 puts all rows into a single micro-batch.
        taught: for distillation, `taught(tokens, indices into the teacher's stored targets, weights)` returns target
            tokens and their probabilities. If None, training is on the documents' own tokens.

    Returns:
        A `TokenBatch` for each micro-batch, or a `SoftBatch` for each if `taught` is given.
    """
    group, positions = batch["tokens_segment_ids"], batch["tokens_positions"]
    source = np.broadcast_to(np.maximum(np.arange(group.shape[1]) - 1, 0), group.shape)
    weight = np.where((positions > 0) & (group > 0), batch["weights"], 0.0).astype(np.float64)
    weight = (weight / max(weight.sum(), 1e-9)).astype(np.float32)
    arrays = (batch["tokens"], positions, group, np.zeros_like(group), source)
    wanted = find_wanted(weight != 0, WANTED_PARTS)
    size, found = micro_rows or len(group), []
    for first in range(0, len(group), size):
        some = slice(first, first + size)
        rows = PackedRows(*(np.ascontiguousarray(x[some], np.int32) for x in arrays))
        rows = rows._replace(wanted=None if wanted is None else wanted[some])
        if taught is None:
            found.append(TokenBatch(*shard_rows((rows, weight[some]), mesh)))
        else:
            soft = taught(batch["tokens"][some], batch["place"][some], weight[some])
            found.append(SoftBatch(*shard_rows((rows, weight[some], *soft), mesh)))
    return found


def response_only(prompt: Sequence[int], response: Sequence[int]) -> tuple[list[int], list[float]]:
    """Returns a document (tokens, loss weight of each token) of prompt and response. Only the response has weight."""
    return [*prompt, *response], [0.0] * len(prompt) + [1.0] * len(response)
