"""R1-Zero: pure reinforcement learning on a base model, without any supervised step.

Source:  DeepSeek-AI 2025 (arXiv 2501.12948; Nature 645, 633), section 2 and Methods
Run:     python -m experiments.r1_zero                       (nano, on a laptop)
         python -m experiments.r1_zero --recipe=paper --weights=DIR --mesh=8x8
         ... --model=qwen2.5-1.5b --dry-run                  (prints what the run needs; reads no files)
         ... --model=smollm2 --recipe=small --template=chat --system-prompt=r1_zero --prompts=train.jsonl
Cost:    16 CPU minutes on nano; the paper 101K H800 hours
Expect:  pass@1 0.33 -> 0.83 in 64 steps (paper: AIME 2024 15.6 % -> 77.9 % in 10,400), length x 2.4, reflective words
         x 3.2
Departs: 1. the paper gives accuracy and format "the same weight" but no number; we use 1 and 1
         2. the paper prints clip ε = 10 for R1's first RL stage only; we use it for R1-Zero too
         3. optimizer, betas, weight decay, warm-up and gradient clipping are not published; we use AdamW with betas
            (0.9, 0.95), no weight decay, no warm-up, and clipping at a norm of 1.0
         4. the maximum length stays at 32,768; the paper doubles it at step 8,200
         5. nano's default questions contain no programs, so they need no sandbox; --prompts=nano:reasoning has programs
"""

from __future__ import annotations

import dataclasses

from experiments.stage import RLStage
from r1jax.model.lora import TARGETS
from r1jax.recipes import RLRecipe

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
    language_weight=0.0,  # R1-Zero has no language reward, so languages mix
    warmup_steps=0,  # not published
    grad_clip=1.0,  # not published
    adam_b1=0.9,
    adam_b2=0.95,
    weight_decay=0.0,  # not published
    old_logp="trainer",
    row_length=34_816,
    batch_rows=64,
    remat="full",
    late_from=0,  # the same prompts throughout
    eval_every=200,
    eval_problems=512,
    save_every=400,
    log_samples=64,
    max_skips=3,
    lora_rank=0,
    lora_alpha=32.0,
    lora_targets=TARGETS,  # the paper trains every parameter
    replay_routes=False,
    balance_rate=0.0,  # not published
    carry_over=0,  # every round waits for its longest completion
)

NANO = dataclasses.replace(
    PAPER,
    steps=64,
    questions_per_round=16,
    minibatches=1,
    learning_rate=3e-4,
    max_tokens=448,
    ref_every=40,
    warmup_steps=5,
    row_length=576,
    batch_rows=8,
    eval_every=16,
    save_every=16,
    log_samples=8,
)

BRIEF = dict(max_tokens=352, row_length=512)  # of the policies in the table of R1's stages, which is older

# Ours, for a pretrained model of some hundred million parameters on one machine.
SMALL = dataclasses.replace(
    PAPER,
    steps=100,
    questions_per_round=16,
    group_size=8,
    minibatches=1,
    learning_rate=1e-5,  # SmolLM2-135M learned sums with it in eleven steps; larger models want 1e-6
    clip_eps=0.2,
    max_tokens=256,
    ref_every=0,
    row_length=1024,
    batch_rows=2,
    eval_every=10,
    eval_problems=64,
    save_every=10,
    log_samples=8,
)

RECIPES = {"nano": NANO, "paper": PAPER, "small": SMALL}
STAGE = RLStage("r1_zero", "R1-Zero", RECIPES, __doc__)
train, main = STAGE.train, STAGE.main

if __name__ == "__main__":
    main()
