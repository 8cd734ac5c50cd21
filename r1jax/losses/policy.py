"""Computes the policy loss, one weighted sum over tokens. The published losses are special cases of this sum."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax.losses.divergence import k3
from r1jax.losses.sequences import sequence_mean
from r1jax.losses.surrogates import clipped_surrogate


def policy_loss(  # noqa: PLR0913 - the symbols of one equation
    logp: jax.typing.ArrayLike,
    old_logp: jax.typing.ArrayLike,
    ref_logp: jax.typing.ArrayLike,
    advantage: jax.typing.ArrayLike,
    weight: jax.typing.ArrayLike,
    *,
    clip_eps: jax.typing.ArrayLike,
    kl_coef: jax.typing.ArrayLike,
    clip_eps_high: jax.typing.ArrayLike | None = None,
    sequence: jax.typing.ArrayLike | None = None,
    correction: jax.typing.ArrayLike | None = None,
    surrogate: Callable[..., tuple[jax.Array, jax.Array]] = clipped_surrogate,
    kl: Callable[[jax.Array, jax.Array], jax.Array] = k3,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the negated GRPO objective, a weighted sum over tokens, and other sums to log.

        loss = − Σ w (c min(ρ Â, clip(ρ, 1−ε, 1+ε_high) Â) − β (π_ref/π_θ − log(π_ref/π_θ) − 1)),   ρ = π_θ/π_old

    `weight` holds the whole normalisation, computed once from the whole minibatch. So the losses of micro-batches,
    packed rows and shards add up to the loss of the minibatch. `row_weights` gives the weights of the published losses.

    Args:
        logp: log π_θ of each token, any shape; gradients flow through this argument only.
        old_logp, ref_logp: log π_old and log π_ref, same shape.
        advantage: Â, same shape.
        weight: w, same shape. Tokens of weight 0 are ignored, even if other values are inf or nan there.
        clip_eps: ε. R1 uses 10, for which 1−ε is negative and only ratios above 11 are clipped.
        kl_coef: β.
        clip_eps_high: ε_high, if it differs from ε (DAPO's clip-higher).
        sequence: same shape, the index of each token's completion within its row (the last axis), from 0. If given, ρ
            is the ratio of the completion, (π_θ(o)/π_old(o))^(1/|o|), at each of its tokens (GSPO).
        correction: c, same shape, such as the result of `truncated_importance` or `off_policy_mask`; no gradient flows
            through c. Default 1.
        surrogate: computes the term min(…) of the formula, or the term that another loss has instead. See `Objective`.
        kl: a function `(log(π_ref/π_θ), log(π_θ/π_old)) -> value` of each token, from `KLS`; β multiplies its value.
            Both arguments come from the token's own ratios, even if `sequence` is given.

    Returns:
        The loss, a scalar; and a dictionary of scalars. "kl", "clip_fraction" and "log_ratio" are sums over tokens,
        weighted with w. Divide these sums by "weight", the sum of w, to get means. "log_ratio/max" is the largest
        |log ρ|.

    Source: DeepSeek-AI 2025, eq. 1-2; the token-level form from Shao et al. 2024 (DeepSeekMath), eq. 3-4;
    ε_high from Yu et al. 2025 (DAPO), eq. 8; the completion's ratio from Zheng et al. 2025 (GSPO), eq. 5-7.
    """
    counted = weight != 0
    logp, old_logp, ref_logp, advantage = (jnp.where(counted, x, 0.0) for x in (logp, old_logp, ref_logp, advantage))
    old_logp, ref_logp, advantage = jax.lax.stop_gradient((old_logp, ref_logp, advantage))
    log_ratio = of_token = logp - old_logp
    if sequence is not None:
        log_ratio = sequence_mean(log_ratio, counted, sequence)
    low, high = 1.0 - clip_eps, 1.0 + (clip_eps if clip_eps_high is None else clip_eps_high)
    value, clipped = surrogate(logp, jnp.exp(log_ratio), advantage, low, high)
    if correction is not None:
        value *= jax.lax.stop_gradient(jnp.where(counted, correction, 0.0))
    divergence = kl(ref_logp - logp, of_token)
    sums = {
        "kl": jnp.sum(weight * divergence),
        "clip_fraction": jnp.sum(weight * clipped),
        "log_ratio": jnp.sum(weight * log_ratio),
        "weight": jnp.sum(weight),
        "log_ratio/max": jnp.max(jnp.abs(log_ratio)),
    }
    return -jnp.sum(weight * (value - kl_coef * divergence)), jax.lax.stop_gradient(sums)


def grpo_loss(
    logp: jax.typing.ArrayLike,
    old_logp: jax.typing.ArrayLike,
    ref_logp: jax.typing.ArrayLike,
    advantages: jax.typing.ArrayLike,
    mask: jax.typing.ArrayLike,
    *,
    clip_eps: jax.typing.ArrayLike,
    kl_coef: jax.typing.ArrayLike,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the negated GRPO objective of a minibatch, and means to log.

        J = (1/N) Σᵢ (1/|oᵢ|) Σₜ [min(ρ Âᵢ, clip(ρ, 1−ε, 1+ε) Âᵢ) − β (π_ref/π_θ − log(π_ref/π_θ) − 1)],   ρ = π_θ/π_old

    Args:
        logp: [N, T] log π_θ of each completion token, nats; gradients flow through this argument only.
        old_logp: [N, T] log-probabilities under the policy that sampled, nats.
        ref_logp: [N, T] log-probabilities under the reference policy, nats.
        advantages: [N], from `group_advantages(...).reshape(-1)`.
        mask: [N, T] True at sampled tokens, the stop token included. Other tokens are ignored, even if their values are
            inf or nan.
        clip_eps, kl_coef: ε and β. They have no defaults, because frameworks choose different ones.

    Returns:
        The loss, a scalar; and a dictionary of scalars: "kl", "clip_fraction" and "log_ratio", means over completions,
        and "log_ratio/max", the largest |log ρ|.

    Source: DeepSeek-AI 2025, eq. 1-3; token-level form from Shao et al. 2024 (DeepSeekMath), eq. 3.
    """
    mask = jnp.asarray(mask, bool)
    lengths = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    weight = mask / (lengths * mask.shape[0])
    loss, sums = policy_loss(
        logp,
        old_logp,
        ref_logp,
        jnp.broadcast_to(advantages[:, None], mask.shape),
        weight,
        clip_eps=clip_eps,
        kl_coef=kl_coef,
    )
    total = jnp.where(sums["weight"] == 0, 1.0, sums["weight"])
    return loss, {k: v if k.endswith("max") else v / total for k, v in sums.items() if k != "weight"}
