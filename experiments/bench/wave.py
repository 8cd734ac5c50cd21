"""Calls the sampler's compiled programs (prefill, first token, decode) separately, for benchmarks of a single
program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.shapes import random_params
from r1jax.model.cache import Segment, empty_cache
from r1jax.model.config import ModelConfig
from r1jax.sampling import programs, sampler
from r1jax.sampling.keys import row_keys
from r1jax.sampling.programs import Decoding, Rows, Weights
from r1jax.sharding import make_mesh

FORCED = 10  # number of stop tokens of the model that `make_forced` returns
NEAR = 1e-4  # a key is not used if one of its random numbers is this close to the edge between stopping and going on


def weights_of(cfg: ModelConfig) -> Weights:
    """Returns random model weights in the form that decoding takes, from `sampler.sync`."""
    return sampler.sync(random_params(cfg), make_mesh("1x1"))


def keys_of(prompts: int, group: int) -> np.ndarray:
    """Returns the random keys [prompts * group, 2] of the completions, from `row_keys` with seed 0.

    Args:
        prompts: number of prompts.
        group: completions of each prompt.
    """
    return row_keys(0, 0, np.repeat(range(prompts), group), np.tile(range(group), prompts))


def prefill_prompts(
    cfg: ModelConfig, weights: Weights, prompts: Sequence[Sequence[int]]
) -> tuple[list[list[Segment]], jax.Array]:
    """Runs prefill on prompts of equal length. Returns (segments, logits).

    The segments hold the prompts' keys and values; the logits [prompts, V] belong to the first completion token. V is
    the vocabulary size.
    """
    tokens = np.asarray(prompts, np.int32)
    lengths = np.full(len(prompts), tokens.shape[1], np.int32)
    kept, logits, _ = programs.prefill(cfg, weights, tokens, lengths, [], dtype=jnp.float32)
    return [kept], logits


def begin_rows(
    cfg: ModelConfig, logits: jax.Array, keys: np.ndarray, length: int, slots: int, stop_ids: tuple[int, ...]
) -> Rows:
    """Samples the first token of each row (completion). Returns the decoder's state, with room for `slots` more tokens.

    Args:
        logits: [prompts, V] logits of the first token, from `prefill_prompts`.
        keys: [rows, 2] random keys of the rows.
        length: number of tokens in each prompt.
        stop_ids: tokens that end a completion.
    """
    wrapped = jax.random.wrap_key_data(jnp.asarray(keys))
    token, _, done = programs.first(logits, wrapped, 1.0, greedy=False, stop_ids=stop_ids)
    mesh = make_mesh("1x1")
    cache = [empty_cache(cfg, len(keys), slots, mesh, jnp.float32) for _ in range(cfg.layers)]
    return Rows(jnp.int32(0), token, done, jnp.full(len(keys), length, jnp.int32), wrapped, cache)


def decode_steps(
    cfg: ModelConfig, weights: Weights, segments: list[list[Segment]], rows: Rows, steps: int, stop_ids: tuple[int, ...]
) -> tuple[Rows, Any]:
    """Decodes `steps` more tokens of each row. Returns what `programs.decode` returns: the new rows, and a tuple that
    begins with the sampled tokens [steps, rows].

    The argument `rows` is donated and must not be used again.
    """
    how = Decoding(steps, greedy=False, stop_ids=stop_ids, pad_id=0, dtype=jnp.float32)
    return programs.decode(cfg, weights, segments, rows, 1.0, how)


def make_forced(cfg: ModelConfig) -> tuple[ModelConfig, Weights, tuple[int, ...]]:
    """Returns (config, weights, stop tokens) of a model that gives all tokens equal probability.

    The model computes at full cost. The random key of a row alone decides where the row stops.
    """
    cfg = dataclasses.replace(cfg, tie_embeddings=False)
    params = random_params(cfg)
    params["unembed"]["kernel"] = 1e-6 * params["unembed"]["kernel"]
    return cfg, sampler.sync(params, make_mesh("1x1")), tuple(range(cfg.vocab_size - FORCED, cfg.vocab_size))


def forcing_keys(cfg: ModelConfig, lengths: np.ndarray, most: int) -> np.ndarray:
    """Returns random keys [N, 2] with which the model of `make_forced` samples N rows of the given lengths.

    Args:
        lengths: [N] wanted lengths, each at most `most`.
        most: largest number of tokens in a row.
    """
    candidates = 32_768
    keys = row_keys(0, 0, np.zeros(candidates, np.int64), np.arange(candidates))

    @jax.jit
    def noise(keys: jax.Array) -> jax.Array:
        one = jax.vmap(lambda key, t: jax.random.uniform(jax.random.fold_in(key, t)), (None, 0))
        return jax.vmap(one, (0, None))(keys, jnp.arange(most))

    u = np.asarray(noise(jax.random.wrap_key_data(jnp.asarray(keys))))
    edge = 1 - FORCED / cfg.vocab_size
    stops = u > edge
    ends = np.where(stops.any(axis=1), stops.argmax(axis=1) + 1, most)
    trusted = (np.abs(u - edge) > NEAR).all(axis=1)
    of_length = {n: list(np.flatnonzero(trusted & (ends == n))) for n in set(lengths.tolist())}
    return np.stack([keys[of_length[n].pop()] for n in lengths.tolist()])
