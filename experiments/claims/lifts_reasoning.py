"""Claim: R1-Zero lifts accuracy, format, length and reflection together, whatever the seed, and not by format alone.

Run:     python -m experiments.claims.lifts_reasoning --runs RUN RUN RUN [--picture=curves.png]
Method:  the held-out figures of each run before and after, and what must hold of them: pass@1 up by 0.30, format at
         least 0.95, P(right | well formed) and lenient accuracy up by 0.20 each, length and reflective words up by
         25 %, and the sampler's log-probabilities within 2e-5 nats of the trainer's in every step. The picture wants
         matplotlib.
Expect:  every line holds in every run, or the exit status says that one does not
Source:  Nature 2025, Fig. 1 and Extended Data Fig. 1 (accuracy, length, reflective words); the bounds are ours
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

FIGURES = (
    "accuracy",
    "accuracy_if_well_formed",
    "accuracy_lenient",
    "format",
    "length",
    "reflective_words",
    "language",
)


@dataclasses.dataclass(frozen=True)
class Command:
    """What R1-Zero did, in several runs."""

    runs: tuple[str, ...]
    """Working directories of complete runs."""
    picture: str = ""
    """Where to draw all curves."""


def rose_by(name: str, least: float) -> Callable[[dict, dict], bool]:
    return lambda before, after: after[name] - before[name] >= least


def grew_by(name: str, share: float) -> Callable[[dict, dict], bool]:
    return lambda before, after: after[name] >= (1 + share) * before[name]


RULES: dict[str, Callable[[dict, dict], bool]] = {
    "pass@1 up by 0.30": rose_by("accuracy", 0.30),
    "right if well formed up by 0.20": rose_by("accuracy_if_well_formed", 0.20),
    "right leniently up by 0.20": rose_by("accuracy_lenient", 0.20),
    "format at least 0.95": lambda before, after: after["format"] >= 0.95,
    "length up by 25 %": grew_by("length", 0.25),
    "reflective words up by 25 %": grew_by("reflective_words", 0.25),
}
LARGEST_GAP = 2e-5  # nats between sampler and trainer, in float32


def broken(evaluations: Sequence[dict], steps: Sequence[dict]) -> list[str]:
    """The rules a run does not keep.

    Args:
        evaluations, steps: lines of eval.jsonl and metrics.jsonl.
    """
    found = [rule for rule, holds in RULES.items() if not holds(evaluations[0], evaluations[-1])]
    gap = max(line["sampler_gap/max"] for line in steps)
    return found + ([f"gap of sampler and trainer {gap:.1e} above {LARGEST_GAP:g}"] if gap > LARGEST_GAP else [])


def draw(path: str, logs: dict[str, tuple[list[dict], list[dict]]]) -> None:
    """Held-out curves of every run, and the gap of sampler and trainer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(14, 5.6), sharex=True, layout="constrained")
    for name, (evaluations, steps) in logs.items():
        for axis, of in zip(axes.flat, FIGURES, strict=False):
            axis.plot([e["step"] for e in evaluations], [e[of] for e in evaluations], marker="o", ms=3, label=name)
            axis.set_title(of.replace("_", " "), fontsize=10)
        axes.flat[-1].semilogy([s["step"] for s in steps], [s["sampler_gap/max"] for s in steps])
    axes.flat[-1].axhline(LARGEST_GAP, color="black", lw=0.8, ls=":")
    axes.flat[-1].set_title("largest gap, sampler to trainer (nats)", fontsize=10)
    axes.flat[0].legend(fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    figure.savefig(path, dpi=110)


def main(command: Command) -> bool:
    """Prints the table. True if every run keeps every rule."""
    from r1jax import log

    logs = {}
    for run in command.runs:
        lines = tuple(log.read(Path(run) / name) for name in ("eval.jsonl", "metrics.jsonl"))
        if len(lines[0]) < 2 or not lines[1]:
            raise ValueError(f"--runs: {run} has no evaluation before and after its steps. Give complete runs")
        logs[Path(run).name] = lines
    wide = max(map(len, logs))
    print(" " * wide, *(f"{name.replace('_', ' '):>26}" for name in FIGURES), f"{'largest gap':>12}")
    whole = True
    for run, (evaluations, steps) in logs.items():
        before, after = evaluations[0], evaluations[-1]
        cells = (f"{before[name]:.3f} -> {after[name]:.3f}" for name in FIGURES)
        print(f"{run:{wide}}", *(f"{cell:>26}" for cell in cells), f"{max(s['sampler_gap/max'] for s in steps):12.1e}")
        if rules := broken(evaluations, steps):
            whole = False
            print(f"{run}: does not hold: {'; '.join(rules)}")
    print("every rule holds in every run" if whole else "the claim does not hold")
    if command.picture:
        draw(command.picture, logs)
    return whole


if __name__ == "__main__":
    try:
        sys.exit(not main(tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,))))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
