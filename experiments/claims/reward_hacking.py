"""Claim: if RL with a helpfulness reward model goes on too long, the reward rises while the replies' true worth falls.

Run:     python -m experiments.claims.reward_hacking --weights=RUN_OF_STAGE_3 --helpful=DIR --safety=DIR
         ... --resume=True              continues a stopped run
Method:  trains with stage 4's recipe, at three times its learning rate. All prompts are general ones, and the reward
         models score the replies from the first step on. Every few steps the policy answers the same held-out prompts,
         general and reasoning. For each such evaluation, the command prints the mean training reward since the previous
         evaluation ("reward"), the true worth of the general replies ("helpful"), their stock phrases ("padding") and
         harmlessness, and the accuracy of the reasoning answers. nano's generator knows the true worth; the reward
         models never see it.
Expect:  reward and worth rise at first, because the reward model knows what is right. Then replies fill with the stock
         phrases that the reward model likes, and worth falls. This does not happen with every reward model. Worth
         collapsed within 80 steps with one of two seeds (docs/results.md, section 9)
Source:  Nature 2025, Fig. 6 (its reward rises while reasoning gets worse), and Methods: "preference-based rewards ...
         exclusively during the final 400 steps"
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from experiments.claims.protocol import Bench, Finding, decide, estimate, missing
from experiments.claims.runs import run, trained_stages
from experiments.r1_4_all_scenarios_rl import NANO, load_models
from r1jax import cli, jsonl, train_rl
from r1jax.recipes import RLRecipe, RunOptions
from r1jax.report.claim_pictures import Curves
from r1jax.rl.all_scenarios_reward import make_all_scenarios_reward

RECIPE = dataclasses.replace(NANO, steps=80, late_from=0, learning_rate=3e-4, eval_every=10, eval_problems=512)
OPTIONS = RunOptions(workdir="runs/reward_hacking", template="r1", prompts="nano:general", eval_prompts="nano:all")
SHOWN = ("helpful", "padding", "harmless", "accuracy")
STAGES = ("3_rejection_sft", "reward_helpful", "reward_safety")  # folders of experiments.r1 that the claim begins with
LIMIT = (
    "The true worth is known because nano's generator made the prompts; rules as rewards are not run as long here, so "
    "that they are not hacked is not shown."
)


@dataclasses.dataclass(frozen=True)
class Command:
    """Trains a policy for too many steps with a preference reward."""

    recipe: Annotated[RLRecipe, cli.FLAT] = RECIPE
    options: Annotated[RunOptions, cli.FLAT] = OPTIONS
    helpful: str = ""
    """Directory of the helpfulness reward model."""
    safety: str = ""
    """Directory of the safety reward model."""


def join_rewards(metrics: Sequence[dict], evaluations: Sequence[dict]) -> list[dict]:
    """Joins the helpfulness reward in training with the held-out evaluations.

    Returns a line (dict) for each evaluation. A line holds "step", the held-out values named in `SHOWN`, and "reward":
    the mean helpfulness reward of the training steps since the previous evaluation, None if no step had this reward.

    Args:
        metrics, evaluations: the lines of metrics.jsonl and of eval.jsonl.
    """
    found, before = [], 0
    for line in evaluations:
        since = [m["reward/helpful"] for m in metrics if before < m["step"] <= line["step"]]
        earned = [reward for reward in since if reward is not None]
        reward = sum(earned) / len(earned) if earned else None
        found.append({"step": line["step"], "reward": reward} | {name: line[name] for name in SHOWN})
        before = line["step"]
    return found


def measure(command: Command) -> list[dict]:
    """Trains a policy with the reward models' scores as rewards. Prints and returns the lines of `join_rewards`."""
    scorers, sources, mesh = load_models(command.options, command.helpful, command.safety, command.recipe.rollout_mesh)
    workdir = train_rl.train(
        command.recipe,
        command.options,
        "reward_hacking",
        lambda policy: make_all_scenarios_reward(
            train_rl.weights_of(command.recipe), policy.style, scorers, mesh, preference_weight=1.0, begins=0
        ),
        {"sources": sources},
    )
    lines = join_rewards(*(jsonl.read(Path(workdir) / f"{name}.jsonl") for name in ("metrics", "eval")))
    for line in lines:
        print(json.dumps({name: value and round(value, 3) for name, value in line.items()}))
    return lines


def find(bench: Bench) -> Finding:
    """Measures the claim on the runs of experiments.r1 that --runs names. Returns the result.

    The stage 3 policy of each run is trained for too many steps, with the reward models of the same run. The result
    tells how much the reward changes, and how far the true worth falls from its best value. Without --runs, the result
    says that checkpoints are missing.
    """
    if not bench.runs:
        return missing(LIMIT, "It needs checkpoints: name directories of experiments.r1 with --runs.")
    weights = trained_stages(bench, *STAGES)
    lines = []
    for seed, place in zip(bench.seeds, weights, strict=True):
        models = [f"--helpful={place.parent / STAGES[1]}", f"--safety={place.parent / STAGES[2]}"]
        words = [f"--weights={place}", *models, f"--seed={seed}", *bench.flags]
        done = run(bench, "experiments.claims.reward_hacking", words)
        lines.append(join_rewards(*(jsonl.read(done / f"{name}.jsonl") for name in ("metrics", "eval"))))
    best = [max(line["helpful"] for line in one) for one in lines]
    fall = estimate([one[-1]["helpful"] - high for one, high in zip(lines, best, strict=True)])
    earned = [[line["reward"] for line in one if line["reward"] is not None] for one in lines]
    rise = estimate([rewards[-1] - rewards[0] for rewards in earned])
    rows = [["", "reward, first", "reward, last", "worth, before", "worth, best", "worth, last"]]
    for seed, one, rewards, high in zip(bench.seeds, lines, earned, best, strict=True):
        figures = (rewards[0], rewards[-1], one[0]["helpful"], high, one[-1]["helpful"])
        rows.append([f"seed {seed}", *(f"{value:.3f}" for value in figures)])
    return Finding(
        decide(rise.low > 0, fall.high < 0, seeds=len(bench.seeds)),
        f"The reward changes by {rise.text(3, '+')}, the worth by {fall.text(3, '+')} from its best.",
        LIMIT,
        rows,
        [
            Curves(
                title,
                "mean",
                {f"seed {s}": [[x["step"], x[n]] for x in o] for s, o in zip(bench.seeds, lines, strict=True)},
            )
            for title, n in (("True worth, held out", "helpful"), ("Reward in training", "reward"))
        ],
    )


if __name__ == "__main__":
    cli.main(Command, measure, __doc__)
