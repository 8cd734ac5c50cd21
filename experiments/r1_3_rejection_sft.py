"""R1, stage 3: rejection sampling from the reasoning policy, general data, and supervised fine-tuning of the base again.

Source:  DeepSeek-AI 2025, section 2.3.3; v2 B.3.3 (data, Listing 4), B.4.2 (numbers), Table 5 (counts)
Run:     python -m experiments.r1_3_rejection_sft --reasoner=RUN_OF_STAGE_2
         ... --review=True                                       stops before training: edit rejection.jsonl, then run again without it
         ... --judge=endpoint --endpoint.url=... --prompts=FILE  rows without a rule are judged by a model that reads their gold
Writes:  <workdir>_data/rejection.jsonl (every record: keep, and the reason where it is dropped); <workdir> is a run's directory,
         whose parent is the base
Departs: 1. 600k reasoning and 200k general records in the paper; samples of a prompt, temperature and thresholds are not published
         2. general replies come from the base, several of each prompt, of which the generator keeps right ones: nano has no
            DeepSeek-V3; each has an empty chain of thought, as the paper's simple queries
         3. a batch is 128 packed rows, not 128 records
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments.r1_1_cold_start import NANO as COLD_NANO
from experiments.r1_1_cold_start import PAPER as COLD_PAPER
from experiments.r1_1_cold_start import USER, collected, command_line
from r1jax.generate import Sampling
from r1jax.rejection import Filters
from r1jax.run import RunOptions, explained
from r1jax.train_sft import TuneRecipe
from r1jax.writer import Endpoint

PAPER = COLD_PAPER  # "2-3 epochs", 5e-5 -> 5e-6, 32,768, 128: one paragraph gives both stages their numbers
NANO = dataclasses.replace(COLD_NANO, epochs=3.0)
RECIPES = {"nano": NANO, "paper": PAPER}
RECORDS = "rejection.jsonl"
OFFSET = 1 << 21  # questions of the stream that no earlier stage has met
REASONING = Filters(
    judged=True,  # "retain only the correct ones"
    form="r1", least_language=1.0, longest_paragraph=400, code_blocks=False,  # "mixed languages, long paragraphs, and code blocks"
    most_each=2,
)  # fmt: skip
GENERAL = Filters(least_language=0.0, most_each=1)


@dataclasses.dataclass(frozen=True)
class Collecting:
    """How many samples are drawn, and of what."""

    reasoner: str = ""
    """Directory of the run of stage 2."""
    questions: int = 1024
    """Reasoning questions."""
    samples: int = 4
    """Completions of each."""
    general_prompts: str = "nano:general"
    """Prompts of any kind that the general part answers; empty: no general part."""
    general_questions: int = 512
    """How many of them."""
    general_samples: int = 6
    """Completions of each."""
    general_weights: str = ""
    """Who answers them: another checkpoint than the base."""
    general_share: float = 0.25
    """Share of general records in training ("600k" and "200k" in the paper)."""
    sample_tokens: int = 320
    """A completion is cut here."""
    judge: str = "none"
    """Who judges rows without a rule by their reference answer: none, endpoint, or a checkpoint's directory."""
    endpoint: Endpoint = Endpoint()
    """Where another model answers, for --judge=endpoint."""
    review: bool = False
    """Stop once the records are written, so that people can edit them."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Rejection sampling and fine-tuning."""

    numbers: Annotated[TuneRecipe, tyro.conf.arg(name="")] = NANO
    collecting: Annotated[Collecting, tyro.conf.arg(name="")] = Collecting()
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:all")
    recipe: str = "nano"
    """Whose numbers are the defaults: nano or paper."""


def train(recipe: TuneRecipe, options: RunOptions, collecting: Collecting) -> Path | None:
    """Collects the records unless they are there, then fine-tunes the base on those kept. None where it stops for a review."""
    from r1jax import records, train_sft

    found = collected(options, collecting, RECORDS, collect, collecting.reasoner)
    if found is None:
        return None
    good = records.kept(found)
    share = collecting.general_share
    parts = [
        train_sft.Part([record for record in good if record["route"] != "general"], 1.0 - share),
        train_sft.Part([record for record in good if record["route"] == "general"], share),
    ]
    data = {"counts": records.counts(found), "sources": records.sources(found)}
    return train_sft.train(recipe, options, "r1_3_rejection_sft", [part for part in parts if part.share > 0], data)


def collect(options: RunOptions, collecting: Collecting, mesh, home: Path) -> list[dict]:
    """Reasoning records of the reasoner and general ones of the base, filtered."""
    from r1jax.data import prompts as questions
    from r1jax.generate import generate
    from r1jax.prompts import fill
    from r1jax.rejection import filtered
    from r1jax.rewards.isolate import Pool
    from r1jax.rewrite import with_reference
    from r1jax.run import load_policy

    policy, params, source = load_policy(dataclasses.replace(options, weights=collecting.reasoner), mesh, frozen=True)
    sampling = Sampling(samples=collecting.samples, max_tokens=collecting.sample_tokens)
    with Pool() as pool:
        found = generate(
            policy, params, drawn(options.prompts, options.seed, collecting.questions), mesh, pool, sampling, home / "reasoning.jsonl",
            seed=options.seed, route="rejection", source=source,
        )  # fmt: skip
        if collecting.judge != "none":
            found = with_reference(found, judge(collecting, options, mesh), home / "judged.jsonl")
        found = filtered(found, REASONING)
        if collecting.general_prompts:
            policy, params, source = load_policy(dataclasses.replace(options, weights=collecting.general_weights or options.weights), mesh, frozen=True)
            examples = drawn(collecting.general_prompts, options.seed, collecting.general_questions)
            nano = questions.generated(collecting.general_prompts) is not None and not collecting.general_weights
            sampling = Sampling(samples=collecting.general_samples, max_tokens=min(64, collecting.sample_tokens) if nano else collecting.sample_tokens)
            said = generate(
                policy, params, examples, mesh, pool, sampling, home / "general.jsonl", seed=options.seed, route="general", source=source,
                prompts=[fill(USER if nano else policy.template, row["problem"]) for row in examples],
            )  # fmt: skip
            found += filtered(best_first(plain(said)), GENERAL)
    return found


def drawn(prompts: str, seed: int, count: int) -> list[dict]:
    """Distinct questions of a stream, that no earlier stage has met where it is endless."""
    from r1jax.data import prompts as questions

    take, _ = questions.stream(prompts, seed)
    return list({row["problem"]: row for row in (take(OFFSET + i) for i in range(count))}.values())


def judge(collecting: Collecting, options: RunOptions, mesh):
    """The model of --judge."""
    from r1jax.run import load_policy
    from r1jax.writer import by_checkpoint, by_endpoint

    if collecting.judge == "endpoint":
        return by_endpoint(collecting.endpoint)
    policy, params, source = load_policy(dataclasses.replace(options, weights=collecting.judge), mesh, frozen=True)
    return by_checkpoint(collecting.judge, policy, params, mesh, source["sha256"], max_tokens=collecting.sample_tokens, seed=options.seed)


def plain(records: Sequence[dict]) -> list[dict]:
    """General records in R1's form, with an empty chain of thought."""
    from r1jax.evaluate import reply_of

    return [record | {"response": f" <think> </think> {reply_of(record['response'])}"} for record in records]


def best_first(records: Sequence[dict]) -> list[dict]:
    """The records of each prompt with the best before the others: right ones, and of these the ones with fewest stock phrases."""
    from r1jax.nano import general

    place = {name: i for i, name in enumerate(dict.fromkeys(record["example"] for record in records))}
    return sorted(records, key=lambda r: (place[r["example"]], r["right"] is not True, general.fillers(r["response"])))


def main() -> None:
    try:
        command = command_line(Command, RECIPES, __doc__, sys.argv[1:])
        options = command.options
        if not options.workdir:
            options = dataclasses.replace(options, workdir="runs/r1_3_rejection_sft")
        train(command.numbers, options, command.collecting)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")


if __name__ == "__main__":
    main()
