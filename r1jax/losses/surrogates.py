"""Defines surrogates, the terms that a policy loss maximises at each token.

A surrogate is a function `(logp, ratio, advantage, low, high) -> (value, clipped)`. The arguments are, for each token,
log π_θ, the ratio ρ, the advantage Â, and the bounds 1−ε and 1+ε_high. `value` is the term that the loss maximises.
`clipped` is True for tokens that count in the metric "clip_fraction". Gradients flow through logp and ratio.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def clipped_surrogate(
    logp: jax.Array, ratio: jax.Array, advantage: jax.Array, low: jax.typing.ArrayLike, high: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Returns, for each token, PPO's min(ρ Â, clip(ρ, low, high) Â), and whether clipping makes the gradient zero.

    Args:
        logp: log π_θ; not used by this surrogate.
        ratio, advantage: ρ and Â, the same shape.
        low, high: bounds of the clip, 1−ε and 1+ε_high.

    Source: Schulman et al. 2017 (PPO), eq. 7.
    """
    value = jnp.minimum(ratio * advantage, jnp.clip(ratio, low, high) * advantage)
    return value, ((ratio > high) & (advantage > 0)) | ((ratio < low) & (advantage < 0))


@functools.cache
def dual_clip(bound: float) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """Returns PPO's surrogate with one more bound, c: where Â < 0, the value is at least c Â.

    So a token with Â < 0 and ρ > c has no gradient. In PPO, the gradient of such a token grows with ρ. The returned
    function is cached: equal bounds give the same function.

    Args:
        bound: c, a number above 1. Ye et al. use 3.

    Source: Ye et al. 2020, "Mastering complex control in MOBA games with deep reinforcement learning", eq. 4.

    Raises:
        ValueError: `bound` is not above 1.
    """
    if not bound > 1:
        raise ValueError(f"--dual-clip={bound} must be above 1, such as 3, or be left out")

    def surrogate(
        logp: jax.Array, ratio: jax.Array, advantage: jax.Array, low: jax.typing.ArrayLike, high: jax.typing.ArrayLike
    ) -> tuple[jax.Array, jax.Array]:
        value, clipped = clipped_surrogate(logp, ratio, advantage, low, high)
        over = (advantage < 0) & (ratio > bound)
        return jnp.where(over, bound * advantage, value), clipped | over

    return surrogate


def cispo_surrogate(
    logp: jax.Array, ratio: jax.Array, advantage: jax.Array, low: jax.typing.ArrayLike, high: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Returns sg(clip(ρ, low, high)) Â log π of each token, and whether ρ is clipped.

    PPO's clip takes away the gradient of a token whose ratio moved too far. CISPO clips the token's weight and keeps
    its gradient. sg means that no gradient flows through its argument.

    Source: MiniMax 2025 (MiniMax-M1, arXiv 2506.13585), eq. 4 and 5. The paper has no lower bound: use ε ≥ 1, for
    which the bound 1−ε never clips.
    """
    weight = jax.lax.stop_gradient(jnp.clip(ratio, low, high))
    return weight * advantage * logp, (ratio < low) | (ratio > high)


def token_gradient_surrogate(
    logp: jax.Array, ratio: jax.Array, advantage: jax.Array, low: jax.typing.ArrayLike, high: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Returns PPO's surrogate at each token, with the ratio sg(s) π_θ/sg(π_θ), where s is the completion's ratio.

    sg means that no gradient flows through its argument. So the token's ratio has the value s, but its gradient flows
    only through the probability of the token itself. The tokens of a completion may thus differ in Â. If all tokens
    of a completion have the same Â, value and gradient are equal to GSPO's.

    Args:
        ratio: s, the completion's ratio at each of its tokens.

    Source: Zheng et al. 2025 (GSPO), section 4.3, GSPO-token.
    """
    own = jax.lax.stop_gradient(ratio) * jnp.exp(logp - jax.lax.stop_gradient(logp))
    return clipped_surrogate(logp, own, advantage, low, high)
