"""DeepSeek-R1, whole: R1-Zero, the four stages, reward models, distillation, evaluation, one page.

Source:  DeepSeek-AI 2025, section 2.3; Nature 2025, Fig. 2 (lineage) and Methods
Run:     python -m experiments.r1                            (nano, on a laptop; about an hour on 2 cores)
         the same again                                      what is complete is skipped, what is not goes on
         ... --zero.steps=20 --cold-data.questions=64        every number of every stage is a flag
         ... --weights=BASE --student-weights=SMALLER_BASE   other bases of nano's corpus, by experiments.nano_base
Lineage: base -> R1-Zero; base -> cold-start SFT = Dev1 -> reasoning RL = Dev2; base *again* -> rejection-sampled SFT =
         Dev3 -> RL for all scenarios = R1; student's base -> SFT on stage 3's records = student, and RL to compare
Departs: 1. every number of the nano recipes; each stage's file has the paper's beside it
         2. the table is sampled at temperature 1, uncut: at the paper's 0.6 and 0.95 nano's base seldom breaks its form
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from experiments import distill, r1_1_cold_start, r1_2_reasoning_rl, r1_3_rejection_sft, r1_4_all_scenarios_rl, r1_zero
from experiments import evaluate as evaluation
from experiments import r1_page as page
from experiments import train_reward_model as rewards
from r1jax.lineage import Manifest
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions, explained
from r1jax.sft import TuneRecipe
from r1jax.train_reward_model import RewardRecipe
from r1jax.waves import Sampling

TASKS = ("chain", "compare", "countdown", "program", "general")
STUDENT = "nano-small"
COLD, REJECTION = f"1_cold_start_data/{r1_1_cold_start.RECORDS}", f"3_rejection_sft_data/{r1_3_rejection_sft.RECORDS}"
GENERAL = "3_rejection_sft_data/general.jsonl"  # the base's replies to general prompts, right and wrong
ZERO = dataclasses.replace(r1_zero.NANO, steps=48)  # alone it goes on to 64, and gains little by it
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
    """The numbers of every stage, as its own file has them."""

    zero: RLRecipe = ZERO
    cold_data: r1_1_cold_start.Collecting = r1_1_cold_start.COLLECTING
    cold: TuneRecipe = r1_1_cold_start.NANO
    reasoning: RLRecipe = r1_2_reasoning_rl.NANO
    rejection_data: r1_3_rejection_sft.Collecting = r1_3_rejection_sft.COLLECTING
    rejection: TuneRecipe = r1_3_rejection_sft.NANO
    rewards: RewardRecipe = rewards.NANO
    scenarios: RLRecipe = r1_4_all_scenarios_rl.NANO
    distilled: TuneRecipe = distill.NANO
    student_rl: RLRecipe = distill.NANO_RL
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
        return rewards.train(command.numbers.rewards, options, kind, sampled=str(said) if said.exists() else "")

    return run


def all_scenarios(command: Command, options: RunOptions) -> Path:
    asked = dataclasses.replace(
        options, prompts="nano:reasoning", late_prompts="nano:scenarios", eval_prompts="nano:all"
    )
    helpful, safety = (str(command.home / folder) for folder in ("reward_helpful", "reward_safety"))
    return r1_4_all_scenarios_rl.train(command.numbers.scenarios, asked, helpful, safety)


def distil(command: Command, options: RunOptions) -> Path:
    asked = dataclasses.replace(options, eval_prompts="nano:all")
    return distill.train(command.numbers.distilled, asked, str(command.home / REJECTION))


def student_rl(command: Command, options: RunOptions) -> Path:
    return distill.by_rl(command.numbers.student_rl, options)


STAGES = (
    Stage("R1-Zero", "0_r1_zero", "", 9, zero, "zero", "r1_zero"),
    Stage(
        "Dev1", "1_cold_start", "", 2, cold_start, "cold", reads=("0_r1_zero",), records=COLD, collecting="cold_data"
    ),
    Stage("Dev2", "2_reasoning_rl", "1_cold_start", 10, reasoning_rl, "reasoning"),
    Stage(
        "Dev3", "3_rejection_sft", "", 3, rejection, "rejection", reads=("2_reasoning_rl",), records=REJECTION,
        collecting="rejection_data",
    ),
    Stage("", "reward_helpful", "3_rejection_sft", 4, reward_model("helpful"), "rewards", records=GENERAL),
    Stage("", "reward_safety", "3_rejection_sft", 3, reward_model("safety"), "rewards", records=GENERAL),
    Stage(
        "R1", "4_all_scenarios_rl", "3_rejection_sft", 6, all_scenarios, "scenarios",
        reads=("reward_helpful", "reward_safety"),
    ),
    Stage(
        "Student", f"distill_{STUDENT}", "", 2, distil, "distilled", reads=("2_reasoning_rl",), records=REJECTION,
        model=STUDENT,
    ),
    Stage("Student RL", f"distill_{STUDENT}_rl", "", 6, student_rl, "student_rl", "r1_zero", model=STUDENT),
)  # fmt: skip
PLANNED = {stage.folder: stage.minutes for stage in STAGES} | {"evaluation": 6}
BASES = {"base": "nano", "Student base": STUDENT}
NAMES = {  # of the results, in the order of the page, and their folders; a base has none
    name: folder
    for base, model in BASES.items()
    for name, folder in [(base, ""), *((s.result, s.folder) for s in STAGES if s.result and s.model == model)]
}
MAY_CHANGE = frozenset({"eval_every", "save_every", "log_samples"})  # of the numbers of a stage that is complete


def main(command: Command) -> None:
    """Every stage that is not complete, the evaluation, the page.

    Raises:
        ValueError: a stage is there that was made from something else than what is there now, or with other numbers.
    """
    from r1jax import launch, lineage, report

    launch.share_cpu(command.mesh)
    launch.start()
    home = command.home
    minutes = page.read_minutes(home)
    if command.until and command.until not in [stage.folder for stage in STAGES]:
        raise ValueError(f"--until={command.until} is no stage: use {', '.join(stage.folder for stage in STAGES)}")
    parts = ", ".join(f"{name} {planned:g}" for name, planned in PLANNED.items())
    print(f"{home}: about {sum(PLANNED.values()):.0f} minutes on 2 CPU cores: {parts}")
    for stage in STAGES:
        folder = home / stage.folder
        there = lineage.read(folder) if folder.exists() else None
        if there is not None:
            check(command, stage, there)
        if there is not None and there.status == "complete":
            print(f"{stage.folder}: complete, skipped")
        else:
            began, stopped = time.monotonic(), None
            try:
                result = stage.run(command, RunOptions(
                    workdir=str(folder), mesh=command.mesh, seed=command.seed, weights=weights_of(command, stage),
                    model=stage.model, template=stage.template, resume=there is not None,
                ))  # fmt: skip
            except SystemExit as said:  # it says how this stage goes on alone
                stopped = said
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"{error}, and move {folder} away: what has begun keeps its numbers"
                ) from error
            finally:
                minutes[stage.folder] = minutes.get(stage.folder, 0.0) + (time.monotonic() - began) / 60
                page.write(home, command.seed, NAMES, command.tasks, minutes, PLANNED)
            report.write_stages(home)
            forget_programs()
            if stopped is not None:
                sys.exit(f"{stopped.code}; or give the same command again, which goes on with what follows, too")
            if result is None:
                sys.exit(
                    f"{stage.folder} waits for you to review its records; then give the same command without review"
                )
        if stage.folder == command.until:
            break
    began = time.monotonic()
    measure(home, command)
    minutes["evaluation"] = minutes.get("evaluation", 0.0) + (time.monotonic() - began) / 60
    page.write(home, command.seed, NAMES, command.tasks, minutes, PLANNED)
    print(f"the page is {report.write_stages(home)}")


def forget_programs() -> None:
    """Drops what was compiled: all stages together would pass the 65,530 mappings that Linux allows a process."""
    import jax

    jax.clear_caches()


def weights_of(command: Command, stage: Stage) -> str:
    """What a stage begins with; empty for a base of the package."""
    own = command.student_weights if stage.model == STUDENT else command.weights
    return str(command.home / stage.parent) if stage.parent else own


def check(command: Command, stage: Stage, there: Manifest) -> None:
    """Raises ValueError where a stage was not made from what is there now, or with other numbers."""
    from r1jax import checkpoint, lineage
    from r1jax.collecting import settings_of
    from r1jax.waves import noted

    folder, again = command.home / stage.folder, f"move {command.home / stage.folder} away to make it again"
    made_from = {stage.parent or "base": ([there.parent], begins_with(command, stage))} | {
        name: (lineage.sources(there), checkpoint.sha256(command.home / name)) for name in stage.reads
    }
    for name, (said, now) in made_from.items():
        if now not in [source["sha256"] for source in said]:
            found = ", ".join(f"{source['path']} ({source['sha256'][:12]})" for source in said) or "nothing"
            raise ValueError(
                f"{folder} was made from another {name}: from {found}; the one there now is {now[:12]}. "
                f"Restore that, or {again}"
            )
    if there.status != "complete":
        return  # a stage that goes on knows by itself what may change
    path = command.home / stage.records
    read = [file["sha256"] for file in there.data.get("files", [])]
    if stage.records and path.exists() and lineage.files(path)[0]["sha256"] not in read:
        raise ValueError(f"{folder} was trained on another {path} than the one there now. Restore that, or {again}")
    if stage.collecting and (note := noted(path)).exists():
        asked = settings_of(getattr(command.numbers, stage.collecting))
        noticed = json.loads(note.read_text(encoding="utf-8"))
        if changed := lineage.differences({name: noticed.get(name) for name in asked}, asked):
            raise ValueError(
                f"{path} was collected with other numbers: {'; '.join(changed)}. Give those, or move {path.parent} "
                f"and {folder} away to make them again"
            )
    here = dataclasses.asdict(getattr(command.numbers, stage.numbers)) | {"seed": command.seed}
    if changed := lineage.differences({name: there.recipe.get(name) for name in here}, here, MAY_CHANGE):
        raise ValueError(f"{folder} was made with other numbers: {'; '.join(changed)}. Give those, or {again}")


def begins_with(command: Command, stage: Stage) -> str:
    """sha256 of the parameters that a stage begins with."""
    from r1jax import checkpoint

    weights = weights_of(command, stage)
    if stage.parent:
        return checkpoint.sha256(weights)
    frozen = getattr(getattr(command.numbers, stage.numbers), "lora_rank", 0) > 0  # as the stage holds them
    return hash_of(command, weights, stage.model, frozen=frozen)


def hash_of(command: Command, weights: str, model: str, *, frozen: bool) -> str:
    """sha256 of a base's parameters, as `load_policy` holds them."""
    from r1jax.run import load_policy
    from r1jax.sharding import make_mesh

    return load_policy(RunOptions(weights=weights, model=model), make_mesh(command.mesh), frozen=frozen)[2]["sha256"]


def made(home: Path) -> list[Stage]:
    """The stages that are complete and have a result to measure."""
    from r1jax import lineage

    found = [(stage, lineage.read(home / stage.folder)) for stage in STAGES if stage.result]
    return [stage for stage, manifest in found if manifest is not None and manifest.status == "complete"]


def measure(home: Path, command: Command) -> None:
    """Every result on the same held-out problems of every task, as `experiments.evaluate` measures.

    Raises:
        ValueError: there are figures of another checkpoint, or of other tasks, problems or numbers.
    """
    from r1jax import checkpoint, lineage

    weights_of_base = {"base": command.weights, "Student base": command.student_weights}
    policies = [(name, weights_of_base[name], model, "r1_zero") for name, model in BASES.items()]
    done = {stage.folder: stage.template for stage in made(home)}
    policies += [(name, str(home / name), "nano", template) for name, template in done.items()]
    for name, weights, model, template in policies:
        folder = page.evaluated(home, name, "" if name in BASES else name)
        asked = dataclasses.replace(
            evaluation.Command(command.numbers.evaluation),
            benchmarks=",".join(f"nano:{task}" for task in command.tasks), problems=command.problems,
            weights=weights, model=model, template=template, seed=command.seed, mesh=command.mesh, workdir=str(folder),
        )  # fmt: skip
        there = lineage.read(folder) if folder.exists() else None
        if there is not None:
            of = there.parent["sha256"]
            now = checkpoint.sha256(weights) if name in done else hash_of(command, weights, model, frozen=True)
            if of != now:
                raise ValueError(
                    f"{folder} measured another {name} ({of[:12]}; the one there now is {now[:12]}): "
                    f"move {folder} away to measure it again"
                )
        known = evaluation.MAY_CHANGE | {"weights"}  # compared by their hash, so that all of it can be moved
        whole = there and there.status == "complete"
        if not whole or lineage.differences(there.recipe, dataclasses.asdict(asked), known):
            evaluation.evaluate(asked)
            forget_programs()


if __name__ == "__main__":
    try:
        main(tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,)))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
