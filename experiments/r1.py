"""DeepSeek-R1, whole: R1-Zero, the four stages, reward models, distillation, evaluation, one page.

Source:  DeepSeek-AI 2025, section 2.3; Nature 2025, Fig. 2 (lineage) and Methods
Run:     python -m experiments.r1                            (nano, on a laptop; about an hour on 2 cores)
         the same again                                      what is complete is skipped, what is not goes on
         ... --zero.steps=20 --cold-data.questions=64        every number of every stage is a flag
         ... --weights=BASE --student-weights=SMALLER_BASE   other bases of nano's corpus, by experiments.nano_base
Lineage: base -> R1-Zero; base -> cold-start SFT = Dev1 -> reasoning RL = Dev2; base *again* -> rejection-sampled SFT =
         Dev3 -> RL for all scenarios = R1; student's base -> SFT on stage 3's records = student, and RL to compare
Departs: 1. every number of the nano recipes; each stage's file has the paper's beside it
         2. the table is sampled at temperature 1 without top-p, at most 320 tokens: at the paper's 0.6 and 0.95 nano's
            base seldom breaks its form
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import tyro

from experiments import evaluate as evaluation
from experiments import r1_page as page
from experiments.r1_stages import BASES, NAMES, PLANNED, STAGES, Command, Stage, weights_of
from r1jax.lineage import Manifest
from r1jax.run import RunOptions, explained

MAPPINGS = 16_000  # of a process, past which compiled programs are dropped between stages
MAY_CHANGE = frozenset({"eval_every", "save_every", "log_samples"})  # of the numbers of a stage that is complete


def main(command: Command) -> None:
    """Every stage that is not complete, the evaluation, the page.

    Raises:
        ValueError: a stage is there that was made from something else than what is there now, or with other numbers.
    """
    from r1jax import launch, lineage

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
                note(command, minutes)
            draw(home)
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
    note(command, minutes)
    draw(home)


def note(command: Command, minutes: Mapping[str, float]) -> None:
    """stages.json, by the first process."""
    from r1jax import launch

    if launch.is_main():
        page.write(command.home, command.seed, NAMES, command.tasks, minutes, PLANNED)


def draw(home: Path) -> None:
    """The page, by the first process."""
    from r1jax import launch, report

    if launch.is_main():
        print(f"the page is {report.write_stages(home)}")


def forget_programs() -> None:
    """Drops what was compiled, if it is much: all stages together would pass the 65,530 mappings that Linux allows a
    process."""
    import jax

    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_text().count("\n") > MAPPINGS:
        jax.clear_caches()


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
            records = f"{(command.home / stage.records).parent} and " if stage.collecting else ""
            raise ValueError(
                f"{folder} was made from another {name}: from {found}; the one there now is {now[:12]}. "
                f"Restore that, or move {records}{folder} away to make {'them' if records else 'it'} again"
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
    numbers = dataclasses.asdict(command.numbers)
    here = numbers[stage.numbers] | {"seed": command.seed}
    said = {name: there.recipe.get(name) for name in here}
    if (name := "preference_weight") in there.data:
        here, said = here | {name: numbers[name]}, said | {name: there.data[name]}
    if changed := lineage.differences(said, here, MAY_CHANGE):
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
        whole = there and there.status == "complete"
        if not whole or lineage.differences(there.recipe, dataclasses.asdict(asked), evaluation.MAY_CHANGE):
            evaluation.evaluate(asked)
            forget_programs()


if __name__ == "__main__":
    try:
        main(tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,)))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")
