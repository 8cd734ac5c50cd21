"""Claim: the policy uses its own chain of thought. If an intermediate result is falsified, the answer becomes wrong.

Run:     python -m experiments.claims.chain_does_work --weights=RUN
Method:  samples one completion of each held-out problem of the task `chain` at temperature 1. In each completion with
         at least two steps x∘y=z, a random step before the last is chosen, and the text is cut after this step. One
         copy is unchanged (control); in the other copy the step's result is wrong (spoiled). The policy continues both
         copies, and the accuracies of the continuations are compared.
Expect:  the accuracy of control is near the policy's own accuracy, and the accuracy of spoiled is near zero
"""

from __future__ import annotations

import dataclasses
import json
import random

import numpy as np

from experiments.claims.protocol import Bench, Finding, decide, dots, estimate, missing
from experiments.claims.runs import train_zero
from r1jax import cli, distributed
from r1jax.evaluation.nano_samples import STEP
from r1jax.nano import tasks
from r1jax.prompts import fill
from r1jax.recipes import RunOptions
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.runs.policies import load_policy
from r1jax.sampling import sampler
from r1jax.sampling.complete import Draws, complete
from r1jax.sampling.keys import row_keys
from r1jax.sharding import make_mesh

LIMIT = "A chain of nano is a calculation; that a longer argument in words is used, too, is not shown."


@dataclasses.dataclass(frozen=True)
class Command:
    """Falsifies intermediate results in chains of thought."""

    weights: str = ""
    """A run's directory or checkpoint; default: the package's base."""
    template: str = "r1_zero"
    """The template that the policy was trained with: r1_zero, r1, or a text file that contains {question}."""
    chains: int = 256
    """Number of chains of thought to spoil. Three times as many are sampled, because not all have two steps x∘y=z."""
    seed: int = 0
    """Seed of the problems, the completions and the falsified results."""
    max_tokens: int = 256
    """Largest number of tokens of a completion, and of a continuation."""


def spoil(text: str, rng: random.Random) -> tuple[str, str] | None:
    """Cuts a chain of thought after a random intermediate result, and makes a second copy with a wrong result.

    Returns the beginning of the text, and the same beginning with a wrong result at its end. Returns None if the text
    has fewer than two steps x∘y=z.
    """
    steps = list(STEP.finditer(text))
    if len(steps) < 2:
        return None
    start, end = rng.choice(steps[:-1]).span(4)
    right = int(text[start:end])
    wrong = rng.choice([n for n in range(max(1, right - 9), right + 10) if n != right])
    return text[:end], text[:start] + str(wrong)


def measure(command: Command) -> dict:
    """Samples chains of thought, falsifies a result in a copy of each, and has the policy continue both copies.

    Prints and returns a dict. "chains" is the number of falsified chains. "control" is the share of right answers after
    the unchanged beginning. "spoiled" is the share of right answers after the falsified beginning. "parent" holds the
    path and the hash of the policy's weights.
    """
    mesh = make_mesh("auto")
    policy, params, parent = load_policy(RunOptions(weights=command.weights, template=command.template), mesh)
    weights = sampler.sync(params, mesh)
    rng = random.Random(command.seed)
    examples = [{"id": f"chain-{i}"} | tasks.draw(rng, "eval", "chain") for i in range(3 * command.chains)]
    sampling = sampler.Sampling(command.max_tokens, stop_ids=(policy.tokenizer.eos_id,), pad_id=policy.tokenizer.pad_id)
    _, texts = complete(policy, weights, examples, Draws(1, command.seed, 0), mesh, sampling)
    cut = [(example, pair) for example, text in zip(examples, texts, strict=True) if (pair := spoil(text, rng))][
        : command.chains
    ]
    if not cut:
        raise SystemExit(
            f"--weights={command.weights}: none of the {len(texts)} sampled chains of thought has two steps x∘y=z, so "
            "there is no result to falsify. Name a policy that writes its steps out, or raise --max-tokens"
        )
    accuracy = {}
    with Pool() as pool:
        for which, name in enumerate(("control", "spoiled")):
            heads = [fill(policy.template, example["problem"]) for example, _ in cut]
            prompts = [
                policy.tokenizer.encode(head) + policy.tokenizer.encode(pair[which])
                for head, (_, pair) in zip(heads, cut, strict=True)
            ]
            keys = row_keys(command.seed, 1, range(len(cut)), [0] * len(cut))
            rollout = sampler.sample(policy.cfg, weights, prompts, keys, mesh, sampling)
            whole = [
                pair[which] + policy.tokenizer.decode(row[:n])
                for (_, pair), row, n in zip(cut, rollout.tokens, rollout.lengths, strict=True)
            ]
            verdicts = rule.verify(pool, whole, [example for example, _ in cut], policy.style)
            accuracy[name] = float(np.mean([v.reward == 1.0 for v in verdicts]))
    found = {"chains": len(cut), **accuracy, "parent": parent}
    print(json.dumps(found))
    return found


def find(bench: Bench) -> Finding:
    """Trains R1-Zero with each seed, and falsifies intermediate results of its chains of thought."""
    zeros = [train_zero(bench, seed) for seed in bench.seeds]
    distributed.share_cpu("auto")
    distributed.start()
    try:
        found = [
            measure(Command(weights=str(zero), chains=min(256, bench.problems), seed=seed))
            for seed, zero in zip(bench.seeds, zeros, strict=True)
        ]
    except SystemExit as said:  # no chain has two steps, as in a run that is too short
        return missing(LIMIT, str(said.code))
    accuracies = {name: [run[name] for run in found] for name in ("control", "spoiled")}
    rows = [["accuracy", *(f"seed {seed}" for seed in bench.seeds), "mean"]]
    rows += [[name, *(f"{v:.3f}" for v in values), estimate(values).text()] for name, values in accuracies.items()]
    rows.append(["chains", *(str(run["chains"]) for run in found), ""])
    control, spoiled = (estimate(values) for values in accuracies.values())
    fall = estimate([a - b for a, b in zip(*accuracies.values(), strict=True)])
    return Finding(
        decide(fall.low > 0, spoiled.mean < 0.1, seeds=len(bench.seeds)),
        f"With one wrong result in the chain the accuracy falls from {control.text()} to {spoiled.text()}.",
        LIMIT,
        rows,
        [dots("Accuracy of the answer that follows", "share right", accuracies)],
    )


if __name__ == "__main__":
    cli.main(Command, measure, __doc__)
