"""Distillation: a student by fine-tuning on stage 3's records, or on its own words; or by reinforcement learning.

Source:  DeepSeek-AI 2025, sections 2.4 and 4.1; v2 B.4.3 and B.4.1, Tables 6 and 16
Run:     python -m experiments.distill --records=RUN_OF_STAGE_3_data/rejection.jsonl
         ... --teacher=RUN_OF_STAGE_2                    its likeliest tokens, too, kept in <workdir>_teacher
         ... --by=on_policy --weights=STUDENT --teacher=RUN_OF_STAGE_2   on what the student samples itself; its
                                                         numbers are --on-policy.steps and so on
         python -m experiments.distill --by=rl           R1-Zero's recipe on the same student, for the comparison;
                                                         its numbers are --rl.steps and so on
         ... --recipe=qwen-7b --weights=DIR --mesh=8x1   the numbers of a student of the paper
Departs: 1. nano's student is a base with three quarters of the layers and two thirds of the width, of the same corpus
         2. RL on the student is R1-Zero's, with its template, as the paper's Qwen2.5-32B-Zero; nano's student is asked
            programs, too, for stage 3's records have them
         3. a batch is 64 packed rows, not 64 records
         4. --teacher is not in the paper
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from experiments.r1_1_cold_start import NANO as COLD_NANO
from experiments.r1_1_cold_start import PAPER as COLD_PAPER
from experiments.r1_zero import NANO as ZERO_NANO
from experiments.r1_zero import PAPER as ZERO_PAPER
from r1jax.plan import dry_run
from r1jax.plan_supervised import TunePlanOptions, dry_tune
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions, explained
from r1jax.sft import TuneRecipe
from r1jax.teacher import NOBODY, Teaching

RATES = {  # v2, Table 6: "initial learning rate"
    "qwen-1.5b": 1e-4, "qwen-7b": 8e-5, "qwen-14b": 7e-5, "qwen-32b": 6e-5, "llama-8b": 5e-5, "llama-70b": 2e-5,
}  # fmt: skip
PAPER = dataclasses.replace(COLD_PAPER, batch_rows=64)  # "the batch size is 64", "2-3 epochs", context 32,768
NANO = dataclasses.replace(COLD_NANO, learning_rate=2e-3, final_learning_rate=2e-4, epochs=5.0)
# v2, B.4.1, Qwen2.5-32B-Zero: "the learning rate to 2e-6"; all else as R1-Zero
PAPER_RL = dataclasses.replace(ZERO_PAPER, learning_rate=2e-6, steps=10_000)  # "over 10K steps"
NANO_RL = dataclasses.replace(ZERO_NANO, steps=40)
TAUGHT = dict(kl_coef=1.0, ref_every=0, accuracy_weight=0.0, format_weight=0.0)  # the teacher's word is all that counts
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
class Command:
    """Distillation."""

    numbers: Annotated[TuneRecipe, tyro.conf.arg(name="")] = NANO
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = OPTIONS
    records: tuple[str, ...] = ()
    """jsonl files of records {id, problem, response, keep}, such as stage 3's."""
    shares: tuple[float, ...] = ()
    """How many records of each file are drawn, relative to each other; none: as many as it has."""
    teaching: Annotated[Teaching, tyro.conf.arg(name="")] = NOBODY
    by: Literal["sft", "on_policy", "rl"] = "sft"
    """The student learns from the records, from a teacher's probabilities of what it samples itself, or by R1-Zero's
    reinforcement learning without either."""
    on_policy: RLRecipe = NANO_ON_POLICY
    """The numbers of --by=on_policy, as --on-policy.steps."""
    rl: RLRecipe = NANO_RL
    """The numbers of --by=rl, as --rl.steps; the flags without a prefix are those of --by=sft."""
    plan: Annotated[TunePlanOptions, tyro.conf.arg(name="")] = PLAN
    recipe: str = "nano"
    """Whose numbers are the defaults: nano, or a student of the paper."""


def of_recipe(numbers: TuneRecipe, recipe: str) -> Command:
    """The defaults of a recipe: nano's, or of the paper's students."""
    nano = recipe == "nano"
    return Command(
        numbers, rl=NANO_RL if nano else PAPER_RL, on_policy=NANO_ON_POLICY if nano else PAPER_ON_POLICY, recipe=recipe
    )


def train(
    recipe: TuneRecipe, options: RunOptions, *files: str, shares: Sequence[float] = (), teaching: Teaching = NOBODY
) -> Path:
    """The distilled student.

    Raises:
        ValueError: no file of records, one that cannot be read, or as many shares as there are not files.
    """
    from r1jax import records, sft, train_sft

    if not files:
        raise ValueError("--records=FILE is missing: the jsonl of records that stage 3 or experiments.generate wrote")
    if shares and (len(shares) != len(files) or min(shares) <= 0):
        raise ValueError(
            f"--shares={' '.join(map(str, shares))} must be a number above 0 for each of "
            f"the {len(files)} files of --records"
        )
    found = [records.read(path) for path in files]
    parts = [
        sft.Part(records.kept(some), share) for some, share in zip(found, shares or [0.0] * len(found), strict=True)
    ]
    whole = [record for some in found for record in some]
    return train_sft.train(recipe, options, "distill", parts, records.described(whole, *files), teaching)


def by_rl(recipe: RLRecipe, options: RunOptions) -> Path:
    """The same student by reinforcement learning from its base."""
    from r1jax import train_rl

    return train_rl.train(recipe, options, "distill_rl")


def on_policy(recipe: RLRecipe, options: RunOptions, teacher: str) -> Path:
    """The student taught on what it samples.

    Raises:
        ValueError: no teacher, one of other tokens, or a recipe in which it teaches nothing.
    """
    from r1jax import launch, on_policy, train_rl
    from r1jax.checkpoint import behind
    from r1jax.run import load_policy
    from r1jax.sharding import make_mesh

    if not teacher:
        raise ValueError("--teacher=DIR is missing: the run whose probabilities the student learns")
    on_policy.check(recipe, "on-policy.")
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    mesh = make_mesh(options.mesh)
    with behind("--teacher"):
        whose = dataclasses.replace(options, weights=teacher, model="nano")  # of any shape
        policy, params, source = load_policy(whose, mesh, frozen=True)
    return train_rl.train(
        recipe, options, "distill_on_policy", rewarded={"sources": {"teacher": [source]}},
        make_referee=on_policy.referee(policy, params, teacher, mesh),
    )  # fmt: skip


def check(command: Command) -> None:
    """Raises ValueError for flags that `by` does not read."""
    by, flag = command.by, command.by.replace("_", "-")
    if by == "sft":
        return
    for given, name in ((command.records, "--records"), (command.shares, "--shares")):
        if given:
            raise ValueError(f"{name} is for --by=sft: --by={by} reads prompts alone. Leave it out")
    if command.numbers != RECIPES[command.recipe]:
        raise ValueError(
            f"--by={by} has its numbers under --{flag}, such as --{flag}.steps: leave those of --by=sft out"
        )
    if by == "rl" and command.teaching != NOBODY:
        raise ValueError("--teacher is for --by=sft and --by=on_policy: --by=rl learns from rewards. Leave it out")
    if dataclasses.replace(command.teaching, teacher="") != NOBODY:
        raise ValueError(
            "--top and --teacher-share are for --by=sft: on-policy the teacher's word is whole. "
            "Leave them out"
        )


def main() -> None:
    from r1jax.command import by_recipe

    try:
        command = by_recipe(of_recipe, RECIPES, __doc__, sys.argv[1:])
        check(command)
        if command.plan.dry_run:
            o, heading = command.options, f"Distillation by {command.by}, recipe {command.recipe}"
            teacher = command.teaching.teacher
            if command.by == "sft":
                print(dry_tune(o.model, o.weights, command.numbers, o.mesh, command.plan, heading, teacher))
            else:
                numbers = command.rl if command.by == "rl" else command.on_policy
                print(dry_run(o.model, o.weights, numbers, o.mesh, command.plan, heading, teacher=teacher))
            return
        if command.by == "on_policy":
            on_policy(command.on_policy, command.options, command.teaching.teacher)
        elif command.by == "rl":
            template = "r1_zero" if command.options.template == "r1" else command.options.template
            by_rl(command.rl, dataclasses.replace(command.options, template=template))
        else:
            train(command.numbers, command.options, *command.records, shares=command.shares, teaching=command.teaching)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))


if __name__ == "__main__":
    main()
