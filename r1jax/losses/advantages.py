"""Computes advantages from rewards [B, G]: how much better a completion is than the completions it is compared with."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp


def group_advantages(
    rewards: jax.typing.ArrayLike, valid: jax.typing.ArrayLike | None = None, *, scaled: bool = True
) -> jax.Array:
    """Returns the advantage of each completion over its group, [B, G] float32.

        Âᵢ = (rᵢ − mean(r)) / std(r),   exactly 0 where all rewards of the group are equal

    Args:
        rewards: [B, G] total reward of each completion.
        valid: [B, G] bool, False for completions without a verdict; by default all True. Completions with False get
            advantage 0 and do not count in mean and std, even if their reward is nan.
        scaled: False leaves out the division by std, as Dr. GRPO does (Liu et al. 2025, section 3.2).

    Source: DeepSeek-AI 2025, eq. 3. The paper gives neither the degrees of freedom nor a guard against std = 0. Here
    ddof is 0, and a group whose rewards are all equal gets advantages 0. The rewards themselves are compared, because
    std is rounded: in float32 sixteen rewards of 1.1 have a standard deviation of 1.2e-7, not 0.
    """
    rewards = jnp.asarray(rewards, jnp.float32)
    valid = jnp.ones(rewards.shape, bool) if valid is None else jnp.asarray(valid, bool)
    count = jnp.maximum(valid.sum(-1, keepdims=True), 1)
    kept = jnp.where(valid, rewards, 0.0)
    centred = jnp.where(valid, kept - kept.sum(-1, keepdims=True) / count, 0.0)
    std = jnp.sqrt(jnp.square(centred).sum(-1, keepdims=True) / count)
    differ = _differ(rewards, valid, -1)
    return jnp.where(differ & valid, centred / jnp.where(differ & scaled, std, 1.0), 0.0)


def leave_one_out(rewards: jax.typing.ArrayLike, valid: jax.typing.ArrayLike | None = None) -> jax.Array:
    """Returns each reward less the mean reward of the other completions of its group, [B, G] float32.

        Âᵢ = rᵢ − (Σ_{j≠i} rⱼ)/(G−1) = (G/(G−1))·(rᵢ − mean(r))

    Args:
        rewards, valid: see `group_advantages`. G is the number of valid completions of the group. The advantage is 0 if
            the group has no other valid completion.

    Source: Ahmadian et al. 2024, "Back to Basics" (RLOO), section 3.3 (Kool et al. 2019). There is no division by a
    standard deviation.
    """
    rewards = jnp.asarray(rewards, jnp.float32)
    valid = jnp.ones(rewards.shape, bool) if valid is None else jnp.asarray(valid, bool)
    count = valid.sum(-1, keepdims=True)
    return group_advantages(rewards, valid, scaled=False) * count / jnp.maximum(count - 1, 1)


def batch_advantages(
    rewards: jax.typing.ArrayLike,
    valid: jax.typing.ArrayLike | None = None,
    lengths: jax.typing.ArrayLike | None = None,
    *,
    baseline: bool = False,
) -> jax.Array:
    """Returns the rewards, normalised over all tokens of the batch, [B, G] float32.

        Âᵢ = (aᵢ − mean(a)) / std(a),   aᵢ = rᵢ; with `baseline`, aᵢ = rᵢ − mean of the group's r

    Mean and std are computed over tokens, so a completion counts once for each of its tokens. ddof is 0. There is no
    epsilon: if all aᵢ are equal, all advantages are exactly 0.

    Args:
        rewards, valid: see `group_advantages`.
        lengths: [B, G] tokens of each completion; if None, each completion counts once.
        baseline: subtract the mean of the group first (REINFORCE++ with baseline).

    Source: Hu et al. 2025, "REINFORCE++" (arXiv 2501.03262v9), the global advantage normalisation. The paper does not
    give the degrees of freedom; OpenRLHF, the authors' code, computes over tokens with ddof 0, and uses a variance of
    at least 1e-8.
    """
    rewards = jnp.asarray(rewards, jnp.float32)
    valid = jnp.ones(rewards.shape, bool) if valid is None else jnp.asarray(valid, bool)
    values = group_advantages(rewards, valid, scaled=False) if baseline else jnp.where(valid, rewards, 0.0)
    share = valid if lengths is None else jnp.where(valid, jnp.asarray(lengths, jnp.float32), 0.0)
    share = share / jnp.maximum(share.sum(), 1)
    centred = jnp.where(valid, values - jnp.sum(share * values), 0.0)
    std = jnp.sqrt(jnp.sum(share * jnp.square(centred)))
    differ = _differ(values, valid, None)
    return jnp.where(differ & valid, centred / jnp.where(differ, std, 1.0), 0.0)


def decoupled_advantages(
    parts: Mapping[str, jax.typing.ArrayLike],
    weights: Mapping[str, float],
    valid: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Returns the advantages for a weighted sum of rewards that are first normalised over each group, [B, G] float32.

        Âᵢ = (sᵢ − mean(s)) / std(s) over the batch,   s = Σ_k w_k (r_k − mean_group(r_k)) / std_group(r_k)

    In a plain sum of rewards, the reward with the widest spread dominates. Here each reward contributes in proportion
    to its weight.

    Args:
        parts: name -> [B, G] reward, unweighted. A nan means that the completion does not get this part. The part then
            adds 0.
        weights: name -> w_k; parts without a weight are left out.
        valid: see `group_advantages`.

    Source: Liu et al. 2026, "GDPO" (arXiv 2601.05242). Both standard deviations have ddof 0. Equal values give exactly
    0. The authors' code adds an epsilon to each std instead.

    Raises:
        ValueError: no part has a weight.
    """
    known = {name: jnp.asarray(part, jnp.float32) for name, part in parts.items() if weights.get(name)}
    if not known:
        raise ValueError(
            f"none of the rewards {', '.join(parts) or '(none)'} has a weight, so nothing is left to learn: give one "
            "of them a weight other than 0"
        )
    shape = next(iter(known.values())).shape
    valid = jnp.ones(shape, bool) if valid is None else jnp.asarray(valid, bool)
    total = sum(weights[name] * group_advantages(part, valid & ~jnp.isnan(part)) for name, part in known.items())
    return batch_advantages(total, valid)


def _differ(values: jax.Array, valid: jax.Array, axis: int | None) -> jax.Array:
    """Whether the valid values along an axis are not all equal. nan counts as different, so that it shows up instead of
    becoming 0."""
    highest = jnp.max(jnp.where(valid, values, -jnp.inf), axis=axis, keepdims=True)
    lowest = jnp.min(jnp.where(valid, values, jnp.inf), axis=axis, keepdims=True)
    return ~(highest <= lowest)
