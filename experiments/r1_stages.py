"""The stages of DeepSeek-R1 on the nano world, as `experiments.r1` runs them, and the command's flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from experiments import distill, r1_1_cold_start, r1_2_reasoning_rl, r1_3_rejection_sft, r1_4_all_scenarios_rl, r1_zero
from experiments import evaluate as evaluation
from experiments import train_reward_model as rewards
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions
from r1jax.sft import TuneRecipe
from r1jax.train_reward_model import RewardRecipe
from r1jax.waves import Sampling

TASKS = ("chain", "compare", "countdown", "program", "general")
STUDENT = "nano-small"
COLD, REJECTION = f"1_cold_start_data/{r1_1_cold_start.RECORDS}", f"3_rejection_sft_data/{r1_3_rejection_sft.RECORDS}"
GENERAL = "3_rejection_sft_data/general.jsonl"  # the base's replies to general prompts, right and wrong
SEEN = dict(eval_problems=256)  # while a stage is trained; the table has 512 of each task
ZERO = dataclasses.replace(r1_zero.NANO, steps=32, **SEEN)  # alone it goes on to 64, and gains little
REASONING = dataclasses.replace(r1_2_reasoning_rl.NANO, **SEEN)
SCENARIOS = dataclasses.replace(r1_4_all_scenarios_rl.NANO, **SEEN)
STUDENT_RL = dataclasses.replace(distill.NANO_RL, eval_every=20, **SEEN)
SAFETY = dataclasses.replace(rewards.NANO, epochs=1)  # whether a text does harm is soon learnt
EVALUATION = dataclasses.replace(evaluation.NANO, samples=1, temperature=1.0, top_p=1.0)


class Stage(NamedTuple):
    """One stage.

    Attributes:
        result: what the page calls it; empty where it is a reward model.
        folder: where it lies.
        parent: its parent's folder; empty for a base.
        minutes: planned, on 2 CPU cores.
        run: trains it, given the command and its options; None where it waits for people to review its records.
        numbers: the field of `Numbers` that it is trained with.
        template: of its prompts.
        reads: folders of other stages whose checkpoints made its data or give its rewards.
        records: the file that it is trained on, where a stage wrote one.
        collecting: the field of `Numbers` that this file was collected with, where it is the stage's own.
        model: the base that ships with the package, where it begins with one.
    """

    result: str
    folder: str
    parent: str
    minutes: float
    run: Callable[[Command, RunOptions], Path | None]
    numbers: str
    template: str = "r1"
    reads: tuple[str, ...] = ()
    records: str = ""
    collecting: str = ""
    model: str = "nano"


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The numbers of every stage: as its own file has them, but for a shorter R1-Zero, one epoch of the safety model
    and smaller evaluations on the way."""

    zero: RLRecipe = ZERO
    cold_data: r1_1_cold_start.Collecting = r1_1_cold_start.COLLECTING
    cold: TuneRecipe = r1_1_cold_start.NANO
    reasoning: RLRecipe = REASONING
    rejection_data: r1_3_rejection_sft.Collecting = r1_3_rejection_sft.COLLECTING
    rejection: TuneRecipe = r1_3_rejection_sft.NANO
    helpful: RewardRecipe = rewards.NANO
    safety: RewardRecipe = SAFETY
    scenarios: RLRecipe = SCENARIOS
    preference_weight: float = 1.0
    """Of the reward models in stage 4: see r1_4_all_scenarios_rl."""
    distilled: TuneRecipe = distill.NANO
    student_rl: RLRecipe = STUDENT_RL
    evaluation: Sampling = EVALUATION


@dataclasses.dataclass(frozen=True)
class Command:
    """DeepSeek-R1, whole."""

    numbers: Annotated[Numbers, tyro.conf.arg(name="")] = Numbers()
    workdir: str = "runs/r1"
    """Every stage has a folder here; the page is report.html."""
    weights: str = ""
    """Another base than the package's: a run's directory, one of its checkpoints, or a Hugging Face directory."""
    student_weights: str = ""
    """Another base of the student."""
    seed: int = 0
    """Of all stages."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:2,fsdp:2,tensor:2,expert:1."""
    until: str = ""
    """Stop after this folder, such as 2_reasoning_rl; the page then shows what there is."""
    tasks: tuple[str, ...] = TASKS
    """Tasks and mixes of nano that the table has rows of."""
    problems: int = 512
    """Held-out problems of each cell of the table."""

    @property
    def home(self) -> Path:
        return Path(self.workdir)


def zero(command: Command, options: RunOptions) -> Path:
    return r1_zero.train(command.numbers.zero, options)


def cold_start(command: Command, options: RunOptions) -> Path | None:
    asked = dataclasses.replace(options, prompts="nano:reasoning", eval_prompts="nano:reasoning")
    data = dataclasses.replace(command.numbers.cold_data, zero=str(command.home / "0_r1_zero"))
    return r1_1_cold_start.train(command.numbers.cold, asked, data)


def reasoning_rl(command: Command, options: RunOptions) -> Path:
    asked = dataclasses.replace(options, prompts="nano:reasoning", eval_prompts="nano:reasoning")
    return r1_2_reasoning_rl.train(command.numbers.reasoning, asked)


def rejection(command: Command, options: RunOptions) -> Path | None:
    asked = dataclasses.replace(options, prompts="nano:reasoning", eval_prompts="nano:all")
    data = dataclasses.replace(command.numbers.rejection_data, reasoner=str(command.home / "2_reasoning_rl"))
    return r1_3_rejection_sft.train(command.numbers.rejection, asked, data)


def reward_model(kind: str) -> Callable[[Command, RunOptions], Path]:
    def run(command: Command, options: RunOptions) -> Path:
        said = command.home / GENERAL  # not there where stage 3 has no general part
        return rewards.train(getattr(command.numbers, kind), options, kind, sampled=str(said) if said.exists() else "")

    return run


def all_scenarios(command: Command, options: RunOptions) -> Path:
    asked = dataclasses.replace(
        options, prompts="nano:reasoning", late_prompts="nano:scenarios", eval_prompts="nano:all"
    )
    helpful, safety = (str(command.home / folder) for folder in ("reward_helpful", "reward_safety"))
    weight = command.numbers.preference_weight
    return r1_4_all_scenarios_rl.train(command.numbers.scenarios, asked, helpful, safety, weight)


def distil(command: Command, options: RunOptions) -> Path:
    asked = dataclasses.replace(options, eval_prompts="nano:all")
    return distill.train(command.numbers.distilled, asked, str(command.home / REJECTION))


def student_rl(command: Command, options: RunOptions) -> Path:
    """By rewards on every kind of problem that the distilled student has records of."""
    asked = dataclasses.replace(options, prompts="nano:reasoning", eval_prompts="nano:reasoning")
    return distill.by_rl(command.numbers.student_rl, asked)


STAGES = (
    Stage("R1-Zero", "0_r1_zero", "", 8, zero, "zero", "r1_zero"),
    Stage(
        "Dev1", "1_cold_start", "", 3, cold_start, "cold", reads=("0_r1_zero",), records=COLD, collecting="cold_data"
    ),
    Stage("Dev2", "2_reasoning_rl", "1_cold_start", 9, reasoning_rl, "reasoning"),
    Stage(
        "Dev3", "3_rejection_sft", "", 5, rejection, "rejection", reads=("2_reasoning_rl",), records=REJECTION,
        collecting="rejection_data",
    ),
    Stage("", "reward_helpful", "3_rejection_sft", 5, reward_model("helpful"), "helpful", records=GENERAL),
    Stage("", "reward_safety", "3_rejection_sft", 2, reward_model("safety"), "safety", records=GENERAL),
    Stage(
        "R1", "4_all_scenarios_rl", "3_rejection_sft", 7, all_scenarios, "scenarios",
        reads=("reward_helpful", "reward_safety"),
    ),
    Stage(
        "Student", f"distill_{STUDENT}", "", 3, distil, "distilled", reads=("2_reasoning_rl",), records=REJECTION,
        model=STUDENT,
    ),
    Stage("Student RL", f"distill_{STUDENT}_rl", "", 8, student_rl, "student_rl", "r1_zero", model=STUDENT),
)  # fmt: skip
PLANNED = {stage.folder: stage.minutes for stage in STAGES} | {"evaluation": 8}
BASES = {"base": "nano", "Student base": STUDENT}
NAMES = {  # of the results, in the order of the page, and their folders; a base has none
    name: folder
    for base, model in BASES.items()
    for name, folder in [(base, ""), *((s.result, s.folder) for s in STAGES if s.result and s.model == model)]
}


def weights_of(command: Command, stage: Stage) -> str:
    """What a stage begins with; empty for a base of the package."""
    own = command.student_weights if stage.model == STUDENT else command.weights
    return str(command.home / stage.parent) if stage.parent else own
