"""Packed and padded minibatches of given completions, for the benchmarks of the update."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax.grpo import row_weights
from r1jax.model.config import ModelConfig
from r1jax.rollout import Minibatch, PackedRows, pack, spread
from r1jax.update import Learner, grpo_objective

Completion = tuple[int, np.ndarray]
NORMALISATIONS = ("grpo", "dr_grpo", "dapo")


def learner(cfg: ModelConfig, remat: str, row_shards: int = 1) -> Learner:
    """AdamW and GRPO without a reference."""
    return Learner(cfg, optax.adamw(1e-4), grpo_objective(0.2, 0.0), remat=remat, row_shards=row_shards)


def completions(cfg: ModelConfig, lengths: Sequence[int], group: int = 1) -> list[Completion]:
    """Random completions, `group` of them for each prompt."""
    rng = np.random.default_rng(3)
    return [(i // group, rng.integers(0, cfg.vocab_size, n)) for i, n in enumerate(lengths)]


def minibatch(
    prompts: Sequence[Sequence[int]],
    done: Sequence[Completion],
    row_length: int,
    *,
    norm: str = "grpo",
    padded: bool = False,
) -> Minibatch:
    """All completions in one micro-batch.

    Args:
        padded: each completion in a row of its own behind its prompt.
    """
    if padded:
        alone = [pack(prompts, [one], row_length) for one in done]
        rows = PackedRows(*(np.concatenate([getattr(r, name) for r, _ in alone]) for name in PackedRows._fields[:5]))
        places = [place._replace(row=i) for i, (_, (place,)) in enumerate(alone)]
    else:
        rows, places = pack(prompts, done, row_length)
    lengths = np.array([len(tokens) for _, tokens in done])
    rng = np.random.default_rng(4)
    advantage = rng.standard_normal(len(done))
    old = [rng.normal(-6, 0.1, n) for n in lengths]
    weight = row_weights(
        norm,
        lengths.astype(np.float64),
        np.ones(len(done), bool),
        rows=len(done),
        tokens=int(lengths.sum()),
        max_tokens=int(lengths.max()),
    )
    shape = rows.tokens.shape

    def each(values: Sequence[float]) -> jax.Array:
        return jnp.asarray(spread([np.full(n, v) for n, v in zip(lengths, values, strict=True)], places, shape))

    logp = jnp.asarray(spread(old, places, shape))
    return Minibatch(jax.tree.map(jnp.asarray, rows), each(weight), each(advantage), logp, logp, None)
