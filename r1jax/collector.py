"""What a wave has sampled so far, on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from r1jax.rollout import Rollout


class Collector:
    """Sampled tokens of all rows on the host, filled chunk by chunk.

    Behind the last row is one that is nobody's, for those that only fill up a shard: it has ended before it began.
    """

    def __init__(
        self, rows: int, max_tokens: int, pad_id: int, stop_ids: Sequence[int], before: Rollout | None = None
    ):
        """
        Args:
            before: what the first rows have been given by earlier waves.
        """
        self.routes: np.ndarray | None = None
        self.tokens = np.full((rows + 1, max_tokens), pad_id, np.int32)
        self.logp = np.zeros((rows + 1, max_tokens), np.float32)
        self.lengths = np.zeros(rows + 1, np.int32)
        self.finished = np.arange(rows + 1) == rows
        if before is not None:
            there = slice(len(before.lengths))
            self.tokens[there], self.logp[there] = before.tokens, before.logp
            self.lengths[there], self.finished[there] = before.lengths, before.stopped
        self._stop_ids = np.asarray(stop_ids)
        self._told = ~self.live()

    def keep_routes(self, shape: tuple[int, ...]) -> None:
        """From now on also the experts of each token that was fed: (L, k) of them."""
        self.routes = np.full((*self.tokens.shape, *shape), -1, np.int16)

    def live(self) -> np.ndarray:
        """The rows that go on."""
        return ~(self.finished | (self.lengths == self.tokens.shape[1]))

    def add(self, alive: np.ndarray, tokens: np.ndarray, logp: np.ndarray, routes: np.ndarray | None = None) -> None:
        """A chunk [steps, n] of the rows `alive`, up to and with each row's first stop token.

        Args:
            routes: [steps, n, L, k] of the tokens that were fed: each the one before the token sampled in that step.
        """
        for column, row in enumerate(alive):
            if self.finished[row]:
                continue
            start = self.lengths[row]
            stops = np.flatnonzero(np.isin(tokens[:, column], self._stop_ids))
            count = min(len(tokens) if not len(stops) else stops[0] + 1, self.tokens.shape[1] - start)
            self.tokens[row, start : start + count] = tokens[:count, column]
            self.logp[row, start : start + count] = logp[:count, column]
            if routes is not None:
                self.routes[row, start - 1 : start - 1 + count] = routes[:count, column]
            self.lengths[row] += count
            self.finished[row] = bool(len(stops)) and count == stops[0] + 1

    def tell(self, hear: Callable[[list[tuple[int, np.ndarray]]], None]) -> None:
        """Hands on the rows that ended since the last time."""
        new = np.flatnonzero(~(self.live() | self._told))
        self._told[new] = True
        if len(new):
            hear([(int(row), self.tokens[row, : self.lengths[row]]) for row in new])
