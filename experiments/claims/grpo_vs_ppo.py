"""Claim: GRPO is as good as PPO with a value network, needs less memory for an update, and no more time a step.

Run:     python -m experiments.claims.grpo_vs_ppo
Method:  trains R1-Zero with --loss=grpo and with --loss=ppo, from one base, with each seed. The claim
         `objectives` uses the same GRPO runs. Accuracy is that of the last evaluation. Memory is what the plan of a run
         (`r1jax.planning.rl`) counts for an update: parameters, moments, reference, gradients, the arrays of one
         forward and backward pass, and for PPO the value network with its moments. Seconds a step are the mean over
         the last half of the steps, in which hardly any program is compiled. They include sampling, and the passes
         and updates of the value network
Expect:  GRPO's accuracy is not below PPO's, and its seconds are not above PPO's, by more than the half-width of the
         95 % interval of the difference over seeds; the plan counts less memory
Cost:    for each seed, two runs of R1-Zero: about 10 minutes for GRPO and 12 for PPO on 2 cores (estimated)
Source:  DeepSeek-AI 2025 (arXiv 2501.12948), v2 appendix A.3, Fig. 4: on MATH, PPO with λ = 0.95 is considerably worse
         than GRPO, and with λ = 1 nearly reaches it
Departs: nano's policy and problems, in place of DeepSeek-Coder-V2-Lite and MATH. PPO has λ = 1, the better one of the
         paper's two, and its value network has the policy's learning rate; neither value was tuned
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from experiments.claims.objectives import read_figures, train_all
from experiments.claims.protocol import Bench, Finding, decide, dots, estimate, main
from experiments.claims.runs import mean_curve
from r1jax import jsonl
from r1jax.planning import rl
from r1jax.recipes import PlanOptions, RLRecipe
from r1jax.report.claim_pictures import Curves
from r1jax.runs import manifests

LOSSES = ("grpo", "ppo")
UPDATE = "update, peak"  # key of the sum of all parts
LIMIT = (
    "The plan's memory is that of an accelerator, and nano's processes are filled by compiled programs, not by "
    "parameters; PPO was not tuned, and completions of thousands of tokens, whose values are hardest to learn, are not "
    "here."
)


def plan_update(place: Path) -> dict[str, float]:
    """Returns the bytes on one device that the plan of a run counts for an update, as {part of the memory: bytes}.

    The key `UPDATE` holds the sum of all parts.

    Args:
        place: the directory of a run of R1-Zero. The recipe and the model are read from it.
    """
    manifest = manifests.read(place)
    fields = {
        field.name: manifest.recipe[field.name]
        for field in dataclasses.fields(RLRecipe)
        if field.name in manifest.recipe  # an older run lacks newer fields, which then have their defaults
    }
    cfg, _ = rl.config_of("", str(place))
    plan = rl.plan(cfg, RLRecipe(**fields), "1x1", PlanOptions())
    parts = plan.held | {"gradients and one pass": sum(plan.update.values())}
    return parts | {UPDATE: sum(parts.values())}


def read_seconds(place: Path) -> dict[str, float]:
    """Returns the mean seconds of a run's steps, {"seconds a step": seconds, "of which sampling": seconds}.

    Both values are means over the last half of the steps. The sampling time of a round is divided evenly among the
    steps of the round.
    """
    lines = jsonl.read(place / "metrics.jsonl")
    late = lines[len(lines) // 2 :]
    minibatches = manifests.read(place).recipe["minibatches"]
    means = {name: float(np.mean([line[f"perf/{name}"] for line in late])) for name in ("step_s", "rollout_s")}
    return {"seconds a step": means["step_s"], "of which sampling": means["rollout_s"] / minibatches}


def tabulate(figures: Mapping[str, list[Mapping[str, float]]], memory: Mapping[str, Mapping[str, float]]) -> list:
    """Returns the rows of the table: each figure with GRPO, with PPO, and GRPO minus PPO; then each part of the memory.

    Args:
        figures: loss -> {figure: value} of each seed.
        memory: loss -> {part: bytes}.
    """
    grpo, ppo = (figures[loss] for loss in LOSSES)
    rows = [["", *(f"{loss}, mean" for loss in LOSSES), "GRPO − PPO", "of each seed"]]
    for name in grpo[0]:
        gaps = [a[name] - b[name] for a, b in zip(grpo, ppo, strict=True)]
        cells = [estimate([one[name] for one in found]).text() for found in (grpo, ppo)]
        rows.append([name, *cells, estimate(gaps).text(3, "+"), " ".join(f"{gap:+.3f}" for gap in gaps)])
    for part in memory["ppo"]:
        sizes = [memory[loss].get(part, 0.0) / 1e6 for loss in LOSSES]
        rows.append(
            [f"plan, MB: {part}", *(f"{size:.1f}" for size in sizes), f"{sizes[0] - sizes[1]:+.1f}", "the same"]
        )
    return rows


def find(bench: Bench) -> Finding:
    """Trains with both losses and each seed. Compares accuracy, the memory of an update, and seconds a step."""
    places = train_all(bench, LOSSES)
    figures: dict[str, list[Mapping[str, float]]] = {}
    for loss, seeds in places.items():
        found = [read_figures(place) for place in seeds]
        figures[loss] = [
            {"accuracy": one["accuracy"], **read_seconds(place), "process, peak GB": one["memory GB"]}
            for one, place in zip(found, seeds, strict=True)
        ]
    memory = {loss: plan_update(seeds[0]) for loss, seeds in places.items()}
    accuracy, seconds = (
        estimate([a[name] - b[name] for a, b in zip(figures["grpo"], figures["ppo"], strict=True)])
        for name in ("accuracy", "seconds a step")
    )
    held = [memory[loss][UPDATE] for loss in LOSSES]
    return Finding(
        decide(accuracy.high >= 0, seconds.low <= 0, held[0] < held[1], seeds=len(bench.seeds)),
        f"GRPO's accuracy is {accuracy.text(3, '+')} from PPO's, and its seconds a step are {seconds.text(2, '+')}; "
        f"its update needs {held[0] / 1e6:.0f} MB by the plan, PPO's {held[1] / 1e6:.0f} MB.",
        LIMIT,
        tabulate(figures, memory),
        [
            Curves(
                "Held-out accuracy",
                "share right",
                {loss: mean_curve(seeds, "accuracy") for loss, seeds in places.items()},
                share=True,
            ),
            dots(
                "Seconds a step",
                "seconds",
                {loss: [one["seconds a step"] for one in found] for loss, found in figures.items()},
            ),
        ],
    )


if __name__ == "__main__":
    main(Bench, find, __doc__)
