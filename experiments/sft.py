"""Fine-tunes any checkpoint on conversations of your own: all parameters or LoRA, loss on the assistant's turns alone.

Source:  TRL's SFTTrainer with assistant_only_loss. Its loss is the mean over the assistant's tokens of a step. The
         learning rates are TRL's: 2e-5, and 2e-4 for LoRA
Run:     python -m experiments.sft --model=smollm2 --data=messages.jsonl
         python -m experiments.sft --weights=HF_DIR --data=messages.jsonl --recipe=lora
         ... --weights=OWNER/NAME --data=OWNER/DATASET:train      (both from the Hugging Face hub)
         ... --eval-prompts=gsm8k_test.jsonl                      (also answers questions at each evaluation)
Writes:  the working directory of a run: metrics.jsonl, eval.jsonl (loss on held-out conversations), samples.jsonl,
         checkpoints. experiments.convert exports this directory as a Hugging Face directory
Departs: 1. conversations are packed into rows, and each conversation attends only to itself. A step has --batch-rows
            rows
         2. if a chat template rewrites earlier replies (Qwen3's template drops their thinking), the loss counts only
            the last reply of a conversation
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from experiments.stage import TuneCommand, plan_tuning
from r1jax import cli, train_sft
from r1jax.data import conversations
from r1jax.data.readers import read_columns
from r1jax.model.lora import TARGETS
from r1jax.recipes import RunOptions, SFTRecipe
from r1jax.rl.checks import refuse_flags
from r1jax.runs.files import hash_files
from r1jax.sft.documents import Part

FULL = SFTRecipe(
    epochs=3.0,
    steps=0,
    learning_rate=2e-5,
    final_learning_rate=2e-6,
    warmup_steps=0,
    optimizer="adamw",
    weight_decay=0.0,
    grad_clip=1.0,
    row_length=1024,
    batch_rows=8,
    micro_rows=2,
    remat="full",
    held_out_problems=64,
    max_tokens=256,
    eval_problems=8,
    eval_every=0,
    log_samples=8,
    save_every=100,
)
RECIPES = {
    "full": FULL,
    "lora": dataclasses.replace(
        FULL, learning_rate=2e-4, final_learning_rate=2e-5, lora_rank=16, lora_alpha=32.0, lora_targets=TARGETS
    ),
}
OPTIONS = RunOptions(template="auto", prompts="", eval_prompts="")


@dataclasses.dataclass(frozen=True)
class Command(TuneCommand):
    """Fine-tunes on conversations."""

    recipe: str = "full"
    """Which defaults to use: full (all parameters) or lora."""
    data: tuple[str, ...] = ()
    """Files (jsonl, json, parquet), folders, or data sets of the Hugging Face hub that hold conversations. Their rows
    have the form {messages} or another published form, such as {prompt, completion}."""


def train(recipe: SFTRecipe, options: RunOptions, *paths: str) -> Path:
    """Fine-tunes on the conversations of the files. Returns the working directory.

    Raises:
        ValueError: no file is given, or a flag, file or checkpoint cannot be used.
    """
    if not paths:
        raise ValueError("--data=FILE is missing: name a .jsonl of rows {messages: [{role, content}, ..]}")
    refuse_flags(options, ("prompts", "late_prompts"), "fine-tuning reads --data")
    parts, columns = [], read_columns(options.column)
    for path in paths:
        form, found = conversations.read(path, "--data", columns)
        first = found[0]
        asked, said = (
            text if len(text) <= 160 else f"{text[:160]}.." for text in (first["problem"], first["response"])
        )
        print(
            f"--data={path}: {len(found)} conversations, taken as {form}; the first: {asked!r} -> {said!r}",
            file=sys.stderr,
            flush=True,
        )
        parts.append(Part(found))
    files = hash_files(*(path for path in paths if Path(path).is_file()))
    return train_sft.train(recipe, options, "sft", parts, {"files": files} if files else {})


def main() -> None:
    cli.main(
        cli.commands_by_recipe(Command, RECIPES, options=OPTIONS),
        lambda command: train(command.numbers, command.options, *command.data),
        __doc__,
        lambda command: plan_tuning(command, "Fine-tuning"),
    )


if __name__ == "__main__":
    main()
