"""Defines dynamic sampling (--refill): groups of further questions replace groups that teach nothing.

If all task rewards of a group are equal, all its advantages are 0, so the group teaches nothing. A round of B
questions needs B groups whose task rewards are not all equal. The round calls the sampler with B questions at a time,
until it has found these groups or has called the sampler `refill` times. The comparison leaves out penalties, because a
penalty for length would make the rewards of almost every group unequal.

Round r, counted from 0, may use only the questions r·B·refill to (r+1)·B·refill − 1 of the stream. So a resumed run
draws the same questions as an uninterrupted run, without a record of its place in the stream. A question that its round
does not need is skipped until the next pass over the file.

Source: Yu et al. 2025 (DAPO), section 3.2, dynamic sampling. DAPO keeps sampling without a bound.
"""

from __future__ import annotations

import time

import numpy as np

from r1jax.rewards.ahead import Ahead
from r1jax.rewards.rule import Scores
from r1jax.rl.rounds import Reward, Round, Setting, gather_scores, sample_and_judge
from r1jax.sampling.complete import Draws
from r1jax.sampling.rollout import Rollout


class RefilledRounds:
    """A `rounds.Sample` that replaces groups in which all completions have the same task reward.

    To replace them, samples further questions in the same round. If a round finds too few groups with unequal task
    rewards, the first groups with equal task rewards fill it up.

    Args:
        setting: what sampling needs besides the parameters.
        task: the task reward, a `Reward`; only `total` and `valid` of its scores are used.
        waves: the largest number of sampler calls in a round, at least 2. Each call samples as many questions as the
            round needs groups.
    """

    def __init__(self, setting: Setting, task: Reward, waves: int):
        self._setting, self._task, self._waves = setting, task, waves

    def waiting_at(self, step: int) -> None:
        return None

    def __call__(self, params: dict, number: int) -> Round:
        """Samples round `number` under `params`. Returns B groups in the order of the stream.

        These are the first B groups whose task rewards differ. If there are fewer, the first of the other groups fill
        up the round.
        """
        began, s, d = time.monotonic(), self._setting, self._setting.draws
        step, verdicts = number * d.minibatches, Ahead(s.pool)
        parts: list[Round] = []
        differ: list[np.ndarray] = []
        for wave in range(self._waves):
            index = (number * self._waves + wave) * d.questions + np.arange(d.questions)
            asked = [s.ask(int(i), step) for i in index]
            drawn = Draws(d.samples, d.seed, number, index)
            rollout, texts, _ = sample_and_judge(s, params, asked, drawn, verdicts=verdicts)
            part = Round(asked, rollout, texts, index=index, number=number, step=step)
            parts.append(part)
            differ.append(find_differing(self._score(part, verdicts), d.samples))
            if np.concatenate(differ).sum() >= d.questions:
                break
        found = np.concatenate(differ)
        chosen = np.sort(np.argsort(~found, kind="stable")[: d.questions])
        whole = join(parts)._replace(verdicts=verdicts, began=began, drawn=measure(parts), sampled=len(found))
        return choose(whole, chosen)

    def _score(self, part: Round, verdicts: Ahead) -> Scores:
        """Returns the task rewards of all rows of a wave. Every process must call it."""
        return gather_scores(self._task(verdicts, part.texts, part.repeated, part.step), part.rollout)


def find_differing(scores: Scores, group_size: int) -> np.ndarray:
    """Returns [B] bool, True for a group whose valid rewards are not all equal.

    Args:
        scores: [N] rewards of the N = B·G completions of B groups, group after group.
        group_size: G, completions of each group.
    """
    total, valid = (x.reshape(-1, group_size) for x in (scores.total, scores.valid))
    highest, lowest = np.where(valid, total, -np.inf).max(axis=1), np.where(valid, total, np.inf).min(axis=1)
    return highest > lowest


def join(parts: list[Round]) -> Round:
    """Returns the waves (calls of the sampler) of a round as one round, wave after wave."""
    rollouts, first = [part.rollout for part in parts], parts[0]
    starts = np.cumsum([0, *(len(rollout.lengths) for rollout in rollouts)])
    whole = Rollout(
        [prompt for rollout in rollouts for prompt in rollout.prompts],
        *(np.concatenate([rollout[field] for rollout in rollouts]) for field in range(1, 5)),
        routes=None if rollouts[0].routes is None else np.concatenate([rollout.routes for rollout in rollouts]),
        prompt_routes=None if rollouts[0].routes is None else [x for each in rollouts for x in each.prompt_routes],
        mine=np.concatenate([rollout.own + start for rollout, start in zip(rollouts, starts, strict=False)]),
    )
    return first._replace(
        examples=[example for part in parts for example in part.examples],
        rollout=whole,
        texts=[text for part in parts for text in part.texts],
        index=np.concatenate([part.index for part in parts]),
    )


def choose(round_: Round, which: np.ndarray) -> Round:
    """Returns a round with only the groups `which`. which: [n] sorted indices of groups."""
    rollout, size = round_.rollout, round_.rollout.group_size
    kept = np.isin(np.arange(len(round_.examples)), which)
    rows = np.repeat(kept, size)
    of = rollout.prompt_routes
    taken = Rollout(
        [rollout.prompts[i] for i in which],
        *(x[rows] for x in rollout[1:5]),
        routes=None if rollout.routes is None else rollout.routes[rows],
        prompt_routes=None if of is None else [of[i] for i in which],
        mine=np.flatnonzero(np.isin(np.flatnonzero(rows), rollout.own)),
    )
    return round_._replace(
        examples=[round_.examples[i] for i in which],
        rollout=taken,
        texts=[text for row, text in zip(rollout.own, round_.texts, strict=True) if rows[row]],
        index=round_.index[which],
    )


def measure(parts: list[Round]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (prompt lengths, numbers of sampled tokens) of all waves (calls of the sampler); see `Round.drawn`."""
    prompts = [len(prompt) for part in parts for prompt in part.rollout.prompts]
    return np.asarray(prompts), np.concatenate([part.rollout.lengths for part in parts])
