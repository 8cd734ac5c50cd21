"""Makes the random keys of sampling: one key for each completion, from (seed, round, question, completion number)."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def row_keys(
    seed: int, round_: int | np.ndarray, questions: Sequence[int] | np.ndarray, samples: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Returns the key data [N, 2] of N random keys, one for each completion.

    A key depends on nothing but (seed, round, question, number of the completion), so any logged completion can be
    drawn again.

    Args:
        seed: seed of the run.
        round_: number of the round (one sampling phase of RL), or [N] round numbers, one per completion.
        questions: [N] a number that identifies each completion's question. In training it is the index in the stream of
            questions, and in an evaluation it is the hash of the question's id (see `number`).
        samples: [N] number of each completion among the completions of its question.
    """
    base = jax.random.key(seed)

    def fold(*numbers: jax.Array) -> jax.Array:
        return jax.random.key_data(functools.reduce(jax.random.fold_in, numbers, base))

    rounds = np.broadcast_to(round_, len(questions))
    return np.asarray(jax.vmap(fold)(*(jnp.asarray(x, jnp.uint32) for x in (rounds, questions, samples))))


def number(example: Mapping) -> int:
    """Returns a 32-bit hash of the question's `id`, which identifies the question in `row_keys`."""
    return zlib.crc32(str(example["id"]).encode())
