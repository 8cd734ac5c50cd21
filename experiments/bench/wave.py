"""The programs of the sampler by hand, for benchmarks that change one of its decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.bench.shapes import random_params
from r1jax import decode, sampler
from r1jax.decode import Rows, Weights
from r1jax.model.cache import Segment
from r1jax.model.config import ModelConfig
from r1jax.sharding import empty_cache, make_mesh

FORCED = 10  # stop tokens of a model that ends where its keys say; of V
NEAR = 1e-4  # random numbers this near to the edge of the stop tokens are not trusted


def weights_of(cfg: ModelConfig) -> Weights:
    """Random weights, as decoding wants them."""
    return sampler.sync(random_params(cfg), make_mesh("1x1"))


def keys_of(prompts: int, group: int) -> np.ndarray:
    return sampler.row_keys(0, 0, np.repeat(range(prompts), group), np.tile(range(group), prompts))


def prefilled(
    cfg: ModelConfig, weights: Weights, prompts: Sequence[Sequence[int]]
) -> tuple[list[list[Segment]], jax.Array]:
    """Segments and next logits of prompts of equal length."""
    tokens = np.asarray(prompts, np.int32)
    lengths = np.full(len(prompts), tokens.shape[1], np.int32)
    kept, logits, _ = decode.prefill(cfg, weights, tokens, lengths, [], 0, dtype=jnp.float32)
    return [kept], logits


def begun(
    cfg: ModelConfig, logits: jax.Array, keys: np.ndarray, length: int, slots: int, stop_ids: tuple[int, ...]
) -> Rows:
    """Rows with their first token, and room for `slots` more."""
    wrapped = jax.random.wrap_key_data(jnp.asarray(keys))
    token, _, done = decode.first(logits, wrapped, 1.0, greedy=False, stop_ids=stop_ids)
    mesh = make_mesh("1x1")
    cache = [empty_cache(cfg, len(keys), slots, mesh, jnp.float32) for _ in range(cfg.layers)]
    return Rows(jnp.int32(0), token, done, jnp.full(len(keys), length, jnp.int32), wrapped, cache)


def decoded(
    cfg: ModelConfig, weights: Weights, segments: list[list[Segment]], rows: Rows, steps: int, stop_ids: tuple[int, ...]
) -> tuple[Rows, Any]:
    """`steps` more tokens; donates the rows."""
    return decode.decode(
        cfg, weights, segments, rows, 1.0, steps=steps, greedy=False, stop_ids=stop_ids, pad_id=0, dtype=jnp.float32
    )


def forced(cfg: ModelConfig) -> tuple[ModelConfig, Weights, tuple[int, ...]]:
    """A model that finds all tokens equally likely, at full cost: a row's key alone says where it stops."""
    cfg = dataclasses.replace(cfg, tie_embeddings=False)
    params = random_params(cfg)
    params["unembed"]["kernel"] = 1e-6 * params["unembed"]["kernel"]
    return cfg, sampler.sync(params, make_mesh("1x1")), tuple(range(cfg.vocab_size - FORCED, cfg.vocab_size))


def forcing_keys(cfg: ModelConfig, lengths: np.ndarray, most: int) -> np.ndarray:
    """[N, 2] row keys with which a `forced` model samples rows of these lengths, `most` at most."""
    candidates = 32_768
    keys = sampler.row_keys(0, 0, np.zeros(candidates, np.int64), np.arange(candidates))

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
