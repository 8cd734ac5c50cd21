"""Carry-over: a round's sampling may end before its last rows do, and the next round goes on with them.

A wave that waits for its longest rows spends much of its time on few of them. It may stop when at most `carry_over` rows are
unfinished; they go on in the next round's wave, beside its own rows, under the policy of then and with the noise they would
have had. Advantages need the whole group, so a group waits until its last row has ended and is trained then, once. What an
earlier policy sampled keeps the log-probabilities and the version of that policy; old log-probabilities are the recipe's
`old_logp` as ever: the trainer's own for whole rows, or the sampler's, each token's by the policy that sampled it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax import sampler
from r1jax.data import prompts as questions
from r1jax.prompts import fill
from r1jax.recipe import RLRecipe
from r1jax.rewards.ahead import Ahead
from r1jax.rewards.isolate import Pool
from r1jax.rewards.rule import accuracy_job
from r1jax.rollout import Begun, Rollout
from r1jax.rounds import Reward, Round, compared, members
from r1jax.run import Policy
from r1jax.update import TrainState


class Waiting(NamedTuple):
    """Groups with unfinished rows, between two rounds. K, which is `carry_over`, is room for one unfinished row in each.

    Attributes:
        index: [K] of the question in the stream of prompts, from which its round follows; -1 past the last group.
        tokens, logp, version: [K, G, T] as in `Rollout`.
        lengths, stopped: [K, G].
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
    """The same where groups may wait. Not one type with None in it: Orbax would not read checkpoints without the field."""

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
    rows = (recipe.carry_over, recipe.group_size)
    tokens = (*rows, recipe.max_tokens)
    return Waiting(
        np.full(rows[:1], -1, np.int32), np.zeros(tokens, np.int32), np.zeros(rows, np.int32), np.zeros(tokens, np.float32),
        np.zeros(rows, bool), np.zeros(tokens, np.int32),
    )  # fmt: skip


def roll(
    recipe: RLRecipe, policy: Policy, params: dict, ask: Callable[[int, int], dict], waiting: Waiting, number: int,
    seed: int, mesh: Mesh, pool: Pool, reward: Reward,
) -> tuple[Round, Waiting]:
    """One round of the groups that are whole at its end, those that waited first, and the groups that wait then.

    Args:
        ask: the question at (index, step).
    """  # fmt: skip
    size, step, tokenizer = recipe.group_size, number * recipe.minibatches, policy.tokenizer
    held = waiting.index[waiting.index >= 0]
    index = np.concatenate([held, number * recipe.questions_per_round + np.arange(recipe.questions_per_round)])
    asked = index // recipe.questions_per_round
    examples = [ask(int(i), int(at) * recipe.minibatches) for i, at in zip(index, asked, strict=True)]
    prompts = [tokenizer.encode(fill(policy.template, example["problem"])) for example in examples]
    repeated = [example for example in examples for _ in range(size)]
    ids = np.repeat([questions.number(example) for example in examples], size)
    keys = sampler.row_keys(seed, np.repeat(asked, size), ids, np.tile(np.arange(size), len(examples)))

    old = len(held) * size
    before = by_row(waiting, len(held))
    going_on = np.flatnonzero(~before.stopped & (before.lengths < recipe.max_tokens))
    texts = [""] * len(repeated)
    for i in set(range(old)) - set(going_on.tolist()):
        texts[i] = tokenizer.decode(before.tokens[i, : before.lengths[i]])
    ahead, named = Ahead(pool), np.concatenate([np.arange(old, len(repeated)), going_on])

    def judge(rows: list[tuple[int, np.ndarray]]) -> None:
        jobs = []
        for row, tokens in rows:
            i = named[row]
            texts[i] = tokenizer.decode(tokens)
            jobs.append(accuracy_job(texts[i], repeated[i], policy.style))
        ahead.begin([job for job in jobs if job is not None])

    begun = Begun(
        [prompts[i // size] for i in going_on], [before.tokens[i, : before.lengths[i]] for i in going_on], keys[going_on]
    )
    fresh, more = sampler.wave(
        policy.cfg, sampler.sync(params, mesh), prompts[len(held) :], keys[old:], mesh,
        max_tokens=recipe.max_tokens, temperature=recipe.temperature, stop_ids=tokenizer.stop_ids, pad_id=tokenizer.pad_id,
        finished=judge, begun=begun if len(going_on) else None, leave=recipe.carry_over,
    )  # fmt: skip
    now = gone_on(before, going_on, more, step)
    rows = Rollout(
        prompts, *(np.concatenate(pair) for pair in zip(now[1:5], fresh[1:5], strict=True)),
        version=np.concatenate([now.version, np.full(fresh.tokens.shape, step, np.int32)]),
    )  # fmt: skip
    ended = (rows.stopped | (rows.lengths == recipe.max_tokens)).reshape(-1, size).all(axis=1)
    whole = np.flatnonzero(ended)
    mine = members(whole, size)
    rollout = Rollout([prompts[i] for i in whole], *(x[mine] for x in rows[1:5]), version=rows.version[mine])
    round_ = compared(
        recipe, [examples[i] for i in whole], rollout, [texts[i] for i in mine], reward, ahead, step
    )._replace(asked=asked[whole], waiting=int((~ended).sum()), drawn=drawn(fresh, before, more, going_on))
    return round_, wait(recipe, index, rows, np.flatnonzero(~ended))


def by_row(waiting: Waiting, groups: int) -> Rollout:
    """The first groups as rows of a rollout that has no prompts."""
    flat = Waiting(waiting.index, *(x[:groups].reshape(-1, *x.shape[2:]) for x in waiting[1:]))
    return Rollout([], flat.tokens, flat.lengths, flat.logp, flat.stopped, version=flat.version)


def gone_on(before: Rollout, rows: np.ndarray, more: Rollout | None, step: int) -> Rollout:
    """`before` with some rows gone on to where they are in `more`, which has no log-probabilities of earlier tokens."""
    if more is None:
        return before
    now = Rollout([], *(x.copy() for x in before[1:5]), version=before.version.copy())
    there = np.arange(now.tokens.shape[1]) < before.lengths[rows][:, None]
    now.tokens[rows], now.lengths[rows], now.stopped[rows] = more.tokens, more.lengths, more.stopped
    now.logp[rows] = np.where(there, before.logp[rows], more.logp)
    now.version[rows] = np.where(there, before.version[rows], step)
    return now


def drawn(fresh: Rollout, before: Rollout, more: Rollout | None, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the wave read and sampled, as `limits.rollout_seconds` takes it; a carried row is a group with one that samples."""
    prompts, lengths = [len(p) for p in fresh.prompts], [fresh.lengths]
    if more is not None:
        prompts += [len(p) + n for p, n in zip(more.prompts, before.lengths[rows], strict=True)]
        sampled = np.zeros((len(rows), fresh.group_size), np.int32)
        sampled[:, 0] = more.lengths - before.lengths[rows]
        lengths.append(sampled.reshape(-1))
    return np.asarray(prompts), np.concatenate(lengths)


def wait(recipe: RLRecipe, index: np.ndarray, rows: Rollout, groups: np.ndarray) -> Waiting:
    """The groups that are not whole."""
    left, size = nobody(recipe), recipe.group_size
    left.index[: len(groups)] = index[groups]
    mine = members(groups, size)
    for name in Waiting._fields[1:]:
        into, x = getattr(left, name), getattr(rows, name)
        into[: len(groups)] = x[mine].reshape(len(groups), size, *x.shape[1:])
    return left
