"""Samples the rounds of reinforcement learning, G completions for each of B questions, and defines their rewards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.distributed import gather_rows, stop_together
from r1jax.model.kernels.backends import attention_backend
from r1jax.policy import Policy
from r1jax.rewards import rule
from r1jax.rewards.ahead import Ahead
from r1jax.rewards.isolate import Pool
from r1jax.rewards.verdict import Verdict
from r1jax.sampling import sampler
from r1jax.sampling.complete import Draws, complete
from r1jax.sampling.rollout import Rollout

Ask = Callable[[int, int], dict]  # (index in the stream of questions, optimizer step) -> question


class Round(NamedTuple):
    """One round of all processes, held on the host of each process.

    Attributes:
        examples: the B questions, each with its gold answer.
        rollout: the N completions as tokens, [N, T]. `rollout.own` are the n rows that belong to this process.
        texts: the n completions of this process as text.
        index: [B] index of each question in the stream of questions.
        scores: the rewards, [N], from `gather_scores`; None before scoring.
        advantages: [N]; None before scoring.
        asked: [B] number of the round in which each question was first sampled. None without --carry-over: then all
            questions were first sampled in this round.
        waiting: number of groups that were unfinished at the end of the round.
        drawn: (prompt lengths, numbers of sampled tokens) of all rows that this round sampled, including rows that
            `rollout` lacks because their group is unfinished (--carry-over) or was replaced (--refill). None without
            these flags.
        sampled: number of groups that were sampled to find the groups of this round; None without --refill.
        number: number of the round, from 0.
        step: number of optimizer steps that were done when training on this round began. With --carry-over, the policy
            of an earlier round may have sampled some tokens; with --ahead, it sampled all of them. `rollout.version`
            then has, for each token, the optimizer step of the policy that sampled the token.
        verdicts: an `Ahead`, the object that verifies the answers. It began to verify finished rows while other rows
            were still being sampled. The reward uses it in place of the pool of verifiers.
        began: when sampling began, in seconds of `time.monotonic`; with --ahead, when the training loop asked for the
            round.
        arrived: when the training loop got the round, in seconds of `time.monotonic`; None without --ahead.
        took: seconds that sampling took beside the updates of an earlier round; None without --ahead.
    """

    examples: list[dict]
    rollout: Rollout
    texts: list[str]
    index: np.ndarray
    scores: rule.Scores | None = None
    advantages: np.ndarray | None = None
    asked: np.ndarray | None = None
    waiting: int = 0
    drawn: tuple[np.ndarray, np.ndarray] | None = None
    sampled: int | None = None
    number: int = 0
    step: int = 0
    verdicts: Ahead | None = None
    began: float = 0.0
    arrived: float | None = None
    took: float | None = None

    @property
    def repeated(self) -> list[dict]:
        """The question that each of `texts` answers, in the order of `texts`."""
        return [self.examples[row // self.rollout.group_size] for row in self.rollout.own]


class Sample(Protocol):
    """A callable that samples round `number`, and returns the groups that are finished.

    Args:
        params: the policy's parameters when the round begins.
    """

    def __call__(self, params: dict, number: int) -> Round: ...

    def waiting_at(self, step: int) -> Any:
        """Returns what a checkpoint of optimizer step `step` stores, so that a resumed run samples the same rounds.

        Returns None if it need not store anything. `step` is the step before the last round that was sampled, or the
        step after it. A signal may end the run at either step.
        """


def rollouts(sample: Sample, params: Callable[[], dict], numbers: Iterable[int]) -> Iterator[Round]:
    """Yields the rounds of a run. `sample` is called when the training loop asks for a round, with the parameters of
    that moment.

    Args:
        sample: samples a round, or returns one that was sampled earlier (--ahead).
        params: returns the current parameters.
        numbers: the numbers of the rounds.
    """
    for number in numbers:
        yield sample(params(), number)


class RoundDraws(NamedTuple):
    """The size and the sampling settings of a round.

    Attributes:
        questions: B, the number of questions of a round, over all processes.
        samples: G, the number of completions of each question.
        minibatches: number of optimizer steps of a round.
        seed: seed of the sampling noise.
        sampling: how tokens are sampled.
    """

    questions: int
    samples: int
    minibatches: int
    seed: int
    sampling: sampler.Sampling


class Setting(NamedTuple):
    """Everything that sampling a round needs besides the parameters.

    Attributes:
        policy: model config, tokenizer and template.
        mesh: the mesh of the devices that sample.
        pool: the pool of verifiers, which judge answers.
        ask: `(index in the stream of questions, optimizer step) -> question`.
        draws: the size and the sampling settings of a round.
    """

    policy: Policy
    mesh: Mesh
    pool: Pool
    ask: Ask
    draws: RoundDraws


class WholeRounds:
    """A `Sample` whose rounds end when every row (completion) is finished."""

    def __init__(self, setting: Setting):
        self._setting = setting

    def waiting_at(self, step: int) -> None:
        return None

    def __call__(self, params: dict, number: int) -> Round:
        began, s, d = time.monotonic(), self._setting, self._setting.draws
        step, index = number * d.minibatches, number * d.questions + np.arange(d.questions)
        asked = [s.ask(int(i), step) for i in index]
        rollout, texts, verdicts = sample_and_judge(s, params, asked, Draws(d.samples, d.seed, number, index))
        return Round(asked, rollout, texts, index=index, number=number, step=step, verdicts=verdicts, began=began)


def sample_and_judge(
    setting: Setting,
    params: dict,
    examples: list[dict],
    drawn: Draws,
    partial: sampler.Partial = sampler.WHOLE,
    verdicts: Ahead | None = None,
) -> tuple[Rollout, list[str], Ahead]:
    """Samples completions, and compares finished ones with the gold answers while others are still being sampled.

    Args:
        setting: what sampling needs besides the parameters.
        examples: the B questions, each with its gold answer.
        drawn: the number of completions per question, and what determines their sampling noise.
        partial: rows of earlier rounds to continue, and how many rows may stay unfinished.
        verdicts: verifies the answers while other completions are sampled; if None, a new `Ahead` does so.

    Returns:
        The rollout [N, T], the completions of this process as text, and their verdicts. Some verdicts may not be
        computed yet.
    """
    policy, mesh, verdicts = setting.policy, setting.mesh, verdicts or Ahead(setting.pool)

    def judge(rows: list[tuple[int, str]]) -> None:
        jobs = [rule.accuracy_job(text, examples[row // drawn.samples], policy.style) for row, text in rows]
        verdicts.begin([job for job in jobs if job is not None])

    sampling = setting.draws.sampling._replace(
        attention=setting.draws.sampling.attention or attention_backend(mesh, policy.cfg, compared=True)
    )
    rollout, texts = complete(policy, sampler.sync(params, mesh), examples, drawn, mesh, sampling, judge, partial)
    return rollout, texts, verdicts


def gather_scores(scores: rule.Scores, rollout: Rollout) -> rule.Scores:
    """Returns the scores of all N completions of a round. Every process must call this function.

    Args:
        scores: the scores of this process's n completions, which `rollout.own` names.

    Returns:
        Scores with arrays [N]. `verdicts` has N entries: None for the completions of other processes.

    Raises:
        Stop: a signal asked to stop while answers were verified.
    """
    stop_together()
    if jax.process_count() == 1:
        return scores
    own, count = rollout.own, len(rollout.lengths)
    values = {f"part/{name}": part for name, part in scores.parts.items()}
    values |= {"total": scores.total, "valid": scores.valid}
    if scores.failed is not None:
        values["failed"] = scores.failed
    found = gather_rows(values, own, count)
    verdicts: list[Verdict | None] | None = None
    if scores.verdicts is not None:
        verdicts = [None] * count
        for row, verdict in zip(own, scores.verdicts, strict=True):
            verdicts[row] = verdict
    return rule.Scores(
        found["total"],
        found["valid"] > 0,
        {name.removeprefix("part/"): part for name, part in found.items() if name.startswith("part/")},
        verdicts,
        found["failed"] > 0 if "failed" in found else None,
    )


class Reward(Protocol):
    """A callable that returns the `rule.Scores` of completions.

    Args:
        pool: verifies the answers. It is a `Pool`, or an `Ahead` that began earlier.
        texts: completions of this process.
        examples: the question of each completion, with its gold answer.
        step: the optimizer step at which the round begins.
    """

    def __call__(
        self, pool: Pool | Ahead, texts: Sequence[str], examples: Sequence[Mapping], step: int
    ) -> rule.Scores: ...


def make_rule_reward(weights: Mapping[str, float], style: str) -> Reward:
    """Makes the rule reward: the weighted sum of accuracy, format and language consistency.

    Args:
        weights: {name: weight} of the parts "accuracy", "format" and "language".
        style: the expected format of completions, a key of `format.STYLES`.
    """

    def reward(pool: Pool | Ahead, texts: Sequence[str], examples: Sequence[Mapping], step: int) -> rule.Scores:
        return rule.score(pool, texts, examples, weights, style)

    return reward
