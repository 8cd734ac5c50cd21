"""Carry-over: a round's sampling may end before its last rows do, and the next round goes on with them.

A wave that waits for its longest rows spends much of its time on few of them. It may end when at most `carry_over` rows
are unfinished; they go on in the next round's wave, beside its own rows, under the policy of then and with the noise
they would have had. Advantages need the whole group, so a group waits until its last row has ended and is trained then,
once. What an earlier policy sampled keeps the log-probabilities and the version of that policy; old log-probabilities
are the recipe's `old_logp` as ever: the trainer's own for whole rows, or the sampler's, each token's by the policy that
sampled it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.recipe import RLRecipe
from r1jax.rewards.isolate import Pool
from r1jax.rollout import Rollout
from r1jax.rounds import Reward, Round, compared, members, sampled
from r1jax.run import Policy
from r1jax.update import TrainState


class Waiting(NamedTuple):
    """Groups with unfinished rows, between two rounds: room for K = `carry_over`, as each holds one such row at least.

    Attributes:
        index: [K] of the question in the stream of prompts, from which its round follows; -1 past the last group.
        tokens, lengths, logp, stopped, version: of K·G rows, as in `Rollout`.
    """

    index: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    logp: np.ndarray
    stopped: np.ndarray
    version: np.ndarray


class RLState(NamedTuple):
    """What a checkpoint holds: the train state and the reference it is held against."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    reference: dict


class Carrying(NamedTuple):
    """The same where groups may wait. Not one type with None in it: Orbax would not read checkpoints without it."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    reference: dict
    waiting: Waiting


def held(state: TrainState, reference: dict, waiting: Waiting | None, mesh: Mesh) -> RLState | Carrying:
    """What to save between two rounds."""
    if waiting is None:
        return RLState(*state, reference)
    return Carrying(*state, reference, jax.device_put(waiting, NamedSharding(mesh, P())))


def nobody(recipe: RLRecipe) -> Waiting:
    """Before the first round."""
    rows = recipe.carry_over * recipe.group_size
    tokens = np.zeros((rows, recipe.max_tokens), np.int32)
    return Waiting(
        np.full(recipe.carry_over, -1, np.int32), tokens, np.zeros(rows, np.int32), tokens.astype(np.float32),
        np.zeros(rows, bool), tokens.copy(),
    )  # fmt: skip


def roll(
    recipe: RLRecipe, policy: Policy, params: dict, ask: Callable[[int, int], dict], waiting: Waiting, number: int,
    seed: int, mesh: Mesh, pool: Pool, reward: Reward,
) -> tuple[Round, Waiting]:
    """One round of the groups that are whole at its end, those that waited first, and the groups that wait then.

    Args:
        ask: the question at (index, step).
    """  # fmt: skip
    size, step = recipe.group_size, number * recipe.minibatches
    index = waiting.index[waiting.index >= 0]
    old = len(index) * size
    before = Rollout([], *(x[:old] for x in waiting[1:5]), version=waiting.version[:old])
    index = np.concatenate([index, number * recipe.questions_per_round + np.arange(recipe.questions_per_round)])
    asked = index // recipe.questions_per_round
    examples = [ask(int(i), int(at) * recipe.minibatches) for i, at in zip(index, asked, strict=True)]
    rollout, texts, ahead = sampled(recipe, policy, params, examples, asked, seed, mesh, pool, before)

    version = np.full(rollout.tokens.shape, step, np.int32)
    there = np.arange(recipe.max_tokens) < before.lengths[:, None]
    version[:old][there] = before.version[there]
    rollout = rollout._replace(version=version)
    opened = rollout.unfinished.reshape(-1, size).any(axis=1)
    whole, left = np.flatnonzero(~opened), np.flatnonzero(opened)
    ended = [examples[i] for i in whole]
    round_ = compared(
        recipe, ended, groups(rollout, whole), [texts[i] for i in members(whole, size)], reward, ahead, step
    )
    round_ = round_._replace(asked=asked[whole], waiting=len(left), drawn=read_and_sampled(before, rollout))
    return round_, wait(recipe, index[left], groups(rollout, left))


def groups(rollout: Rollout, which: np.ndarray) -> Rollout:
    """Some groups of a rollout."""
    rows = members(which, rollout.group_size)
    prompts = [rollout.prompts[i] for i in which]
    return Rollout(prompts, *(x[rows] for x in rollout[1:5]), version=rollout.version[rows])


def wait(recipe: RLRecipe, index: np.ndarray, rows: Rollout) -> Waiting:
    """Groups that are not whole."""
    left = nobody(recipe)
    for room, x in zip(left, (index, *rows[1:5], rows.version), strict=True):
        room[: len(x)] = x
    return left


def read_and_sampled(before: Rollout, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """What a wave did, as `limits.rollout_seconds` takes it: a carried row is a group of which one row samples."""
    old, size, on = len(before.lengths), rollout.group_size, np.flatnonzero(before.unfinished)
    read = [len(rollout.prompts[i // size]) + before.lengths[i] for i in on]
    sampled = np.zeros((len(on), size), np.int32)
    sampled[:, 0] = (rollout.lengths[:old] - before.lengths)[on]
    prompts = [len(p) for p in rollout.prompts[old // size :]] + read
    return np.asarray(prompts), np.concatenate([rollout.lengths[old:], sampled.reshape(-1)])
