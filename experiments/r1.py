"""DeepSeek-R1, whole: R1-Zero, the four stages, reward models, distillation, evaluation, one page.

Source:  DeepSeek-AI 2025, section 2.3; Nature 2025, Fig. 2 (lineage) and Methods
Run:     python -m experiments.r1                            (nano, on a laptop; about an hour on 2 cores)
         the same again                                      what is complete is skipped, what is not goes on
Lineage: base -> R1-Zero; base -> cold-start SFT = Dev1 -> reasoning RL = Dev2; base *again* -> rejection-sampled SFT = Dev3
         -> RL for all scenarios = R1; student's base -> SFT on stage 3's records = student, and RL for the comparison
Departs: every number of the nano recipes; each stage's file has the paper's beside it
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import tyro

from r1jax.run import RunOptions, explained

PAPER = {  # Nature 2025, Table 2, for the page
    "AIME24 pass@1": {"R1-Zero": 77.9, "Dev1": 59.0, "Dev2": 74.0, "Dev3": 78.1, "R1": 79.8},
    "MATH-500 pass@1": {"R1-Zero": 95.9, "Dev1": 94.2, "Dev2": 95.9, "Dev3": 95.4, "R1": 97.3},
    "LiveCodeBench pass@1": {"R1-Zero": 50.0, "Dev1": 57.5, "Dev2": 63.5, "Dev3": 64.6, "R1": 65.9},
    "AlpacaEval 2.0": {"R1-Zero": 24.7, "Dev1": 50.1, "Dev2": 55.8, "Dev3": 62.1, "R1": 87.6},
    "IF-Eval": {"R1-Zero": 46.6, "Dev1": 71.7, "Dev2": 72.0, "Dev3": 78.1, "R1": 83.3},
}
TASKS = ("chain", "compare", "countdown3", "program", "general")
FIGURES = ("pass@1", "format", "language", "length", "helpful", "harmless", "padding")
STUDENT = "nano-small"
SAMPLES_SHOWN = 24  # problems of each task on the page


class Stage(NamedTuple):
    """One stage.

    Attributes:
        result: what the page calls it; empty where it is a reward model.
        folder: where it lies.
        parent: its parent's folder; empty for the base.
        minutes: planned, on 2 CPU cores.
        run: trains it, given the home of all folders and its options.
        template: of its prompts.
    """

    result: str
    folder: str
    parent: str
    minutes: float
    run: Callable[[Path, RunOptions], Any]
    template: str = "r1"


@dataclasses.dataclass(frozen=True)
class Command:
    """DeepSeek-R1, whole."""

    workdir: str = "runs/r1"
    """Every stage has a folder here; the page is report.html."""
    seed: int = 0
    """Of all stages."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:2,fsdp:2,tensor:2,expert:1."""
    until: str = ""
    """Stop after this folder, such as 2_reasoning_rl; the page then shows what there is."""
    problems: int = 512
    """Held-out problems of each cell of the table."""


def zero(home: Path, options: RunOptions) -> None:
    from experiments import r1_zero

    r1_zero.train(r1_zero.NANO, options)


def cold_start(home: Path, options: RunOptions) -> None:
    from experiments import r1_1_cold_start as stage

    asked = dataclasses.replace(options, prompts="nano:reasoning", eval_prompts="nano:reasoning")
    stage.train(stage.NANO, asked, stage.Collecting(zero=str(home / "0_r1_zero")))


def reasoning_rl(home: Path, options: RunOptions) -> None:
    from experiments import r1_2_reasoning_rl as stage

    stage.train(stage.NANO, dataclasses.replace(options, prompts="nano:reasoning", eval_prompts="nano:reasoning"))


def rejection(home: Path, options: RunOptions) -> None:
    from experiments import r1_3_rejection_sft as stage

    asked = dataclasses.replace(options, prompts="nano:reasoning", eval_prompts="nano:all")
    stage.train(stage.NANO, asked, stage.Collecting(reasoner=str(home / "2_reasoning_rl")))


def reward_model(kind: str) -> Callable[[Path, RunOptions], None]:
    def run(home: Path, options: RunOptions) -> None:
        from experiments.train_reward_model import NANO
        from r1jax.train_reward_model import train

        train(NANO, options, kind)

    return run


def all_scenarios(home: Path, options: RunOptions) -> None:
    from experiments import r1_4_all_scenarios_rl as stage

    asked = dataclasses.replace(options, prompts="nano:reasoning", late_prompts="nano:all", eval_prompts="nano:all")
    stage.train(stage.NANO, asked, str(home / "reward_helpful"), str(home / "reward_safety"))


def distil(home: Path, options: RunOptions) -> None:
    from experiments import distill

    asked = dataclasses.replace(options, model=STUDENT, eval_prompts="nano:all")
    distill.train(distill.RECIPES["nano"], asked, str(home / "3_rejection_sft_data/rejection.jsonl"))


def student_rl(home: Path, options: RunOptions) -> None:
    from experiments import r1_zero

    r1_zero.train(dataclasses.replace(r1_zero.NANO, steps=60), dataclasses.replace(options, model=STUDENT))


STAGES = (
    Stage("R1-Zero", "0_r1_zero", "", 10, zero, "r1_zero"),
    Stage("Dev1", "1_cold_start", "", 5, cold_start),
    Stage("Dev2", "2_reasoning_rl", "1_cold_start", 10, reasoning_rl),
    Stage("Dev3", "3_rejection_sft", "", 10, rejection),
    Stage("", "reward_helpful", "3_rejection_sft", 2, reward_model("helpful")),
    Stage("", "reward_safety", "3_rejection_sft", 2, reward_model("safety")),
    Stage("R1", "4_all_scenarios_rl", "3_rejection_sft", 7, all_scenarios),
    Stage("Student", f"distill_{STUDENT}", "", 3, distil),
    Stage("Student RL", f"distill_{STUDENT}_rl", "", 4, student_rl, "r1_zero"),
)
EVALUATION_MINUTES = 7


def main(command: Command) -> None:
    from r1jax import checkpoint, launch, lineage, report

    launch.share_cpu(command.mesh)
    launch.start()
    home = Path(command.workdir)
    minutes = read_minutes(home)
    if command.until and command.until not in [stage.folder for stage in STAGES]:
        raise ValueError(f"--until={command.until} is no stage: use {', '.join(stage.folder for stage in STAGES)}")
    planned = sum(stage.minutes for stage in STAGES) + EVALUATION_MINUTES
    print(f"{home}: about {planned:.0f} minutes on 2 CPU cores: " + ", ".join(f"{s.folder} {s.minutes:g}" for s in STAGES) + f", evaluation {EVALUATION_MINUTES}")
    for stage in STAGES:
        folder = home / stage.folder
        there = lineage.read(folder) if folder.exists() else None
        if there is not None and stage.parent:
            wanted = checkpoint.sha256(checkpoint.find(home / stage.parent))
            if there.parent["sha256"] != wanted:
                raise ValueError(
                    f"{folder} was made from another {stage.parent} (its parent is {there.parent['sha256'][:12]}, this one {wanted[:12]}): "
                    f"move {folder} away to make it again, or restore {home / stage.parent}"
                )
        if there is not None and there.status == "complete":
            print(f"{stage.folder}: complete, skipped")
        else:
            began = time.monotonic()
            weights = str(home / stage.parent) if stage.parent else ""
            try:
                stage.run(home, RunOptions(
                    workdir=str(folder), mesh=command.mesh, seed=command.seed, weights=weights, template=stage.template, resume=there is not None,
                ))  # fmt: skip
            finally:
                minutes[stage.folder] = minutes.get(stage.folder, 0.0) + (time.monotonic() - began) / 60
                write_stages(home, command, minutes)
        if stage.folder == command.until:
            break
    began = time.monotonic()
    measure(home, command)
    minutes["evaluation"] = minutes.get("evaluation", 0.0) + (time.monotonic() - began) / 60
    write_stages(home, command, minutes)
    print(f"the page is {report.write_stages(home)}")


def made(home: Path) -> list[Stage]:
    """The stages that are complete and have a result to measure."""
    from r1jax import lineage

    found = [(stage, lineage.read(home / stage.folder)) for stage in STAGES if stage.result]
    return [stage for stage, manifest in found if manifest is not None and manifest.status == "complete"]


def measure(home: Path, command: Command) -> None:
    """Every result on the same held-out problems of every task, as `experiments.evaluate` measures."""
    from experiments import evaluate
    from r1jax.generate import Sampling

    sampling = Sampling(samples=1, temperature=0.6, top_p=0.95, max_tokens=320)
    policies = [("base", "", "nano", "r1_zero"), (f"{STUDENT} base", "", STUDENT, "r1_zero")]
    policies += [(stage.folder, str(home / stage.folder), "nano", stage.template) for stage in made(home)]
    for name, weights, model, template in policies:
        folder = home / "evaluation" / name.replace(" ", "_")
        if (folder / "results.json").exists():
            continue
        evaluate.evaluate(dataclasses.replace(
            evaluate.Command(sampling), benchmarks=",".join(f"nano:{task}" for task in TASKS), problems=command.problems,
            weights=weights, model=model, template=template, seed=command.seed, mesh=command.mesh, workdir=str(folder),
        ))  # fmt: skip


def read_minutes(home: Path) -> dict[str, float]:
    """What each stage has cost so far."""
    path = home / "stages.json"
    if not path.exists():
        return {}
    return {entry["stage"]: entry["minutes"] for entry in json.loads(path.read_text(encoding="utf-8"))["budget"]}


def write_stages(home: Path, command: Command, minutes: dict[str, float]) -> None:
    """stages.json: what the page shows besides the stages' own files."""
    from r1jax.lineage import write_atomically

    planned = {stage.folder: stage.minutes for stage in STAGES} | {"evaluation": EVALUATION_MINUTES}
    names = [("base", "base", "")] + [(stage.result, stage.folder, stage.folder) for stage in STAGES if stage.result]
    results = {name: read_results(home / "evaluation" / key) for name, key, _ in names}
    table = []
    for task in TASKS:
        for figure in FIGURES:
            values = {name: found[f"nano_{task}"] for name, found in results.items() if f"nano_{task}" in found}
            values = {name: cell[figure] | {"n": cell["n"]} for name, cell in values.items() if figure in cell}
            if values:
                table.append({"figure": figure, "group": task, "unit": "tokens" if figure == "length" else "share", "values": values})
    document = {
        "seed": command.seed, "budget": [{"stage": s, "minutes": m, "planned": planned.get(s)} for s, m in minutes.items()],
        "stages": [{"name": name, "folder": folder} for name, _, folder in names],
        "table": table, "paper": PAPER, "samples": samples(home, names),
    }  # fmt: skip
    write_atomically(home / "stages.json", json.dumps(document, ensure_ascii=False) + "\n")


def read_results(folder: Path) -> dict:
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))["benchmarks"] if path.exists() else {}


def samples(home: Path, names: list[tuple[str, str, str]]) -> list[dict]:
    """The first problems of each task with what every stage wrote."""
    from r1jax import log

    found: dict[str, dict] = {}
    for name, key, _ in names:
        for task in TASKS:
            path = home / "evaluation" / key / f"nano_{task}.jsonl"
            for line in log.read(path)[:SAMPLES_SHOWN] if path.exists() else []:
                entry = found.setdefault(line["id"], {"id": line["id"], "problem": line["problem"], "kind": line["task"], "gold": line["gold"], "completions": {}})
                verdict = line["verdict"] or ("helpful" if line["helpful"] else "not helpful")
                entry["completions"][name] = {"text": line["completion"], "verdict": verdict}
    return list(found.values())


if __name__ == "__main__":
    try:
        main(tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,)))
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
