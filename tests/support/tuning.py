"""Records of guesses, and a policy that is trained on them."""

import dataclasses
import random
from pathlib import Path

from experiments import distill
from r1jax.nano import corpus, tasks
from r1jax.recipes import RunOptions
from r1jax.sft_data import records


def guesses(path: Path, number: int, seed: int = 0, form=corpus.response_r1) -> Path:
    """Records of comparisons, whose chain of thought is a guess; every fifth is dropped."""
    rng, found = random.Random(seed), []
    for i in range(number):
        row = tasks.draw(rng, "corpus", "corpus", "compare")
        response = " " + form(row, f"i guess {row['gold']}", row["gold"])
        found.append(
            {"id": f"{seed}-{i}", "response": response, "keep": i % 5 > 0, "reason": "", "route": "made"} | row
        )
    records.write(path, found)
    return path


SMALL = dict(
    epochs=0.0,
    steps=2,
    warmup_steps=0,
    row_length=320,
    batch_rows=2,
    held_out_problems=0,
    max_tokens=8,
    eval_problems=2,
    log_samples=1,
)
LEARNT = SMALL | dict(steps=80, learning_rate=2e-2, final_learning_rate=1e-3, row_length=320, batch_rows=4)


def options(workdir: Path, base: Path, **changed: object) -> RunOptions:
    asked = dict(template="r1", prompts="nano:compare", eval_prompts="nano:compare", mesh="1x1")
    return RunOptions(workdir=str(workdir), weights=str(base), **asked | changed)


def sure(base: Path, home: Path) -> Path:
    """A policy that answers every comparison with C in R1-Zero's form: it is too small to repeat its own guess."""
    made = guesses(home / "records.jsonl", 60, form=lambda *_: corpus.response_r1_zero({}, "i guess C", "C"))
    where = options(home / "run", base, template="r1_zero")
    return distill.train(dataclasses.replace(distill.NANO, **LEARNT), where, str(made))
