"""Claim: fine-tuning on well-formed texts teaches the form of an answer; RL teaches how to find the answer.

Run:     python -m experiments.claims.sft_form_rl_skill
Method:  --records questions are drawn from those of RL, and the base answers each of them once. The well-formed
         answers, right or wrong, become records, and the same base is fine-tuned on them. The records show the form,
         but no more skill than the base has. R1-Zero is trained from the same base. Skill is the share of right
         answers, however they are written. Form is the share of completions in the template's form. Both are measured
         on the same held-out problems
Expect:  fine-tuning lifts the form by more than the half-width of the 95 % interval over seeds. Its gain in skill lies
         below RL's, and the intervals of the two gains do not overlap
Cost:    a run of R1-Zero and a fine-tuning, about 14 minutes a seed on 2 cores (estimated)
Source:  Chu et al. 2025 (arXiv 2501.17161), "SFT memorizes, RL generalizes": SFT stabilises the output's form for RL
Departs: the records are the model's own. Records of a better model would pass on its skill, which is distillation
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from experiments.claims.protocol import Bench, Finding, decide, dots, estimate, main
from experiments.claims.runs import evaluate, read_results, run, train_zero
from r1jax import jsonl
from r1jax.rewards import format as format_reward
from r1jax.runs.files import write_lines

FIGURES = {"skill": "pass@1", "form": "format"}  # name here -> name in results.json
LIMIT = (
    "Nano's base already knows the form and uses it in six of ten completions, so what fine-tuning does to a model "
    "that has never seen it is not shown; nor is whether the skill lasts on questions of another kind."
)


@dataclasses.dataclass(frozen=True)
class Command(Bench):
    """Compares fine-tuning on the base's well-formed texts with RL."""

    records: int = 1024
    """Number of questions that the base answers."""
    tuning: tuple[str, ...] = ()
    """Further flags of the fine-tuning, such as --epochs=1."""


def write_well_formed(samples: Path, target: Path) -> Path:
    """Writes all well-formed completions of a file of samples, right or wrong, to a file of records.

    Returns the path of the records.

    Args:
        samples: the file of samples.
        target: the file of records to write.

    Raises:
        ValueError: no completion is well formed.
    """
    kept = [
        {name: line[name] for name in ("id", "problem", "response")} | {"keep": True}
        for line in jsonl.read(samples)
        if format_reward.verify(line["response"], {"style": "r1_zero"}).reward == 1.0
    ]
    if not kept:
        raise ValueError(f"{samples}: no completion is well formed. Raise --records")
    write_lines(target, kept)
    return target


def tune(command: Command, seed: int) -> Path:
    """Fine-tunes the base on its own well-formed completions, and returns the run's directory."""
    words = ["--prompts=nano:zero", f"--count={command.records}", "--samples=1", "--template=r1_zero", f"--seed={seed}"]
    sampled = run(command, "experiments.generate", words)
    records = write_well_formed(sampled / "samples.jsonl", command.home / f"well_formed_{seed}_{command.records}.jsonl")
    words = [f"--records={records}", "--model=nano", "--template=r1_zero", f"--seed={seed}"]
    return run(command, "experiments.distill", [*words, f"--eval-problems={command.problems}", *command.tuning])


def find(command: Command) -> Finding:
    """Measures the claim and returns the result.

    With each seed, one copy of the base is fine-tuned, and another copy is trained by RL. The result compares their
    gains in form and skill over the base.
    """
    trained = {
        "fine-tuning": [tune(command, seed) for seed in command.seeds],
        "RL": [train_zero(command, seed) for seed in command.seeds],
    }

    def measure(weights: Path | str) -> dict[str, float]:
        found = read_results(evaluate(command, weights, "--benchmarks=nano:zero"), "nano_zero")
        return {name: found[key]["mean"] for name, key in FIGURES.items()}

    base = measure("")
    after = {name: [measure(place) for place in places] for name, places in trained.items()}
    gains = {
        (name, figure): [one[figure] - base[figure] for one in found]
        for name, found in after.items()
        for figure in base
    }
    rows = [["", *FIGURES], ["base", *(f"{base[figure]:.3f}" for figure in FIGURES)]]
    for name, found in after.items():
        rows.append([name, *(estimate([one[figure] for one in found]).text() for figure in FIGURES)])
    form, skill = (estimate(gains["fine-tuning", figure]) for figure in ("form", "skill"))
    learnt = estimate(gains["RL", "skill"])
    return Finding(
        decide(form.low > 0, skill.high < learnt.low, seeds=len(command.seeds)),
        f"Fine-tuning changes the form by {form.text(3, '+')} and the skill by {skill.text(3, '+')}; RL changes the "
        f"skill by {learnt.text(3, '+')}.",
        LIMIT,
        rows,
        [
            dots(
                "Gain over the base", "share", {f"{figure}, {name}": values for (name, figure), values in gains.items()}
            )
        ],
    )


if __name__ == "__main__":
    main(Command, find, __doc__)
