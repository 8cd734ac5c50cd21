"""Defines the loss functions of training, for `Learner.loss`."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from r1jax.losses import LOSSES, Objective, kl_of, off_policy_mask, policy_loss, truncated_importance
from r1jax.model.packed_rows import number_runs
from r1jax.training.logprobs import Network
from r1jax.training.packing import Minibatch, SoftBatch, TokenBatch
from r1jax.training.step import Loss


class Terms(NamedTuple):
    """Settings of a policy loss in addition to its clip bounds and its KL coefficient.

    Attributes:
        kl: name of the estimator of the KL divergence, a key of `KLS`.
        entropy_coef: weight of the entropy, which the loss subtracts. If it is not 0, the network's `entropy_gradient`
            must be True.
        off_policy_bound: δ of `off_policy_mask`, in nats per token. A completion of negative advantage does not count
            if its log-probability per token has fallen by more than δ since sampling. 0 leaves no completion out.
        tis_cap: cap of the importance weights that correct for the difference between sampler and trainer
            (`truncated_importance`); 0 turns this correction off.
        tis_by: "token" if `tis_cap` caps the ratio of each token, "sequence" if it caps the ratio of each completion.
    """

    kl: str = "k3"
    entropy_coef: float = 0.0
    off_policy_bound: float = 0.0
    tis_cap: float = 0.0
    tis_by: str = "token"


PLAIN = Terms()


@functools.cache
def grpo_objective(
    clip_eps: float,
    kl_coef: float,
    *,
    clip_eps_high: float | None = None,
    objective: Objective = LOSSES["grpo"],
    terms: Terms = PLAIN,
) -> Loss:
    """Returns the `Learner.loss` of reinforcement learning, a function (network, params, Minibatch) -> (loss, metrics).

    Equal arguments return the same function object (cached), so that equal losses share their compiled updates. The
    arguments are the same as for `minibatch_loss`.
    """

    def loss(network: Network, params: dict, batch: Minibatch) -> tuple[Array, dict[str, Array]]:
        logp, entropy, passed = network.logprobs(params, batch.rows)
        value, metrics = minibatch_loss(
            logp,
            entropy,
            batch,
            clip_eps=clip_eps,
            kl_coef=kl_coef,
            clip_eps_high=clip_eps_high,
            objective=objective,
            terms=terms,
        )
        return value, metrics | passed

    return loss


def minibatch_loss(
    logp: Array,
    entropy: Array,
    batch: Minibatch,
    *,
    clip_eps: float,
    kl_coef: float,
    clip_eps_high: float | None = None,
    objective: Objective = LOSSES["grpo"],
    terms: Terms = PLAIN,
) -> tuple[Array, dict[str, Array]]:
    """Returns the policy loss summed over the tokens of a `Minibatch`, and metrics to log.

    Args:
        logp, entropy: [R, S] log-probability and entropy of each token under the policy in training.
        clip_eps, kl_coef, clip_eps_high: see `policy_loss`.
        objective: a published loss, such as an entry of `LOSSES`. Its settings `token_weight` and `advantages` have no
            effect here: the weights and advantages of the minibatch already contain them.
        terms: further settings of the loss.
    """
    old_logp = jax.lax.stop_gradient(logp) if batch.old_logp is None else batch.old_logp
    ref_logp = old_logp if batch.ref_logp is None else batch.ref_logp
    counted = batch.weight != 0
    gap = jnp.where(counted, old_logp - batch.rollout_logp, 0.0)
    factor, more = correct(logp, gap, batch, terms)
    value, metrics = policy_loss(
        logp,
        old_logp,
        ref_logp,
        batch.advantage,
        batch.weight,
        clip_eps=clip_eps,
        kl_coef=kl_coef,
        clip_eps_high=clip_eps_high,
        sequence=number_runs(batch.rows) if objective.by_completion else None,
        correction=factor,
        surrogate=objective.surrogate,
        kl=kl_of(terms.kl),
    )
    mean_entropy = jnp.sum(batch.weight * jnp.where(counted, entropy, 0.0))
    if terms.entropy_coef:
        value -= terms.entropy_coef * mean_entropy
    return value, metrics | more | {
        "entropy": mean_entropy,
        "sampler_gap/max": jnp.max(jnp.abs(gap)),
        # k3 estimate of KL(sampler || trainer), always >= 0
        "sampler_gap/k3": jnp.sum(batch.weight * (jnp.expm1(gap) - gap)),
    }


def correct(logp: Array, gap: Array, batch: Minibatch, terms: Terms) -> tuple[Array | None, dict[str, Array]]:
    """Returns (factor, metrics): the correction for the difference between sampler and trainer.

    The factor, [R, S], multiplies each token's policy term. It is None if `terms` uses neither truncated
    importance weights nor the off-policy mask. The metrics are two sums of loss weights: one over the tokens
    whose importance weight was capped, and one over the tokens that the mask left out.

    Args:
        logp: [R, S] log π_θ.
        gap: [R, S] log(π_old / π_sampler), 0 where nothing was sampled.
    """
    factor, metrics = None, {}
    counted = batch.weight != 0
    if terms.tis_cap:
        runs = number_runs(batch.rows) if terms.tis_by == "sequence" else None
        ratio = truncated_importance(gap, 0.0, jnp.inf, counted=counted, sequence=runs)
        factor = jnp.minimum(ratio, terms.tis_cap)
        metrics["sampler_gap/truncated"] = jnp.sum(batch.weight * (ratio > terms.tis_cap))
    if terms.off_policy_bound:
        kept = off_policy_mask(
            logp, batch.rollout_logp, batch.advantage, counted, number_runs(batch.rows), terms.off_policy_bound
        )
        factor = kept if factor is None else factor * kept
        metrics["off_policy"] = jnp.sum(batch.weight * (kept == 0))
    return factor, metrics


def cross_entropy(network: Network, params: dict, batch: TokenBatch) -> tuple[Array, dict[str, Array]]:
    """Returns −Σ w·log π and metrics. This is the `Learner.loss` of supervised training.

    The sum is over all tokens, with weights w. The metrics are "weight" (Σ w) and the metrics of the forward pass
    (`Network.logprobs`).
    """
    logp, _, passed = network.logprobs(params, batch.rows)
    counted = jnp.where(batch.weight != 0, logp, 0.0)
    return -jnp.sum(batch.weight * counted), {"weight": jnp.sum(batch.weight)} | passed


def soft_cross_entropy(network: Network, params: dict, batch: SoftBatch) -> tuple[Array, dict[str, Array]]:
    """Returns −Σ w·(Σ_k share_k·log π_k) and metrics. This is the `Learner.loss` of distillation from a teacher.

    The outer sum is over all slots (positions in the packed rows), with weights w. The inner sum is over the target
    tokens k of a slot. share_k is the target probability of token k, such as the teacher's (`SoftBatch.shares`). The
    metrics are those of `cross_entropy`.
    """
    logp, _, passed = network.logprobs(params, batch.rows, batch.targets)
    value, metrics = sum_cross_entropy(logp, batch)
    return value, metrics | passed


def sum_cross_entropy(logp: Array, batch: SoftBatch) -> tuple[Array, dict[str, Array]]:
    """Returns −Σ w·(Σ_k share_k·log π_k), as in `soft_cross_entropy`, and {"weight": Σ w}.

    Args:
        logp: [R, S, K] log π of the K target tokens at each slot.
    """
    counted = jnp.where(batch.shares > 0, logp, 0.0)
    return -jnp.sum(batch.weight[..., None] * batch.shares * counted), {"weight": jnp.sum(batch.weight)}
