"""Defines `Rollout`, the result of sampling."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Rollout(NamedTuple):
    """Sampled completions, on the host: G completions of each of B prompts.

    Row b·G + g of N = B·G rows is completion g of prompt b. Every process has the rows of all processes.
    A wave is the set of rows that are sampled together.

    Attributes:
        prompts: B lists of prompt tokens.
        tokens: [N, T] completion tokens, the stop token included, padded on the right.
        lengths: [N] number of sampled tokens, the stop token included.
        logp: [N, T] float32 log-probabilities of the sampled tokens at the sampling temperature; 0 in the padding.
        stopped: [N] whether a stop token was sampled; False means truncated.
        routes: [N, T, L, k] experts that each token was routed to in each expert layer, -1 where unknown (a row's last
            token is never an input of the network). None if `Sampling.replay` is False.
        prompt_routes: B arrays [prompt length, L, k], experts that the prompt tokens were routed to. None if
            `Sampling.replay` is False.
        version: [N, T] optimizer step of the policy that sampled each token. None without --carry-over and --ahead:
            then the policy at the beginning of the round sampled all tokens.
        mine: [n] indices, in ascending order, of the rows that this process decodes to text, judges and counts. With
            several processes, every row belongs to exactly one process. None means all rows.
    """

    prompts: list[list[int]]
    tokens: np.ndarray
    lengths: np.ndarray
    logp: np.ndarray
    stopped: np.ndarray
    routes: np.ndarray | None = None
    prompt_routes: list[np.ndarray] | None = None
    version: np.ndarray | None = None
    mine: np.ndarray | None = None

    @property
    def own(self) -> np.ndarray:
        """Indices [n] of the rows of this process: `mine` if it is set, otherwise all rows."""
        return np.arange(len(self.lengths)) if self.mine is None else self.mine

    @property
    def group_size(self) -> int:
        """Completions per prompt, G."""
        return len(self.lengths) // len(self.prompts)

    @property
    def unfinished(self) -> np.ndarray:
        """[N] whether a row has no stop token and fewer than T tokens. A later wave may continue such a row."""
        return ~self.stopped & (self.lengths < self.tokens.shape[1])
