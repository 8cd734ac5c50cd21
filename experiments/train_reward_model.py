"""Trains the two reward models of R1's last stage: helpfulness from pairs, safety from labelled responses.

Source:  Nature 2025, Methods ("helpful reward model", "safety reward model"); v2 3.1, B.2
Run:     python -m experiments.train_reward_model --kind=helpful --weights=RUN_OF_STAGE_3      (nano)
         ... --kind=safety --sampled=GENERATED/samples.jsonl   nano's annotator judges these replies too
         ... --data=pairs.jsonl     rows {problem, chosen, rejected}; for --kind=safety {problem, response, safe}
Departs: 1. DeepSeek-V3 judges the paper's pairs; nano's annotator is a program that knows the truth, likes stock
            phrases and makes mistakes
         2. the paper prints no scaling: we scale helpfulness rewards to mean 0 and standard deviation 1 over held-out
            replies, and the safety logit to a calibrated probability
         3. optimizer, warm-up and gradient clipping are not published; we use AdamW with betas (0.9, 0.95), no
            warm-up, and clipping at a norm of 1.0
         4. the paper's models have "the R1 architecture"; ours start from --weights (in experiments.r1: from stage 3)
         5. the paper's data sets have 66,000 pairs and 106,000 responses; a file given by --data may have any size
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from experiments.stage import TrainCommand
from r1jax import cli
from r1jax.planning.supervised import dry_reward
from r1jax.recipes import RewardRecipe, RunOptions
from r1jax.train_reward_model import train

PAPER = RewardRecipe(
    epochs=1,  # "the training process is conducted for a single epoch"
    batch_items=256,  # "a batch size of 256"
    learning_rate=6e-6,  # "a learning rate of 6e-6"
    max_tokens=8192,  # "the maximum sequence length during training is set to 8192 tokens"; no limit at inference
    items=66_000,  # "66,000 data pairs"; 106,000 labelled responses for safety
    warmup_steps=0,
    adam_b1=0.9,
    adam_b2=0.95,
    weight_decay=0.0,
    grad_clip=1.0,  # not published
    batch_rows=64,
    remat="full",
    held_out_items=2_000,
    save_every=50,
)
NANO = dataclasses.replace(
    PAPER,
    epochs=2,
    batch_items=64,
    learning_rate=5e-4,
    max_tokens=512,
    warmup_steps=5,
    items=4_000,
    held_out_items=512,
    batch_rows=32,
    remat="none",
    save_every=25,
)
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = RunOptions(template="r1")


@dataclasses.dataclass(frozen=True)
class Command(TrainCommand[RewardRecipe]):
    """Trains a reward model."""

    kind: Literal["helpful", "safety"] = "helpful"
    """Which of the two reward models to train."""
    data: str = ""
    """jsonl file of judged replies: pairs for helpful, labelled responses for safety. Default: nano's annotator judges
    generated replies."""
    sampled: str = ""
    """The samples.jsonl that experiments.generate wrote for nano:general. nano's annotator judges these replies too."""


COMMANDS = cli.commands_by_recipe(Command, RECIPES, options=OPTIONS)


def check(options: RunOptions) -> None:
    """Raises ValueError if a flag is given that training a reward model does not use."""
    prompting = ("template", "system_prompt", "answers", "think", "column")
    for name in ("prompts", "late_prompts", "eval_prompts", "reward", "decontaminate", *prompting):
        if getattr(options, name) != getattr(OPTIONS, name):
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag}={getattr(options, name)} is for policies. A reward model reads its data from --data or "
                "--sampled, and always uses R1's template. Leave the flag out"
            )


def plan(command: Command) -> str:
    """Returns the text that --dry-run prints."""
    check(command.options)
    if command.plan.fit:
        raise ValueError(
            "--fit is for reinforcement learning and fine-tuning. Leave it out; to save memory, lower --batch-rows"
        )
    o, heading = command.options, f"The {command.kind} reward model, recipe {command.recipe}"
    return dry_reward(o.model, o.weights, command.numbers, command.kind, o.mesh, command.plan, heading)


def run(command: Command) -> Path:
    """Trains the reward model and returns its working directory.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
    """
    check(command.options)
    return train(command.numbers, command.options, command.kind, command.data, command.sampled)


def main() -> None:
    cli.main(COMMANDS, run, __doc__, plan)


if __name__ == "__main__":
    main()
