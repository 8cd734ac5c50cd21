"""Compares the losses of experiments.r1_zero (--loss) on nano, the small base of the package, over several seeds.

Run:     python -m experiments.claims.objectives                 (10 losses, 3 seeds: 30 runs of 16 CPU minutes)
         ... --losses grpo rloo --seeds=2 --steps=2              a quick try of the command
         ... --picture=objectives.png                            one picture; needs matplotlib
Method:  runs R1-Zero's nano recipe with each loss and seed, all from the same base and on the same questions. A round
         is trained in two optimizer steps. Losses clip only in the second step: in the first, the policy is still the
         policy that sampled. Each run is a process of its own, so that its time and memory can be measured. A complete
         run is not repeated, and an interrupted run is resumed. Prints the mean over seeds with the 95 % interval of
         Student's t.
Expect:  a table, not a verdict. A difference within the intervals is not significant
Departs: PPO has λ = 1, and its value network has the policy's learning rate. Neither value was tuned
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.claims.protocol import Bench, Finding, decide, estimate, summarise
from experiments.claims.runs import call, mean_curve
from r1jax import cli, jsonl
from r1jax.losses import LOSSES
from r1jax.report.claim_pictures import Curves
from r1jax.runs import manifests

FIGURES = ("accuracy", "length right", "length wrong", "entropy", "seconds", "memory GB")
COST = "cost.json"  # beside a run: its seconds and its memory
ON_THE_PAGE = ("grpo", "dr_grpo", "rloo")  # of all losses, which take a day
LIMIT = (
    "The losses differ most where completions are long and policies stale; nano's have at most 448 tokens and two "
    "steps a round. PPO with a value network is the claim grpo_vs_ppo."
)


@dataclasses.dataclass(frozen=True)
class Command:
    """Compares losses: trains nano, the small base of the package, with each loss."""

    losses: tuple[str, ...] = tuple(LOSSES)
    """Losses to compare, each a value of --loss of experiments.r1_zero."""
    seeds: int = 3
    """Number of seeds for each loss. The seeds count from 0."""
    steps: int = 64
    """Optimizer steps of each run."""
    workdir: str = "runs/objectives"
    """Folder of the runs; each run has a subfolder LOSS-SEED."""
    flags: tuple[str, ...] = ("--minibatches=2", "--clip-eps=0.2", "--clip-eps-high=0.28")
    """Further flags of experiments.r1_zero, the same for every run."""
    picture: str = ""
    """Image file for the curves; default: none."""


def run_one(command: Command, loss: str, seed: int) -> Path:
    """Trains with one loss and one seed, unless this run is complete. Returns the run's directory.

    Raises:
        ValueError: the run failed. The message has the end of the run's output.
    """
    place = Path(command.workdir) / f"{loss}-{seed}"
    before = manifests.read(place) if place.exists() else None
    lines = jsonl.read(place / "eval.jsonl") if before is not None and (place / COST).exists() else []
    if lines and lines[-1]["step"] >= command.steps:
        return place
    words = ["-m", "experiments.r1_zero", f"--loss={loss}", f"--seed={seed}", f"--steps={command.steps}"]
    words += [f"--workdir={place}", *command.flags, *(["--resume=True"] if before is not None else [])]
    used = call(words, Path(f"{place}.log"))
    earlier = json.loads((place / COST).read_text()) if (place / COST).exists() else {"seconds": 0.0}
    cost = {"seconds": earlier["seconds"] + used.seconds, "memory GB": used.memory / 1e9}
    (place / COST).write_text(json.dumps(cost))
    return place


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


def table(found: dict[str, list[dict[str, float | None]]]) -> str:
    """Returns a Markdown table with a row for each loss and a column for each of `FIGURES`.

    A cell holds the mean over seeds ± half the width of the 95 % interval.

    Args:
        found: loss -> what `read_figures` returns for each seed.
    """
    lines = ["| loss | " + " | ".join(FIGURES) + " |", "|---" * (len(FIGURES) + 1) + "|"]
    lines += [f"| `{loss}` | " + " | ".join(format_cells(seeds)) + " |" for loss, seeds in found.items()]
    return "\n".join(lines)


def format_cells(seeds: list[dict[str, float | None]]) -> list[str]:
    """Returns the table cells of one loss: for each of `FIGURES`, the mean over seeds ± half the 95 % interval's width.

    A cell is "–" if its figure is None for every seed.

    Args:
        seeds: what `read_figures` returns for each seed of the loss.
    """
    cells = []
    for name in FIGURES:
        value = summarise([seed[name] for seed in seeds])
        digits = 3 if name in ("accuracy", "entropy") else 1
        cells.append("–" if value is None else f"{value.mean:.{digits}f} ± {value.half:.{digits}f}")
    return cells


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


def train_all(bench: Bench, losses: Sequence[str]) -> dict[str, list[Path]]:
    """Trains with each loss and each seed of `bench.seeds`. Returns {loss: the directory of each seed's run}."""
    flags = (*Command.flags, *bench.flags, f"--eval-problems={bench.problems}")
    command = Command(tuple(losses), 1, bench.steps, str(bench.home / "objectives"), flags)
    return {loss: [run_one(command, loss, seed) for seed in bench.seeds] for loss in losses}


def find(bench: Bench) -> Finding:
    """Trains with GRPO, Dr. GRPO and RLOO (the losses `ON_THE_PAGE`), and compares the other two with GRPO.

    Each loss is trained with every seed.

    The claim holds if no loss is significantly better than GRPO: the 95 % interval of each loss's accuracy minus GRPO's
    begins at 0 or below.
    """
    places = train_all(bench, ON_THE_PAGE)
    found = {loss: [read_figures(place) for place in seeds] for loss, seeds in places.items()}
    ahead = {
        loss: estimate([a["accuracy"] - b["accuracy"] for a, b in zip(found[loss], found["grpo"], strict=True)])
        for loss in ON_THE_PAGE[1:]
    }
    return Finding(
        decide(*(gap.low <= 0 for gap in ahead.values()), seeds=len(bench.seeds)),
        "Accuracy against GRPO's: " + ", ".join(f"{loss} {gap.text(3, '+')}" for loss, gap in ahead.items()) + ".",
        LIMIT,
        [["loss", *FIGURES], *([loss, *format_cells(seeds)] for loss, seeds in found.items())],
        [
            Curves(
                "Held-out accuracy",
                "share right",
                {k: mean_curve(v, "accuracy") for k, v in places.items()},
                share=True,
            ),
            Curves("Length", "tokens", {k: mean_curve(v, "length") for k, v in places.items()}),
        ],
    )


if __name__ == "__main__":
    cli.main(Command, compare, __doc__)
