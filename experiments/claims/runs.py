"""Runs the commands that claims are made of, each in a process of its own, and reads what they wrote."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.claims.protocol import Bench
from r1jax import jsonl
from r1jax.runs import manifests

RESUMED = (  # by --resume=True
    "experiments.r1_zero",
    "experiments.distill",
    "experiments.train_reward_model",
    "experiments.claims.reward_hacking",
)
COLD_START = "1_cold_start"  # stage 1's folder in a directory of experiments.r1


class Used(NamedTuple):
    """What a process took: seconds by the clock, and the largest memory in bytes."""

    seconds: float
    memory: int


def call(words: Sequence[str], log: Path) -> Used:
    """Runs Python with the arguments `words`, and writes the output to the file `log`. Returns what the process used.

    Raises:
        ValueError: the process failed; the message has the end of its output.
    """
    began = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        child = subprocess.Popen([sys.executable, *words], stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise ValueError(f"python {' '.join(words)} failed:\n{log.read_text()[-2000:]}")
    return Used(time.monotonic() - began, peak_bytes(used))


def peak_bytes(used: resource.struct_rusage) -> int:
    """Returns the peak memory of a process in bytes. Linux reports it in KiB, macOS in bytes."""
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def run(bench: Bench, module: str, words: Sequence[str], stage: str = "") -> Path:
    """Runs a command of `experiments`, unless its run is complete. Returns the run's working directory.

    The directory's name has a hash of the command, so claims that ask for the same run share the run. An interrupted
    run is continued.

    Args:
        module: the command, such as "experiments.r1_zero".
        words: the command's flags, without --workdir.
        stage: for experiments.r1, the folder of the last stage that is needed. The run counts as complete if this stage
            is complete.

    Raises:
        ValueError: the command failed; the message has the end of its output.
    """
    key = hashlib.sha256(json.dumps([module, *words]).encode()).hexdigest()[:10]
    place = bench.home / f"{module.rpartition('.')[2]}-{key}"
    there = manifests.read(place / stage) if place.exists() else None
    if there is None or there.status != "complete":
        print(f"{place}: {module} {' '.join(words)}", flush=True)
        again = ["--resume=True"] if there is not None and module in RESUMED else []
        call(["-m", module, *words, f"--workdir={place}", *again], place.with_suffix(".log"))
    return place


def train_zero(bench: Bench, seed: int, *words: str) -> Path:
    """Trains R1-Zero by its nano recipe with the further flags `words`. Returns the run's directory."""
    size = [f"--seed={seed}", f"--steps={bench.steps}", f"--eval-problems={bench.problems}"]
    return run(bench, "experiments.r1_zero", [*size, *bench.flags, *words])


def evaluate(bench: Bench, weights: Path | str, *words: str, samples: int = 1, problems: int = 0) -> Path:
    """Evaluates a policy at temperature 1. Returns the directory with results.json and the samples.

    Args:
        weights: a run's directory; "" for the package's base.
        words: further flags of experiments.evaluate.
        samples: completions of each problem.
        problems: number of problems; 0 takes `bench.problems`.
    """
    flags = [f"--weights={weights}", f"--samples={samples}", f"--problems={problems or bench.problems}"]
    plain = ["--temperature=1", "--top-p=1", "--max-tokens=448", "--template=r1_zero"]
    return run(bench, "experiments.evaluate", [*flags, *plain, *words])


def read_results(place: Path, name: str) -> dict:
    """Returns the results of one benchmark from the results.json that `evaluate` wrote.

    Args:
        place: the directory of the evaluation.
        name: the benchmark's name, such as "nano_zero".
    """
    return json.loads((place / "results.json").read_text(encoding="utf-8"))["benchmarks"][name]


def read_evaluations(place: Path) -> list[dict]:
    """Returns a run's evaluations, the lines of eval.jsonl, from before the first step to after the last step.

    Raises:
        ValueError: the run has not been evaluated before and after its steps.
    """
    lines = jsonl.read(place / "eval.jsonl")
    if len(lines) < 2:
        raise ValueError(f"{place} has no evaluation before and after its steps: its --eval-every must not be 0")
    return lines


def cold_starts(bench: Bench) -> list[Path]:
    """Returns the directory of a cold start for each seed: from --runs, or newly made if --runs is empty.

    Raises:
        ValueError: --runs names fewer directories than there are seeds, or a directory without the cold start.
    """
    if not bench.runs:
        words = [f"--until={COLD_START}", "--problems=16", "--tasks", "chain"]  # its evaluation is not read
        made = [run(bench, "experiments.r1", [*words, f"--seed={seed}"], COLD_START) for seed in bench.seeds]
        return [place / COLD_START for place in made]
    return trained_stages(bench, COLD_START)


def trained_stages(bench: Bench, *stages: str) -> list[Path]:
    """Checks that each directory of --runs has all `stages`. Returns the folders of `stages[0]`, one for each seed.

    Raises:
        ValueError: a directory lacks the checkpoints of a stage, or there are fewer directories than seeds.
    """
    for folder in bench.folders[: len(bench.seeds)]:
        for stage in stages:
            if manifests.read(folder / stage) is None:
                raise ValueError(f"--runs: {folder} has no {stage}. Name directories that experiments.r1 has completed")
    if len(bench.folders) < len(bench.seeds):
        raise ValueError(
            f"--runs names {len(bench.folders)} directories for {len(bench.seeds)} --seeds: name one for each seed"
        )
    return [folder / stages[0] for folder in bench.folders[: len(bench.seeds)]]


def mean_curve(
    places: Sequence[Path], name: str, read: Callable[[Path], list[dict]] = read_evaluations
) -> list[list[float | None]]:
    """Returns [[step, mean over the runs], ..] of a value of eval.jsonl. The mean is None if a run lacks the value.

    Args:
        places: the runs' directories.
        name: the value's name, such as "length_wrong".
        read: returns the lines of a run, given its directory.
    """
    runs: list[Mapping[int, float | None]] = [
        {line["step"]: line.get(name) for line in read(place)} for place in places
    ]
    steps = sorted(set.intersection(*(set(run) for run in runs)))
    points: list[list[float | None]] = []
    for step in steps:
        values = [value for run in runs if (value := run[step]) is not None]
        points.append([step, sum(values) / len(values) if len(values) == len(runs) else None])
    return points
