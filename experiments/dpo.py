"""Learns a policy from preferences, without sampling: DPO, IPO, KTO, ORPO or SimPO.

Source:  Rafailov et al. 2023 (DPO); Azar et al. 2023 (IPO); Ethayarajh et al. 2024 (KTO); Hong et al. 2024 (ORPO);
         Meng et al. 2024 (SimPO). R1 has no such stage; preference learning is an alternative to its last RL stage
Run:     python -m experiments.dpo --weights=RUN_OF_STAGE_3          (nano's annotator judges pairs)
         ... --data=pairs.jsonl      rows {problem, chosen, rejected}, texts or messages
         ... --loss=kto --data=labels.jsonl      rows {problem, response, desirable}, or pairs
         ... --dry-run               prints what the run needs; reads no files
         ... --lora-rank=16          trains adapters; the reference is then the model without them
Departs: 1. the numbers of the recipe nano are ours. The recipe `paper` has the DPO paper's β of 0.1 and learning
            rate of 1e-6, but AdamW instead of RMSprop
         2. KTO's z (the reference point) is estimated from a micro-batch; the paper uses a batch
         3. IPO takes means over tokens, as its authors recommended later; the paper's formula has sums
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.stage import TrainCommand
from r1jax import cli
from r1jax.planning.processes import place_processes
from r1jax.planning.rl import mesh_of
from r1jax.planning.supervised import dry_preference
from r1jax.preferences.recipe import PreferenceRecipe, check
from r1jax.preferences.train import train
from r1jax.recipes import RunOptions

PAPER = PreferenceRecipe(
    loss="dpo",
    beta=0.1,  # "β = 0.1"
    epochs=1,
    batch_items=64,  # "batch size of 64"
    learning_rate=1e-6,  # "the RMSprop optimizer with a learning rate of 1e-6"
    final_learning_rate=0.0,
    warmup_steps=150,  # "linearly warmup the learning rate from 0 to 1e-6 over 150 steps"
    schedule="constant",
    grad_clip=1.0,  # not published
    max_tokens=8192,
    batch_rows=64,
    remat="full",
    items=66_000,
    held_out_items=2_000,
    save_every=50,
)
NANO = dataclasses.replace(
    PAPER,
    learning_rate=1e-4,
    warmup_steps=5,
    max_tokens=1024,
    batch_rows=16,
    remat="none",
    items=4_000,
    held_out_items=512,
    save_every=25,
)
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = RunOptions(template="r1")
UNUSED = ("prompts", "late_prompts", "eval_prompts", "reward", "decontaminate")


@dataclasses.dataclass(frozen=True)
class Command(TrainCommand[PreferenceRecipe]):
    """Learns from preferences."""

    data: str = ""
    """jsonl file of pairs {problem, chosen, rejected}, or for kto of {problem, response, desirable}. Default: nano's
    annotator judges generated replies."""


COMMANDS = cli.commands_by_recipe(Command, RECIPES, options=OPTIONS)


def refuse_unused(options: RunOptions) -> None:
    """Raises ValueError if a flag is given that learning from preferences does not use."""
    for name in UNUSED:
        if getattr(options, name) != getattr(OPTIONS, name):
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag}={getattr(options, name)} is for reinforcement learning: preferences come from "
                "--data. Leave the flag out"
            )


def plan(command: Command) -> str:
    """Returns the text that --dry-run prints. Checks every flag that the run would check."""
    refuse_unused(command.options)
    o, heading = command.options, f"Learning from preferences, {command.numbers.loss}, recipe {command.recipe}"
    check(command.numbers, mesh_of(o.mesh))
    if o.processes is not None:
        place_processes(o.mesh, o.processes)
    return dry_preference(o.model, o.weights, command.numbers, o.mesh, command.plan, heading)


def run(command: Command) -> Path:
    """Trains the policy and returns its working directory.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
    """
    refuse_unused(command.options)
    return train(command.numbers, command.options, command.data)


def main() -> None:
    cli.main(COMMANDS, run, __doc__, plan)


if __name__ == "__main__":
    main()
