"""Defines the table of policy losses, with the parts in which published losses differ.

To add a loss, add an entry to `LOSSES`, with a function for each part that differs. `--loss`, the start-up checks and
the training loop read the table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from r1jax.losses.advantages import batch_advantages, group_advantages, leave_one_out
from r1jax.losses.surrogates import cispo_surrogate, clipped_surrogate, token_gradient_surrogate


def per_completion(lengths: jax.Array, rows: int, tokens: int, max_tokens: int) -> jax.Array:
    """Returns 1/(`rows`·`lengths`), so that all completions have the same total weight.

    The arguments are those of `row_weights`.
    """
    return 1 / (rows * lengths)


def per_budget(lengths: jax.Array, rows: int, tokens: int, max_tokens: int) -> jax.Array:
    """Returns 1/(`rows`·`max_tokens`) for each completion, so that all tokens have the same weight.

    The arguments are those of `row_weights`.
    """
    return 1 / (0 * lengths + rows * max_tokens)


def per_token(lengths: jax.Array, rows: int, tokens: int, max_tokens: int) -> jax.Array:
    """Returns 1/`tokens` for each completion, so that all tokens have the same weight, and the weights sum to 1.

    The arguments are those of `row_weights`.
    """
    return 1 / (0 * lengths + tokens)


def per_row(lengths: jax.Array, rows: int, tokens: int, max_tokens: int) -> jax.Array:
    """Returns 1/`rows` for each completion. So the loss adds up the log-probabilities of a completion, without a mean.

    The arguments are those of `row_weights`.
    """
    return 1 / (0 * lengths + rows)


def over_group(rewards: jax.Array, valid: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns `group_advantages(rewards, valid)`, [B, G]. `lengths` is not used."""
    return group_advantages(rewards, valid)


def centred_on_group(rewards: jax.Array, valid: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns `group_advantages` without the division by the standard deviation, [B, G]. `lengths` is not used."""
    return group_advantages(rewards, valid, scaled=False)


def over_others(rewards: jax.Array, valid: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns `leave_one_out`, [B, G]: each reward less the mean reward of the other completions of its group."""
    return leave_one_out(rewards, valid)


def over_batch(rewards: jax.Array, valid: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns `batch_advantages`, [B, G]: the rewards, normalised over all tokens of the batch."""
    return batch_advantages(rewards, valid, lengths)


def over_group_and_batch(rewards: jax.Array, valid: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns `batch_advantages` with its argument `baseline` set to True, [B, G].

    First subtracts the group's mean from each reward. Then normalises the results over all tokens of the batch.
    """
    return batch_advantages(rewards, valid, lengths, baseline=True)


def as_rewarded(rewards: jax.Array, valid: jax.Array, lengths: jax.Array) -> jax.Array:
    """Returns the rewards themselves, [B, G]; 0 for completions without a verdict.

    These are the generalised advantages for γ = λ = 1 and a value network whose values are all 0.
    """
    return jnp.where(valid, jnp.asarray(rewards, jnp.float32), 0.0)


class Objective(NamedTuple):
    """An entry of `LOSSES`: the parts in which published losses differ.

    Attributes:
        token_weight: a function `(lengths, rows, tokens, max_tokens) -> [N]` that returns the weight of each token of a
            row. See `row_weights` for the arguments.
        advantages: a function `(rewards, valid, lengths) -> Â`, all [B, G], that returns the advantage of each
            completion of a round.
        by_completion: whether the importance ratio ρ is computed for a whole completion instead of for each token. See
            the argument `sequence` of `policy_loss`.
        surrogate: a function `(logp, ratio, advantage, low, high) -> (value, clipped)`. Arrays have one entry per
            token. `low` is 1−ε, and `high` is 1+ε_high. The loss is −Σ w·`value`, where w is the token's weight. The
            metric "clip_fraction" is the weighted share of tokens whose `clipped` is true. Gradients flow through
            `logp` and `ratio`.
        sums_to_one: whether the weights of all tokens of a minibatch must add up to 1. If True, a run warns when they
            do not: the loss and its KL term then have another scale than --learning-rate and --kl-coef assume.
        valued: whether a value network is trained beside the policy. If True, `advantages` must be `as_rewarded`. The
            value network's generalised advantages, one for each token, then replace the result of `as_rewarded`.
    """

    token_weight: Callable[..., jax.Array] = per_completion
    advantages: Callable[..., jax.Array] = over_group
    by_completion: bool = False
    surrogate: Callable[..., tuple[jax.Array, jax.Array]] = clipped_surrogate
    sums_to_one: bool = True
    valued: bool = False


# The names that --loss takes.
LOSSES: dict[str, Objective] = {
    "grpo": Objective(),  # DeepSeek-AI 2025, eq. 1
    "dr_grpo": Objective(per_budget, centred_on_group, sums_to_one=False),  # Liu et al. 2025, listing 1
    "dapo": Objective(per_token),  # Yu et al. 2025, eq. 8
    "sequence": Objective(by_completion=True),  # GSPO: Zheng et al. 2025, eq. 5
    "sequence_token": Objective(by_completion=True, surrogate=token_gradient_surrogate),  # GSPO-token: section 4.3
    "cispo": Objective(per_token, surrogate=cispo_surrogate),  # MiniMax 2025, eq. 4
    "rloo": Objective(per_row, over_others, sums_to_one=False),  # Ahmadian et al. 2024; PPO's clip for later steps
    "reinforce_pp": Objective(per_token, over_batch),  # Hu et al. 2025; the weight is OpenRLHF's
    "reinforce_pp_baseline": Objective(per_token, over_group_and_batch),
    "ppo": Objective(per_token, as_rewarded, valued=True),  # Schulman et al. 2017, eq. 7; the weight is TRL's
}


def row_weights(
    loss: str | Objective,
    lengths: jax.typing.ArrayLike,
    valid: jax.typing.ArrayLike,
    *,
    rows: int,
    tokens: int,
    max_tokens: int,
) -> jax.typing.ArrayLike:
    """Returns the weight that each token of a row has in `policy_loss`, [N] in the dtype of `lengths`.

        grpo, sequence, sequence_token  1/(N·|oᵢ|)        dr_grpo  1/(N·T)        rloo  1/N
        dapo, cispo, reinforce_pp, reinforce_pp_baseline, ppo  1/Σ|oᵢ|

    Args:
        loss: a name in `LOSSES`, or an `Objective`.
        lengths: [N] floats, the number of sampled tokens |oᵢ| of each given row. The given rows may be a part of the
            minibatch, such as this process's rows.
        valid: [N] bool, False for rows without a verdict, which get weight 0.
        rows, tokens: N and Σ|oᵢ| over all valid rows of the minibatch, including the rows of other processes.
        max_tokens: T, the largest number of tokens in a completion.

    Raises:
        ValueError: `loss` is a name that `LOSSES` lacks.

    Source: DeepSeek-AI 2025, eq. 1; Liu et al. 2025 (Dr. GRPO), listing 1; Yu et al. 2025 (DAPO), eq. 8; Zheng et al.
    2025 (GSPO), eq. 5; Ahmadian et al. 2024 (RLOO): a completion is one action, so its log-probabilities add up.
    """
    objective = objective_of(loss) if isinstance(loss, str) else loss
    return valid * objective.token_weight(lengths, max(rows, 1), max(tokens, 1), max_tokens)


def objective_of(loss: str) -> Objective:
    """Returns the entry of `LOSSES` called `loss`, the value of --loss.

    Raises:
        ValueError: `LOSSES` has no such entry.
    """
    if loss not in LOSSES:
        raise ValueError(f"--loss={loss} must be one of {', '.join(LOSSES)}")
    return LOSSES[loss]
