"""Trains a value model of a policy: the probability that a completion which begins in a certain way will be right.

The value model learns from the policy's own roll-outs. experiments.train_reward_model trains it with --kind=safety: a
reward model of this kind learns from single responses labelled safe or unsafe. Here, "safe" means that the roll-out is
right.
"""

from __future__ import annotations

import random
from pathlib import Path

from experiments.claims.protocol import Bench
from experiments.claims.runs import run
from experiments.claims.steps import STEP_ENDS
from experiments.r1_zero import NANO
from r1jax import jsonl
from r1jax.runs.files import write_lines

FRESH = 1000  # added to the seed: questions of another stream than those that R1-Zero was trained on


def cut(text: str, rng: random.Random) -> str:
    """Returns the beginning of a completion up to the end of one of its steps, drawn at random."""
    ends = [i + 1 for i, letter in enumerate(text[:-1]) if letter in STEP_ENDS]
    return text[: rng.choice(ends)] if ends else text


def write_labels(samples: Path, target: Path, seed: int) -> Path:
    """Writes two texts for each roll-out, a random beginning and the whole. Returns the path of the file `target`.

    Both texts are labelled "safe" if the whole roll-out is right. A roll-out of a single step gives only the whole.
    Only one beginning of a roll-out is taken, because several would differ little and have the same label.

    Args:
        samples: a samples.jsonl of experiments.generate.
    """
    rng, lines = random.Random(f"steps {seed}"), []
    for line in jsonl.read(samples):
        for text in dict.fromkeys((cut(line["response"], rng), line["response"])):
            lines.append({"problem": line["problem"], "response": text, "safe": line["right"] is True})
    write_lines(target, lines)
    return target


def train_value(bench: Bench, zero: Path, seed: int, questions: int, rollouts: int) -> Path:
    """Trains the value model of a policy on the policy's own roll-outs. Returns the directory of the value model.

    Args:
        zero: directory of the run of R1-Zero that trained the policy.
        questions: number of training questions, from nano:zero.
        rollouts: number of roll-outs of each question.
    """
    words = [f"--weights={zero}", "--prompts=nano:zero", "--template=r1_zero", f"--max-tokens={NANO.max_tokens}"]
    words += [f"--count={questions}", f"--samples={rollouts}", f"--seed={seed + FRESH}"]
    sampled = run(bench, "experiments.generate", words)
    labels = write_labels(sampled / "samples.jsonl", sampled / "beginnings.jsonl", seed)
    words = ["--kind=safety", f"--weights={zero}", f"--data={labels}", "--epochs=1", f"--seed={seed}"]
    return run(bench, "experiments.train_reward_model", words)
