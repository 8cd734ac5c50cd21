"""Computes the log-probability of each token of a given text, and the likeliest tokens at each position."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from r1jax.model.attention import attend_full, causal
from r1jax.model.buckets import half_rung
from r1jax.model.config import ModelConfig
from r1jax.model.transformer import Pass, forward, unembedding
from r1jax.serving.models import Model
from r1jax.sharding import compute_dtype
from r1jax.training.logprobs import likeliest_tokens, token_logprobs

LEAST = 128  # slots; longer texts are rounded up, because each length is another program


class Scored(NamedTuple):
    """The log-probabilities of a text of n tokens, in nats, at temperature 1. The first token has no log-probability.

    Attributes:
        logp: [n - 1] log-probabilities of the tokens from the second on.
        top_ids: [n - 1, K] ids of the K likeliest tokens at each of the same n - 1 positions.
        top_logp: [n - 1, K] log-probabilities of the tokens in `top_ids`.
    """

    logp: np.ndarray
    top_ids: np.ndarray
    top_logp: np.ndarray


def score(model: Model, texts: Sequence[Sequence[int]], top: int) -> list[Scored]:
    """Returns the log-probabilities of the tokens of each text (a list of token ids), as a `Scored` for each text.

    Args:
        top: K, how many likeliest tokens to return for each position.
    """
    found = []
    for tokens in texts:
        row = np.zeros((1, half_rung(len(tokens), LEAST)), np.int32)
        row[0, : len(tokens)] = tokens
        out = score_row(model.policy.cfg, model.params, jnp.asarray(row), max(top, 1), compute_dtype(model.mesh))
        logp, ids, top_logp = (np.asarray(x)[: len(tokens) - 1] for x in out)
        found.append(Scored(logp, ids[:, :top], top_logp[:, :top]))
    return found


@functools.partial(jax.jit, static_argnames=("cfg", "top", "dtype"))
def score_row(
    cfg: ModelConfig, params: dict, tokens: Int[Array, "1 S"], top: int, dtype: DTypeLike
) -> tuple[Float[Array, M], Int[Array, "M K"], Float[Array, "M K"]]:
    """Returns three arrays for the M = S - 1 positions from the second token on. `top` is K.

    Returns:
        [M] log-probabilities of the text's tokens; [M, K] ids of the K likeliest tokens at each position; and [M, K]
        log-probabilities of these likeliest tokens.
    """
    positions = jnp.arange(tokens.shape[1])[None]
    hidden = forward(cfg, params, tokens, positions, attend_full(causal(tokens.shape[1])), how=Pass(dtype))[0][0, :-1]
    logp, _ = token_logprobs(hidden, unembedding(params), tokens[0, 1:], cap=cfg.logit_cap)
    top_logp, ids = likeliest_tokens(hidden, unembedding(params), top, cap=cfg.logit_cap)
    return logp, ids, top_logp
