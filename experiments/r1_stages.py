"""Defines the table `STAGES` of R1's stages on nano, and the flags of `experiments.r1`, which runs them in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro

from experiments import (
    distill,
    r1_1_cold_start,
    r1_2_reasoning_rl,
    r1_3_rejection_sft,
    r1_4_all_scenarios_rl,
    r1_zero,
)
from experiments import evaluate as evaluation
from experiments import train_reward_model as reward_stage
from r1jax import cli, storage, train_reward_model
from r1jax.recipes import RewardRecipe, RLRecipe, RunOptions, SamplingOptions, SFTRecipe

TASKS = ("chain", "compare", "countdown", "program", "general")
STUDENT = "nano-small"
COLD, REJECTION = f"1_cold_start_data/{r1_1_cold_start.RECORDS}", f"3_rejection_sft_data/{r1_3_rejection_sft.RECORDS}"
GENERAL = "3_rejection_sft_data/general.jsonl"  # the base's replies to general prompts, both right and wrong
SEEN = dict(eval_problems=256)  # held-out problems during training; the final table uses 512 per task
ZERO = dataclasses.replace(
    r1_zero.NANO, **r1_zero.BRIEF, steps=32, **SEEN
)  # experiments.r1_zero takes 64, which gain little more
REASONING = dataclasses.replace(r1_2_reasoning_rl.NANO, **SEEN)
SCENARIOS = dataclasses.replace(r1_4_all_scenarios_rl.NANO, **SEEN)
STUDENT_RL = dataclasses.replace(distill.NANO_RL, eval_every=20, **SEEN)
SAFETY = dataclasses.replace(reward_stage.NANO, epochs=1)  # one epoch suffices to learn whether a text does harm
EVALUATION = dataclasses.replace(evaluation.NANO, samples=1, temperature=1.0, top_p=1.0)


class Stage(NamedTuple):
    """One stage: a row of the table `STAGES`.

    The dataclass `Numbers` is built from the table. It holds the hyperparameters of all stages, as flags.

    Attributes:
        result: name of the trained policy on the report page; empty if the stage trains a reward model.
        folder: name of the stage's working directory below --workdir.
        parent: folder of the stage whose checkpoint this stage starts from; empty if this stage starts from a base.
        minutes: planned duration in minutes on 2 CPU cores.
        train: called with the hyperparameters, the options and the command; trains the stage and returns its working
            directory, or None if it stops so that people can review the records.
        numbers: the field of `Numbers` that holds the stage's hyperparameters; also the prefix of their flags.
        recipe: defaults of the hyperparameters.
        options: the stage's other settings, such as prompts, template and base.
        reads: folders of other stages whose checkpoints made this stage's data or give its rewards.
        records: the file of records that the stage is trained on; empty if there is none.
        collecting: the field of `Numbers` with the settings for collecting the records; empty if the stage collects
            none.
        collected: defaults of the settings for collecting.
    """

    result: str
    folder: str
    parent: str
    minutes: float
    train: Callable[[Any, RunOptions, Command], Path | None]
    numbers: str
    recipe: RLRecipe | SFTRecipe | RewardRecipe
    options: RunOptions
    reads: tuple[str, ...] = ()
    records: str = ""
    collecting: str = ""
    collected: Any = None


def alone(train: Callable[[Any, RunOptions], Path]) -> Callable[[Any, RunOptions, Command], Path]:
    """Returns a function that ignores its third argument, the command, and calls `train` with the first two."""
    return lambda recipe, options, command: train(recipe, options)


def cold_start(recipe: SFTRecipe, options: RunOptions, command: Command) -> Path | None:
    data = dataclasses.replace(command.numbers.cold_data, zero=str(command.home / "0_r1_zero"))
    return r1_1_cold_start.train(recipe, options, data)


def rejection(recipe: SFTRecipe, options: RunOptions, command: Command) -> Path | None:
    data = dataclasses.replace(command.numbers.rejection_data, reasoner=str(command.home / "2_reasoning_rl"))
    return r1_3_rejection_sft.train(recipe, options, data)


def reward_model(kind: str) -> Callable[[RewardRecipe, RunOptions, Command], Path]:
    def train(recipe: RewardRecipe, options: RunOptions, command: Command) -> Path:
        said = command.home / GENERAL  # missing if stage 3 had no general part
        return train_reward_model.train(recipe, options, kind, sampled=str(said) if said.exists() else "")

    return train


def all_scenarios(recipe: RLRecipe, options: RunOptions, command: Command) -> Path:
    helpful, safety = (str(command.home / folder) for folder in ("reward_helpful", "reward_safety"))
    return r1_4_all_scenarios_rl.train(recipe, options, helpful, safety, command.numbers.preference_weight)


def distil(recipe: SFTRecipe, options: RunOptions, command: Command) -> Path:
    return distill.train(recipe, options, str(command.home / REJECTION))


STAGES = (
    Stage("R1-Zero", "0_r1_zero", "", 8, alone(r1_zero.train), "zero", ZERO, r1_zero.STAGE.options),
    Stage(
        "Dev1",
        "1_cold_start",
        "",
        3,
        cold_start,
        "cold",
        r1_1_cold_start.NANO,
        r1_1_cold_start.OPTIONS,
        reads=("0_r1_zero",),
        records=COLD,
        collecting="cold_data",
        collected=r1_1_cold_start.COLLECTING,
    ),
    Stage(
        "Dev2",
        "2_reasoning_rl",
        "1_cold_start",
        9,
        alone(r1_2_reasoning_rl.train),
        "reasoning",
        REASONING,
        r1_2_reasoning_rl.OPTIONS,
    ),
    Stage(
        "Dev3",
        "3_rejection_sft",
        "",
        5,
        rejection,
        "rejection",
        r1_3_rejection_sft.NANO,
        r1_3_rejection_sft.OPTIONS,
        reads=("2_reasoning_rl",),
        records=REJECTION,
        collecting="rejection_data",
        collected=r1_3_rejection_sft.COLLECTING,
    ),
    Stage(
        "",
        "reward_helpful",
        "3_rejection_sft",
        5,
        reward_model("helpful"),
        "helpful",
        reward_stage.NANO,
        reward_stage.OPTIONS,
        records=GENERAL,
    ),
    Stage(
        "",
        "reward_safety",
        "3_rejection_sft",
        2,
        reward_model("safety"),
        "safety",
        SAFETY,
        reward_stage.OPTIONS,
        records=GENERAL,
    ),
    Stage(
        "R1",
        "4_all_scenarios_rl",
        "3_rejection_sft",
        7,
        all_scenarios,
        "scenarios",
        SCENARIOS,
        r1_4_all_scenarios_rl.OPTIONS,
        reads=("reward_helpful", "reward_safety"),
    ),
    Stage(
        "Student",
        f"distill_{STUDENT}",
        "",
        3,
        distil,
        "distilled",
        distill.NANO,
        dataclasses.replace(distill.OPTIONS, prompts="nano", eval_prompts="nano:all"),
        reads=("2_reasoning_rl",),
        records=REJECTION,
    ),
    # RL on every kind of problem that the distilled student has records of
    Stage(
        "Student RL",
        f"distill_{STUDENT}_rl",
        "",
        8,
        alone(distill.by_rl),
        "student_rl",
        STUDENT_RL,
        dataclasses.replace(distill.OPTIONS, template="r1_zero"),
    ),
)


def numbers_of(stages: Sequence[Stage]) -> list[tuple[str, type, Any]]:
    """Returns (name, type, default) of each field that the stages give to the dataclass `Numbers` (see `Stage`).

    Each stage has a field for its hyperparameters. A stage that collects records has another field for the
    settings of collecting.
    """
    found = []
    for stage in stages:
        if stage.collecting:
            found.append((stage.collecting, type(stage.collected), stage.collected))
        found.append((stage.numbers, type(stage.recipe), stage.recipe))
    return found


# The hyperparameters of every stage, as in its own file, except for a shorter R1-Zero, one epoch of the safety model
# and fewer evaluation problems during training.
PREFERENCE = Annotated[float, tyro.conf.arg(help="Weight of the two reward models' rewards in stage 4's total reward.")]
OTHERS = [("preference_weight", PREFERENCE, 1.0), ("evaluation", SamplingOptions, EVALUATION)]
Numbers = dataclasses.make_dataclass("Numbers", [*numbers_of(STAGES), *OTHERS], frozen=True)
NUMBERS = Numbers()


@dataclasses.dataclass(frozen=True)
class Command:
    """Runs the whole of DeepSeek-R1."""

    numbers: Annotated[Numbers, cli.FLAT] = NUMBERS
    workdir: str = "runs/r1"
    """Directory with one folder for each stage, and report.html, the report page."""
    weights: str = ""
    """The base: a run's directory, one of its checkpoints, or a Hugging Face directory. Empty: the package's nano."""
    student_weights: str = ""
    """The base of the smaller student, given like --weights. Empty: the package's nano-small."""
    seed: int = 0
    """Seed of all stages."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:2,fsdp:2,tensor:2,expert:1."""
    until: str = ""
    """Stop after this stage, such as 2_reasoning_rl; the report page then shows the finished stages."""
    tasks: tuple[str, ...] = TASKS
    """Tasks and mixes of nano on which the policies are evaluated."""
    problems: int = 512
    """Number of held-out problems of each task."""

    @property
    def home(self) -> Path:
        return storage.path_of(self.workdir, "--workdir")


PLANNED = {stage.folder: stage.minutes for stage in STAGES} | {"evaluation": 8}
BASES = {"base": "nano", "Student base": STUDENT}
NAMES = {  # name of each result -> its folder, in the order of the page; a base has no folder
    name: folder
    for base, model in BASES.items()
    for name, folder in [(base, ""), *((s.result, s.folder) for s in STAGES if s.result and s.options.model == model)]
}


def weights_of(command: Command, stage: Stage) -> str:
    """Returns the directory of the weights that a stage starts from; empty for a base of the package."""
    own = command.student_weights if stage.options.model == STUDENT else command.weights
    return str(command.home / stage.parent) if stage.parent else own
