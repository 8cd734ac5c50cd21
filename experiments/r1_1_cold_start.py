"""R1, stage 1, cold start: collects a small set of readable records and fine-tunes the base on it.

Source:  DeepSeek-AI 2025, section 2.3.1 (routes); v2 B.3.2 (filters, rewriting, Listing 1), B.4.2 (numbers)
Run:     python -m experiments.r1_1_cold_start --zero=RUN_OF_R1_ZERO
         ... --review=True             stops before training: edit cold_start.jsonl, then run again without --review
         ... --rewriter=endpoint --endpoint.url=URL            another model rewrites; its key is in OPENAI_API_KEY
         ... --recipe=paper --weights=BASE --zero=RUN --prompts=FILE --worked-example=FILE --mesh=8x8
Routes:  few_shot   samples the base after a worked example with a long chain of thought
         detailed   samples the base with a prompt that asks for detail, reflection and verification
         r1_zero    samples R1-Zero and keeps what is readable
Writes:  <workdir>_data/cold_start.jsonl (every record: the sampled text, the rewritten text, `keep`, `reason`, and who
         rewrote it); <workdir>, the run's directory
Departs: 1. the paper has thousands of records; nano has three hundred, because more would leave nothing for RL to teach
         2. nano's generator stands in for human annotators: it translates and deletes but never solves. A record that
            it rewrote says so. Prompts from a file have no annotator: a bad rewrite is dropped
         3. the base itself does the rewriting. Its training corpus contains examples with the same rewriting prompts
         4. a batch is 128 packed rows, not 128 records
         5. not implemented: brief answers to simple questions (v2, Listing 3), model-written tests of programs (Listing
            2), and rewriting into a conversation (the paper's examples of such conversations were written by people)
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

from experiments.stage import TuneCommand, main_collecting
from r1jax import cli, storage, train_sft
from r1jax.data import questions
from r1jax.nano import corpus, tasks
from r1jax.nano.corpus import USER
from r1jax.nano.rewriting import in_one_language
from r1jax.nano.solutions import solve
from r1jax.prompts import DETAILED, NANO_DETAILED, R1_ZERO, fill
from r1jax.recipes import RunOptions, SamplingOptions, SFTRecipe, TunePlanOptions
from r1jax.rewards.isolate import Pool
from r1jax.runs.policies import load_policy
from r1jax.sft import documents
from r1jax.sft_data import records, rewrite
from r1jax.sft_data.collect import collect_once, make_writer
from r1jax.sft_data.filters import Filters, apply_filters
from r1jax.sft_data.generate import Author, Route, generate
from r1jax.sft_data.llm import Endpoint
from r1jax.sft_data.nano_annotator import nano_annotator

PAPER = SFTRecipe(
    epochs=2.0,  # "2-3 epochs"
    steps=0,
    learning_rate=5e-5,
    final_learning_rate=5e-6,  # "a cosine decay learning rate scheduler, 5e-5 ... to 5e-6"
    row_length=32_768,  # "the maximum context length is set to 32,768 tokens"
    batch_rows=128,  # "the batch size is 128"
    warmup_steps=0,
    optimizer="adamw",
    weight_decay=0.0,
    grad_clip=1.0,  # not published
    micro_rows=0,
    remat="full",
    held_out_problems=64,
    max_tokens=32_768,
    eval_problems=512,
    eval_every=0,
    log_samples=64,
    save_every=200,
)
NANO = dataclasses.replace(
    PAPER,
    epochs=4.0,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    warmup_steps=5,
    row_length=512,
    batch_rows=8,
    max_tokens=320,
    eval_problems=256,
    log_samples=16,
    save_every=50,
    held_out_problems=32,
)
RECIPES = {"nano": NANO, "paper": PAPER}
ROUTES = {"few_shot": "r1", "detailed": "r1_zero", "r1_zero": "r1_zero"}  # route -> answer format its prompt asks for
RECORDS = "cold_start.jsonl"
REWRITTEN = 180  # longest chain of thought, in tokens, that nano's base copies without a mistake
OFFSET = 1 << 20  # index of the first question; R1-Zero uses lower ones
READABLE = Filters(judged=True, least_language=0.0, most_each=2)  # mixed languages are rewritten, not dropped
DONE = Filters(judged=True, form="r1", least_language=1.0)


OPTIONS = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:reasoning")
NOWHERE = Endpoint()


@dataclasses.dataclass(frozen=True)
class Collecting:
    """Settings of sampling and rewriting the records."""

    zero: str = ""
    """Directory of the R1-Zero run that is sampled."""
    questions: int = 72
    """Number of questions for each route."""
    samples: int = 4
    """Completions for each question and route."""
    sample_tokens: int = 320
    """Most tokens in a sampled completion."""
    wave_rows: int = 512
    """Number of completions that each process samples at once. Memory limits this number."""
    worked_example: str = ""
    """Text file with the worked example for the route few_shot. For nano's questions the generator writes the
    example."""
    rewriter: str = "base"
    """Which model rewrites: base, endpoint, or the directory of another checkpoint."""
    endpoint: Endpoint = NOWHERE
    """The server that --rewriter=endpoint uses."""
    review: bool = False
    """Stop after writing the records, so that people can edit them."""


COLLECTING = Collecting()
# "thousands of ... prompts", "multiple reasoning trajectories" of each; the number is not published
PAPER_COLLECTING = Collecting(questions=5_000, sample_tokens=32_768, wave_rows=64)


PLAN = TunePlanOptions(plan_records=5_000)  # "thousands of cold-start data"


@dataclasses.dataclass(frozen=True)
class Command(TuneCommand):
    """Trains stage 1, the cold start."""

    collecting: Annotated[Collecting, cli.FLAT] = COLLECTING


COMMANDS = cli.commands_by_recipe(Command, RECIPES, options=OPTIONS, plan=PLAN)
COMMANDS["paper"] = dataclasses.replace(COMMANDS["paper"], collecting=PAPER_COLLECTING)


def train(recipe: SFTRecipe, options: RunOptions, collecting: Collecting) -> Path | None:
    """Collects the records unless they exist, then fine-tunes the base on the records whose key `keep` is true.

    Returns the working directory, or None if `collecting.review` stops the command so that people can edit the records.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
    """
    if not collecting.zero:
        raise ValueError("--zero=DIR is missing: name the directory of an R1-Zero run, which the route r1_zero samples")
    found = collect_once(
        options, collecting, RECORDS, "zero", lambda mesh, home: collect(options, collecting, mesh, home)
    )
    if found is None:
        return None
    data = records.make_manifest_entry(found, records.beside(options.workdir) / RECORDS)
    return train_sft.train(recipe, options, "r1_1_cold_start", [documents.Part(records.select_kept(found))], data)


def collect(options: RunOptions, collecting: Collecting, mesh, home: Path) -> list[dict]:
    """Samples records by three routes, filters them, rewrites them into R1's form, and filters them again.

    In R1's form, a response is a chain of thought and then a summary.

    Returns all records, including the dropped ones. Samples and rewrites are stored in `home`, so that a killed run
    resumes.

    Args:
        options: the options of the stage's run; its weights are the base.
    """
    base = Author(*load_policy(options, mesh, frozen=True))
    sampled = dataclasses.replace(options, weights=collecting.zero)
    zero = Author(*load_policy(sampled, mesh, frozen=True, flag="--zero"))
    nano = questions.generator_mix(options.prompts) is not None
    sampling = SamplingOptions(
        samples=collecting.samples, max_tokens=collecting.sample_tokens, wave_rows=collecting.wave_rows
    )
    found = []
    with Pool() as pool:
        for number, (name, style) in enumerate(ROUTES.items()):
            first = OFFSET + number * collecting.questions
            examples = questions.distinct_questions(options.prompts, options.seed, first, collecting.questions)
            author = zero if name == "r1_zero" else base
            prompts = prompts_of(name, examples, nano, collecting.worked_example, options.seed)
            route = Route(name, home / f"{name}.jsonl", options.seed, style)
            drawn = generate(author, examples, mesh, pool, sampling, route, prompts)
            found += apply_filters(drawn, dataclasses.replace(READABLE, form=style))
        most = max(REWRITTEN + 40, collecting.sample_tokens)
        model = make_writer(
            "--rewriter", collecting.rewriter, collecting.endpoint, options, mesh, most, collecting.wave_rows, base
        )
        own = nano and collecting.rewriter != "endpoint"
        tokens = base.policy.tokenizer.encode
        found = rewrite.rewrite_records(
            found,
            model,
            rewrite.NANO if own else rewrite.PAPER,
            pool,
            home,
            annotator=nano_annotator(lambda row: ROUTES[row["route"]]) if nano else None,
            fits=lambda prompt: not own or len(tokens(prompt)) <= REWRITTEN + 80,
        )
    return apply_filters(found, DONE)


def prompts_of(route: str, examples: Sequence[Mapping], nano: bool, worked: str, seed: int) -> list[str]:
    """Returns the full prompt of each example for one route.

    Args:
        route: "few_shot", "detailed" or "r1_zero".
        nano: whether the examples come from nano, the generator of synthetic problems.
        worked: path of the text file with the worked example, for few_shot on questions that are not nano's.
        seed: seed of the worked examples that nano's generator writes.

    Raises:
        ValueError: --worked-example is missing or cannot be read.
    """
    if route == "few_shot" and not nano:
        try:
            before = storage.path_of(worked, "--worked-example").read_text(encoding="utf-8").rstrip("\n") + "\n"
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"--worked-example={worked} cannot be read ({error}). "
                "Name a text file with a user's question and an assistant's answer, long chain of thought included"
            ) from error
        return [before + fill(USER, row["problem"]) for row in examples]
    if route == "few_shot":
        return [worked_example(row, seed) + fill(USER, row["problem"]) for row in examples]
    template = R1_ZERO if route == "r1_zero" else NANO_DETAILED if nano else DETAILED
    return [fill(template, row["problem"]) for row in examples]


def worked_example(row: Mapping, seed: int) -> str:
    """Returns the text of a worked example for a question of nano, the generator of synthetic problems.

    The example is another question of the same task and language, with a long solution.

    Args:
        row: the question.
    """
    rng = random.Random(f"worked {seed} {row['id']}")
    while True:
        other = tasks.draw(rng, "corpus", "corpus", row["task"])
        thought, answer = solve(other, rng, "stubborn")
        if other["language"] == row["language"] and len(thought) <= corpus.LONGEST:
            said = corpus.response_r1(other, in_one_language(thought, row["language"]), answer)
            return f"{fill(corpus.USER, other['problem'])} {said}\n"


def main() -> None:
    main_collecting(COMMANDS, train, __doc__, "R1, stage 1", "runs/r1_1_cold_start")


if __name__ == "__main__":
    main()
