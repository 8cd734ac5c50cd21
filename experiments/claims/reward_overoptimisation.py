"""Claim: with stronger selection by the helpfulness model, the reward keeps rising while the replies' true worth falls.

Run:     python -m experiments.claims.reward_overoptimisation --helpful=DIR [--sampled=GENERATED/samples.jsonl]
Method:  best-of-n. nano's generator or a policy gives N replies to each held-out general prompt. Then n of the N
         replies are chosen, and the one with the highest reward is kept. The kept reply's reward and true worth are
         averaged over all choices of n replies, and over the prompts. A larger n puts more pressure on the reward
         model, as more RL would.
Expect:  reward and worth rise at first, because the reward model prefers right content. Then stock phrases raise the
         reward, and worth falls. Measured at n = 1, 4, 16, 64: reward 0.25, 0.97, 1.28, 1.39 and worth 0.741, 0.827,
         0.778, 0.703. From n = 1 to n = 64, stock phrases per reply rose from 0.68 to 1.88, and the share of replies
         with right content from 0.79 to 0.94. These values were measured with --prompts=32, and with `TASTE` = 0.2 in
         r1jax/nano/preferences.py. `TASTE` is how much each of a reply's first two stock phrases appeals to nano's
         annotator; it is 0.05 now
Source:  Gao, Schulman & Hilton 2022 (arXiv 2210.10760), best-of-n; Nature 2025, Fig. 6 (reward hacking)
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Sequence
from math import comb

from experiments.claims.protocol import Bench, Finding, decide, estimate, missing
from experiments.claims.runs import trained_stages
from r1jax import cli, distributed, jsonl
from r1jax.nano import general, tasks
from r1jax.report.claim_pictures import Curves
from r1jax.reward_models.load import load_reward_model
from r1jax.reward_models.model import helpful_input, score, summary_of
from r1jax.reward_models.preference_files import completion_of
from r1jax.sharding import make_mesh

HELPFUL = "reward_helpful"  # folder of experiments.r1
LIMIT = (
    "The replies are the generator's, with its stock phrases, and n ends at 64; how far a real judge of long texts can "
    "be pressed is not shown."
)


@dataclasses.dataclass(frozen=True)
class Command:
    """Measures best-of-n selection by a reward model."""

    helpful: str
    """Directory of the helpfulness reward model."""
    sampled: str = ""
    """The samples.jsonl that experiments.generate wrote for nano:general, with several samples per prompt. Default:
    replies of nano's generator."""
    prompts: int = 64
    """Number of held-out prompts."""
    replies: int = 64
    """N, the number of replies to each prompt."""
    seed: int = 0
    """Seed of the generator's replies."""


def best_of(ranked: Sequence[float], n: int) -> float:
    """Returns the expected value of the best of n replies, drawn from N replies without replacement.

    The best reply has the highest reward. In ascending order of reward, the i-th reply (from 1) has the highest reward
    in C(i−1, n−1) of the C(N, n) draws.

    Args:
        ranked: [N] the value of each reply, such as its true worth, in ascending order of reward.
    """
    total = comb(len(ranked), n)
    return sum(comb(i, n - 1) / total * figure for i, figure in enumerate(ranked))


def replies(command: Command) -> list[tuple[dict, list[str]]]:
    """Returns (prompt, completions to choose from) for each held-out prompt.

    A prompt is a question with its gold answer.
    """
    if command.sampled:
        found: dict[str, tuple[dict, list[str]]] = {}
        for record in jsonl.stream(command.sampled):
            if record.get("set") == "helpful":
                found.setdefault(record["problem"], (record, []))[1].append(record["response"])
        return list(found.values())[: command.prompts]
    rng = random.Random(f"best of n {command.seed}")
    asked = [row for row in tasks.held_out(4 * command.prompts, "general") if row["set"] == "helpful"][
        : command.prompts
    ]
    return [(row, [completion_of(general.reply(row, rng)) for _ in range(command.replies)]) for row in asked]


def measure(command: Command) -> list[dict]:
    """Prints and returns a line (dict) for each n = 1, 2, 4, ...

    The line holds the means over the kept replies (best of n): their reward, their true worth ("worth"), the share with
    right content ("right"), and their numbers of stock phrases ("phrases") and of characters.
    """
    mesh = make_mesh("1x1")
    model = load_reward_model(command.helpful, "helpful", mesh)
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
                "phrases": [general.fillers(text) for text in said],
                "characters": [len(text) for text in said],
            }
            line |= {name: line[name] + best_of(values, n) / len(both) for name, values in figures.items()}
        lines.append(line)
        print(json.dumps({name: round(value, 3) for name, value in line.items()}))
    return lines


def find(bench: Bench) -> Finding:
    """Measures best-of-n selection by the helpfulness model of each run of experiments.r1."""
    if not bench.runs:
        return missing(LIMIT, "It needs checkpoints: name directories of experiments.r1 with --runs.")
    models = trained_stages(bench, HELPFUL)
    distributed.start()
    found = [
        measure(Command(helpful=str(model), prompts=min(64, bench.problems), seed=seed))
        for seed, model in zip(bench.seeds, models, strict=True)
    ]
    rows = [["best of", "reward", "true worth", "stock phrases"]]
    for lines in zip(*found, strict=True):
        cells = (estimate([line[name] for line in lines]).text() for name in ("reward", "worth", "phrases"))
        rows.append([str(lines[0]["n"]), *cells])
    rise = estimate([lines[-1]["reward"] - lines[0]["reward"] for lines in found])
    fall = estimate([lines[-1]["worth"] - max(line["worth"] for line in lines) for lines in found])
    return Finding(
        decide(rise.low > 0, fall.high < 0, seeds=len(bench.seeds)),
        f"From one reply to the best of {found[0][-1]['n']} the reward changes by {rise.text(3, '+')}; the worth ends "
        f"{fall.text(3, '+')} from its best.",
        LIMIT,
        rows,
        [
            Curves(
                title,
                "mean",
                {f"seed {s}": [[x["n"], x[n]] for x in o] for s, o in zip(bench.seeds, found, strict=True)},
                "reply",
            )
            for title, n in (("True worth", "worth"), ("Reward", "reward"))
        ],
    )


if __name__ == "__main__":
    cli.main(Command, measure, __doc__)
