"""Estimates KL(π_θ ‖ π_ref), for a loss or for a reward.

A "KL penalty" may be a term of the loss or a part of the reward. An estimate in the loss is differentiated, so its
gradient matters, and its value does not. An estimate in the reward is a number without a gradient. `KLS` has the
estimates that a loss may use.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from r1jax.losses.sequences import sequence_mean


def k3(gap: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """Returns π_ref/π_θ − log(π_ref/π_θ) − 1 of each token: GRPO's estimate, never negative.

    For tokens sampled from π_θ, the value is an unbiased estimate of KL(π_θ ‖ π_ref). The expected gradient is the
    gradient of KL(π_ref ‖ π_θ), not the gradient of KL(π_θ ‖ π_ref).

    Args:
        gap: log π_ref − log π_θ.
        log_ratio: log π_θ − log π_old; not used.

    Source: Schulman 2020, "Approximating KL divergence"; DeepSeek-AI 2025, eq. 2.
    """
    return jnp.expm1(gap) - gap


def k2(gap: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """Returns log(π_ref/π_θ)²/2 of each token.

    For tokens sampled from π_θ, the expected gradient of this value is the gradient of KL(π_θ ‖ π_ref).

    The arguments are the same as for `k3`.

    Source: Schulman 2020; used in the loss by REINFORCE++ with baseline (Hu et al. 2025).
    """
    return jnp.square(gap) / 2


def unbiased(gap: jax.Array, log_ratio: jax.Array) -> jax.Array:
    """Returns (π_θ/π_old)·(π_ref/π_θ − log(π_ref/π_θ) − 1) of each token. Gradients flow through both factors.

    For tokens sampled from π_old, the result is an unbiased estimate of KL(π_θ ‖ π_ref), and the expected gradient of
    the result is the gradient of KL(π_θ ‖ π_ref).

    Args:
        gap: log π_ref − log π_θ.
        log_ratio: log π_θ − log π_old of the token.

    Source: DeepSeek-AI 2025, "DeepSeek-V3.2" (arXiv 2512.02556), section 3.1, the unbiased KL estimate.
    """
    return jnp.exp(log_ratio) * (jnp.expm1(gap) - gap)


KLS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {"k3": k3, "k2": k2, "unbiased": unbiased}


def kl_of(name: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Returns the KL estimate that `KLS` holds under `name`.

    Args:
        name: the value of --kl.

    Raises:
        ValueError: `KLS` has no estimate of this name. "k1", log(π_θ/π_ref), is refused as a term of a loss: its
            gradient is ∇log π_θ, which does not contain π_ref and is 0 on average.
    """
    if name == "k1":
        raise ValueError(
            "--kl=k1 cannot be a term of the loss: its gradient is the gradient of log π, which does not contain the "
            "reference and is 0 on average. So this term would only add noise. Use k1_reward, which subtracts k1 from "
            f"the reward, or one of {', '.join(KLS)}"
        )
    if name not in KLS:
        raise ValueError(f"--kl={name} must be one of {', '.join(KLS)}, k1_reward")
    return KLS[name]


def kl_cost(logp: jax.typing.ArrayLike, ref_logp: jax.typing.ArrayLike, mask: jax.typing.ArrayLike) -> jax.Array:
    """Returns the KL estimate k1 = Σₜ log(π/π_ref) of each completion, [N], without gradient.

    The estimate is a cost: the caller subtracts β times k1 from the reward.

    Args:
        logp: [N, T] log π of the policy that sampled, nats.
        ref_logp: [N, T] log π_ref, nats.
        mask: [N, T] True at sampled tokens. Other tokens are ignored, even if their values are inf or nan.

    Source: Ouyang et al. 2022 (InstructGPT), eq. 2; Ahmadian et al. 2024 (RLOO), section 2.
    """
    return jax.lax.stop_gradient(jnp.where(mask, jnp.asarray(logp) - ref_logp, 0.0).sum(-1))


def off_policy_mask(
    logp: jax.typing.ArrayLike,
    sampler_logp: jax.typing.ArrayLike,
    advantage: jax.typing.ArrayLike,
    counted: jax.typing.ArrayLike,
    sequence: jax.typing.ArrayLike,
    bound: float,
) -> jax.Array:
    """Returns a factor M for each token, 0 or 1, without gradient. The policy's term of the loss is multiplied by M.

        M = 0 where Â < 0 and (Σₜ log(π_sampler/π_θ))/|o| > δ; else M = 1

    So a completion of negative advantage is left out once the policy has become unlikely to sample this completion: the
    policy does not learn from mistakes that it no longer makes.

    Args:
        logp, sampler_logp, advantage: log π_θ, log π of the sampler and Â of each token, [..., S].
        counted: [..., S] bool, True for tokens of completions.
        sequence: [..., S], the index of each token's completion within its row (the last axis), from 0.
        bound: δ, in nats per token.

    Source: DeepSeek-AI 2025, "DeepSeek-V3.2", section 3.1, off-policy sequence masking. As in the paper, π_sampler is
    the probability that the sampler itself returned.
    """
    behind = sequence_mean(jax.lax.stop_gradient(jnp.asarray(sampler_logp) - logp), counted, sequence)
    return jnp.where((jnp.asarray(advantage) < 0) & (behind > bound), 0.0, 1.0)
