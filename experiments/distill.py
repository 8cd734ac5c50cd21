"""Distillation: a student by supervised fine-tuning on stage 3's records.

Source:  DeepSeek-AI 2025, sections 2.4 and 4.1; v2 B.4.3, Table 6
Run:     python -m experiments.distill --records=RUN_OF_STAGE_3_data/rejection.jsonl
         ... --recipe=qwen-7b --weights=DIR --mesh=8x1
         python -m experiments.r1_zero --model=nano-small        the same student by RL instead, for the comparison
Departs: 1. the students' RL on top of distillation is not in the paper either
         2. logit and on-policy distillation are not here
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from experiments.r1_1_cold_start import NANO as COLD_NANO
from experiments.r1_1_cold_start import PAPER as COLD_PAPER
from r1jax.run import RunOptions, explained
from r1jax.train_sft import TuneRecipe

RATES = {  # Table 6: the highest learning rate of each student
    "qwen-1.5b": 1e-4, "qwen-7b": 8e-5, "qwen-14b": 7e-5, "qwen-32b": 6e-5, "llama-8b": 5e-5, "llama-70b": 2e-5,
}  # fmt: skip
PAPER = dataclasses.replace(COLD_PAPER, batch_rows=64)  # "the batch size is 64", context 32,768, 2-3 epochs
RECIPES = {
    name: dataclasses.replace(PAPER, learning_rate=rate, final_learning_rate=rate / 10)  # "cosine decay ... to one-tenth"
    for name, rate in RATES.items()
} | {"nano": dataclasses.replace(COLD_NANO, learning_rate=2e-3, final_learning_rate=2e-4, epochs=6.0)}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """Distillation."""

    numbers: Annotated[TuneRecipe, tyro.conf.arg(name="")]
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions(model="nano-small", template="r1", eval_prompts="nano:reasoning")
    records: str = ""
    """jsonl of stage 3: {id, problem, response, keep, ...}."""
    recipe: str = "nano"
    """Whose numbers are the defaults: nano, or a student of the paper."""


def train(recipe: TuneRecipe, options: RunOptions, records: str) -> Path:
    from r1jax import train_sft
    from r1jax.rejection import counts

    try:
        found = [json.loads(line) for line in Path(records).read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise ValueError(f"--records={records} cannot be read ({error}). Give the jsonl that stage 3 wrote") from error
    return train_sft.train(recipe, options, "distill", [r for r in found if r["keep"]], {"counts": counts(found)})


def main() -> None:
    chosen = next((a.partition("=")[2] for a in sys.argv[1:] if a.startswith("--recipe=")), "nano")
    try:
        if chosen not in RECIPES:
            raise ValueError(f"--recipe={chosen} is unknown: use {', '.join(RECIPES)}")
        default = Command(RECIPES[chosen], recipe=chosen)
        command = tyro.cli(Command, default=default, description=__doc__, config=(tyro.conf.FlagConversionOff,))
        train(command.numbers, command.options, command.records)
    except (ValueError, OSError) as error:
        sys.exit(explained(error))


if __name__ == "__main__":
    main()
