"""Collects the tokens that a wave samples, on the host. A wave is the set of rows that are sampled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from r1jax.distributed import gather_arrays
from r1jax.sampling.rollout import Rollout


class Follower(NamedTuple):
    """Makes the sampler report every row (completion) after every chunk of tokens, and not only rows that ended.

    A `Follower` is passed to the sampler as its argument `finished`.

    Attributes:
        hear: a function, called with a list of (index of the row in the rollout, tokens so far, their
            log-probabilities, whether the row ended). The arrays are views that later chunks fill further. An error
            that `hear` raises ends the sampling.
    """

    hear: Callable[[list[tuple[int, np.ndarray, np.ndarray, bool]]], None]


class Collector:
    """Collects the sampled tokens of the n rows (completions) that this process holds, on the host, chunk by chunk.

    The arrays have one row more than the n held rows. This last row counts as finished, and stands for all rows that
    only pad a shard.

    Attributes:
        numbers: [n] indices of the held rows in the rollout, in ascending order.
        tokens: [n + 1, max_tokens] sampled tokens; `pad_id` where nothing was sampled.
        logp: [n + 1, max_tokens] their log-probabilities.
        lengths: [n + 1] number of sampled tokens.
        finished: [n + 1] whether the row sampled a stop token.
        routes: [n + 1, max_tokens, L, k] experts that each token visited, -1 where unknown; None unless
            `keep_routes` was called.
    """

    def __init__(
        self,
        numbers: np.ndarray,
        mine: np.ndarray,
        max_tokens: int,
        pad_id: int,
        stop_ids: Sequence[int],
        before: Rollout | None = None,
    ):
        """
        Args:
            numbers: [n] indices of the held rows in the rollout, in ascending order.
            mine: indices in the rollout of the rows that `tell` reports and `gather` sends.
            max_tokens: maximum length of a completion.
            stop_ids: tokens that end a completion.
            before: rollout of earlier waves, which fills the rows that it has; None if there is none.
        """
        rows, self.numbers = len(numbers), numbers
        self.routes: np.ndarray | None = None
        self.tokens = np.full((rows + 1, max_tokens), pad_id, np.int32)
        self.logp = np.zeros((rows + 1, max_tokens), np.float32)
        self.lengths = np.zeros(rows + 1, np.int32)
        self.finished = np.arange(rows + 1) == rows
        if before is not None:
            there = numbers[numbers < len(before.lengths)]
            held = slice(len(there))
            self.tokens[held], self.logp[held] = before.tokens[there], before.logp[there]
            self.lengths[held], self.finished[held] = before.lengths[there], before.stopped[there]
        self.own = np.append(np.isin(numbers, mine), False)
        self._stop_ids = np.asarray(stop_ids)
        self._told = ~(self.live() & self.own)

    def keep_routes(self, shape: tuple[int, ...]) -> None:
        """Starts recording the experts that every token fed to the network visits.

        Args:
            shape: (L, k), the number of layers with experts and the number of experts per token.
        """
        self.routes = np.full((*self.tokens.shape, *shape), -1, np.int16)

    def live(self) -> np.ndarray:
        """Returns [n + 1] bool, True for a row that has no stop token and fewer tokens than the maximum length. The
        last entry belongs to no row and is False."""
        return ~(self.finished | (self.lengths == self.tokens.shape[1]))

    def add(self, alive: np.ndarray, tokens: np.ndarray, logp: np.ndarray, routes: np.ndarray | None = None) -> None:
        """Appends a chunk of sampled tokens to some rows, up to and including each row's first stop token.

        Args:
            alive: [m] index in `numbers` of the row to which each column of the chunk belongs; n for a padding row.
            tokens, logp: [steps, m] sampled tokens and their log-probabilities.
            routes: [steps, m, L, k] experts of the tokens fed. Each step feeds the token sampled in the step before.
                None if experts are not recorded.
        """
        alive = np.asarray(alive)
        stops = np.isin(tokens, self._stop_ids)
        stopped = stops.any(axis=0)
        until = np.where(stopped, stops.argmax(axis=0) + 1, len(tokens))  # how many of its tokens each column keeps
        columns = np.flatnonzero(~self.finished[alive])
        rows, until = alive[columns], until[columns]
        start = self.lengths[rows]
        count = np.minimum(until, self.tokens.shape[1] - start)
        step, one = np.nonzero(np.arange(len(tokens))[:, None] < count)
        row, slot, column = rows[one], start[one] + step, columns[one]
        self.tokens[row, slot], self.logp[row, slot] = tokens[step, column], logp[step, column]
        if routes is not None:
            self.routes[row, slot - 1] = routes[step, column]
        self.lengths[rows] += count
        self.finished[rows] = stopped[columns] & (count == until)

    def tell(self, hear: Callable[[list[tuple[int, np.ndarray]]], None] | Follower) -> None:
        """Calls `hear` with the rows of this process that ended since the last call.

        `hear` gets a list of (index of the row in the rollout, tokens of the row). Does not call `hear` if no row
        ended. If `hear` is a `Follower`, reports every row of this process in every call instead.
        """
        if isinstance(hear, Follower):
            live = self.live()
            told = [(row, slice(self.lengths[row])) for row in np.flatnonzero(self.own)]
            hear.hear([(int(self.numbers[i]), self.tokens[i, at], self.logp[i, at], not live[i]) for i, at in told])
            return
        new = np.flatnonzero(~(self.live() | self._told))
        self._told[new] = True
        if len(new):
            hear([(int(self.numbers[row]), self.tokens[row, : self.lengths[row]]) for row in new])

    def rows(self) -> dict[str, np.ndarray]:
        """Returns the fields of a `Rollout` for the held rows: `tokens`, `lengths`, `logp`, `stopped`, and `routes` if
        kept.
        """
        names = dict(tokens=self.tokens, lengths=self.lengths, logp=self.logp, stopped=self.finished)
        if self.routes is not None:
            names["routes"] = self.routes
        return {name: x[:-1] for name, x in names.items()}

    def gather(self, count: int, pad_id: int) -> dict[str, np.ndarray]:
        """Returns the fields that `rows` returns, but for all N = `count` rows of the rollout, of all processes.

        Every process must call this method, and sends its own rows.
        """
        own = np.flatnonzero(self.own)
        held = {name: x[own] for name, x in self.rows().items()}
        there = np.arange(self.tokens.shape[1]) < held["lengths"][:, None]
        sent = {name: x[there] if x.ndim > 1 else x for name, x in held.items()}
        filler = {"tokens": pad_id, "routes": -1}
        out = {name: np.full((count, *x.shape[1:]), filler.get(name, 0), x.dtype) for name, x in held.items()}
        for part in gather_arrays(sent | {"rows": self.numbers[own]}):
            rows = part.pop("rows")
            row, slot = np.nonzero(np.arange(self.tokens.shape[1]) < part["lengths"][:, None])
            for name, x in part.items():
                out[name][(rows[row], slot) if out[name].ndim > 1 else rows] = x
        return out
