"""Claim: train on the helpfulness model for too long, and its reward goes on rising while what replies are worth falls.

Run:     python -m experiments.claims.reward_hacking --weights=RUN_OF_STAGE_3 --helpful=DIR --safety=DIR
         ... --resume=True              goes on where it was stopped
Method:  stage 4's recipe at three times its rate on general prompts alone, the reward models from the first step. Every
         few steps the same held-out prompts are answered, general and reasoning: their worth by the generator's truth,
         which no reward model sees, and their accuracy stand beside the reward that training earned in the steps since.
Expect:  reward and worth rise at first, for the model knows what is right; then replies fill with the stock phrases
         that please it. Not with every reward model: of two seeds one collapsed in 80 steps (BUILD_NOTES 8)
Source:  Nature 2025, Fig. 6 (its reward rises while reasoning gets worse), and Methods: "preference-based rewards ...
         exclusively during the final 400 steps"
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments.r1_4_all_scenarios_rl import NANO, models
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions, explained

RECIPE = dataclasses.replace(NANO, steps=80, late_from=0, learning_rate=3e-4, eval_every=10, eval_problems=512)
OPTIONS = RunOptions(
    workdir="runs/reward_hacking", template="r1", prompts="nano:general", eval_prompts="nano:all"
)  # fmt: skip
SHOWN = ("helpful", "padding", "harmless", "accuracy")


@dataclasses.dataclass(frozen=True)
class Command:
    """Too much of a preference reward."""

    recipe: tyro.conf.OmitArgPrefixes[RLRecipe] = RECIPE
    options: tyro.conf.OmitArgPrefixes[RunOptions] = OPTIONS
    helpful: str = ""
    """Directory of the helpfulness reward model."""
    safety: str = ""
    """Directory of the safety reward model."""


def beside(metrics: Sequence[dict], evaluations: Sequence[dict]) -> list[dict]:
    """For each evaluation its truth and the mean reward of the steps since the one before it."""
    found, before = [], 0
    for line in evaluations:
        since = [m["reward/helpful"] for m in metrics if before < m["step"] <= line["step"]]
        earned = [reward for reward in since if reward is not None]
        reward = sum(earned) / len(earned) if earned else None
        found.append({"step": line["step"], "reward": reward} | {name: line[name] for name in SHOWN})
        before = line["step"]
    return found


def main(command: Command) -> list[dict]:
    from r1jax import log, train_rl
    from r1jax.preference import all_scenarios

    scorers, sources, mesh = models(command.options, command.helpful, command.safety)
    workdir = train_rl.train(
        command.recipe, command.options, "reward_hacking",
        lambda recipe, policy: all_scenarios(recipe, policy, *scorers, 1.0, mesh, begins=0),
        {"sources": sources},
    )  # fmt: skip
    lines = beside(*(log.read(Path(workdir) / f"{name}.jsonl") for name in ("metrics", "eval")))
    for line in lines:
        print(json.dumps({name: value and round(value, 3) for name, value in line.items()}))
    return lines


if __name__ == "__main__":
    try:
        main(tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,)))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
