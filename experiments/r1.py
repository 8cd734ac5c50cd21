"""Runs the whole of DeepSeek-R1: R1-Zero, four stages, reward models, distillation, evaluation, and a report page.

Source:  DeepSeek-AI 2025, section 2.3; Nature 2025, Fig. 2 (lineage) and Methods
Run:     python -m experiments.r1                            (nano, on a laptop; about an hour on 2 cores)
         the same command again                              skips complete stages and continues the rest
         ... --zero.steps=20 --cold-data.questions=64        every hyperparameter of every stage is a flag
         ... --weights=BASE --student-weights=SMALLER_BASE   other bases, trained by experiments.nano_base
Lineage: 1. base -> R1-Zero
         2. base -> cold-start SFT (Dev1) -> reasoning RL (Dev2)
         3. base *again* -> rejection-sampled SFT (Dev3) -> RL for all scenarios (R1)
         4. student's base -> SFT on stage 3's records (student)
         5. student's base -> RL, to compare with the student
Departs: 1. all hyperparameters are nano's; each stage's file has the paper's beside them
         2. completions for the table of results are sampled at temperature 1 without top-p, with at most 320 tokens: at
            the paper's temperature 0.6 and top-p 0.95, nano's base seldom breaks the format
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import jax

from experiments import evaluate as evaluation
from experiments import r1_page as page
from experiments.r1_stages import BASES, NAMES, PLANNED, STAGES, Command, Stage, weights_of
from r1jax import cli, distributed, report
from r1jax.recipes import MAY_MOVE, CheckpointOptions
from r1jax.runs import checkpoint, manifests
from r1jax.runs.files import hash_files
from r1jax.runs.manifests import Manifest, settings_path
from r1jax.sft_data.collect import settings_of
from r1jax.weights import bundled, hub
from r1jax.weights.files import hash_weights

MAPPINGS = 16_000  # memory mappings above which compiled programs are dropped between stages
MAY_CHANGE = frozenset({"eval_every", "save_every", "log_samples"})  # settings a complete stage may differ in


def run(command: Command) -> None:
    """Runs every stage that is not complete, then evaluates the trained policies and writes report.html.

    Raises:
        ValueError: an existing stage was made from other inputs or hyperparameters than this command gives.
    """
    distributed.share_cpu(command.mesh)
    distributed.start()
    home = command.home
    minutes = page.read_minutes(home)
    if command.until and command.until not in [stage.folder for stage in STAGES]:
        raise ValueError(f"--until={command.until} is not a stage: use {', '.join(stage.folder for stage in STAGES)}")
    parts = ", ".join(f"{name} {planned:g}" for name, planned in PLANNED.items())
    print(f"{home}: about {sum(PLANNED.values()):.0f} minutes on 2 CPU cores: {parts}")
    for stage in STAGES:
        folder = home / stage.folder
        there = manifests.read(folder) if folder.exists() else None
        if there is not None:
            check(command, stage, there)
        if there is not None and there.status == "complete":
            print(f"{stage.folder}: complete, skipped")
        else:
            began, stopped = time.monotonic(), None
            try:
                options = dataclasses.replace(
                    stage.options,
                    workdir=str(folder),
                    mesh=command.mesh,
                    seed=command.seed,
                    weights=weights_of(command, stage),
                    resume=there is not None,
                )
                result = stage.train(getattr(command.numbers, stage.numbers), options, command)
            except SystemExit as said:  # its message says how to resume this stage alone
                stopped = said
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"{error}. Also move {folder} away, because a stage that has begun keeps its hyperparameters"
                ) from error
            finally:
                minutes[stage.folder] = minutes.get(stage.folder, 0.0) + (time.monotonic() - began) / 60
                note(command, minutes)
            draw(home)
            forget_programs()
            if stopped is not None:
                sys.exit(f"{stopped.code}; or run the same command again, which also continues with the later stages")
            if result is None:
                sys.exit(
                    f"{stage.folder} waits for you to review its records in {home / stage.records}; then run the same "
                    f"command without --{stage.collecting.replace('_', '-')}.review"
                )
        if stage.folder == command.until:
            break
    began = time.monotonic()
    measure(home, command)
    minutes["evaluation"] = minutes.get("evaluation", 0.0) + (time.monotonic() - began) / 60
    note(command, minutes)
    draw(home)


def note(command: Command, minutes: Mapping[str, float]) -> None:
    """Writes stages.json, in the first process only. `minutes` has the minutes that each stage took, by folder."""
    if distributed.is_main():
        page.write(command.home, command.seed, NAMES, command.tasks, minutes, PLANNED)


def draw(home: Path) -> None:
    """Writes report.html, the results of all stages, into `home`, in the first process only."""
    if distributed.is_main():
        print(f"the page is {report.write_stages(home)}")


def forget_programs() -> None:
    """Drops compiled programs if there are many.

    The programs of all stages together would exceed the 65,530 memory mappings that Linux allows a process.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists() or maps.read_text().count("\n") > MAPPINGS:
        jax.clear_caches()


def check(command: Command, stage: Stage, there: Manifest) -> None:
    """Raises ValueError if an existing stage was made from other inputs or hyperparameters than `command` gives.

    Args:
        there: the manifest of the existing stage.
    """
    folder, again = command.home / stage.folder, f"move {command.home / stage.folder} away to make it again"
    made_from = {stage.parent or "base": ([there.parent], hash_start(command, stage))} | {
        name: (manifests.sources(there), checkpoint.sha256(command.home / name)) for name in stage.reads
    }
    for name, (said, now) in made_from.items():
        if now not in [source["sha256"] for source in said]:
            found = ", ".join(f"{source['path']} ({source['sha256'][:12]})" for source in said) or "nothing"
            records = f"{(command.home / stage.records).parent} and " if stage.collecting else ""
            raise ValueError(
                f"{folder} was made from another {name}: its manifest names {found}, but {name} now has the sha256 "
                f"{now[:12]}. Restore the old {name}, or move {records}{folder} away to make "
                f"{'them' if records else 'it'} again"
            )
    if there.status != "complete":
        return  # a stage that resumes checks its settings itself
    path = command.home / stage.records
    read = [file["sha256"] for file in there.data.get("files", [])]
    if stage.records and path.exists() and hash_files(path)[0]["sha256"] not in read:
        raise ValueError(f"{folder} was trained on another version of {path}. Restore the old version, or {again}")
    if stage.collecting and (note := settings_path(path)).exists():
        asked = settings_of(getattr(command.numbers, stage.collecting))
        noticed = json.loads(note.read_text(encoding="utf-8"))
        if changed := manifests.differences({name: noticed.get(name) for name in asked}, asked):
            raise ValueError(
                f"{path} was collected with other settings: {'; '.join(changed)}. "
                f"Repeat the old values, or move {path.parent} and {folder} away to make both again"
            )
    numbers = dataclasses.asdict(command.numbers)
    defaults = manifests.defaults_of(getattr(command.numbers, stage.numbers))
    here = numbers[stage.numbers] | {"seed": command.seed}
    said = {name: there.recipe[name] for name in here if name in there.recipe}
    if (name := "preference_weight") in there.data:
        here, said = here | {name: numbers[name]}, said | {name: there.data[name]}
    if changed := manifests.differences(said, here, MAY_CHANGE, defaults):
        raise ValueError(
            f"{folder} was made with other hyperparameters: {'; '.join(changed)}. Repeat the old values, or {again}"
        )


def hash_start(command: Command, stage: Stage) -> str:
    """Returns the SHA-256 of the weights that a stage starts from."""
    weights = weights_of(command, stage)
    return checkpoint.sha256(weights) if stage.parent else hash_base(weights, stage.options.model)


def hash_base(weights: str, model: str) -> str:
    """Returns the SHA-256 of a base.

    Args:
        weights: the base's directory. If empty, the base is the one named `model` that ships with the package.
    """
    directory = Path(hub.locate(weights)) if weights else bundled.directory(model)
    return hash_weights(directory) if (directory / "config.json").exists() else checkpoint.sha256(directory)


def list_finished(home: Path) -> list[Stage]:
    """Returns the complete stages that have a policy to evaluate."""
    found = [(stage, manifests.read(home / stage.folder)) for stage in STAGES if stage.result]
    return [stage for stage, manifest in found if manifest is not None and manifest.status == "complete"]


def measure(home: Path, command: Command) -> None:
    """Evaluates the bases and every trained policy on the same held-out problems of every task.

    `experiments.evaluate` does the evaluation. Complete evaluations are not repeated.

    Raises:
        ValueError: an existing evaluation used another checkpoint, or other tasks, problems or settings.
    """
    weights_of_base = {"base": command.weights, "Student base": command.student_weights}
    policies = [(name, weights_of_base[name], model, "r1_zero") for name, model in BASES.items()]
    done = {stage.folder: stage.options.template for stage in list_finished(home)}
    policies += [(name, str(home / name), "nano", template) for name, template in done.items()]
    for name, weights, model, template in policies:
        folder = page.find_evaluation(home, name, "" if name in BASES else name)
        asked = evaluation.Command(
            command.numbers.evaluation,
            CheckpointOptions(
                workdir=str(folder),
                mesh=command.mesh,
                seed=command.seed,
                model=model,
                weights=weights,
                template=template,
            ),
            benchmarks=",".join(f"nano:{task}" for task in command.tasks),
            problems=command.problems,
        )
        there = manifests.read(folder) if folder.exists() else None
        if there is not None:
            of = there.parent["sha256"]
            now = checkpoint.sha256(weights) if name in done else hash_base(weights, model)
            if of != now:
                raise ValueError(
                    f"{folder} measured another {name}, with the sha256 {of[:12]}. Now {name} has the sha256 "
                    f"{now[:12]}. Restore the old {name}, or move {folder} away to measure the new one"
                )
        whole = there and there.status == "complete"
        if not whole or manifests.differences(there.recipe, evaluation.settings_of(asked), MAY_MOVE):
            evaluation.evaluate(asked)
            forget_programs()


def main() -> None:
    cli.main(Command, run, __doc__, resumes=True)


if __name__ == "__main__":
    main()
