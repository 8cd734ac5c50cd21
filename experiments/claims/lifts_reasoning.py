"""Claim: with every seed R1-Zero lifts format, length and reflection, and lifts accuracy more than format explains.

Run:     python -m experiments.claims.lifts_reasoning --runs RUN RUN RUN [--picture=curves.png]
         python -m experiments.claims --claims lifts_reasoning      trains the runs, and writes report.html
Method:  compares the evaluations of each run before and after training. These are the rules. Pass@1 rises by 0.30.
         Format reaches 0.95. P(right | well formed) and lenient accuracy (any format) rise by 0.20 each. Length and
         reflective words rise by 25 % each. In every step, the log-probabilities of sampler and trainer differ by at
         most 2e-5 nats. The picture needs matplotlib.
Expect:  every rule holds in every run; otherwise the exit status is 1
Source:  Nature 2025, Fig. 1 and Extended Data Fig. 1 (accuracy, length, reflective words); the thresholds are ours
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.claims.protocol import Bench, Finding, estimate
from experiments.claims.runs import mean_curve, read_evaluations, train_zero
from r1jax import cli, jsonl
from r1jax.report.claim_pictures import Curves

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
    """Checks that several runs of R1-Zero raised accuracy, format, length and reflection."""

    runs: tuple[str, ...]
    """Working directories of complete runs."""
    picture: str = ""
    """Image file for the curves; default: none."""


def rose_by(name: str, least: float) -> Callable[[dict, dict], bool]:
    """Returns a rule: `rule(before, after)` is True if the value `name` rose by at least `least`.

    Args:
        name: a name in eval.jsonl, such as "accuracy".
    """
    return lambda before, after: after[name] - before[name] >= least


def grew_by(name: str, share: float) -> Callable[[dict, dict], bool]:
    """Returns a rule: `rule(before, after)` is True if the value `name` grew by at least the factor 1 + `share`.

    Args:
        name: a name in eval.jsonl, such as "length".
    """
    return lambda before, after: after[name] >= (1 + share) * before[name]


RULES: dict[str, Callable[[dict, dict], bool]] = {
    "pass@1 up by 0.30": rose_by("accuracy", 0.30),
    "accuracy if well formed up by 0.20": rose_by("accuracy_if_well_formed", 0.20),
    "lenient accuracy up by 0.20": rose_by("accuracy_lenient", 0.20),
    "format at least 0.95": lambda before, after: after["format"] >= 0.95,
    "length up by 25 %": grew_by("length", 0.25),
    "reflective words up by 25 %": grew_by("reflective_words", 0.25),
}
LARGEST_GAP = 2e-5  # nats between sampler and trainer, in float32
LIMIT = (
    "The base's corpus has reflective documents, so reflection is made likelier and not invented; a base without them, "
    "the control, does not ship with the package."
)


def find_broken_rules(evaluations: Sequence[dict], steps: Sequence[dict]) -> list[str]:
    """Returns the names of the claim's rules that this run breaks; an empty list if the run breaks none.

    Args:
        evaluations, steps: the lines of the run's eval.jsonl and of its metrics.jsonl.
    """
    found = [rule for rule, holds in RULES.items() if not holds(evaluations[0], evaluations[-1])]
    gap = max(line["sampler_gap/max"] for line in steps)
    return found + ([f"gap of sampler and trainer {gap:.1e} above {LARGEST_GAP:g}"] if gap > LARGEST_GAP else [])


def draw(path: str, logs: dict[str, tuple[list[dict], list[dict]]]) -> None:
    """Draws curves of every run into an image file.

    Seven curves show the values `FIGURES` of the held-out evaluations. The eighth curve shows the largest difference
    between the log-probabilities of sampler and trainer in each step.

    Args:
        path: the image file.
        logs: name of each run -> lines of its eval.jsonl and of its metrics.jsonl.
    """
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


def check(command: Command) -> bool:
    """Prints a table of the runs before and after training.

    Returns True if every rule of the claim holds in every run. Raises ValueError if a run has no metrics of its steps,
    or has fewer than two evaluations (before and after training).
    """
    logs = {}
    for run in command.runs:
        lines = tuple(jsonl.read(Path(run) / name) for name in ("eval.jsonl", "metrics.jsonl"))
        if len(lines[0]) < 2 or not lines[1]:
            raise ValueError(
                f"--runs: {run} is not a complete run. A complete run has an evaluation before its first step, another "
                "after its last step, and the metrics of its steps. Name directories of complete runs"
            )
        logs[Path(run).name] = lines
    wide = max(map(len, logs))
    print(" " * wide, *(f"{name.replace('_', ' '):>26}" for name in FIGURES), f"{'largest gap':>12}")
    whole = True
    for run, (evaluations, steps) in logs.items():
        before, after = evaluations[0], evaluations[-1]
        cells = (f"{before[name]:.3f} -> {after[name]:.3f}" for name in FIGURES)
        print(f"{run:{wide}}", *(f"{cell:>26}" for cell in cells), f"{max(s['sampler_gap/max'] for s in steps):12.1e}")
        if rules := find_broken_rules(evaluations, steps):
            whole = False
            print(f"{run}: does not hold: {'; '.join(rules)}")
    print("every rule holds in every run" if whole else "the claim does not hold")
    if command.picture:
        draw(command.picture, logs)
    return whole


def find(bench: Bench) -> Finding:
    """Trains R1-Zero with each seed, and checks the rules of the claim in every run."""
    places = [train_zero(bench, seed) for seed in bench.seeds]
    broken = {}
    rows = [["", *(f"seed {seed}" for seed in bench.seeds), "rise"]]
    lines = [read_evaluations(place) for place in places]
    for name in FIGURES:
        cells = [f"{run[0][name] or 0:.3f} → {run[-1][name] or 0:.3f}" for run in lines]
        rise = estimate([(run[-1][name] or 0.0) - (run[0][name] or 0.0) for run in lines])
        rows.append([name.replace("_", " "), *cells, rise.text(3, "+")])
    for seed, place, run in zip(bench.seeds, places, lines, strict=True):
        if rules := find_broken_rules(run, jsonl.read(place / "metrics.jsonl")):
            broken[seed] = rules
    said = "; ".join(f"seed {seed}: not {', '.join(rules)}" for seed, rules in broken.items())
    accuracy, length = (estimate([run[-1][name] - run[0][name] for run in lines]) for name in ("accuracy", "length"))
    return Finding(
        "does not hold" if broken else "holds",
        f"pass@1 rises by {accuracy.text()} and length by {length.text(1)} tokens. "
        + (said or "Every rule holds in every run."),
        LIMIT,
        rows,
        [
            Curves(title, unit, {"mean of the seeds": mean_curve(places, name)}, share=share)
            for title, unit, name, share in (
                ("Held-out accuracy", "share right and in form", "accuracy", True),
                ("Length", "tokens", "length", False),
                ("Reflective words", "per completion", "reflective_words", False),
            )
        ],
    )


if __name__ == "__main__":
    sys.exit(not cli.main(Command, check, __doc__))
