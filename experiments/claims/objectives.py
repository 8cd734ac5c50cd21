"""Compares the objectives of `--loss` on nano, from one base, with several seeds each.

Run:     python -m experiments.claims.objectives                 (10 losses, 3 seeds: 30 runs of 16 CPU minutes)
         ... --losses grpo rloo --seeds=2 --steps=2              a try of the command
         ... --picture=objectives.png                            one picture; needs matplotlib
Method:  runs R1-Zero's nano recipe with each loss and seed, all from the same base and on the same questions. A round
         is trained in two optimizer steps: in the first, the policy is still the one that sampled, so no loss clips
         anything. Each run is a process of its own, so that its time and memory can be measured. A complete run is not
         repeated, and an interrupted run is resumed. Prints the mean over seeds with the 95 % interval of Student's t.
Expect:  a table, not a verdict. A difference within the intervals is not significant
Departs: PPO has λ = 1 and its value network the policy's learning rate; neither was searched
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from r1jax import cli, jsonl
from r1jax.losses import LOSSES
from r1jax.runs import manifests

# Student's t at 97.5 %, by the number of seeds.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
FIGURES = ("accuracy", "length right", "length wrong", "entropy", "seconds", "memory GB")
COST = "cost.json"  # beside a run: its seconds and its memory


@dataclasses.dataclass(frozen=True)
class Command:
    """Compares losses: trains nano, the small base of the package, with each of them."""

    losses: tuple[str, ...] = tuple(LOSSES)
    """Losses to compare, each a value of --loss of experiments.r1_zero."""
    seeds: int = 3
    """Seeds of each loss, from 0."""
    steps: int = 64
    """Optimizer steps of each run."""
    workdir: str = "runs/objectives"
    """Folder of the runs; each run has a subfolder LOSS-SEED."""
    flags: tuple[str, ...] = ("--minibatches=2", "--clip-eps=0.2", "--clip-eps-high=0.28")
    """Further flags of experiments.r1_zero, the same for every run."""
    picture: str = ""
    """Image file for the curves; default: none."""


def run_one(command: Command, loss: str, seed: int) -> Path:
    """Runs one loss with one seed, unless it has been run. Returns its directory.

    Raises:
        ValueError: the run failed; its output says why.
    """
    place = Path(command.workdir) / f"{loss}-{seed}"
    before = manifests.read(place) if place.exists() else None
    lines = jsonl.read(place / "eval.jsonl") if before is not None and (place / COST).exists() else []
    if lines and lines[-1]["step"] >= command.steps:
        return place
    words = ["-m", "experiments.r1_zero", f"--loss={loss}", f"--seed={seed}", f"--steps={command.steps}"]
    words += [f"--workdir={place}", *command.flags, *(["--resume=True"] if before is not None else [])]
    began, log = time.monotonic(), Path(f"{place}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        child = subprocess.Popen([sys.executable, *words], stdout=file, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(child.pid, 0)
    if status:
        raise ValueError(f"--loss={loss} --seed={seed} failed:\n{log.read_text()[-2000:]}")
    cost = {"seconds": time.monotonic() - began, "memory GB": peak_bytes(used) / 1e9}
    earlier = json.loads((place / COST).read_text()) if (place / COST).exists() else {"seconds": 0.0}
    cost["seconds"] += earlier["seconds"]
    (place / COST).write_text(json.dumps(cost))
    return place


def peak_bytes(used: resource.struct_rusage) -> int:
    """Returns the peak memory of a process in bytes. Linux reports it in KiB, macOS in bytes."""
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def read_figures(place: Path) -> dict[str, float | None]:
    """Returns the values of `FIGURES` of a finished run: accuracy, lengths, entropy, seconds and memory in GB.

    Accuracy is taken from the last evaluation. Lengths and entropy are means over the last eighth of the steps.
    """
    metrics, evaluations = (jsonl.read(place / f"{name}.jsonl") for name in ("metrics", "eval"))
    last = metrics[-max(1, len(metrics) // 8) :]

    def late(name: str) -> float | None:
        values = [line[name] for line in last if line.get(name) is not None]
        return float(np.mean(values)) if values else None

    lengths = {f"length {which}": late(f"completion/length_{which}") for which in ("right", "wrong")}
    cost = json.loads((place / COST).read_text())
    return {"accuracy": evaluations[-1]["accuracy"]} | lengths | {"entropy": late("entropy")} | cost


def summarise(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Returns (mean, half the width of the 95 % interval) over seeds; None if no seed has a value.

    With one seed the half width is nan.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) < 2:
        return known[0], float("nan")
    spread = np.std(known, ddof=1) / np.sqrt(len(known))
    return float(np.mean(known)), float(STUDENT.get(len(known), 1.96) * spread)


def table(found: dict[str, list[dict[str, float | None]]]) -> str:
    """Returns a Markdown table: for each loss, the mean and the 95 % interval over seeds of each of `FIGURES`.

    Args:
        found: loss -> what `read_figures` returns for each seed.
    """
    lines = ["| loss | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    for loss, seeds in found.items():
        cells = []
        for name in FIGURES:
            value = summarise([seed[name] for seed in seeds])
            digits = 3 if name in ("accuracy", "entropy") else 1
            cells.append("–" if value is None else f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}")
        lines.append(f"| `{loss}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(path: str, places: dict[str, list[Path]]) -> None:
    """Plots accuracy, length and entropy of the runs with each loss, averaged over seeds, into an image file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    kinds = (("eval", "accuracy"), ("eval", "length"), ("metrics", "entropy"))
    figure, axes = pyplot.subplots(1, len(kinds), figsize=(13, 4), layout="constrained")
    for loss, seeds in places.items():
        for axis, (file, name) in zip(axes, kinds, strict=True):
            runs = [jsonl.read(place / f"{file}.jsonl") for place in seeds]
            steps = [line["step"] for line in runs[0]]
            axis.plot(steps, np.mean([[line[name] for line in run] for run in runs], axis=0), label=loss)
            axis.set_title(name, fontsize=10)
            axis.set_xlabel("step")
    axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def compare(command: Command) -> dict[str, list[dict[str, float | None]]]:
    """Makes the runs that are missing, prints the table, and returns {loss: `read_figures` of each seed}.

    Raises:
        ValueError: a loss is unknown, --seeds is below 1, or a run failed.
    """
    unknown = [loss for loss in command.losses if loss not in LOSSES]
    if unknown or command.seeds < 1:
        raise ValueError(
            f"--losses={' '.join(command.losses)} --seeds={command.seeds}: --losses takes {', '.join(LOSSES)}, "
            "and --seeds must be at least 1"
        )
    places = {loss: [run_one(command, loss, seed) for seed in range(command.seeds)] for loss in command.losses}
    found = {loss: [read_figures(place) for place in seeds] for loss, seeds in places.items()}
    print(table(found))
    if command.picture:
        draw(command.picture, places)
    return found


if __name__ == "__main__":
    cli.main(Command, compare, __doc__)
