"""Claim: a process reward model is hacked when RL maximises it, and helps when it ranks samples.

Run:     python -m experiments.claims.process_rewards
         ... --form=min         RL gets the least probability of a completion's steps, in place of their sum
Method:  a process reward model (PRM) learns, from the base's chains of thought, whether each of their steps is right.
         nano's generator labels the steps (`process_reward_model`). As a reward: RL starts from the base and gets the
         sum of the probabilities that the steps of a completion are right. This takes the place of the accuracy
         reward; the format reward stays. R1-Zero, with the accuracy reward, is compared at the same step.
         As a ranker: of N completions of a held-out problem the one whose worst step has the highest probability is
         chosen. It is compared with the mean completion, with the most frequent answer, and with any right completion
Expect:  the chosen completion is right more often than the mean completion, by more than the half-width of the 95 %
         interval over seeds. In RL the PRM's reward rises, and the accuracy ends below R1-Zero's, both by more than the
         half-width, because the sum grows with the number of steps. Tried small with one PRM of 3,200 labels, seed 0.
         Of 99 new questions with 8 completions each: one completion 0.314 right, best by the PRM 0.586, most frequent
         0.571, any 0.808. In 17 steps of RL with 64 completions of at most 256 tokens the PRM's reward rose from 0.9 to
         2.8, the steps from 1.7 to 10.6, and the share of cut completions from 0 to 0.36: the policy went on trying
         until it was cut. At step 10 the held-out accuracy had risen from 0.20 to 0.55, so the PRM teaches at first
Cost:    32 steps of RL and a PRM, about 10 minutes a seed on 2 cores, and a run of R1-Zero (estimated)
Source:  DeepSeek-AI 2025 (arXiv 2501.12948v1), section 4.2, "Unsuccessful Attempts" (v2: G.2): steps are hard to
         define, hard to judge, and a model-based PRM "inevitably leads to reward hacking"; it is of use to rank the
         top N responses. Wang et al. 2023 (arXiv 2312.08935): ranking by the worst step. Cheng et al. 2025
         (arXiv 2504.15275): with the sum of step rewards RL collapses early; with their minimum it does as well as with
         verifiable rewards
Departs: 1. labels are true, so only one of the paper's reasons is left: reward hacking. The authors print no figures
         2. the sum is the usual return of RL, and the form that is hacked most easily; --form=min is the kinder form
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from experiments.claims.process_reward_model import FORMS, cut_steps, judge_steps, score_steps
from experiments.claims.protocol import Bench, Finding, decide, estimate, main
from experiments.claims.reward_overoptimisation import best_of
from experiments.claims.runs import evaluate, mean_curve, read_evaluations, run, train_zero
from experiments.claims.samples_and_thought import cons_curve
from experiments.claims.sharpens_base import pass_curve, read_right
from r1jax import distributed, jsonl
from r1jax.nano import tasks
from r1jax.report.claim_pictures import Curves
from r1jax.reward_models.load import load_reward_model
from r1jax.runs import manifests
from r1jax.runs.files import write_atomically, write_lines
from r1jax.sharding import make_mesh

REWARD = '''"""Rewards of RL on a process reward model; written by experiments.claims.process_rewards."""

from experiments.claims.process_reward_model import make_reward, steps

process = make_reward({directory!r}, {form!r})
'''
LIMIT = (
    "The labels are the generator's and the steps are calculations, so the paper's other two reasons, that steps are "
    "hard to define and to judge, are not shown; nor is a PRM that is trained anew as the policy changes."
)


@dataclasses.dataclass(frozen=True)
class Command(Bench):
    """Uses a process reward model as the reward of RL, and as a ranker of samples."""

    questions: int = 256
    """Number of training questions whose chains of thought the PRM learns from."""
    rl_steps: int = 32
    """Optimizer steps of RL on the PRM; at most --steps."""
    form: Literal["sum", "min"] = "sum"
    """How a completion's reward is made of its steps' probabilities."""
    samples: int = 16
    """N, completions of each problem to choose from."""
    asked: int = 128
    """Number of held-out problems that are answered --samples times."""
    tuning: tuple[str, ...] = ()
    """Further flags of the PRM's training, such as --epochs=1."""


def write_labels(samples: Path, target: Path) -> Path:
    """Writes a labelled text for each step of the completions: the text up to the step's end, and the step's label.

    Returns the path of the labels.

    Args:
        samples: the samples.jsonl with the completions, which answer questions of nano's generator.
        target: the file of labels to write.

    Raises:
        ValueError: no completion has a step.
    """
    found: dict[tuple[str, str], bool] = {}
    for line in jsonl.read(samples):
        mix, seed, index = line["example"].split("-")
        cuts = cut_steps(line["response"])
        right = judge_steps(tasks.prompt(int(seed), int(index), mix), [step for _, step in cuts])
        found |= {(line["problem"], text): label for (text, _), label in zip(cuts, right, strict=True)}
    if not found:
        raise ValueError(f"{samples}: no completion has a step. Raise --questions")
    rows = [{"problem": problem, "response": text, "safe": label} for (problem, text), label in found.items()]
    write_lines(target, rows)
    return target


def train_model(command: Command, seed: int) -> Path:
    """Trains the PRM of a seed on chains of thought of the base. Returns the directory of the training run."""
    words = ["--prompts=nano:zero", f"--count={command.questions}", "--template=r1_zero", f"--seed={seed}"]
    sampled = run(command, "experiments.generate", words)
    labels = write_labels(sampled / "samples.jsonl", command.home / f"step_labels_{seed}_{command.questions}.jsonl")
    words = ["--kind=safety", f"--data={labels}", f"--seed={seed}", *command.tuning]
    return run(command, "experiments.train_reward_model", words)


def train_on_model(command: Command, model: Path, seed: int) -> Path:
    """Runs RL on the PRM in the directory `model`, with the format reward. Returns the run's directory."""
    file = command.home / f"{model.name}_{command.form}.py"
    write_atomically(file, REWARD.format(directory=str(model), form=command.form))
    short = dataclasses.replace(command, steps=min(command.steps, command.rl_steps))
    return train_zero(short, seed, "--reward", f"{file}:process", f"{file}:steps=0", "format")


def rank_curve(model: Path, lines: Sequence[Mapping], samples: int) -> dict[int, float]:
    """Returns {n: accuracy of the best of n completions by the PRM} for n = 1, 2, 4, .. `samples`.

    The accuracy is the mean over problems, and over all ways to choose n completions of a problem.

    Args:
        model: the directory of the PRM.
        lines: the completions, grouped by problem, as experiments.evaluate writes them.
        samples: number of completions of each problem.
    """
    mesh = make_mesh("auto")
    texts = list(dict.fromkeys((line["problem"], line["completion"]) for line in lines))
    scored = score_steps(load_reward_model(model, "safety", mesh), *zip(*texts, strict=True), mesh)
    worst = {text: FORMS["min"](steps) for text, steps in zip(texts, scored, strict=True)}
    found = {n: 0.0 for n in (1 << i for i in range(samples.bit_length()))}
    for first in range(0, len(lines), samples):
        ranked = sorted(lines[first : first + samples], key=lambda line: worst[line["problem"], line["completion"]])
        right = [float(line["right"] is True) for line in ranked]
        found = {n: value + best_of(right, n) * samples / len(lines) for n, value in found.items()}
    return found


def find(command: Command) -> Finding:
    """Trains a PRM with each seed. Compares RL on the PRM with R1-Zero, and ranks the base's samples by the PRM."""
    models = [train_model(command, seed) for seed in command.seeds]
    hacked = [train_on_model(command, model, seed) for seed, model in zip(command.seeds, models, strict=True)]
    zeros = [train_zero(command, seed) for seed in command.seeds]
    base = evaluate(command, "", "--benchmarks=nano:zero", samples=command.samples, problems=command.asked)
    lines, n = jsonl.read(base / "nano_zero.jsonl"), command.samples
    distributed.share_cpu("auto")
    distributed.start()
    ranked = [rank_curve(model, lines, n) for model in models]
    votes, passed = cons_curve(lines, n), pass_curve([read_right(base, "nano_zero", n)])
    most = max(ranked[0])

    ends = [(read_evaluations(place)[0], read_evaluations(place)[-1]) for place in hacked]
    rule = [
        max((line for line in read_evaluations(zero) if line["step"] <= end["step"]), key=lambda line: line["step"])
        for zero, (_, end) in zip(zeros, ends, strict=True)
    ]
    gain = estimate([curve[most] - curve[1] for curve in ranked])
    rise = estimate([end["reward/process"] - begin["reward/process"] for begin, end in ends])
    behind = estimate([end["accuracy"] - line["accuracy"] for (_, end), line in zip(ends, rule, strict=True)])
    step = ends[0][1]["step"]
    quality = [manifests.read(model).results["final"]["accuracy"] for model in models]
    rows = [["", *(f"seed {seed}" for seed in command.seeds), "mean"]]
    for name, values in {
        "held-out steps that the PRM judges rightly": quality,
        "one completion": [curve[1] for curve in ranked],
        f"best of {most} by the PRM": [curve[most] for curve in ranked],
        f"most frequent of {most} answers": [votes[most]] * len(models),
        f"any right of {most} (oracle)": [dict(passed)[most]] * len(models),
        "accuracy before RL": [begin["accuracy"] for begin, _ in ends],
        f"accuracy at step {step}, rule": [line["accuracy"] for line in rule],
        f"accuracy at step {step}, PRM": [end["accuracy"] for _, end in ends],
        **{
            f"{said} {when}": [pair[i][key] for pair in ends]
            for said, key in (("PRM's reward", "reward/process"), ("steps", "reward/steps"), ("tokens", "length"))
            for i, when in ((0, "before RL"), (1, "after RL on the PRM"))
        },
    }.items():
        mean = estimate(values).text()
        rows.append([name, *(f"{value:.3f}" for value in values), mean])
    return Finding(
        decide(gain.low > 0, rise.low > 0, behind.high < 0, seeds=len(command.seeds)),
        f"The best of {most} completions by the PRM is right more often than one by {gain.text(3, '+')}. In {step} "
        f"steps of RL on the PRM its reward changes by {rise.text(3, '+')}, and the accuracy ends "
        f"{behind.text(3, '+')} from that of RL on the rule.",
        LIMIT,
        rows,
        [
            Curves(
                "Accuracy by samples",
                "share right",
                {
                    "any right": passed,
                    "most frequent": [[k, value] for k, value in votes.items()],
                    "best by the PRM": [[k, float(np.mean([curve[k] for curve in ranked]))] for k in ranked[0]],
                },
                "sample",
                share=True,
            ),
            Curves(
                "Held-out accuracy in RL",
                "share right",
                {"rule": mean_curve(zeros, "accuracy"), "PRM": mean_curve(hacked, "accuracy")},
                share=True,
            ),
            Curves(
                "RL on the PRM, held out",
                "mean",
                {"PRM's reward": mean_curve(hacked, "reward/process"), "steps": mean_curve(hacked, "reward/steps")},
            ),
        ],
    )


if __name__ == "__main__":
    main(Command, find, __doc__)
