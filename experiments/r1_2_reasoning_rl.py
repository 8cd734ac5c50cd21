"""R1, stage 2: reinforcement learning for reasoning, with a reward for keeping to one language.

Source:  DeepSeek-AI 2025, section 2.3.2; Nature 2025, Methods ("first RL stage")
Run:     python -m experiments.r1_2_reasoning_rl --weights=RUN_OF_STAGE_1
         ... --recipe=paper --weights=DIR --mesh=8x8
Departs: 1. the number of steps is not published ("until convergence"): the paper's recipe keeps R1-Zero's, nano has 24
         2. how a word is segmented, and its language found, is not published: see r1jax/rewards/language.py
         3. a chain of thought without any word is in no wrong language: 1
         4. the format reward is kept beside accuracy and language, with the same weight; the text adds language to them
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.r1_zero import NANO as ZERO_NANO
from experiments.r1_zero import PAPER as ZERO_PAPER
from r1jax.command import run
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions

PAPER = dataclasses.replace(
    ZERO_PAPER,
    clip_eps=10.0,  # "the GRPO clip ratio ε to 10"
    language_weight=1.0,  # "directly adding it to the final reward"
)
NANO = dataclasses.replace(ZERO_NANO, steps=24, eval_every=12, language_weight=1.0)
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:reasoning")


def train(recipe: RLRecipe, options: RunOptions) -> Path:
    from r1jax import train_rl

    return train_rl.train(recipe, options, "r1_2_reasoning_rl")


def main() -> None:
    run("R1, stage 2", RECIPES, __doc__, train, OPTIONS)


if __name__ == "__main__":
    main()
