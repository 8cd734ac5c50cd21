"""The two reward models of R1's last stage: helpfulness from pairs, safety from labelled responses.

Source:  Nature 2025, Methods ("helpful reward model", "safety reward model"); v2 3.1, B.2
Run:     python -m experiments.train_reward_model --kind=helpful --weights=RUN_OF_STAGE_3      (nano)
         ... --kind=safety --sampled=GENERATED/samples.jsonl     the annotator judges a model's replies too
         ... --data=pairs.jsonl     {problem, chosen, rejected}, or for --kind=safety {problem, response, safe}
Departs: 1. the paper's pairs are judged by DeepSeek-V3; nano's by an annotator that knows the truth, likes stock
         phrases and errs
         2. the paper prints no scaling: helpful rewards are brought to mean 0 and deviation 1 over held-out replies,
            the safety logit to a calibrated probability
         3. optimizer, warm-up and gradient clipping are not published: AdamW (0.9, 0.95), 0, 1.0
         4. the paper's have "the R1 architecture"; ours begin with the weights they are given, in R1 stage 3's
         5. the sizes printed differ by model (66,000 pairs, 106,000 responses); a file of one's own brings its own
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Annotated, Literal

import tyro

from r1jax.command import by_recipe
from r1jax.plan import PlanOptions
from r1jax.plan_supervised import dry_reward
from r1jax.run import RunOptions, explained
from r1jax.train_reward_model import RewardRecipe, train

PAPER = RewardRecipe(
    epochs=1,  # "the training process is conducted for a single epoch"
    batch_items=256,  # "a batch size of 256"
    learning_rate=6e-6,  # "a learning rate of 6e-6"
    max_tokens=8192,  # "the maximum sequence length during training is set to 8192 tokens"; no limit at inference
    items=66_000,  # "66,000 data pairs"; 106,000 labelled responses for safety
    warmup_steps=0, adam_b1=0.9, adam_b2=0.95, weight_decay=0.0, grad_clip=1.0,  # not published
    batch_rows=64, remat="full", held_out_items=2_000, save_every=50,
)  # fmt: skip
NANO = dataclasses.replace(
    PAPER, epochs=2, batch_items=64, learning_rate=5e-4, max_tokens=512, warmup_steps=5, items=4_000,
    held_out_items=512, batch_rows=32, remat="none", save_every=25,
)  # fmt: skip
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = RunOptions(template="r1")
PLAN = PlanOptions()


@dataclasses.dataclass(frozen=True)
class Command:
    """A reward model."""

    numbers: Annotated[RewardRecipe, tyro.conf.arg(name="")]
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = OPTIONS
    kind: Literal["helpful", "safety"] = "helpful"
    """Which of the two."""
    data: str = ""
    """jsonl of judged items. Default: the nano annotator's."""
    sampled: str = ""
    """samples.jsonl of experiments.generate over nano:general: replies that the nano annotator judges too."""
    plan: Annotated[PlanOptions, tyro.conf.arg(name="")] = PLAN
    recipe: str = "nano"
    """Whose numbers are the defaults: nano or paper."""


def check(options: RunOptions) -> None:
    """Raises ValueError for options of a run that a reward model does not read."""
    for name in ("prompts", "late_prompts", "eval_prompts", "template"):
        if getattr(options, name) != getattr(OPTIONS, name):
            flag = name.replace("_", "-")
            raise ValueError(
                f"--{flag}={getattr(options, name)} is for policies: a reward model reads --data or --sampled, "
                "always in R1's template. Leave it out"
            )


def main() -> None:
    try:
        command = by_recipe(Command, RECIPES, __doc__, sys.argv[1:])
        check(command.options)
        if command.plan.dry_run:
            o, heading = command.options, f"The {command.kind} reward model, recipe {command.recipe}"
            print(dry_reward(o.model, o.weights, command.numbers, command.kind, o.mesh, command.plan, heading))
            return
        train(command.numbers, command.options, command.kind, command.data, command.sampled)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))


if __name__ == "__main__":
    main()
