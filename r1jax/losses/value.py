"""Computes PPO's generalised advantage estimates, and the clipped loss of PPO's value function."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def generalised_advantages(
    rewards: jax.typing.ArrayLike,
    values: jax.typing.ArrayLike,
    mask: jax.typing.ArrayLike,
    *,
    discount: float = 1.0,
    decay: float = 0.95,
) -> tuple[jax.Array, jax.Array]:
    """Returns the advantage and the return of each token, both [N, T], 0 where nothing was sampled. No gradient flows.

        Âₜ = Σ_l (γλ)^l δ_{t+l},   δₜ = rₜ + γ V_{t+1} − Vₜ,   returnₜ = Âₜ + Vₜ

    Args:
        rewards: [N, T] reward of each token. Usually, the last token has the completion's reward, and other tokens have
            0.
        values: [N, T] V of the state before each token. The value after the last token is 0.
        mask: [N, T] True at sampled tokens, which fill the beginning of each row.
        discount: γ. 1 is usual for completions with one reward.
        decay: λ. 1 uses the whole return, 0 only one step.

    Source: Schulman et al. 2016 (GAE), eq. 16.
    """
    mask = jnp.asarray(mask, bool)
    rewards, values = (jnp.where(mask, x, 0.0) for x in jax.lax.stop_gradient((rewards, values)))
    following = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    errors = jnp.where(mask, rewards + discount * following - values, 0.0)

    def back(later: jax.Array, error: jax.Array) -> tuple[jax.Array, jax.Array]:
        here = error + discount * decay * later
        return here, here

    _, advantages = jax.lax.scan(back, jnp.zeros(errors.shape[0]), errors.T, reverse=True)
    advantages = jnp.where(mask, advantages.T, 0.0)
    return advantages, jnp.where(mask, advantages + values, 0.0)


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
        The loss, and sums to log. "value/clip_fraction" is the sum of w over clipped tokens, and "value/error" is Σ w
        (V − R)².

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
    sums = {"value/clip_fraction": jnp.sum(weight * (worst > error)), "value/error": jnp.sum(weight * error)}
    return 0.5 * jnp.sum(weight * worst), jax.lax.stop_gradient(sums)
