"""Claim: choose ever harder by the helpfulness model, and its reward goes on rising while what replies are worth falls.

Run:     python -m experiments.claims.reward_overoptimisation --helpful=DIR [--sampled=GENERATED/samples.jsonl]
Method:  replies to held-out general prompts, as people write them or as a policy did. Of the N replies to a prompt n
         are drawn and the one with the highest reward is kept; its reward and its worth by the generator's truth are
         averaged over all draws and over prompts. n stands for the pressure that reinforcement learning would put on
         the reward model.
Expect:  both rise at first, for the model knows what is right; then the reward rises on stock phrases and the worth
         falls. Measured (--prompts=32, annotators with a taste of 0.2 a phrase, which is 0.05 now): reward 0.25, 0.97,
         1.28, 1.39 and worth 0.741, 0.827, 0.778, 0.703 at n = 1, 4, 16, 64; phrases a reply 0.68 to 1.88, right
         content 0.79 to 0.94
Source:  Gao, Schulman & Hilton 2022 (arXiv 2210.10760), best-of-n; Nature 2025, Fig. 6 (reward hacking)
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
from collections.abc import Sequence
from math import comb

import tyro


@dataclasses.dataclass(frozen=True)
class Command:
    """Best of n by a reward model."""

    helpful: str
    """Directory of the helpfulness reward model."""
    sampled: str = ""
    """samples.jsonl of experiments.generate over nano:general, several samples each. Default: replies as people write
    them."""
    prompts: int = 64
    """Held-out prompts."""
    replies: int = 64
    """N, of each prompt."""
    seed: int = 0


def best_of(ranked: Sequence[float], n: int) -> float:
    """Mean of a figure over the best of n of N replies, drawn without replacement; `ranked` by reward, the worst first.

    The i-th of them (from 1) is the best in C(i−1, n−1) of the C(N, n) draws.
    """
    total = comb(len(ranked), n)
    return sum(comb(i, n - 1) / total * figure for i, figure in enumerate(ranked))


def replies(command: Command) -> list[tuple[dict, list[str]]]:
    """Prompts with the completions to choose among."""
    from r1jax import log
    from r1jax.data.judged import completion_of
    from r1jax.nano import general, tasks

    if command.sampled:
        found: dict[str, tuple[dict, list[str]]] = {}
        for record in log.stream(command.sampled):
            if record.get("set") == "helpful":
                found.setdefault(record["problem"], (record, []))[1].append(record["response"])
        return list(found.values())[: command.prompts]
    rng = random.Random(f"best of n {command.seed}")
    asked = [row for row in tasks.held_out(4 * command.prompts, "general") if row["set"] == "helpful"][
        : command.prompts
    ]
    return [(row, [completion_of(general.reply(row, rng)) for _ in range(command.replies)]) for row in asked]


def main(command: Command) -> list[dict]:
    from r1jax.nano import general
    from r1jax.reward_model import helpful_input, score, summary_of
    from r1jax.sharding import make_mesh
    from r1jax.train_reward_model import load

    mesh = make_mesh("1x1")
    model = load(command.helpful, "helpful", mesh)
    both = replies(command)
    texts = list(dict.fromkeys(helpful_input(row["problem"], said) for row, group in both for said in group))
    reward = dict(zip(texts, score(model, texts, mesh).tolist(), strict=True))
    least = min(len(group) for _, group in both)
    lines = []
    for n in (2**k for k in range(least.bit_length())):
        line = {"n": n, "reward": 0.0, "worth": 0.0, "right": 0.0, "phrases": 0.0, "characters": 0.0}
        for row, group in both:
            ranked = sorted(group, key=lambda said: reward[helpful_input(row["problem"], said)])
            said = [summary_of(completion) for completion in ranked]
            figures = {
                "reward": [reward[helpful_input(row["problem"], completion)] for completion in ranked],
                "worth": [general.helpful(row, text) for text in said],
                "right": [general.right(row, text) for text in said],
                "phrases": [general.fillers(text) for text in said], "characters": [len(text) for text in said],
            }  # fmt: skip
            line |= {name: line[name] + best_of(values, n) / len(both) for name, values in figures.items()}
        lines.append(line)
        print(json.dumps({name: round(value, 3) for name, value in line.items()}))
    return lines


if __name__ == "__main__":
    try:
        main(tyro.cli(Command, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
