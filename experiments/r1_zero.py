"""R1-Zero: pure reinforcement learning on a base model, without any supervised step.

Source:  DeepSeek-AI 2025 (arXiv 2501.12948; Nature 645, 633), sections 2 and Methods
Run:     python -m experiments.r1_zero                       (nano, on a laptop)
         python -m experiments.r1_zero --recipe=paper --weights=DIR --mesh=8x8
         ... --model=qwen2.5-1.5b --dry-run                  (what it would need; nothing is read)
Cost:    21 CPU minutes on nano; the paper 101K H800 hours
Expect:  pass@1 0.30 -> 0.82 in 64 steps (paper: AIME 2024 15.6 % -> 77.9 % in 10,400), length x 2.5, reflective words
         x 3.7
Departs: 1. the paper's reward for format has no printed size; "the same weight" is read as 1 and 1
         2. clip ε is printed for R1's stage 1 only, as 10; Zero is taken to use the same
         3. optimizer, betas, weight decay, warm-up and gradient clipping are not published: AdamW (0.9, 0.95), 0,
            none, 1.0
         4. the maximum length stays at 32,768; the paper doubles it at step 8,200
         5. nano's questions here need no sandbox: programs come with R1's stages (--prompts=nano:reasoning has them)
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from r1jax.command import run
from r1jax.lora import TARGETS
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions

PAPER = RLRecipe(
    steps=10_400,  # "10,400 steps", "a training step refers to a single policy update operation"
    questions_per_round=512,  # "each rollout generates 8,192 outputs"
    group_size=16,  # "we sample 16 outputs for each question"
    minibatches=16,  # "randomly split into 16 mini-batches and trained for only a single inner epoch"
    learning_rate=3e-6,  # "the learning rate to 3e-6"
    kl_coef=0.001,  # "the KL coefficient to 0.001"
    clip_eps=10.0,  # "the GRPO clip ratio ε to 10" (stage 1 of R1)
    clip_eps_high=0.0,  # one ε for both sides
    loss="grpo",  # the objective is GRPO's, eq. 1-2; over tokens as DeepSeekMath writes it, eq. 3
    tis_cap=0.0,  # not published
    temperature=1.0,  # "the sampling temperature to 1 for rollout"
    max_tokens=32_768,  # "a maximum length of 32,768 tokens before the 8.2k step and 65,536 tokens afterward"
    ref_every=400,  # "every 400 steps, we replace the reference model with the latest policy model"
    accuracy_weight=1.0,  # "combined with the same weight"
    format_weight=1.0,
    language_weight=0.0,  # R1-Zero has none: languages mix
    warmup_steps=0,  # not published
    grad_clip=1.0,  # not published
    adam_b1=0.9, adam_b2=0.95, weight_decay=0.0,  # not published
    old_logp="trainer", row_length=34_816, batch_rows=64, remat="full",
    late_from=0,  # one set of prompts throughout
    eval_every=200, eval_problems=512, save_every=400, log_samples=64, max_skips=3,
    lora_rank=0, lora_alpha=32.0, lora_targets=TARGETS,  # the paper trains every parameter
    replay_routes=False, balance_rate=0.0,  # not published
    carry_over=0,  # every round waits for its last row
)  # fmt: skip

NANO = dataclasses.replace(
    PAPER,
    steps=64, questions_per_round=16, minibatches=1, learning_rate=3e-4, max_tokens=352, ref_every=40, warmup_steps=5,
    row_length=512, batch_rows=8, eval_every=16, save_every=16, log_samples=8,
)  # fmt: skip

RECIPES = {"nano": NANO, "paper": PAPER}


def train(recipe: RLRecipe, options: RunOptions) -> Path:
    from r1jax import train_rl

    return train_rl.train(recipe, options, "r1_zero")


def main() -> None:
    run("R1-Zero", RECIPES, __doc__, train)


if __name__ == "__main__":
    main()
