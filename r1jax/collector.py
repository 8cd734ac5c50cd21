"""What a wave has sampled so far, on the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class Collector:
    """Sampled tokens of all rows on the host, filled chunk by chunk."""

    def __init__(
        self, dummy: np.ndarray, max_tokens: int, pad_id: int, stop_ids: Sequence[int], routes: tuple[int, ...] | None = None
    ):
        """
        Args:
            dummy: [N] rows that are nobody's.
            routes: (L, k) where routes are kept.
        """
        rows, self._dummy = len(dummy), dummy
        self.routes = None if routes is None else np.full((rows, max_tokens, *routes), -1, np.int16)
        self.tokens = np.full((rows, max_tokens), pad_id, np.int32)
        self.logp = np.zeros((rows, max_tokens), np.float32)
        self.lengths = np.zeros(rows, np.int32)
        self.finished = np.zeros(rows, bool)
        self._stop_ids = np.asarray(stop_ids)
        self._told = dummy.copy()

    def resume(self, start: int, tokens: Sequence[np.ndarray]) -> None:
        """Gives the rows from `start` on what they had sampled before."""
        for row, before in enumerate(tokens, start):
            self.tokens[row, : len(before)] = before
            self.lengths[row] = len(before)

    def live(self) -> np.ndarray:
        """[N] rows that go on."""
        return ~(self._dummy | self.finished | (self.lengths == self.tokens.shape[1]))

    def taken(self, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Tokens, lengths, log-probabilities and whether they stopped of some rows."""
        return self.tokens[rows], self.lengths[rows], self.logp[rows], self.finished[rows]

    def add(self, alive: np.ndarray, tokens: np.ndarray, logp: np.ndarray, routes: np.ndarray | None = None) -> None:
        """A chunk [steps, n] of the rows `alive`, up to and with each row's first stop token.

        Args:
            routes: [steps, n, L, k] of the tokens that were fed: each the one before the token sampled in that step.
        """
        for column, row in enumerate(alive):
            if self.finished[row] or self._dummy[row]:
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
        """Hands on the rows that ended since the last time, numbered without the dummies."""
        new = np.flatnonzero(~(self.live() | self._told))
        self._told[new] = True
        number = np.cumsum(~self._dummy) - 1
        if len(new):
            hear([(int(number[row]), self.tokens[row, : self.lengths[row]]) for row in new])
