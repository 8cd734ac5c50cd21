"""Makes the learner, and packed or padded minibatches of random completions, for the benchmarks of the update."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from r1jax.losses import row_weights
from r1jax.model.config import ModelConfig
from r1jax.model.packed_rows import PackedRows
from r1jax.training.logprobs import Network
from r1jax.training.objectives import grpo_objective
from r1jax.training.packing import Minibatch, pack, spread
from r1jax.training.step import Learner

Completion = tuple[int, np.ndarray]
NORMALISATIONS = ("grpo", "dr_grpo", "dapo")


def learner(cfg: ModelConfig, remat: str, row_shards: int = 1) -> Learner:
    """Returns a learner with AdamW and the GRPO objective without a reference policy.

    Args:
        remat: a key of `transformer.REMAT`, which selects the activations that the backward pass recomputes.
        row_shards: number of shards over which the rows of a micro-batch are divided.
    """
    return Learner(Network(cfg, remat=remat, row_shards=row_shards), optax.adamw(1e-4), grpo_objective(0.2, 0.0))


def completions(cfg: ModelConfig, lengths: Sequence[int], group: int = 1) -> list[Completion]:
    """Returns random completions of the given lengths, as pairs (prompt index, tokens [n]), where n is the completion's
    length.

    Args:
        lengths: number of tokens of each completion.
        group: number of consecutive completions that share a prompt.
    """
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
    """Returns one micro-batch of all completions, with random advantages and random old log-probabilities.

    Args:
        prompts: token ids of each prompt.
        done: the completions, as `completions` returns them.
        row_length: number of token slots in a row.
        norm: the normalisation of the loss, one of `NORMALISATIONS`.
        padded: True gives each completion, with its prompt, a row of its own. False packs several completions into a
            row.
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
