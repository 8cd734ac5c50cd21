"""Trains a student by fine-tuning on stage 3's records, by on-policy distillation, or by reinforcement learning.

Source:  DeepSeek-AI 2025, sections 2.4 and 4.1; v2 B.4.3 and B.4.1, Tables 6 and 16
Run:     python -m experiments.distill --records=RUN_OF_STAGE_3_data/rejection.jsonl
         ... --teacher=RUN_OF_STAGE_2                    also learns the teacher's likeliest tokens, stored in
                                                         <workdir>_teacher
         python -m experiments.distill --by=on_policy --weights=STUDENT --teacher=RUN_OF_STAGE_2
                                                         learns the teacher's probabilities of the student's own
                                                         samples; hyperparameters are --on-policy.steps and so on
         python -m experiments.distill --by=rl           trains the same student by R1-Zero's recipe, for comparison;
                                                         hyperparameters are --rl.steps and so on
         ... --recipe=qwen-7b --weights=DIR --mesh=8x1   takes the hyperparameters of one of the paper's students
Departs: 1. nano's student has 3/4 of the layers and 2/3 of the width of nano's base, and the same corpus
         2. RL on the student uses R1-Zero's recipe and template, as the paper does for Qwen2.5-32B-Zero. In
            experiments.r1 the RL prompts also ask for programs, because stage 3's records contain programs
         3. a batch is 64 packed rows, not 64 records
         4. --teacher is not in the paper
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from experiments.r1_1_cold_start import NANO as COLD_NANO
from experiments.r1_1_cold_start import PAPER as COLD_PAPER
from experiments.r1_zero import BRIEF
from experiments.r1_zero import NANO as ZERO_NANO
from experiments.r1_zero import PAPER as ZERO_PAPER
from experiments.stage import TuneCommand, plan_rl, plan_tuning
from r1jax import cli, distributed, train_rl, train_sft
from r1jax.recipes import RLRecipe, RunOptions, SFTRecipe, TunePlanOptions
from r1jax.rl.on_policy_distillation import check as check_taught
from r1jax.rl.on_policy_distillation import make_referee
from r1jax.runs.policies import load_policy, size_of
from r1jax.sft import documents
from r1jax.sft.teacher_logits import NOBODY, Teaching
from r1jax.sft_data import records
from r1jax.sharding import make_mesh

RATES = {  # v2, Table 6: "initial learning rate"
    "qwen-1.5b": 1e-4,
    "qwen-7b": 8e-5,
    "qwen-14b": 7e-5,
    "qwen-32b": 6e-5,
    "llama-8b": 5e-5,
    "llama-70b": 2e-5,
}
PAPER = dataclasses.replace(COLD_PAPER, batch_rows=64)  # "the batch size is 64", "2-3 epochs", context 32,768
NANO = dataclasses.replace(COLD_NANO, learning_rate=2e-3, final_learning_rate=2e-4, epochs=5.0)
# v2, B.4.1, Qwen2.5-32B-Zero: "the learning rate to 2e-6"; all else as R1-Zero
PAPER_RL = dataclasses.replace(ZERO_PAPER, learning_rate=2e-6, steps=10_000)  # "over 10K steps"
NANO_RL = dataclasses.replace(ZERO_NANO, **BRIEF, steps=40)
# the teacher's probabilities are the only signal
TAUGHT = dict(kl_coef=1.0, ref_every=0, accuracy_weight=0.0, format_weight=0.0)
PAPER_ON_POLICY, NANO_ON_POLICY = (dataclasses.replace(recipe, **TAUGHT) for recipe in (PAPER_RL, NANO_RL))
RECIPES = {"nano": NANO} | {
    name: dataclasses.replace(
        PAPER, learning_rate=rate, final_learning_rate=rate / 10
    )  # "cosine decay ... to one-tenth of its initial value"
    for name, rate in RATES.items()
}


OPTIONS = RunOptions(model="nano-small", template="r1", prompts="nano:reasoning", eval_prompts="nano:reasoning")


PLAN = TunePlanOptions(plan_records=800_000)  # "around 800k samples"


@dataclasses.dataclass(frozen=True)
class Command(TuneCommand):
    """Trains a student by distillation or reinforcement learning."""

    recipe: str = "nano"
    """Which defaults to use: nano, or those of one of the paper's students."""
    records: tuple[str, ...] = ()
    """jsonl files of records {id, problem, response, keep}, such as stage 3's."""
    shares: tuple[float, ...] = ()
    """Relative weight of each file of --records in training; default: in proportion to the files' numbers of
    records."""
    teaching: Annotated[Teaching, cli.FLAT] = NOBODY
    by: Literal["sft", "on_policy", "rl"] = "sft"
    """How to train. sft: learn from the records. on_policy: sample from the student, and learn the teacher's
    probabilities of these samples. rl: R1-Zero's reinforcement learning, with neither records nor teacher."""
    on_policy: RLRecipe = NANO_ON_POLICY
    """Hyperparameters of --by=on_policy, given as --on-policy.steps and so on."""
    rl: RLRecipe = NANO_RL
    """Hyperparameters of --by=rl, given as --rl.steps and so on; flags without a prefix are those of --by=sft."""


COMMANDS = {
    name: command if name == "nano" else dataclasses.replace(command, rl=PAPER_RL, on_policy=PAPER_ON_POLICY)
    for name, command in cli.commands_by_recipe(Command, RECIPES, options=OPTIONS, plan=PLAN).items()
}


def train(
    recipe: SFTRecipe, options: RunOptions, *files: str, shares: Sequence[float] = (), teaching: Teaching = NOBODY
) -> Path:
    """Fine-tunes the student on the records of the files. Returns the working directory.

    Args:
        files: jsonl files of records.
        shares: relative weight of each file. If empty, a file's weight is its number of records.
        teaching: a teacher whose token probabilities the student also learns; the default is none.

    Raises:
        ValueError: no file of records is given, a file cannot be read, or `shares` does not hold one number above 0 for
            each file.
    """
    if not files:
        raise ValueError(
            "--records=FILE is missing: name the .jsonl of records that stage 3 or experiments.generate wrote"
        )
    if shares and (len(shares) != len(files) or min(shares) <= 0):
        raise ValueError(
            f"--shares={' '.join(map(str, shares))} must be a number above 0 for each of "
            f"the {len(files)} files of --records"
        )
    found = [records.read(path) for path in files]
    parts = [
        documents.Part(records.select_kept(some), share)
        for some, share in zip(found, shares or [0.0] * len(found), strict=True)
    ]
    whole = [record for some in found for record in some]
    return train_sft.train(recipe, options, "distill", parts, records.make_manifest_entry(whole, *files), teaching)


def by_rl(recipe: RLRecipe, options: RunOptions) -> Path:
    """Trains the student's base by reinforcement learning, without a teacher. Returns the working directory."""
    return train_rl.train(recipe, options, "distill_rl")


def on_policy(recipe: RLRecipe, options: RunOptions, teacher: str) -> Path:
    """Trains the student to match a teacher's probabilities of the tokens that the student samples.

    Returns the working directory.

    Args:
        teacher: the directory of the teacher's run.
    Raises:
        ValueError: no teacher is given, the tokenizers of teacher and student differ, or the recipe has a setting that
            on-policy distillation cannot use.
    """
    if not teacher:
        raise ValueError(
            "--teacher=DIR is missing: name the directory of the run whose probabilities the student is to learn"
        )
    check_taught(recipe, "on-policy.")
    size = size_of(options)
    distributed.share_cpu(options.mesh, size)
    distributed.start(options.coordinator, options.processes, options.process_id)
    mesh = make_mesh(options.mesh, size=size)
    whose = dataclasses.replace(options, weights=teacher)
    policy, params, source = load_policy(whose, mesh, frozen=True, flag="--teacher")
    return train_rl.train(
        recipe,
        options,
        "distill_on_policy",
        rewarded={"sources": {"teacher": [source]}},
        make_referee=make_referee(policy, params, teacher, mesh),
    )


def check(command: Command) -> None:
    """Raises ValueError if a flag is given that the chosen --by does not use."""
    by, flag = command.by, command.by.replace("_", "-")
    if by == "sft":
        return
    for given, name in ((command.records, "--records"), (command.shares, "--shares")):
        if given:
            raise ValueError(f"{name} is for --by=sft: --by={by} learns from --prompts. Leave {name} out")
    if command.numbers != RECIPES[command.recipe]:
        raise ValueError(
            f"--by={by} has its hyperparameters under --{flag}, such as --{flag}.steps. "
            "Leave out the hyperparameters of --by=sft, such as --steps"
        )
    if by == "rl" and command.teaching != NOBODY:
        raise ValueError(
            "--teacher, --top and --teacher-share are for learning from a teacher, but --by=rl learns from rewards. "
            "Leave them out"
        )
    if dataclasses.replace(command.teaching, teacher="") != NOBODY:
        raise ValueError(
            "--top and --teacher-share are for --by=sft: --by=on_policy uses the teacher's full distribution. "
            "Leave them out"
        )


def plan(command: Command) -> str:
    """Returns the text that --dry-run prints."""
    check(command)
    title, teacher = f"Distillation by {command.by}", command.teaching.teacher
    if command.by == "sft":
        return plan_tuning(command, title, teacher)
    return plan_rl(command, command.rl if command.by == "rl" else command.on_policy, title, teacher=teacher)


def run(command: Command) -> Path:
    """Trains the student as --by says. Returns the working directory.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
    """
    check(command)
    if command.by == "on_policy":
        return on_policy(command.on_policy, command.options, command.teaching.teacher)
    if command.by == "rl":
        template = "r1_zero" if command.options.template == "r1" else command.options.template
        return by_rl(command.rl, dataclasses.replace(command.options, template=template))
    return train(command.numbers, command.options, *command.records, shares=command.shares, teaching=command.teaching)


def main() -> None:
    cli.main(COMMANDS, run, __doc__, plan)


if __name__ == "__main__":
    main()
