"""Evaluation during training: samples held-out problems and judges the completions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax.distributed import gather_json, gather_rows
from r1jax.evaluation.completions import Earned, judge, summary
from r1jax.policy import Policy
from r1jax.prompts import fill
from r1jax.rewards.ahead import Ahead
from r1jax.rewards.isolate import Pool
from r1jax.sampling import sampler
from r1jax.sampling.complete import Draws, complete
from r1jax.sampling.keys import number

EVAL_ROUND = 0xE7A1  # a round number for evaluation alone: the same noise at every step


class Examination(NamedTuple):
    """Settings of an evaluation: how completions are sampled, and what is measured in addition to `completions.judge`.

    Attributes:
        seed: seed of the sampling noise.
        max_tokens: completions are cut off after this many tokens.
        samples: the completions of the first `samples` problems are written to samples.jsonl.
        earned: function that returns further measurements of the completions, such as the training reward; None if
            there are none.
        wave_rows: largest number of completions that all processes together sample at once; 0 for no limit.
    """

    seed: int
    max_tokens: int
    samples: int = 0
    earned: Earned | None = None
    wave_rows: int = 0


def examine(
    policy: Policy, params: dict, examples: Sequence[dict], mesh: Mesh, pool: Pool, how: Examination
) -> tuple[dict, list[dict]]:
    """Samples one completion of each held-out problem at temperature 1, and judges the completions.

    Returns (line of eval.jsonl, lines of samples.jsonl). The caller must add the key "step" to each line. Every process
    must call this function.

    Args:
        examples: the held-out problems with their gold answers.
        pool: runs the verifiers.
    """
    draws, sampling = Draws(1, how.seed, EVAL_ROUND), sampler.Sampling(how.max_tokens, wave_rows=how.wave_rows)
    rollout, texts = complete(policy, sampler.sync(params, mesh), examples, draws, mesh, sampling)
    mine, lengths, stopped = ([x[i] for i in rollout.own] for x in (examples, rollout.lengths, rollout.stopped))
    lengths, stopped = np.asarray(lengths), np.asarray(stopped)
    ahead = Ahead(pool)  # a job that both `judge` and the reward ask for runs once
    judged = judge(ahead, texts, mine, lengths, stopped, policy.style)
    if how.earned:
        judged |= how.earned(ahead, texts, mine, lengths)
    shown = [
        {
            "round": EVAL_ROUND,
            "id": example["id"],
            "sample": 0,
            "kind": example.get("task", example["kind"]),
            "language": example.get("language"),
            "problem": example["problem"],
            "gold": example["gold"],
            "prompt": fill(policy.template, example["problem"]),
            "completion": texts[i],
            "length": int(lengths[i]),
            "truncated": not stopped[i],
            "reward": {name: float(judged[name][i]) for name in ("accuracy", "format")},
            "key": [how.seed, EVAL_ROUND, number(example), 0],
        }
        for i, example in enumerate(mine)
        if rollout.own[i] < how.samples
    ]
    rows = gather_rows(judged, rollout.own, len(examples))
    return summary(rows, examples), [line for part in gather_json(shown) for line in part]
