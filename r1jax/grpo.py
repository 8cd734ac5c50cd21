"""Group relative policy optimisation: advantages and losses on plain arrays. Imports jax alone.

Shape letters: B questions, G completions of each, N = B·G rows (question-major), T completion slots.
Log-probabilities are float32, in nats, at the sampling temperature; element t belongs to completion token t.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

LOSSES = ("grpo", "dr_grpo", "dapo", "sequence")


def group_advantages(
    rewards: jax.typing.ArrayLike, valid: jax.typing.ArrayLike | None = None, *, scaled: bool = True
) -> jax.Array:
    """The advantage of each completion over its group, [B, G].

        Âᵢ = (rᵢ − mean(r)) / std(r),   exactly 0 where all rewards of the group are equal

    Args:
        rewards: [B, G] total reward of each completion.
        valid: [B, G] bool; rows without a verdict. They get 0 and stay out of mean and std, whatever their reward
            holds.
        scaled: False leaves out std, as Dr. GRPO does (Liu et al. 2025, section 3.2).

    Source: DeepSeek-AI 2025, eq. 3. The paper gives neither the guard nor the degrees of freedom: here ddof 0, and a
    test for equality instead of an epsilon, since in float32 sixteen rewards of 1.1 have a standard deviation of
    1.2e-7, not 0.
    """
    rewards = jnp.asarray(rewards, jnp.float32)
    valid = jnp.ones(rewards.shape, bool) if valid is None else jnp.asarray(valid, bool)
    count = jnp.maximum(valid.sum(-1, keepdims=True), 1)
    kept = jnp.where(valid, rewards, 0.0)
    centred = jnp.where(valid, kept - kept.sum(-1, keepdims=True) / count, 0.0)
    std = jnp.sqrt(jnp.square(centred).sum(-1, keepdims=True) / count)
    highest = jnp.max(jnp.where(valid, rewards, -jnp.inf), axis=-1, keepdims=True)
    lowest = jnp.min(jnp.where(valid, rewards, jnp.inf), axis=-1, keepdims=True)
    differ = ~(highest <= lowest)  # nan differs from everything: it must show, not turn into 0
    return jnp.where(differ & valid, centred / jnp.where(differ & scaled, std, 1.0), 0.0)


def row_weights(
    loss: str, lengths: jax.typing.ArrayLike, valid: jax.typing.ArrayLike, *, rows: int, tokens: int, max_tokens: int
) -> jax.typing.ArrayLike:
    """The weight of each token of a row in `policy_loss`: the normaliser of a loss, [N] in the precision of `lengths`.

        grpo, sequence  1/(N·|oᵢ|)        dr_grpo  1/(N·T)        dapo  1/Σ|oᵢ|

    Args:
        lengths: [N] sampled tokens |oᵢ|, as floats, of some rows of the minibatch.
        valid: [N] bool; rows without a verdict weigh nothing.
        rows, tokens: N and Σ|oᵢ| over all valid rows of the minibatch, those of other processes too.
        max_tokens: T, the budget of a completion.

    Source: DeepSeek-AI 2025, eq. 1; Liu et al. 2025 (Dr. GRPO), listing 1; Yu et al. 2025 (DAPO), eq. 8; Zheng et al.
    2025 (GSPO), eq. 5.
    """
    if loss not in LOSSES:
        raise ValueError(f"--loss={loss} must be one of {', '.join(LOSSES)}")
    rows, tokens = max(rows, 1), max(tokens, 1)
    return valid / {"dr_grpo": 0 * lengths + rows * max_tokens, "dapo": 0 * lengths + tokens}.get(loss, rows * lengths)


def policy_loss(
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
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The negated GRPO objective summed over tokens, and sums to plot.

        loss = − Σ w (c min(ρ Â, clip(ρ, 1−ε, 1+ε_high) Â) − β (π_ref/π_θ − log π_ref/π_θ − 1)),   ρ = π_θ/π_old

    Every normalisation lives in `weight`, made once from the whole minibatch, so sums over micro-batches, packed rows
    and shards add up to the same number; `row_weights` has those of the published losses.

    Args:
        logp: log π_θ of each token, any shape; gradients flow through this argument only.
        old_logp, ref_logp, advantage, weight: same shape. Where weight is 0 nothing counts, not even inf or nan.
        clip_eps: ε. R1 uses 10, for which 1−ε is negative and only ratios above 11 are clipped.
        kl_coef: β.
        clip_eps_high: ε_high, if it differs from ε (DAPO's clip-higher).
        sequence: of the same shape, the number of each token's completion within the last axis, below its length: ρ is
            then the completion's, (π_θ(o)/π_old(o))^(1/|o|), at each of its tokens (GSPO).
        correction: c, of the same shape, without gradient, such as `truncated_importance`; 1 if left out.

    Returns:
        loss, and {"kl", "clip_fraction", "log_ratio", "weight"}: sums of w·value (divide by "weight" for means);
        "log_ratio/max" is the largest |log ρ|.

    Source: DeepSeek-AI 2025, eq. 1-2; the token-level form from Shao et al. 2024 (DeepSeekMath), eq. 3-4;
    ε_high from Yu et al. 2025 (DAPO), eq. 8; the completion's ratio from Zheng et al. 2025 (GSPO), eq. 5-7.
    """
    counted = weight != 0
    logp, old_logp, ref_logp, advantage = (jnp.where(counted, x, 0.0) for x in (logp, old_logp, ref_logp, advantage))
    old_logp, ref_logp, advantage = jax.lax.stop_gradient((old_logp, ref_logp, advantage))
    log_ratio = logp - old_logp
    if sequence is not None:
        log_ratio = sequence_mean(log_ratio, counted, sequence)
    high = clip_eps if clip_eps_high is None else clip_eps_high
    ratio = jnp.exp(log_ratio)
    surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 1.0 - clip_eps, 1.0 + high) * advantage)
    if correction is not None:
        surrogate *= jax.lax.stop_gradient(jnp.where(counted, correction, 0.0))
    gap = ref_logp - logp
    kl = jnp.expm1(gap) - gap
    clipped = ((ratio > 1.0 + high) & (advantage > 0)) | ((ratio < 1.0 - clip_eps) & (advantage < 0))
    sums = {
        "kl": jnp.sum(weight * kl),
        "clip_fraction": jnp.sum(weight * clipped),
        "log_ratio": jnp.sum(weight * log_ratio),
        "weight": jnp.sum(weight),
        "log_ratio/max": jnp.max(jnp.abs(log_ratio)),
    }
    return -jnp.sum(weight * (surrogate - kl_coef * kl)), jax.lax.stop_gradient(sums)


def sequence_mean(values: jax.Array, counted: jax.Array, sequence: jax.typing.ArrayLike) -> jax.Array:
    """At each token the mean of `values` over the counted tokens of its sequence in the last axis; 0 where none is
    counted."""

    def row(value: jax.Array, count: jax.Array, number: jax.Array) -> jax.Array:
        total, size = (jax.ops.segment_sum(x, number, len(number)) for x in (value, count))
        return (total / jnp.maximum(size, 1))[number]

    flat = (
        x.reshape(-1, values.shape[-1])
        for x in (jnp.where(counted, values, 0.0), counted.astype(values.dtype), jnp.asarray(sequence))
    )
    return jax.vmap(row)(*flat).reshape(values.shape)


def truncated_importance(old_logp: jax.typing.ArrayLike, sampler_logp: jax.typing.ArrayLike, cap: float) -> jax.Array:
    """min(π_old/π_sampler, cap) of each token: what the sampler drew, weighed as if the trainer's old policy had drawn
    it.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL training" (truncated
    importance sampling).
    """
    return jnp.minimum(jnp.exp(jnp.asarray(old_logp) - sampler_logp), cap)


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
    """The negated GRPO objective of a minibatch, and what to plot about it.

        J = 1/N Σᵢ 1/|oᵢ| Σₜ min(ρ Âᵢ, clip(ρ, 1−ε, 1+ε) Âᵢ) − β (π_ref/π_θ − log π_ref/π_θ − 1),   ρ = π_θ/π_old

    Args:
        logp: [N, T] log π_θ of each completion token, nats; gradients flow through this argument only.
        old_logp, ref_logp: [N, T] of the policy that sampled and of the reference.
        advantages: [N], from `group_advantages(...).reshape(-1)`.
        mask: [N, T] sampled tokens, the stop token included. What lies off the mask is ignored, even inf and nan.
        clip_eps, kl_coef: ε and β, without defaults on purpose: frameworks differ.

    Returns:
        loss and {"kl", "clip_fraction", "log_ratio", "log_ratio/max"} as means over completions.

    Source: DeepSeek-AI 2025, eq. 1-3; token-level form from Shao et al. 2024 (DeepSeekMath), eq. 3.
    """
    mask = jnp.asarray(mask, bool)
    lengths = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    weight = mask / (lengths * mask.shape[0])
    loss, sums = policy_loss(
        logp, old_logp, ref_logp, jnp.broadcast_to(advantages[:, None], mask.shape), weight,
        clip_eps=clip_eps, kl_coef=kl_coef,
    )  # fmt: skip
    total = jnp.where(sums["weight"] == 0, 1.0, sums["weight"])
    return loss, {k: v if k.endswith("max") else v / total for k, v in sums.items() if k != "weight"}
