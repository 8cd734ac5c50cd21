"""A policy's completions of held-out problems, judged: what every walk measures at its evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import jax
from jax.sharding import Mesh

from r1jax import sampler
from r1jax.data import prompts as questions
from r1jax.evaluate import judge, summary
from r1jax.metrics import pooled
from r1jax.prompts import fill
from r1jax.rewards.isolate import Pool
from r1jax.rounds import complete
from r1jax.run import Policy

EVAL_ROUND = 0xE7A1  # evaluation draws its noise from a round of its own, the same at every step


def examine(
    policy: Policy, params: dict, examples: Sequence[dict], mesh: Mesh, pool: Pool, *, seed: int, max_tokens: int,
    samples: int = 0,
) -> tuple[dict, list[dict]]:
    """A line of eval.jsonl, and lines of samples.jsonl of the first `samples` problems, without their step.

    One completion of each problem at temperature 1; problems are shared out to the processes.
    """  # fmt: skip
    count, me = jax.process_count(), jax.process_index()
    mine = [*examples, *[examples[-1]] * (-len(examples) % count)][me::count]
    rollout, texts = complete(
        policy, sampler.sync(params, mesh), mine, 1, mesh,
        seed=seed, round_=EVAL_ROUND, temperature=1.0, max_tokens=max_tokens,
    )  # fmt: skip
    judged = judge(pool, texts, mine, rollout.lengths, rollout.stopped, policy.style)
    shown = [
        {
            "round": EVAL_ROUND, "id": example["id"], "sample": 0, "kind": example.get("task", example["kind"]),
            "language": example.get("language"), "problem": example["problem"], "gold": example["gold"],
            "prompt": fill(policy.template, example["problem"]), "completion": texts[i],
            "length": int(rollout.lengths[i]), "truncated": not rollout.stopped[i],
            "reward": {name: judged[name][i] for name in ("accuracy", "format")},
            "key": [seed, EVAL_ROUND, questions.number(example), 0],
        }
        for i, example in enumerate(mine[:samples])
    ]  # fmt: skip
    rows = pooled(judged, 1)
    return summary({name: values[: len(examples)] for name, values in rows.items()}, examples), shown
