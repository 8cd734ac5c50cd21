"""Claim: the policy reads its own chain of thought. Spoil an intermediate result, and the answer that follows is wrong.

Run:     python -m experiments.claims.chain_does_work --weights=RUN
Method:  held-out problems of the task `chain`, one completion each at temperature 1. Of those with at least two steps
         x∘y=z, a step before the last is chosen; the text is cut after its result, once as it was (control) and once
         with a wrong result in its place, and the policy goes on from there. Compared: the accuracy of both
         continuations.
Expect:  control near the policy's own accuracy, spoiled near zero.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys

import tyro

from r1jax.run import RunOptions


@dataclasses.dataclass(frozen=True)
class Command:
    """Spoil chains of thought."""

    weights: str = ""
    """A run's directory or checkpoint; the shipped base by default."""
    template: str = "r1_zero"
    """That it was trained with: r1_zero, r1, or a text file that holds {question}."""
    chains: int = 256
    """Chains to spoil."""
    seed: int = 0
    max_tokens: int = 256


def spoil(text: str, rng: random.Random) -> tuple[str, str] | None:
    """The text cut after an intermediate result: as it was, and with a wrong one. None without two steps."""
    from r1jax.nano.measure import STEP

    steps = list(STEP.finditer(text))
    if len(steps) < 2:
        return None
    start, end = rng.choice(steps[:-1]).span(4)
    right = int(text[start:end])
    wrong = rng.choice([n for n in range(max(1, right - 9), right + 10) if n != right])
    return text[:end], text[:start] + str(wrong)


def main(command: Command) -> dict:
    import numpy as np

    from r1jax import sampler
    from r1jax.nano import tasks
    from r1jax.prompts import fill
    from r1jax.rewards import rule
    from r1jax.rewards.isolate import Pool
    from r1jax.rounds import complete
    from r1jax.run import load_policy
    from r1jax.sharding import make_mesh

    mesh = make_mesh("auto")
    policy, params, parent = load_policy(RunOptions(weights=command.weights, template=command.template), mesh)
    weights = sampler.sync(params, mesh)
    rng = random.Random(command.seed)
    examples = [{"id": f"chain-{i}"} | tasks.draw(rng, "eval", "chain") for i in range(3 * command.chains)]
    options = dict(seed=command.seed, temperature=1.0, max_tokens=command.max_tokens)
    _, texts = complete(policy, weights, examples, 1, mesh, round_=0, **options)
    cut = [(example, pair) for example, text in zip(examples, texts, strict=True) if (pair := spoil(text, rng))][
        : command.chains
    ]
    if not cut:
        raise SystemExit("no sampled chain has two steps: nothing to spoil")
    accuracy = {}
    with Pool() as pool:
        for which, name in enumerate(("control", "spoiled")):
            heads = [fill(policy.template, example["problem"]) for example, _ in cut]
            prompts = [
                policy.tokenizer.encode(head) + policy.tokenizer.encode(pair[which])
                for head, (_, pair) in zip(heads, cut, strict=True)
            ]
            keys = sampler.row_keys(command.seed, 1, range(len(cut)), [0] * len(cut))
            rollout = sampler.sample(
                policy.cfg, weights, prompts, keys, mesh, max_tokens=command.max_tokens, temperature=1.0,
                stop_ids=(policy.tokenizer.eos_id,), pad_id=policy.tokenizer.pad_id,
            )  # fmt: skip
            whole = [
                pair[which] + policy.tokenizer.decode(row[:n])
                for (_, pair), row, n in zip(cut, rollout.tokens, rollout.lengths, strict=True)
            ]
            verdicts = rule.verify(pool, whole, [example for example, _ in cut], policy.style)
            accuracy[name] = float(np.mean([v.reward == 1.0 for v in verdicts]))
    found = {"chains": len(cut), **accuracy, "parent": parent}
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    try:
        main(tyro.cli(Command, description=__doc__))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
