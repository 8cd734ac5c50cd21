"""Exports GRPO and related losses under the former name of their module, which is now `r1jax.losses`."""

from r1jax.losses import (
    LOSSES,
    Objective,
    clipped_surrogate,
    group_advantages,
    grpo_loss,
    objective_of,
    per_budget,
    per_completion,
    per_token,
    policy_loss,
    row_weights,
    sequence_mean,
    truncated_importance,
)

__all__ = [
    "LOSSES",
    "Objective",
    "clipped_surrogate",
    "group_advantages",
    "grpo_loss",
    "objective_of",
    "per_budget",
    "per_completion",
    "per_token",
    "policy_loss",
    "row_weights",
    "sequence_mean",
    "truncated_importance",
]
