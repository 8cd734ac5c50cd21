"""R1, stage 3: rejection sampling from the reasoning policy, general data, and supervised fine-tuning of the base again.

Source:  DeepSeek-AI 2025, section 2.3.3; v2 B.3.3 (data), B.4.2 (numbers)
Run:     python -m experiments.r1_3_rejection_sft --reasoner=RUN_OF_STAGE_2
         ... --review=True         stops before training: edit rejection.jsonl, then run again without it
Writes:  <workdir>_data/rejection.jsonl (every record: keep, and the reason where it is dropped); <workdir> is a run's directory,
         whose parent is the base
Departs: 1. 600k reasoning and 200k general records in the paper; samples of a prompt, temperature and thresholds are not published
         2. general replies come from the base, several of each prompt, of which the generator keeps right ones: nano has no
            DeepSeek-V3; each has an empty chain of thought, as the paper's simple queries
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments.r1_1_cold_start import NANO as COLD_NANO
from experiments.r1_1_cold_start import PAPER as COLD_PAPER
from experiments.r1_1_cold_start import USER, beside, write
from r1jax.generate import Sampling
from r1jax.rejection import Filters
from r1jax.run import RunOptions, explained
from r1jax.train_sft import TuneRecipe

PAPER = COLD_PAPER  # "the same as cold start": 2-3 epochs, 5e-5 -> 5e-6, 32,768, 128
NANO = dataclasses.replace(COLD_NANO, epochs=3.0, eval_problems=256)
RECIPES = {"nano": NANO, "paper": PAPER}
RECORDS = "rejection.jsonl"
OFFSET = 1 << 21  # questions of the stream that no earlier stage has met


@dataclasses.dataclass(frozen=True)
class Collecting:
    """How many samples are drawn, and which are kept."""

    reasoner: str = ""
    """Directory of the run of stage 2."""
    questions: int = 512
    """Reasoning questions."""
    samples: int = 4
    """Completions of each."""
    general_questions: int = 256
    """General prompts; 0 for none."""
    general_samples: int = 4
    """Completions of each."""
    sample_tokens: int = 320
    """A completion is cut here."""
    review: bool = False
    """Stop once the records are written, so that people can edit them."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Rejection sampling and fine-tuning."""

    numbers: Annotated[TuneRecipe, tyro.conf.arg(name="")] = NANO
    collecting: Annotated[Collecting, tyro.conf.arg(name="")] = Collecting()
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:all")


def train(recipe: TuneRecipe, options: RunOptions, collecting: Collecting) -> Path | None:
    """Collects the records unless they are there, then fine-tunes the base on those kept."""
    from r1jax import launch, train_sft
    from r1jax.rejection import counts
    from r1jax.sharding import make_mesh

    if not collecting.reasoner:
        raise ValueError("--reasoner=DIR is missing: the run of stage 2 whose right answers are the data")
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    home = beside(options.workdir)
    path = home / RECORDS
    if not path.exists():
        write(path, collect(options, collecting, make_mesh(options.mesh), home))
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if collecting.review:
        print(f"{path}: {sum(r['keep'] for r in records)} of {len(records)} records kept. Edit keep and response, then run again without --review")
        return None
    kept = [record for record in records if record["keep"]]
    return train_sft.train(recipe, options, "r1_3_rejection_sft", kept, {"counts": counts(records)})


def collect(options: RunOptions, collecting: Collecting, mesh, home: Path) -> list[dict]:
    """Reasoning records of the reasoner and general ones of the base, filtered."""
    from r1jax.data import prompts as questions
    from r1jax.generate import generate
    from r1jax.prompts import fill
    from r1jax.rejection import filtered
    from r1jax.rewards.isolate import Pool
    from r1jax.run import load_policy

    home.mkdir(parents=True, exist_ok=True)
    policy, params, source = load_policy(dataclasses.replace(options, weights=collecting.reasoner), mesh, frozen=True)
    take, _ = questions.stream(options.prompts, options.seed)
    examples = [take(OFFSET + i) for i in range(collecting.questions)]
    sampling = Sampling(samples=collecting.samples, max_tokens=collecting.sample_tokens)
    with Pool() as pool:
        reasoning = generate(
            policy, params, examples, mesh, pool, sampling, home / "reasoning.jsonl", seed=options.seed, route="rejection", source=source
        )
        records = filtered(reasoning, Filters(code_blocks=False, longest_paragraph=200, least_language=1.0, most_each=2))
        if collecting.general_questions:
            policy, params, source = load_policy(options, mesh, frozen=True)
            ask, _ = questions.stream("nano:general", options.seed)
            examples = [ask(OFFSET + i) for i in range(collecting.general_questions)]
            sampling = Sampling(samples=collecting.general_samples, max_tokens=64)
            general = generate(
                policy, params, examples, mesh, pool, sampling, home / "general.jsonl", seed=options.seed, route="general", source=source,
                prompts=[fill(USER, row["problem"]) for row in examples],
            )  # fmt: skip
            records += filtered(plain(general), Filters(most_each=2))
    return records


def plain(records: Sequence[dict]) -> list[dict]:
    """General records in R1's form, with an empty chain of thought; stock phrases beyond one are a reason to drop them."""
    from r1jax.evaluate import reply_of
    from r1jax.nano import general

    found = []
    for record in records:
        said = reply_of(record["response"])
        reason = "padding" if general.fillers(said) > 1 else ""
        found.append(record | {"response": f" <think> </think> {said}", "reason": reason, "rewritten_by": "template"})
    return found


def main() -> None:
    command = tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,))
    try:
        options = command.options
        if not options.workdir:
            options = dataclasses.replace(options, workdir="runs/r1_3_rejection_sft")
        train(command.numbers, options, command.collecting)
    except (ValueError, OSError) as error:
        sys.exit(explained(error))


if __name__ == "__main__":
    main()
