"""Claim: RL lifts what the base solves with a probability p > 0, and does not reach what the base never solves (p = 0).

Run:     python -m experiments.claims.sharpens_base
Method:  the base answers each held-out problem 64 times. The problems are put into groups by the base's share of
         right answers, which estimates p. R1-Zero, trained from the base, also answers each of these problems 64
         times. A further task is not in the corpus: products of three-digit numbers. Every value in the corpus is below
         100. RL is also run on this task alone, with fewer steps
Expect:  on the problems that the base solves at times, R1-Zero has a larger share of right answers than the base. The
         difference is more than the half-width of the 95 % interval over seeds. The accuracy on the task that the
         corpus lacks stays at 0. The claim cannot be shown if the base solves that task
Cost:    a run of R1-Zero, one of a quarter of its steps, and 8,192 samples, about 20 minutes a seed on 2 cores
         (estimated)
Source:  Yue et al. 2025 (arXiv 2504.13837), pass@k of bases and of RL; Chen et al. 2021 (arXiv 2107.03374) for pass@k
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.claims.protocol import Bench, Finding, Interval, decide, dots, estimate, main
from experiments.claims.runs import evaluate, read_evaluations, read_results, train_zero
from r1jax import jsonl
from r1jax.evaluation.statistics import pass_at_k
from r1jax.report.claim_pictures import Curves
from r1jax.runs.files import write_lines

LACKING = "products"  # name of the file of the task that the corpus lacks
NEVER = 0.01  # share of right answers up to which a policy counts as never right
LIMIT = (
    "None right of a number of samples is no proof that p = 0: a problem of a known task that the base never solved "
    "may be a rare one. With more steps and other rewards the lacking task may be reached; nano cannot rule that out."
)


@dataclasses.dataclass(frozen=True)
class Command(Bench):
    """Compares R1-Zero with the base on problems that are grouped by how often the base solves them."""

    samples: int = 64
    """Completions of each problem."""
    asked: int = 128
    """Number of held-out problems that are answered --samples times."""


def write_lacking(path: Path, count: int, seed: str) -> Path:
    """Writes a file of questions that ask for products of three-digit numbers. Returns the file's path.

    nano's corpus has no such products.
    """
    rng, rows = random.Random(seed), []
    for i in range(count):
        x, y = rng.randint(100, 999), rng.randint(100, 999)
        rows.append({"id": f"{seed}-{i}", "problem": f"What is {x}*{y}?", "gold": x * y, "kind": "math"})
    write_lines(path, rows)
    return path


def read_right(place: Path, name: str, samples: int) -> dict[str, np.ndarray]:
    """Reads which completions of an evaluation are right. Returns {problem id: [samples] bool}.

    Args:
        place: the directory of the evaluation.
        name: the benchmark's name, such as "nano_zero".
        samples: number of completions of each problem.
    """
    found: dict[str, list[bool]] = {}
    for line in jsonl.read(place / f"{name}.jsonl"):
        found.setdefault(line["id"], []).append(line["right"] is True)
    return {problem: np.asarray(right[:samples]) for problem, right in found.items()}


def group_by_base(base: Mapping[str, np.ndarray]) -> dict[str, list[str]]:
    """Returns {name of a group: its problems}, by the base's share of right answers. Empty groups are left out."""
    samples = len(next(iter(base.values())))
    bounds = {f"0 of {samples}": (0.0, 0.0), "up to 10 %": (0.0, 0.1), "10 to 50 %": (0.1, 0.5), "above 50 %": (0.5, 1)}
    groups: dict[str, list[str]] = {}
    for name, (low, high) in bounds.items():
        found = [p for p, right in base.items() if low < right.mean() <= high or low == high == right.mean()]
        if found:
            groups[name] = found
    return groups


def share_of(right: Mapping[str, np.ndarray], problems: Sequence[str]) -> float:
    """Returns the mean share of right answers over the problems."""
    return float(np.mean([right[problem].mean() for problem in problems]))


def pass_curve(runs: Sequence[Mapping[str, np.ndarray]]) -> list[list[float | None]]:
    """Returns [[k, pass@k], ..] for k = 1, 2, 4, .., averaged over problems and runs."""
    samples = len(next(iter(runs[0].values())))
    return [
        [k, float(np.mean([pass_at_k(np.stack(list(run.values())), k).mean() for run in runs]))]
        for k in (1 << i for i in range(samples.bit_length()))
    ]


def find_lacking(command: Command) -> tuple[float, float, Interval]:
    """Measures accuracy on the task that the corpus lacks, before RL and after RL on this task alone.

    Returns (the base's pass@1, the base's pass@k with k = `command.samples`, the accuracy after RL).
    """
    folder = command.home / "questions"
    prompts = write_lacking(folder / f"{LACKING}_train.jsonl", 512, "train")
    held = write_lacking(folder / f"{LACKING}.jsonl", min(64, command.asked), "held")
    base = read_results(
        evaluate(command, "", f"--benchmarks={held}", "--instruct=False", samples=command.samples), LACKING
    )
    short = dataclasses.replace(command, steps=max(1, command.steps // 4))
    places = [train_zero(short, seed, f"--prompts={prompts}", f"--eval-prompts={held}") for seed in command.seeds]
    after = estimate([read_evaluations(place)[-1]["accuracy"] for place in places])
    return base["pass@1"]["mean"], base[f"pass@{command.samples}"]["mean"], after


def find(command: Command) -> Finding:
    """Evaluates the base and R1-Zero on the same problems, and runs RL on the task that the corpus lacks."""
    asked = dict(samples=command.samples, problems=command.asked)
    zeros = [train_zero(command, seed) for seed in command.seeds]
    base = read_right(evaluate(command, "", "--benchmarks=nano:zero", **asked), "nano_zero", command.samples)
    after = [
        read_right(evaluate(command, zero, "--benchmarks=nano:zero", **asked), "nano_zero", command.samples)
        for zero in zeros
    ]
    groups = group_by_base(base)
    rows = [["the base's right answers", "problems", "base", "R1-Zero"]]
    shares = {name: [share_of(run, problems) for run in after] for name, problems in groups.items()}
    for name, problems in groups.items():
        rows.append([name, str(len(problems)), f"{share_of(base, problems):.3f}", estimate(shares[name]).text()])
    known = [problem for name, problems in groups.items() if not name.startswith("0 of") for problem in problems]
    once, most, lacking = find_lacking(command)
    rows.append(["three-digit products, RL on them alone", "", f"{once:.3f}", lacking.text()])
    if most > NEVER or not known:
        said = f"solves {most:.3f} of the lacking task in {command.samples} tries" if known else "solves no problem"
        return Finding("cannot be shown here", f"The base {said}, so the claim says nothing of it.", LIMIT, rows)
    lift = estimate([share_of(run, known) - share_of(base, known) for run in after])
    return Finding(
        decide(lift.low > 0, lacking.mean <= NEVER, seeds=len(command.seeds)),
        f"Problems that the base solves at times are solved more often by {lift.text(3, '+')}; three-digit products, "
        f"which it never solves in {command.samples} tries, stay at {lacking.text()}.",
        LIMIT,
        rows,
        [
            dots("R1-Zero, by the base's share of right answers", "share right", shares),
            Curves(
                "pass@k",
                "share solved",
                {"base": pass_curve([base]), "R1-Zero": pass_curve(after)},
                "sample",
                share=True,
            ),
        ],
    )


if __name__ == "__main__":
    main(Command, find, __doc__)
