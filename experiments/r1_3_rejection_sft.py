"""R1, stage 3: fine-tunes the base on rejection-sampled records of the reasoning policy, and on general records.

Source:  DeepSeek-AI 2025, section 2.3.3; v2 B.3.3 (data, Listing 4), B.4.2 (numbers), Table 5 (counts)
Run:     python -m experiments.r1_3_rejection_sft --reasoner=RUN_OF_STAGE_2
         ... --review=True             stops before training: edit rejection.jsonl, then run again without --review
         ... --judge=endpoint --endpoint.url=URL --prompts=FILE
                                       a model judges the answers that no verifier can judge, by comparing them
                                       with the reference answer
Writes:  <workdir>_data/rejection.jsonl: every record. `keep` is false if the record is dropped, and `reason` says why
         <workdir>: the directory of the run. The run starts from the base
Departs: 1. the paper has 600k reasoning and 200k general records; samples per prompt, temperature and thresholds are
            not published
         2. nano has no DeepSeek-V3, so the base answers general prompts, several times each. At most one right
            answer to a prompt is kept; nano's prompt generator knows which answers are right. The kept answer gets an
            empty chain of thought, as in the paper's records of simple queries. Replies of another model
            (--general-weights) keep their chain of thought
         3. a batch is 128 packed rows, not 128 records
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from experiments.r1_1_cold_start import NANO as COLD_NANO
from experiments.r1_1_cold_start import PAPER as COLD_PAPER
from experiments.stage import TuneCommand, main_collecting
from r1jax import cli, train_sft
from r1jax.data import questions
from r1jax.nano import general
from r1jax.nano.corpus import USER
from r1jax.prompts import fill
from r1jax.recipes import RunOptions, SamplingOptions, SFTRecipe, TunePlanOptions
from r1jax.rewards.format import reply_of, think
from r1jax.rewards.isolate import Pool
from r1jax.runs.policies import load_policy
from r1jax.sft import documents
from r1jax.sft_data import records
from r1jax.sft_data.collect import collect_once, make_writer
from r1jax.sft_data.filters import Filters, apply_filters
from r1jax.sft_data.generate import Author, Route, generate
from r1jax.sft_data.llm import Endpoint
from r1jax.sft_data.rewrite import judge_with_reference

PAPER = COLD_PAPER  # "2-3 epochs", 5e-5 -> 5e-6, 32,768, 128: one paragraph gives both stages their numbers
NANO = dataclasses.replace(COLD_NANO, epochs=3.0)
RECIPES = {"nano": NANO, "paper": PAPER}
RECORDS = "rejection.jsonl"
OFFSET = 1 << 21  # index of the first question; earlier stages use lower ones
REASONING = Filters(
    judged=True,  # "retain only the correct ones"
    form="r1",
    least_language=1.0,
    code_blocks=False,  # "mixed languages, long paragraphs, and code blocks"
    most_each=2,
)
GENERAL = Filters(least_language=0.0, most_each=1)


LONGEST_REPLY = 64  # most tokens in a reply to one of nano's general prompts
OPTIONS = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:all")
NOWHERE = Endpoint()


@dataclasses.dataclass(frozen=True)
class Collecting:
    """Settings of sampling and filtering the records."""

    reasoner: str = ""
    """Directory of the stage 2 run, which is sampled for reasoning records."""
    questions: int = 1024
    """Number of reasoning questions."""
    samples: int = 4
    """Completions for each reasoning question."""
    general_prompts: str = "nano:general"
    """Prompts of the general records: a file, or nano:MIX."""
    general_questions: int = 2048
    """Number of general prompts; nano has about 520 distinct general prompts."""
    general_samples: int = 16
    """Completions for each general prompt."""
    general_weights: str = ""
    """Checkpoint that answers the general prompts; empty: the base."""
    general_share: float = 0.25
    """Share of general records among the records that training draws (the paper: 200k general, 600k reasoning);
    0: no general records."""
    sample_tokens: int = 320
    """Largest number of tokens in a completion, and in a judge's reply."""
    wave_rows: int = 512
    """Number of completions that each process samples at once. Memory limits this number."""
    longest_paragraph: int = 400
    """Drop a record if its chain of thought has a paragraph with more characters than this; 0: no limit."""
    judge: str = "none"
    """Which model judges the answers that no verifier can judge: none, endpoint, or the directory of a checkpoint. The
    model compares an answer with the reference answer."""
    endpoint: Endpoint = NOWHERE
    """The server that --judge=endpoint uses."""
    review: bool = False
    """Stop after writing the records, so that people can edit them."""


COLLECTING = Collecting()
# the paper kept 600k and 200k records; it does not publish prompts, samples per prompt or thresholds
PAPER_COLLECTING = Collecting(
    questions=150_000,
    samples=8,
    general_prompts="",
    general_questions=200_000,
    general_samples=4,
    sample_tokens=32_768,
    wave_rows=64,
    longest_paragraph=2_000,
)


PLAN = TunePlanOptions(plan_records=800_000)  # "around 800k samples"


@dataclasses.dataclass(frozen=True)
class Command(TuneCommand):
    """Trains stage 3: rejection sampling and fine-tuning."""

    collecting: Annotated[Collecting, cli.FLAT] = COLLECTING


COMMANDS = cli.commands_by_recipe(Command, RECIPES, options=OPTIONS, plan=PLAN)
COMMANDS["paper"] = dataclasses.replace(COMMANDS["paper"], collecting=PAPER_COLLECTING)


def train(recipe: SFTRecipe, options: RunOptions, collecting: Collecting) -> Path | None:
    """Collects the records unless they exist, then fine-tunes the base on the records with keep=true.

    Returns the working directory, or None if `collecting.review` stops the command so that people can edit the records.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
    """
    share = collecting.general_share
    if not collecting.reasoner:
        raise ValueError(
            "--reasoner=DIR is missing: name the directory of stage 2, whose right answers become the records"
        )
    if not 0 <= share < 1:
        raise ValueError(f"--general-share={share} must be at least 0 and below 1; 0 leaves general records out")
    if share and not collecting.general_prompts:
        raise ValueError(
            "--general-prompts=FILE is missing: name a file of prompts for the general records, "
            "or leave these records out with --general-share=0"
        )
    found = collect_once(
        options, collecting, RECORDS, "reasoner", lambda mesh, home: collect(options, collecting, mesh, home)
    )
    if found is None:
        return None
    good = records.select_kept(found)
    parts = [documents.Part([record for record in good if record["route"] != "general"], 1.0 - share)]
    if share:
        parts.append(documents.Part([record for record in good if record["route"] == "general"], share))
    data = records.make_manifest_entry(found, records.beside(options.workdir) / RECORDS)
    return train_sft.train(recipe, options, "r1_3_rejection_sft", parts, data)


def collect(options: RunOptions, collecting: Collecting, mesh, home: Path) -> list[dict]:
    """Samples, judges and filters the records of the stage.

    Reasoning records are sampled from the stage 2 policy. General records are sampled from the base, or from
    --general-weights if that flag is given.

    Returns all records, including the dropped ones. Samples are stored in `home`, so that a killed run resumes.

    Args:
        options: the options of the stage's run; the option `weights` names the base.
    """
    sampled = dataclasses.replace(options, weights=collecting.reasoner)
    author = Author(*load_policy(sampled, mesh, frozen=True, flag="--reasoner"))
    examples = questions.distinct_questions(options.prompts, options.seed, OFFSET, collecting.questions)
    rows = collecting.wave_rows
    sampling = SamplingOptions(samples=collecting.samples, max_tokens=collecting.sample_tokens, wave_rows=rows)
    with Pool() as pool:
        route = Route("rejection", home / "reasoning.jsonl", options.seed)
        found = generate(author, examples, mesh, pool, sampling, route)
        if collecting.judge != "none":
            most = collecting.sample_tokens
            judge = make_writer("--judge", collecting.judge, collecting.endpoint, options, mesh, most, rows)
            found = judge_with_reference(found, judge, home / "judged.jsonl")
        found = apply_filters(found, dataclasses.replace(REASONING, longest_paragraph=collecting.longest_paragraph))
        if collecting.general_share:
            flag, asked = "--weights", options
            if collecting.general_weights:
                flag = "--general-weights"
                asked = dataclasses.replace(options, weights=collecting.general_weights)
            author = Author(*load_policy(asked, mesh, frozen=True, flag=flag))
            asked = (collecting.general_prompts, options.seed, OFFSET, collecting.general_questions)
            examples = questions.distinct_questions(*asked, flag="--general-prompts")
            # The base is asked in the corpus's own wrapper, a fine-tuned model in its template.
            own = questions.generator_mix(collecting.general_prompts) is not None and not collecting.general_weights
            most = min(LONGEST_REPLY, collecting.sample_tokens) if own else collecting.sample_tokens
            sampling = SamplingOptions(samples=collecting.general_samples, max_tokens=most, wave_rows=rows)
            prompts = [fill(USER if own else author.policy.template, row["problem"]) for row in examples]
            route = Route("general", home / "general.jsonl", options.seed)
            said = generate(author, examples, mesh, pool, sampling, route, prompts)
            found += apply_filters(sort_best_first(plain(said, always=own)), GENERAL)
    return found


def plain(records: Sequence[dict], always: bool) -> list[dict]:
    """Returns the records with responses in R1's form and an empty chain of thought: "<think> </think> REPLY".

    Args:
        always: if True, an existing chain of thought is removed. If False, a response with a chain of thought stays
            unchanged.
    """
    return [
        record
        if think(record["response"]) and not always
        else record | {"response": f" <think> </think> {reply_of(record['response'])}"}
        for record in records
    ]


def sort_best_first(records: Sequence[dict]) -> list[dict]:
    """Sorts the records of each prompt by quality. Right responses come first, then responses with fewer stock phrases.

    The order of the prompts does not change. A response is right if the record's verdict says so.
    """
    place = {name: i for i, name in enumerate(dict.fromkeys(record["example"] for record in records))}
    return sorted(records, key=lambda r: (place[r["example"]], r["right"] is not True, general.fillers(r["response"])))


def main() -> None:
    main_collecting(COMMANDS, train, __doc__, "R1, stage 3", "runs/r1_3_rejection_sft")


if __name__ == "__main__":
    main()
