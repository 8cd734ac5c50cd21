"""R1, stage 3: rejection sampling from the reasoning policy, general data, and fine-tuning of the base again.

Source:  DeepSeek-AI 2025, section 2.3.3; v2 B.3.3 (data, Listing 4), B.4.2 (numbers), Table 5 (counts)
Run:     python -m experiments.r1_3_rejection_sft --reasoner=RUN_OF_STAGE_2
         ... --review=True             stops before training: edit rejection.jsonl, then run again without it
         ... --judge=endpoint --endpoint.url=URL --prompts=FILE
                                       a model that reads their gold answer judges rows that no rule can judge
Writes:  <workdir>_data/rejection.jsonl (every record: keep, and the reason where it is dropped); <workdir> is a run's
         directory, whose parent is the base
Departs: 1. the paper has 600k reasoning and 200k general records; its samples of a prompt, temperature and thresholds
            are not published
         2. general replies come from the base, several of each prompt, of which the generator keeps a right one: nano
            has no DeepSeek-V3; each has an empty chain of thought, as the paper's simple queries. Another author's
            (--general-weights) keep theirs
         3. a batch is 128 packed rows, not 128 records
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments.r1_1_cold_start import NANO as COLD_NANO
from experiments.r1_1_cold_start import PAPER as COLD_PAPER
from r1jax.plan_supervised import TunePlanOptions
from r1jax.rejection import Filters
from r1jax.run import RunOptions
from r1jax.sft import TuneRecipe
from r1jax.waves import Sampling
from r1jax.writer import Endpoint

PAPER = COLD_PAPER  # "2-3 epochs", 5e-5 -> 5e-6, 32,768, 128: one paragraph gives both stages their numbers
NANO = dataclasses.replace(COLD_NANO, epochs=3.0)
RECIPES = {"nano": NANO, "paper": PAPER}
RECORDS = "rejection.jsonl"
OFFSET = 1 << 21  # questions of the stream that no earlier stage has met
REASONING = Filters(
    judged=True,  # "retain only the correct ones"
    form="r1",
    least_language=1.0, code_blocks=False,  # "mixed languages, long paragraphs, and code blocks"
    most_each=2,
)  # fmt: skip
GENERAL = Filters(least_language=0.0, most_each=1)


LONGEST_REPLY = 64  # tokens of a reply to one of nano's general prompts
OPTIONS = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:all")
NOWHERE = Endpoint()


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
    """Prompts of any kind that the general part answers."""
    general_questions: int = 2048
    """How many of them are drawn; the nano world has some 520."""
    general_samples: int = 16
    """Completions of each."""
    general_weights: str = ""
    """Who answers them: another checkpoint than the base."""
    general_share: float = 0.25
    """Share of general records in training ("600k" and "200k" in the paper); 0: no general part."""
    sample_tokens: int = 320
    """A completion is cut here, and what a judge says."""
    wave_rows: int = 512
    """Completions that each process draws together; what they need of memory bounds it."""
    longest_paragraph: int = 400
    """Characters of a paragraph of a chain of thought that is kept; 0: any."""
    judge: str = "none"
    """Who judges rows without a rule by their reference answer: none, endpoint, or a checkpoint's directory."""
    endpoint: Endpoint = NOWHERE
    """Where another model answers, for --judge=endpoint."""
    review: bool = False
    """Stop once the records are written, so that people can edit them."""


COLLECTING = Collecting()
# 600k and 200k records were kept in the paper; prompts, samples of each and thresholds are not published
PAPER_COLLECTING = Collecting(
    questions=150_000, samples=8, general_prompts="", general_questions=200_000, general_samples=4,
    sample_tokens=32_768, wave_rows=64, longest_paragraph=2_000,
)  # fmt: skip


PLAN = TunePlanOptions(plan_records=800_000)  # "around 800k samples"


@dataclasses.dataclass(frozen=True)
class Command:
    """Rejection sampling and fine-tuning."""

    numbers: Annotated[TuneRecipe, tyro.conf.arg(name="")] = NANO
    collecting: Annotated[Collecting, tyro.conf.arg(name="")] = COLLECTING
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = OPTIONS
    plan: Annotated[TunePlanOptions, tyro.conf.arg(name="")] = PLAN
    recipe: str = "nano"
    """Whose numbers are the defaults: nano or paper."""


def of_recipe(numbers: TuneRecipe, recipe: str) -> Command:
    return Command(numbers, COLLECTING if recipe == "nano" else PAPER_COLLECTING, recipe=recipe)


def train(recipe: TuneRecipe, options: RunOptions, collecting: Collecting) -> Path | None:
    """Collects the records unless they are there, then fine-tunes the base on those kept. None: it stops for a review.

    Raises:
        ValueError: a flag, file or checkpoint that cannot be used.
    """
    from r1jax import records, sft, train_sft
    from r1jax.collecting import collected

    share = collecting.general_share
    if not collecting.reasoner:
        raise ValueError("--reasoner=DIR is missing: the run of stage 2 whose right answers are the data")
    if not 0 <= share < 1:
        raise ValueError(f"--general-share={share} must be 0, which leaves general records out, or a share below 1")
    if share and not collecting.general_prompts:
        raise ValueError("--general-prompts=FILE is missing: what the general part answers. Or give --general-share=0")
    found = collected(
        options, collecting, RECORDS, "reasoner", lambda mesh, home: collect(options, collecting, mesh, home)
    )
    if found is None:
        return None
    good = records.kept(found)
    parts = [sft.Part([record for record in good if record["route"] != "general"], 1.0 - share)]
    if share:
        parts.append(sft.Part([record for record in good if record["route"] == "general"], share))
    data = records.described(found, records.beside(options.workdir) / RECORDS)
    return train_sft.train(recipe, options, "r1_3_rejection_sft", parts, data)


def collect(options: RunOptions, collecting: Collecting, mesh, home: Path) -> list[dict]:
    """Reasoning records of the reasoner and general ones of the base, filtered."""
    from r1jax.checkpoint import behind
    from r1jax.collecting import writer
    from r1jax.data import prompts as questions
    from r1jax.generate import generate
    from r1jax.nano.corpus import USER
    from r1jax.prompts import fill
    from r1jax.rejection import filtered
    from r1jax.rewards.isolate import Pool
    from r1jax.rewrite import with_reference
    from r1jax.run import load_policy

    reasoner = dataclasses.replace(options, weights=collecting.reasoner)
    with behind("--reasoner"):
        policy, params, source = load_policy(reasoner, mesh, frozen=True)
    examples = questions.distinct(options.prompts, options.seed, OFFSET, collecting.questions)
    rows = collecting.wave_rows
    sampling = Sampling(samples=collecting.samples, max_tokens=collecting.sample_tokens, wave_rows=rows)
    with Pool() as pool:
        found = generate(
            policy, params, examples, mesh, pool, sampling, home / "reasoning.jsonl",
            seed=options.seed, route="rejection", source=source,
        )  # fmt: skip
        if collecting.judge != "none":
            most = collecting.sample_tokens
            judge = writer("--judge", collecting.judge, collecting.endpoint, options, mesh, most, rows)
            found = with_reference(found, judge, home / "judged.jsonl")
        found = filtered(found, dataclasses.replace(REASONING, longest_paragraph=collecting.longest_paragraph))
        if collecting.general_share:
            author = dataclasses.replace(options, weights=collecting.general_weights or options.weights)
            with behind("--general-weights" if collecting.general_weights else "--weights"):
                policy, params, source = load_policy(author, mesh, frozen=True)
            asked = (collecting.general_prompts, options.seed, OFFSET, collecting.general_questions)
            examples = questions.distinct(*asked, flag="--general-prompts")
            # The base answers in the corpus's own wrapper; a fine-tuned author in its template.
            own = questions.generated(collecting.general_prompts) is not None and not collecting.general_weights
            most = min(LONGEST_REPLY, collecting.sample_tokens) if own else collecting.sample_tokens
            sampling = Sampling(samples=collecting.general_samples, max_tokens=most, wave_rows=rows)
            said = generate(
                policy, params, examples, mesh, pool, sampling, home / "general.jsonl",
                seed=options.seed, route="general", source=source,
                prompts=[fill(USER if own else policy.template, row["problem"]) for row in examples],
            )  # fmt: skip
            found += filtered(best_first(plain(said, always=own)), GENERAL)
    return found


def plain(records: Sequence[dict], always: bool) -> list[dict]:
    """General records in R1's form, with an empty chain of thought; unless always, an author who thinks is left as it
    is."""
    from r1jax.evaluate import reply_of
    from r1jax.rewards.format import think

    return [
        record
        if think(record["response"]) and not always
        else record | {"response": f" <think> </think> {reply_of(record['response'])}"}
        for record in records
    ]


def best_first(records: Sequence[dict]) -> list[dict]:
    """The records of each prompt, the best before the others: right ones, of these those with fewest stock phrases."""
    from r1jax.nano import general

    place = {name: i for i, name in enumerate(dict.fromkeys(record["example"] for record in records))}
    return sorted(records, key=lambda r: (place[r["example"]], r["right"] is not True, general.fillers(r["response"])))


def main() -> None:
    from r1jax.command import fine_tune

    fine_tune("R1, stage 3", "runs/r1_3_rejection_sft", of_recipe, RECIPES, __doc__, train)


if __name__ == "__main__":
    main()
