"""Computes the advantages of a round. With --kl=k1_reward, first lowers each reward by an estimate of the KL."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.losses import Objective, decoupled_advantages
from r1jax.rewards.rule import Scores
from r1jax.rl.minibatches import Layout
from r1jax.rl.rounds import Round
from r1jax.sampling.rollout import Rollout
from r1jax.training.packing import Minibatch


def compute_advantages(
    scores: Scores, rollout: Rollout, objective: Objective, shares: Mapping[str, float] | None = None
) -> np.ndarray:
    """Returns the advantages of the N completions of a round, [N]. Completions of the same question are neighbours.

    Args:
        scores: the rewards of the completions, [N].
        rollout: the round's rollout, of which only the group size and the lengths of completions are used.
        objective: the loss, which says how rewards become advantages.
        shares: {part of the reward: weight}, to normalise each part by itself (--per-reward). If None, the total reward
            is normalised.
    """
    total, valid, lengths = (
        x.reshape(-1, rollout.group_size) for x in (scores.total, scores.valid, rollout.lengths)
    )  # [B, G]
    if shares is None:
        advantages = objective.advantages(total, valid, lengths)
    else:
        parts = {name: part.reshape(total.shape) for name, part in scores.parts.items()}
        advantages = decoupled_advantages(parts, shares, valid)
    return np.asarray(advantages).reshape(-1)


def charge_kl(
    minibatches: list[list[Minibatch]], round_: Round, objective: Objective, layout: Layout, kl_coef: float
) -> tuple[list[list[Minibatch]], Round]:
    """Subtracts β Σₜ log π_old/π_ref from the reward of each completion, and computes the advantages again.

    Does so only with --kl=k1_reward (`layout.charged` is then True), and never for PPO. PPO's critic itself subtracts
    the KL of each token from that token's reward (`critic.Critic.estimate`). In all other cases returns minibatches and
    round unchanged.

    The sum over a completion's tokens is one cost for the whole completion, as in RLOO. REINFORCE++ instead has a
    separate cost for each token.

    Args:
        minibatches: the optimizer steps of the round, with `old_logp`, `ref_logp` and `row`. They must hold all rows
            (completions) of the round, including rows of advantage 0.
        round_: the round, with scores.
        objective: the loss, which says how rewards become advantages.
        layout: how rows were packed; only `charged` is used.
        kl_coef: β.

    Returns:
        The minibatches and the round, both with the new advantages. The round's `scores.parts` has the sum, without β,
        as "kl_cost".

    Source: Ouyang et al. 2022 (InstructGPT), eq. 2; Ahmadian et al. 2024 (RLOO), section 2.
    """
    if not layout.charged or objective.valued:
        return minibatches, round_
    scores = take_off(round_.scores, minibatches, kl_coef)
    advantages = compute_advantages(scores, round_.rollout, objective)
    charged = [[batch._replace(advantage=give(batch, advantages), row=None) for batch in part] for part in minibatches]
    return charged, round_._replace(scores=scores, advantages=advantages)


def take_off(scores: Scores, minibatches: list[list[Minibatch]], kl_coef: float) -> Scores:
    """Returns the scores of a round, with β Σₜ log π_old/π_ref of each completion subtracted from its total reward.

    The scores also get the sum, without β, as the part "kl_cost".

    Args:
        minibatches: the optimizer steps of the round, as for `charge_kl`.
        kl_coef: β.
    """
    cost = sum(
        sum_rows(batch, batch.old_logp - batch.ref_logp, len(scores.total)) for part in minibatches for batch in part
    )
    total = np.where(scores.valid, scores.total - kl_coef * cost, scores.total)
    return scores._replace(total=total, parts=scores.parts | {"kl_cost": cost})


def everywhere(batch: Minibatch) -> jax.sharding.Sharding:
    """Returns the sharding that replicates an array on every device that holds the micro-batch."""
    place = batch.weight.sharding
    return NamedSharding(place.mesh, P()) if isinstance(place, NamedSharding) else place


def sum_rows(batch: Minibatch, values: jax.Array, count: int) -> np.ndarray:
    """Sums `values` over the tokens of each completion in this micro-batch. Returns [N], the sums.

    Tokens whose loss weight is 0 do not count. The sum is 0 for a completion that has no token in the micro-batch.

    Args:
        values: [R, S] a number for each slot: R packed rows of S slots.
        count: N, the number of completions of the round.
    """
    return np.asarray(placed_sums(batch, values, count, everywhere(batch)))


@functools.partial(jax.jit, static_argnames=("count", "place"))
def placed_sums(batch: Minibatch, values: jax.Array, count: int, place: jax.sharding.Sharding) -> jax.Array:
    """Returns the result of `sum_rows` as a device array. place: its sharding, from `everywhere`."""
    counted = batch.weight != 0
    values = jnp.where(counted, values, 0.0)
    rows = jnp.where(counted, batch.row, 0.0).astype(jnp.int32)
    total = jax.ops.segment_sum(values.reshape(-1), rows.reshape(-1), count)
    return jax.lax.with_sharding_constraint(total, place)


def give(batch: Minibatch, advantages: np.ndarray) -> jax.Array:
    """Returns the advantage of each token of a micro-batch, [R, S]: R packed rows of S slots.

    Args:
        advantages: [N], one for each completion of the round.
    """
    return spread_rows(batch, np.float32(advantages), batch.weight.sharding)


@functools.partial(jax.jit, static_argnames=("place",))
def spread_rows(batch: Minibatch, values: jax.Array, place: jax.sharding.Sharding) -> jax.Array:
    """Gives each token of a micro-batch the value of the token's completion.

    Returns [R, S], R packed rows of S slots, with 0 at slots whose loss weight is 0.

    Args:
        values: [N] one value for each completion of the round.
        place: sharding of the result.
    """
    counted = batch.weight != 0
    found = jnp.where(counted, values[jnp.where(counted, batch.row, 0.0).astype(jnp.int32)], 0.0)
    return jax.lax.with_sharding_constraint(found, place)
