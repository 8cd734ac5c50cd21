"""Claim: RL from the cold start reaches a fixed accuracy in fewer steps than RL from the base.

Run:     python -m experiments.claims.cold_start_speeds --runs R1_RUN R1_RUN R1_RUN
         ... without --runs                          makes the cold starts with experiments.r1 --until=1_cold_start
Method:  trains R1-Zero's recipe twice on the same questions (nano:reasoning): from the base with R1-Zero's template,
         and from stage 1's checkpoint with R1's template. Held-out problems are evaluated every 4 steps. The number of
         steps to --accuracy is interpolated linearly between two evaluations. A run that never reaches --accuracy
         counts with its last step. This favours the slower of the two runs
Expect:  the cold start needs fewer steps, by more than the half-width of the 95 % interval over seeds. The largest
         fall of the held-out accuracy between two evaluations says how steady a run is
Cost:    for each seed, about 30 minutes for two runs of RL, and 12 for a cold start, on 2 cores (estimated)
Source:  DeepSeek-AI 2025, section 2.3.1: the cold start is "to prevent the early unstable cold start phase of RL
         training from the base model"
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

from experiments.claims.protocol import Bench, Finding, decide, estimate, main
from experiments.claims.runs import cold_starts, mean_curve, read_evaluations, train_zero
from r1jax.report.claim_pictures import Curves

ASKED = ("--prompts=nano:reasoning", "--eval-prompts=nano:reasoning")
LIMIT = (
    "The cold start's records come from R1-Zero of the same world, so the steps that made them are not counted, and "
    "the checkpoint already reasons; in the paper, where people wrote much of them, it reasons worse than R1-Zero."
)


@dataclasses.dataclass(frozen=True)
class Command(Bench):
    """Compares RL from the base with RL from the cold start."""

    accuracy: float = 0.75
    """The accuracy to reach: the share of held-out problems that are answered right and in the right format."""
    every: int = 4
    """Steps between two evaluations."""


def steps_to(lines: Sequence[dict], accuracy: float) -> float | None:
    """Returns the step at which a run first reaches `accuracy`; None if it never does.

    The step is interpolated linearly between two evaluations.

    Args:
        lines: the lines of eval.jsonl, in ascending steps.
    """
    before = None
    for line in lines:
        if line["accuracy"] >= accuracy:
            if before is None:
                return float(line["step"])
            share = (accuracy - before["accuracy"]) / (line["accuracy"] - before["accuracy"])
            return before["step"] + share * (line["step"] - before["step"])
        before = line
    return None


def largest_fall(lines: Sequence[dict]) -> float:
    """Returns the largest fall of the accuracy from one evaluation to the next; 0 if it never falls."""
    accuracies = [line["accuracy"] for line in lines]
    return max(0.0, *(a - b for a, b in itertools.pairwise(accuracies)))


def find(command: Command) -> Finding:
    """Trains from the base and from the cold start with each seed. Compares how many steps they need for --accuracy."""
    words = (*ASKED, f"--eval-every={command.every}")
    starts = cold_starts(command)
    places = {
        "base": [train_zero(command, seed, *words) for seed in command.seeds],
        "cold start": [
            train_zero(command, seed, *words, f"--weights={start}", "--template=r1")
            for seed, start in zip(command.seeds, starts, strict=True)
        ],
    }
    lines = {arm: [read_evaluations(place) for place in found] for arm, found in places.items()}
    reached = {arm: [steps_to(run, command.accuracy) for run in runs] for arm, runs in lines.items()}
    rows = [["RL from", "accuracy before", f"steps to {command.accuracy:g}", "accuracy after", "largest fall"]]
    counted = {}
    for arm, runs in lines.items():
        counted[arm] = [
            float(run[-1]["step"]) if at is None else at for at, run in zip(reached[arm], runs, strict=True)
        ]
        never = sum(at is None for at in reached[arm])
        said = estimate(counted[arm]).text(1) + (f" ({never} of {len(runs)} never)" if never else "")
        before, after = (estimate([run[at]["accuracy"] for run in runs]).text() for at in (0, -1))
        rows.append([arm, before, said, after, estimate([largest_fall(run) for run in runs]).text()])
    saved = estimate([a - b for a, b in zip(counted["base"], counted["cold start"], strict=True)])
    whole = all(at is not None for at in reached["cold start"])
    return Finding(
        decide(whole, saved.low > 0, seeds=len(command.seeds)),
        f"RL from the cold start reaches {command.accuracy:g} after {estimate(counted['cold start']).text(1)} steps, "
        f"from the base after {estimate(counted['base']).text(1)}: {saved.text(1)} saved.",
        LIMIT,
        rows,
        [
            Curves(
                "Held-out accuracy",
                "share right and in form",
                {f"from the {arm}": mean_curve(found, "accuracy") for arm, found in places.items()},
                share=True,
            )
        ],
    )


if __name__ == "__main__":
    main(Command, find, __doc__)
