"""Computes PPO's generalised advantage estimates, and the clipped loss of PPO's value function."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp

ROUNDING = 1e-6  # a variance below this share of the mean square is a rounding error of float32


def generalised_advantages(
    rewards: jax.typing.ArrayLike,
    values: jax.typing.ArrayLike,
    mask: jax.typing.ArrayLike,
    *,
    discount: float = 1.0,
    decay: float = 0.95,
    sequence: jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the advantage and the return of each token, both [N, T], 0 where nothing was sampled. No gradient flows.

        Âₜ = Σ_l (γλ)^l δ_{t+l},   δₜ = rₜ + γ V_{t+1} − Vₜ,   returnₜ = Âₜ + Vₜ

    Args:
        rewards: [N, T] reward of each token. Usually, the last token has the completion's reward, and other tokens have
            0.
        values: [N, T] V of the state before each token. The value after the last token is 0.
        mask: [N, T] True at sampled tokens. The tokens of a completion follow one another.
        discount: γ. 1 is usual for completions with one reward.
        decay: λ. 1 uses the whole return, 0 only one step.
        sequence: [N, T], for rows that hold several completions. All tokens of a completion have the same value, and
            the next completion of the row has a different value. None: a row holds one completion.

    Source: Schulman et al. 2016 (GAE), eq. 16.
    """
    mask = jnp.asarray(mask, bool)
    rewards, values = (jnp.where(mask, x, 0.0) for x in jax.lax.stop_gradient((rewards, values)))
    goes_on = ~last_tokens(mask, sequence)
    following = jnp.where(goes_on, jnp.pad(values[:, 1:], ((0, 0), (0, 1))), 0.0)
    errors = jnp.where(mask, rewards + discount * following - values, 0.0)

    def back(later: jax.Array, here: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        error, goes_on = here
        advantage = error + discount * decay * jnp.where(goes_on, later, 0.0)
        return advantage, advantage

    _, advantages = jax.lax.scan(back, jnp.zeros_like(errors[:, 0]), (errors.T, goes_on.T), reverse=True)
    advantages = jnp.where(mask, advantages.T, 0.0)
    return advantages, jnp.where(mask, advantages + values, 0.0)


def last_tokens(mask: jax.typing.ArrayLike, sequence: jax.typing.ArrayLike | None = None) -> jax.Array:
    """Returns [N, T] bool, True at the last token of each completion. Arguments: see `generalised_advantages`."""
    mask = jnp.asarray(mask, bool)
    goes_on = jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    if sequence is not None:
        goes_on &= jnp.pad(sequence[:, 1:] == sequence[:, :-1], ((0, 0), (0, 1)))
    return mask & ~goes_on


def value_loss(
    values: jax.typing.ArrayLike,
    old_values: jax.typing.ArrayLike,
    returns: jax.typing.ArrayLike,
    weight: jax.typing.ArrayLike,
    *,
    clip: float = 0.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the loss ½ Σ w max((V − R)², (clip(V, V_old − c, V_old + c) − R)²), and sums to log.

    Args:
        values: V of each token, any shape; gradients flow through this argument only.
        old_values: V_old, the value of V before the round's first update, same shape.
        returns: R, same shape.
        weight: w, same shape. Tokens of weight 0 are ignored.
        clip: c; 0 leaves out the clip.

    Returns:
        The loss, and sums to log. "value/clip_fraction" is the sum of w over clipped tokens, and "value/error" is
        Σ w (V − R)². "value/mean" is Σ w V, "value/return" is Σ w R, and "value/return_square" is Σ w R².
        `explained_variance` needs the last four sums.

    Source: Schulman et al. 2017 (PPO), eq. 9, with the clip of its reference code (Huang et al. 2022, detail 9).
    """
    counted = jnp.asarray(weight) != 0
    values, old_values, returns = (jnp.where(counted, x, 0.0) for x in (values, old_values, returns))
    old_values, returns = jax.lax.stop_gradient((old_values, returns))
    error = jnp.square(values - returns)
    worst = error
    if clip:
        near = jnp.clip(values, old_values - clip, old_values + clip)
        worst = jnp.maximum(error, jnp.square(near - returns))
    sums = {
        "value/clip_fraction": jnp.sum(weight * (worst > error)),
        "value/error": jnp.sum(weight * error),
        "value/mean": jnp.sum(weight * values),
        "value/return": jnp.sum(weight * returns),
        "value/return_square": jnp.sum(weight * jnp.square(returns)),
    }
    return 0.5 * jnp.sum(weight * worst), jax.lax.stop_gradient(sums)


def explained_variance(sums: Mapping[str, float], weight: float = 1.0) -> float | None:
    """Returns 1 − Var(R − V) / Var(R) of values V and returns R. Tokens are weighted with w, as in `value_loss`.

    The result is 1 if V equals R, 0 if V is constant, and None if R is constant.

    Args:
        sums: the sums that `value_loss` returns, over a minibatch, as floats.
        weight: the sum of w over the minibatch.
    """
    error, mean, back, square = (
        sums[f"value/{name}"] / (weight or 1.0) for name in ("error", "mean", "return", "return_square")
    )
    spread = square - back**2
    return None if spread <= ROUNDING * square else 1 - (error - (back - mean) ** 2) / spread
