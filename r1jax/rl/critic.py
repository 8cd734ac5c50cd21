"""Defines the critic of PPO: a value network, which learns to predict returns, and the advantages that it estimates.

The value network has its own parameters: it starts as a copy of the first policy, with a scalar head of zeros. Its
values are therefore 0 in the first round. With γ = λ = 1, and without a KL in the reward, each token's advantage in
that round is the reward of its completion, before the advantages are normalised.

Source: Schulman et al. 2017 (PPO); Ouyang et al. 2022 (InstructGPT), eq. 2, for the KL in each token's reward.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.losses import LOSSES, generalised_advantages, last_tokens
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend
from r1jax.model.packed_rows import number_runs
from r1jax.recipes import RLRecipe
from r1jax.reward_models.model import with_head
from r1jax.rl.advantages import everywhere, sum_rows, take_off
from r1jax.rl.rounds import Round
from r1jax.sharding import compute_dtype, rows_in_turn
from r1jax.training.logprobs import Network
from r1jax.training.optimizers import optimizer
from r1jax.training.packing import Minibatch
from r1jax.training.step import Learner, TrainState, start, update
from r1jax.training.values import score_values, value_objective

LEAST_VARIANCE = 1e-8  # added to the variance of advantages, as TRL does
FLAGS = ("gae_lambda", "discount", "value_learning_rate", "value_clip", "value_warmup_steps")  # only of --loss=ppo


class Estimate(NamedTuple):
    """How advantages are estimated from values.

    Attributes:
        discount: γ, the discount of later rewards.
        decay: λ of generalised advantage estimation.
        kl_coef: β of the KL that is subtracted from each token's reward; 0 if the KL is a term of the loss instead, or
            if there is no KL.
    """

    discount: float
    decay: float
    kl_coef: float


class Critic(Protocol):
    """Estimates the advantages of a round, and learns from the round's minibatches.

    Attributes:
        state: the train state of the value network, which a checkpoint stores; None without a value network.
    """

    state: TrainState | None

    def start(self, params: dict, mesh: Mesh | None = None) -> TrainState | None:
        """Returns the train state of the value network before its first step; None without a value network.

        Args:
            params: the policy's first parameters.
            mesh: mesh that the optimizer's moments are sharded over; None for a single device.
        """

    def estimate(self, minibatches: list[list[Minibatch]], round_: Round) -> tuple[list[list[Minibatch]], Round]:
        """Returns the minibatches and the round with the advantages that the value network estimates.

        Without a value network, returns both unchanged.
        """

    def learn(self, minibatch: list[Minibatch], figures: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """Takes an optimizer step of the value network. Returns `figures` with the metrics of this step added.

        Without a value network, only returns `figures`.

        Args:
            minibatch: the micro-batches of the step.
            figures: the metrics of the policy's step.
        """


class NoCritic:
    """The `Critic` of all losses whose advantages need no values."""

    state = None

    def start(self, params: dict, mesh: Mesh | None = None) -> None:
        return None

    def estimate(self, minibatches: list[list[Minibatch]], round_: Round) -> tuple[list[list[Minibatch]], Round]:
        return minibatches, round_

    def learn(self, minibatch: list[Minibatch], figures: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        return figures


class ValueNetwork:
    """The `Critic` of PPO.

    Args:
        learner: network, optimizer and loss of the value network. Its config has a reward head, whose output is the
            value.
        policy: the policy's config.
        mesh: the device mesh.
        how: how advantages are estimated.
    """

    state: TrainState

    def __init__(self, learner: Learner, policy: ModelConfig, mesh: Mesh, how: Estimate):
        self._learner, self._policy, self._mesh, self._how = learner, policy, mesh, how

    def start(self, params: dict, mesh: Mesh | None = None) -> TrainState:
        _, valued = with_head(self._policy, params, self._mesh)
        return start(self._learner, jax.tree.map(jnp.copy, valued), mesh)  # a copy, because updates donate the state

    def estimate(self, minibatches: list[list[Minibatch]], round_: Round) -> tuple[list[list[Minibatch]], Round]:
        """Estimates the advantage, the return and the value of each token of a round.

        Returns (minibatches, round): the minibatches with these estimates, and the round with the mean advantage of
        each row. If `Estimate.kl_coef` is not 0, the KL is part of the reward: it is subtracted in the estimates and in
        the scores of the round.

        The advantages of a round are normalised to mean 0 and variance 1 over its tokens. The returns are not
        normalised.

        Args:
            minibatches: the optimizer steps of the round. On input, their `advantage` holds the reward of each token's
                completion.
            round_: the round, with scores.
        """
        network, params = self._learner.network, self.state.params
        found = [[estimate_tokens(b, score_values(network, params, b.rows), self._how) for b in p] for p in minibatches]
        centre, scale = measure([batch for part in found for batch in part])
        if self._how.kl_coef:
            round_ = round_._replace(scores=take_off(round_.scores, found, self._how.kl_coef))
        found = [[b._replace(advantage=normalise(b, centre, scale)) for b in part] for part in found]
        count = len(round_.rollout.lengths)
        total = sum(sum_rows(batch, batch.advantage, count) for part in found for batch in part)
        found = [[batch._replace(row=None) for batch in part] for part in found]
        return found, round_._replace(advantages=total / np.maximum(round_.rollout.lengths, 1))

    def learn(self, minibatch: list[Minibatch], figures: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        self.state, mine = update(self._learner, self.state, minibatch)
        kept = {name: value for name, value in mine.items() if name.startswith("value/")}
        kept |= {"value/loss": mine["loss"], "value/grad_norm": mine["grad_norm"]}
        return {**figures, **kept, "skipped": jnp.maximum(figures["skipped"], mine["skipped"])}


def estimate_tokens(batch: Minibatch, values: jax.Array, how: Estimate) -> Minibatch:
    """Returns a micro-batch with the generalised advantages and the returns of its tokens.

    Args:
        batch: R packed rows of S slots. On input, its `advantage` still holds the reward of each token's completion.
        values: [R, S] value of the state before each token.
        how: how advantages are estimated.
    """
    advantage, returns = placed_estimates(batch, values, how, batch.weight.sharding)
    return batch._replace(advantage=advantage, returns=returns, old_value=values)


@functools.partial(jax.jit, static_argnames=("how", "place"))
def placed_estimates(
    batch: Minibatch, values: jax.Array, how: Estimate, place: jax.sharding.Sharding
) -> tuple[jax.Array, jax.Array]:
    """Returns (advantage, return) of each token, both [R, S].

    Args:
        batch, values, how: as for `estimate_tokens`.
        place: sharding of both results.
    """
    counted, runs = batch.weight != 0, number_runs(batch.rows)
    rewards = jnp.where(last_tokens(counted, runs), batch.advantage, 0.0)
    if how.kl_coef:
        rewards -= how.kl_coef * jnp.where(counted, batch.old_logp - batch.ref_logp, 0.0)
    found = generalised_advantages(rewards, values, counted, discount=how.discount, decay=how.decay, sequence=runs)
    return jax.lax.with_sharding_constraint(found, (place, place))


def measure(batches: list[Minibatch]) -> tuple[float, float]:
    """Returns (mean, 1 / standard deviation) of the advantages of all tokens.

    The second number is 0 if all advantages are equal. The variance has ddof 0, and `LEAST_VARIANCE` is added to it.
    """
    count, total, _, *ends = sum_moments(batches, 0.0)
    if ends[0] >= ends[1]:
        return float(ends[0]), 0.0
    mean = total / count
    return float(mean), float((sum_moments(batches, mean)[2] / count + LEAST_VARIANCE) ** -0.5)


def sum_moments(batches: list[Minibatch], centre: float) -> np.ndarray:
    """Returns [number of tokens, Σ (Â − centre), Σ (Â − centre)², least Â, largest Â] over micro-batches, float64."""
    each = np.stack([moments(b, np.float32(centre), everywhere(b)) for b in batches]).astype(np.float64)
    return np.asarray([*each[:, :3].sum(axis=0), each[:, 3].min(), each[:, 4].max()])


@functools.partial(jax.jit, static_argnames=("place",))
def moments(batch: Minibatch, centre: jax.Array, place: jax.sharding.Sharding) -> jax.Array:
    """Returns the five numbers of `sum_moments` for one micro-batch.

    Args:
        batch: the micro-batch.
        centre: the number that is subtracted from each advantage in the two sums.
        place: sharding of the result.
    """
    counted, over = batch.weight != 0, batch.advantage
    off = jnp.where(counted, over - centre, 0.0)
    least, largest = jnp.where(counted, over, jnp.inf).min(), jnp.where(counted, over, -jnp.inf).max()
    found = jnp.stack([counted.sum().astype(jnp.float32), off.sum(), jnp.square(off).sum(), least, largest])
    return jax.lax.with_sharding_constraint(found, place)


@jax.jit
def normalise(batch: Minibatch, centre: float, scale: float) -> jax.Array:
    """Returns (Â − centre) · scale of each token, [R, S]; 0 where nothing was sampled."""
    return jnp.where(batch.weight != 0, (batch.advantage - centre) * scale, 0.0)


def make_critic(recipe: RLRecipe, cfg: ModelConfig, mesh: Mesh) -> Critic:
    """Makes the critic of a recipe: a `ValueNetwork` for --loss=ppo, a `NoCritic` for every other loss.

    Args:
        cfg: the policy's config.
    """
    r = recipe
    if not LOSSES[r.loss].valued:
        return NoCritic()
    valued = dataclasses.replace(cfg, reward_head=True, mtp_layers=0)
    network = Network(
        valued,
        dtype=compute_dtype(mesh),
        remat=r.remat,
        row_shards=rows_in_turn(mesh),
        attention=attention_backend(mesh, cfg),
        mesh=mesh,
    )
    descent = r.descent._replace(learning_rate=r.value_learning_rate or r.learning_rate)
    learner = Learner(network, optimizer(descent), value_objective(r.value_clip), r.balance_rate)
    return ValueNetwork(learner, cfg, mesh, Estimate(r.discount, r.gae_lambda, r.kl_coef * (r.kl == "k1_reward")))


def critic_rules(recipe: RLRecipe) -> tuple[tuple[bool, str], ...]:
    """Returns (condition, error message) pairs for the flags of PPO, and for the flags that cannot be used with PPO.

    A condition that is False is an error; see `recipes.require`.
    """
    r, usual = recipe, {field.name: field.default for field in dataclasses.fields(recipe)}
    if r.loss not in LOSSES or not LOSSES[r.loss].valued:
        return tuple(
            (
                getattr(r, name) == usual[name],
                f"--{name.replace('_', '-')}={getattr(r, name)} is for --loss=ppo, not {r.loss}: leave it at "
                f"{usual[name]}",
            )
            for name in FLAGS
        )
    return (
        (0 <= r.gae_lambda <= 1, f"--gae-lambda={r.gae_lambda} must lie between 0 and 1"),
        (0 < r.discount <= 1, f"--discount={r.discount} must be above 0 and at most 1"),
        (
            r.value_learning_rate >= 0,
            f"--value-learning-rate={r.value_learning_rate} must be 0, for --learning-rate, or more",
        ),
        (r.value_clip >= 0, f"--value-clip={r.value_clip} must be 0, for no clip, or more"),
        (
            0 <= r.value_warmup_steps < r.steps,
            f"--value-warmup-steps={r.value_warmup_steps} must be 0 or more and leave some of --steps={r.steps} to the "
            "policy",
        ),
        (
            r.lora_rank == 0,
            f"--lora-rank={r.lora_rank} does not go with --loss=ppo, whose value network is trained whole: leave it at "
            "0, or use a loss without values, such as grpo",
        ),
        (
            r.off_policy_bound == 0,
            f"--off-policy-bound={r.off_policy_bound} judges completions by one advantage, and with --loss=ppo each "
            "token has its own: leave it at 0",
        ),
    )
