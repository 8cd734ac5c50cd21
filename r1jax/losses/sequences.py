"""Sums values over the tokens of each completion, in rows of several completions, and computes importance weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sequence_mean(values: jax.Array, counted: jax.Array, sequence: jax.typing.ArrayLike) -> jax.Array:
    """Replaces the value of each token by the mean over the counted tokens of the same sequence; 0 if none counts.

    Args:
        values: [..., S], a value for each token.
        counted: [..., S] bool, True for tokens that count in the mean.
        sequence: [..., S] index of each token's sequence (a completion), counted from 0 in each row, as in
            `policy_loss`. A row is the last axis.
    """

    def row(value: jax.Array, count: jax.Array, number: jax.Array) -> jax.Array:
        total, size = (jax.ops.segment_sum(x, number, len(number)) for x in (value, count))
        return (total / jnp.maximum(size, 1))[number]

    flat = (
        x.reshape(-1, values.shape[-1])
        for x in (jnp.where(counted, values, 0.0), counted.astype(values.dtype), jnp.asarray(sequence))
    )
    return jax.vmap(row)(*flat).reshape(values.shape)


def sequence_sum(values: jax.Array, counted: jax.Array, sequence: jax.typing.ArrayLike) -> jax.Array:
    """Replaces the value of each token by the sum over the counted tokens of the same sequence. See `sequence_mean`."""

    def row(value: jax.Array, number: jax.Array) -> jax.Array:
        return jax.ops.segment_sum(value, number, len(number))[number]

    flat = (x.reshape(-1, values.shape[-1]) for x in (jnp.where(counted, values, 0.0), jnp.asarray(sequence)))
    return jax.vmap(row)(*flat).reshape(values.shape)


def truncated_importance(
    old_logp: jax.typing.ArrayLike,
    sampler_logp: jax.typing.ArrayLike,
    cap: float,
    *,
    counted: jax.typing.ArrayLike | None = None,
    sequence: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Returns the importance weight min(π_old/π_sampler, cap) of each token, or of each token's completion.

    The weights correct the loss if the tokens were sampled from a policy π_sampler that differs from π_old. Pass them
    to `policy_loss` as the argument `correction`.

    Args:
        old_logp, sampler_logp: log π_old and log π_sampler of each token, the same shape.
        cap: the largest weight.
        counted, sequence: as in `sequence_mean`. If both are given, each token gets the weight of its completion,
            min(Πₜ π_old/π_sampler, cap).

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training" (truncated
    importance sampling by token); Liu et al. 2025, "When speed kills stability" (by sequence).
    """
    log_ratio = jnp.asarray(old_logp) - sampler_logp
    if sequence is not None:
        log_ratio = sequence_sum(log_ratio, jnp.asarray(counted), sequence)
    return jnp.minimum(jnp.exp(log_ratio), cap)
