"""Computes losses and advantages on plain arrays. Imports only jax and the standard library, so it serves any JAX
model.

Shape letters: B questions, G completions of each, N = B·G rows (question-major), T completion slots.
Log-probabilities are float32, in nats, at the sampling temperature; element t belongs to completion token t.
"""

from r1jax.losses.advantages import batch_advantages, decoupled_advantages, group_advantages, leave_one_out
from r1jax.losses.divergence import KLS, k2, k3, kl_cost, kl_of, off_policy_mask, unbiased
from r1jax.losses.policy import grpo_loss, policy_loss
from r1jax.losses.preferences import dpo_loss, ipo_loss, kto_loss, mismatched_kl, orpo_loss, simpo_loss
from r1jax.losses.schedules import adapt_kl, cosine, linear
from r1jax.losses.sequences import sequence_mean, sequence_sum, truncated_importance
from r1jax.losses.surrogates import cispo_surrogate, clipped_surrogate, dual_clip, token_gradient_surrogate
from r1jax.losses.table import (
    LOSSES,
    Objective,
    objective_of,
    per_budget,
    per_completion,
    per_row,
    per_token,
    row_weights,
)
from r1jax.losses.value import explained_variance, generalised_advantages, last_tokens, value_loss

__all__ = [
    "KLS",
    "LOSSES",
    "Objective",
    "adapt_kl",
    "batch_advantages",
    "cispo_surrogate",
    "clipped_surrogate",
    "cosine",
    "decoupled_advantages",
    "dpo_loss",
    "dual_clip",
    "explained_variance",
    "generalised_advantages",
    "group_advantages",
    "grpo_loss",
    "ipo_loss",
    "k2",
    "k3",
    "kl_cost",
    "kl_of",
    "kto_loss",
    "last_tokens",
    "leave_one_out",
    "linear",
    "mismatched_kl",
    "objective_of",
    "off_policy_mask",
    "orpo_loss",
    "per_budget",
    "per_completion",
    "per_row",
    "per_token",
    "policy_loss",
    "row_weights",
    "sequence_mean",
    "sequence_sum",
    "simpo_loss",
    "token_gradient_surrogate",
    "truncated_importance",
    "unbiased",
    "value_loss",
]
