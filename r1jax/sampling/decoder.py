"""Defines `Decoder`, which holds a wave on its devices: the rows, their caches, and the next chunk of tokens.

A wave is the set of rows that are sampled together. The host drops finished rows and enlarges caches between chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.model.buckets import LADDER, rung
from r1jax.model.cache import Segment
from r1jax.model.config import ModelConfig
from r1jax.model.transformer import depth
from r1jax.sampling import programs
from r1jax.sampling.cohorts import share_entries
from r1jax.sampling.collector import Collector
from r1jax.sampling.programs import Decoding, Kept, Rows, Weights
from r1jax.sharding import held_rows, row_shards, shard_held_rows


class Sizes(NamedTuple):
    """Sizes for the compiled programs that sample a wave, a set of rows (completions) that are sampled together.

    Several of these sizes are minimum sizes of arrays. When an array needs another size, another program is compiled.

    Sampled tokens do not depend on these sizes. Log-probabilities depend on the sizes in their last bits, because sums
    are added in another order.

    Attributes:
        chunk: tokens sampled between two checks for finished rows.
        least_rows: minimum number of rows that a shard keeps when finished rows are dropped.
        exact_rows: minimum number of rows in a matrix product if the attention backend is "exact". Below 49 rows, XLA's
            CPU backend adds in another order than for the trainer's many rows.
        least_slots: initial room for sampled tokens, per row.
        least_prompt: minimum room for the tokens of a prompt after the shared prefix, a power of 2. The matrix products
            of prefill have at least this many rows, so `least_prompt` must not be below `exact_rows`.
        least_carried: minimum room for the prompt and the earlier tokens of a row that an earlier wave began.
        copied_prompts: a number of bytes. When rows are dropped, every remaining row gets its own copy of its prompt's
            keys and values, if the copies of a shard take at most this many bytes. Otherwise the rows go on sharing
            keys and values.
        drop_when_full: whether finished rows are dropped only where the caches are full and grow anyway. There are
            then fewer sizes, but finished rows are computed for longer. The memory of a wave is the same: it is largest
            where the caches have just grown.
        ahead: whether a chunk is dispatched before the previous chunk was read. The devices then never wait for the
            host, and may decode one chunk in vain at the end of a wave. None means True on accelerators and False on
            CPUs, where host and devices share the cores.
    """

    chunk: int = 16
    least_rows: int = 4
    exact_rows: int = 64
    least_slots: int = 64
    least_prompt: int = 64
    least_carried: int = 128
    copied_prompts: int = 1 << 28
    drop_when_full: bool = False
    ahead: bool | None = None


MOST_SLOTS = 256  # largest initial room for sampled tokens that `choose_sizes` chooses


def choose_sizes(weights: Weights, max_tokens: int) -> Sizes:
    """Returns the sizes with which a model samples.

    A model whose layers lie in stacks (`config.stack_size`) is large. Its programs take long to compile, and
    accelerators read its weights for as long as they multiply hundreds of rows. So it has few sizes: a wave of up to
    1,024 tokens compiles at most a dozen programs.

    Args:
        max_tokens: maximum length of a completion.
    """
    if not depth(weights.layers[0]):
        return Sizes()
    usual = Sizes().least_slots
    return Sizes(least_slots=min(rung(max_tokens, usual), MOST_SLOTS), drop_when_full=True)


class Chunk(NamedTuple):
    """Tokens that the devices sample in one call, perhaps not yet computed.

    Attributes:
        place: [m] for each row of this process, its index in the arrays of the `Collector`.
        tokens, logp: [steps, N] tokens of the N rows and their log-probabilities, sharded over rows.
        routes: [steps, N, 1, L, k] the k experts in each of L layers to which each step's input token was routed. The
            input token is the one that the previous step sampled; the axis of size 1 stands for this one token. None
            if experts are not recorded.
    """

    place: np.ndarray
    tokens: jax.Array
    logp: jax.Array
    routes: jax.Array | None

    def collect(self, out: Collector) -> None:
        """Waits for the tokens, and adds them to the collector."""
        routes = None if self.routes is None else held_rows(self.routes, 1)[:, :, 0]
        out.add(self.place, held_rows(self.tokens, 1), held_rows(self.logp, 1), routes)


class Decoder:
    """The rows of a wave (completions that are sampled together) and their caches on the devices.

    Attributes:
        alive: a list of arrays [shards of this process, rows that a shard holds]. The first array is for the cohort of
            new rows. A second array follows if the wave has a cohort of carried rows, which an earlier wave began.
            Each array holds, for each row still held, the index of the row in the arrays of the `Collector`.
    """

    def __init__(
        self,
        cfg: ModelConfig,
        weights: Weights,
        mesh: Mesh,
        segments: list[list[list[Segment]]],
        rows: Rows,
        alive: list[np.ndarray],
        sizes: Sizes,
    ):
        """
        Args:
            segments: cached prompts of each cohort: see `programs.decode`.
            rows: state after the first token of each row, with caches of `sizes.least_slots` slots.
        """
        self._cfg, self._weights, self._mesh, self._sizes = cfg, weights, mesh, sizes
        (self._segments, *self._carried), self._rows, self.alive = segments, rows, alive
        self._clock, self._capacity = 0, sizes.least_slots
        held, count = alive[0].shape
        entries = self._segments[-1][0].entries // row_shards(mesh)
        self._group = count // entries  # rows of an entry
        self._entries = np.tile(np.arange(count) // self._group, (held, 1))  # entry that each row reads

    def fit(self, live: np.ndarray, most: int) -> None:
        """Drops finished rows from the cohort of new rows, if at least half of the rows in this cohort can go.

        With `Sizes.drop_when_full`, does nothing before the caches are full.

        Args:
            live: whether each row of the collector is unfinished.
            most: the largest number of unfinished new rows in any shard.
        """
        fits = rung(most, self._sizes.least_rows)
        full = self._clock + self._sizes.chunk > self._capacity
        if fits > self.alive[0].shape[1] // LADDER or (self._sizes.drop_when_full and not full):
            return
        keep = np.argsort(~live[self.alive[0]], axis=1, kind="stable")[:, :fits]
        entries = np.take_along_axis(self._entries, keep, axis=1)
        sharing, shards = None, row_shards(self._mesh)
        there = self._segments[-1]
        count = there[0].entries // shards  # entries of a shard
        size = sum(x.nbytes for s in there for x in s[:2] if x is not None) // (count * shards)
        if fits > count and fits * size > self._sizes.copied_prompts:
            sharing = shard_held_rows(share_entries(entries, count, self._group), self._mesh)
        kept = Kept(*shard_held_rows((keep.astype(np.int32), entries.astype(np.int32)), self._mesh), sharing)
        self._rows, self._segments = programs.shrink(self._rows, self._segments, kept)
        self._entries = entries if sharing is not None else np.tile(np.arange(fits), (len(keep), 1))
        self.alive[0] = np.take_along_axis(self.alive[0], keep, axis=1)

    def advance(self, temperature: float, how: Decoding) -> Chunk:
        """Dispatches the next chunk and returns it, before it is computed. Enlarges the caches if they are full."""
        if self._clock + how.steps > self._capacity:
            self._capacity = rung(self._clock + how.steps, self._capacity)
            self._rows = programs.grow(self._rows, slots=self._capacity)
        self._rows, found = programs.decode(
            self._cfg, self._weights, self._segments, self._rows, temperature, how, *self._carried
        )
        self._clock += how.steps
        return Chunk(np.concatenate(self.alive, axis=1).reshape(-1), *found)
