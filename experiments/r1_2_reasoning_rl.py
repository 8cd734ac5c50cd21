"""R1, stage 2: reinforcement learning for reasoning, with a reward for keeping to one language.

Source:  DeepSeek-AI 2025, section 2.3.2; Nature 2025, Methods ("first RL stage")
Run:     python -m experiments.r1_2_reasoning_rl --weights=RUN_OF_STAGE_1
         ... --recipe=paper --weights=DIR --mesh=8x8
Departs: 1. the number of steps is not published ("until convergence"). --recipe=paper keeps R1-Zero's 10,400; nano: 24
         2. how words are segmented and how their language is detected is not published; ours is in rewards/language.py
         3. a chain of thought without any words gets the full language reward, 1
         4. the total reward still contains the format reward, with the same weight as the rewards for accuracy and
            language. The paper adds the language reward to the final reward
"""

from __future__ import annotations

import dataclasses

from experiments.r1_zero import BRIEF
from experiments.r1_zero import NANO as ZERO_NANO
from experiments.r1_zero import PAPER as ZERO_PAPER
from experiments.stage import RLStage
from r1jax.recipes import RunOptions

PAPER = dataclasses.replace(
    ZERO_PAPER,
    clip_eps=10.0,  # "the GRPO clip ratio ε to 10"
    language_weight=1.0,  # "directly adding it to the final reward"
)
NANO = dataclasses.replace(ZERO_NANO, **BRIEF, steps=24, eval_every=12, language_weight=1.0)
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:reasoning")
STAGE = RLStage("r1_2_reasoning_rl", "R1, stage 2", RECIPES, __doc__, OPTIONS)
train, main = STAGE.train, STAGE.main


if __name__ == "__main__":
    main()
