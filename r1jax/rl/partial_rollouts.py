"""Defines partial rollouts (--carry-over): a round may leave completions unfinished, and the next round continues them.

A row is one completion. A round that waits for its longest rows spends much time on a few rows. With --carry-over,
sampling ends as soon as at most `carry_over` rows are unfinished. The next round continues these rows beside its own
rows: its policy samples the remaining tokens, with the same noise as in an uninterrupted row. Advantages need the whole
group, so a group waits until its last row has ended. The round in which this row ends trains on the group; no other
round does. A token keeps the log-probability and the version of the policy that sampled the token. --old-logp has its
usual meaning: "trainer" recomputes whole rows, and "sampler" keeps, for each token, the log-probability of the policy
that sampled the token.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

from r1jax.rl.minibatches import rows_of
from r1jax.rl.rounds import Round, Setting, sample_and_judge
from r1jax.sampling import sampler
from r1jax.sampling.complete import Draws
from r1jax.sampling.rollout import Rollout


class Waiting(NamedTuple):
    """Unfinished groups between two rounds.

    At most K = `carry_over` rows are unfinished. Each unfinished group has at least one of them, so there are at most K
    groups. A group has G rows, and a row has room for T = `max_tokens` tokens.

    Attributes:
        index: [K] index of each group's question in the stream of questions. The index also gives the round that first
            sampled the question. Entries after the last group are -1.
        tokens, logp, version: [K·G, T], as in `Rollout`.
        lengths, stopped: [K·G], as in `Rollout`.
    """

    index: np.ndarray
    tokens: np.ndarray
    lengths: np.ndarray
    logp: np.ndarray
    stopped: np.ndarray
    version: np.ndarray


class PartialRounds:
    """Samples rounds that may end with unfinished rows (completions).

    Each call samples one round, as the protocol `rounds.Sample` asks. The groups of unfinished rows are kept for the
    next round.

    Args:
        setting: what sampling needs besides the parameters.
        carry_over: K, the largest number of rows that may be unfinished at the end of a round.
        waiting: unfinished groups from a checkpoint; by default none.
    """

    def __init__(self, setting: Setting, carry_over: int, waiting: Waiting | None = None):
        self._setting, self._carry_over = setting, carry_over
        self._waiting = waiting or make_room(carry_over, setting.draws.samples, setting.draws.sampling.max_tokens)
        self._before: tuple[int, Waiting] = -1, self._waiting  # the last round's number, and the groups it began with

    def waiting_at(self, step: int) -> Waiting:
        """Returns the unfinished groups with which the round of optimizer step `step` begins."""
        number, waiting = self._before
        return waiting if step // self._setting.draws.minibatches == number else self._waiting

    def __call__(self, params: dict, number: int) -> Round:
        """Samples round `number` under `params`. Returns the finished groups, carried-over ones first.

        Keeps the unfinished groups for the next round.
        """
        began, s, d, waiting = time.monotonic(), self._setting, self._setting.draws, self._waiting
        step, longest = number * d.minibatches, d.sampling.max_tokens
        index = waiting.index[waiting.index >= 0]
        old = len(index) * d.samples
        before = Rollout([], *(x[:old] for x in waiting[1:5]), version=waiting.version[:old])
        index = np.concatenate([index, number * d.questions + np.arange(d.questions)])
        asked = index // d.questions
        examples = [s.ask(int(i), int(at) * d.minibatches) for i, at in zip(index, asked, strict=True)]
        partial = sampler.Partial(before, self._carry_over)
        drawn = Draws(d.samples, d.seed, asked, index)
        rollout, texts, verdicts = sample_and_judge(s, params, examples, drawn, partial)

        version = np.full(rollout.tokens.shape, step, np.int32)
        there = np.arange(longest) < before.lengths[:, None]
        version[:old][there] = before.version[there]
        rollout = rollout._replace(version=version)
        opened = rollout.unfinished.reshape(-1, d.samples).any(axis=1)
        whole, left = np.flatnonzero(~opened), np.flatnonzero(opened)
        room = make_room(self._carry_over, d.samples, longest)
        self._before, self._waiting = (number, waiting), fill_room(room, index[left], take_groups(rollout, left))
        return Round(
            [examples[i] for i in whole],
            take_groups(rollout, whole),
            [text for row, text in zip(rollout.own, texts, strict=True) if not opened[row // d.samples]],
            index[whole],
            asked=asked[whole],
            waiting=len(left),
            drawn=measure_wave(before, rollout),
            number=number,
            step=step,
            verdicts=verdicts,
            began=began,
        )


def make_room(groups: int, group_size: int, max_tokens: int) -> Waiting:
    """Makes an empty `Waiting` with room for `groups` groups of `group_size` rows of `max_tokens` tokens."""
    rows = groups * group_size
    tokens = np.zeros((rows, max_tokens), np.int32)
    return Waiting(
        np.full(groups, -1, np.int32),
        tokens,
        np.zeros(rows, np.int32),
        tokens.astype(np.float32),
        np.zeros(rows, bool),
        tokens.copy(),
    )


def fill_room(room: Waiting, index: np.ndarray, rows: Rollout) -> Waiting:
    """Writes n groups of G rows into the first entries of an empty `Waiting`.

    Args:
        room: the empty `Waiting`. It is changed, and returned.
        index: [n] indices of the groups' questions in the stream.
        rows: the n·G rows of the groups.
    """
    for array, x in zip(room, (index, *rows[1:5], rows.version), strict=True):
        array[: len(x)] = x
    return room


def take_groups(rollout: Rollout, which: np.ndarray) -> Rollout:
    """Returns a rollout with only the groups that `which` names.

    Args:
        which: [n] sorted indices of the groups to keep.
    """
    rows = rows_of(which, rollout.group_size)
    prompts, mine = [rollout.prompts[i] for i in which], np.flatnonzero(np.isin(rows, rollout.own))
    return Rollout(prompts, *(x[rows] for x in rollout[1:5]), version=rollout.version[rows], mine=mine)


def measure_wave(before: Rollout, rollout: Rollout) -> tuple[np.ndarray, np.ndarray]:
    """Returns (prompt lengths [B], numbers of sampled tokens [B·G]) of a round with continued rows.

    Both arrays are arguments of `roofline.rollout_seconds`, which expects G rows in each of B groups. A continued row
    counts as a group of its own, in which only this row samples. So B is the number of new groups plus the number of
    continued rows. The earlier tokens of a continued row count as part of its prompt.

    Args:
        before: the rows of the groups that the round continued, as they were before the round.
        rollout: all rows after the round, first the rows of the groups in `before`.
    """
    old, size, on = len(before.lengths), rollout.group_size, np.flatnonzero(before.unfinished)
    read = [len(rollout.prompts[i // size]) + before.lengths[i] for i in on]
    sampled = np.zeros((len(on), size), np.int32)
    sampled[:, 0] = (rollout.lengths[:old] - before.lengths)[on]
    prompts = [len(p) for p in rollout.prompts[old // size :]] + read
    return np.asarray(prompts), np.concatenate([rollout.lengths[old:], sampled.reshape(-1)])
