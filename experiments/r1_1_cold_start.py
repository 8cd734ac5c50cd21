"""R1, stage 1: a small readable data set, and supervised fine-tuning of the base on it (cold start).

Source:  DeepSeek-AI 2025, section 2.3.1 (routes); v2 B.3.2 (filters, rewriting, Listing 1), B.4.2 (numbers)
Run:     python -m experiments.r1_1_cold_start --zero=RUN_OF_R1_ZERO
         ... --review=True             stops before training: edit cold_start.jsonl, then run again without it
         ... --rewriter=endpoint --endpoint.url=URL            another model rewrites; its key is in OPENAI_API_KEY
         ... --recipe=paper --weights=BASE --zero=RUN --prompts=FILE --worked-example=FILE --mesh=8x8
Routes:  few_shot   a worked long chain of thought before the question, sampled from the base
         detailed   a prompt that asks for detail, reflection and verification, sampled from the base
         r1_zero    what R1-Zero writes, where it is readable
Writes:  <workdir>_data/cold_start.jsonl (every record: raw, edited, keep, reason, who rewrote it); <workdir> is a run's
         directory
Departs: 1. the paper has thousands of records; nano has three hundred: with more of them it knows all that RL can teach
         2. annotators: nano's are the generator, which translates and deletes and never solves; it is counted as a
            rewriter of its own. Prompts from a file have none, and what the model rewrites badly is dropped
         3. the base itself rewrites: rewriting is a task of its corpus, and its prompts are the corpus's
         4. a batch is 128 packed rows, not 128 records
         5. not here: simple questions answered briefly (v2, Listing 3), tests of programs made by a model (Listing 2),
            and the rewriting into a conversation, for which people wrote the examples
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from r1jax.plan_supervised import TunePlanOptions
from r1jax.rejection import Filters
from r1jax.run import RunOptions
from r1jax.sft import TuneRecipe
from r1jax.waves import Sampling
from r1jax.writer import Endpoint

PAPER = TuneRecipe(
    epochs=2.0,  # "2-3 epochs"
    steps=0,
    learning_rate=5e-5, final_learning_rate=5e-6,  # "a cosine decay learning rate scheduler, 5e-5 ... to 5e-6"
    row_length=32_768,  # "the maximum context length is set to 32,768 tokens"
    batch_rows=128,  # "the batch size is 128"
    warmup_steps=0, optimizer="adamw", weight_decay=0.0, grad_clip=1.0,  # not published
    micro_rows=0, remat="full", held_out_problems=64, max_tokens=32_768,
    eval_problems=512, eval_every=0, log_samples=64, save_every=200,
)  # fmt: skip
NANO = dataclasses.replace(
    PAPER, epochs=4.0, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=5, row_length=512, batch_rows=8,
    max_tokens=320, eval_problems=256, log_samples=16, save_every=50, held_out_problems=32,
)  # fmt: skip
RECIPES = {"nano": NANO, "paper": PAPER}
ROUTES = {"few_shot": "r1", "detailed": "r1_zero", "r1_zero": "r1_zero"}  # and the form each asks for
RECORDS = "cold_start.jsonl"
REWRITTEN = 180  # tokens of a chain of thought that a base of nano's size copies without a slip
OFFSET = 1 << 20  # questions of the stream that R1-Zero has not met
READABLE = Filters(judged=True, least_language=0.0, most_each=2)  # mixed languages are mended, not dropped
DONE = Filters(judged=True, form="r1", least_language=1.0)


OPTIONS = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:reasoning")
NOWHERE = Endpoint()


@dataclasses.dataclass(frozen=True)
class Collecting:
    """How many samples are drawn, and who rewrites them."""

    zero: str = ""
    """Directory of the R1-Zero run."""
    questions: int = 72
    """Questions of each route."""
    samples: int = 4
    """Completions of each question and route."""
    sample_tokens: int = 320
    """A completion is cut here."""
    wave_rows: int = 512
    """Completions that each process draws together; what they need of memory bounds it."""
    worked_example: str = ""
    """Text file that stands before the questions of few_shot; nano's questions have the generator's."""
    rewriter: str = "base"
    """Who rewrites: base, endpoint, or the directory of another checkpoint."""
    endpoint: Endpoint = NOWHERE
    """Where another model answers, for --rewriter=endpoint."""
    review: bool = False
    """Stop once the records are written, so that people can edit them."""


COLLECTING = Collecting()
# "thousands of ... prompts", "multiple reasoning trajectories" of each; how many is not published
PAPER_COLLECTING = Collecting(questions=5_000, sample_tokens=32_768, wave_rows=64)


PLAN = TunePlanOptions(plan_records=5_000)  # "thousands of cold-start data"


@dataclasses.dataclass(frozen=True)
class Command:
    """Cold start."""

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

    if not collecting.zero:
        raise ValueError("--zero=DIR is missing: the run of R1-Zero whose readable samples are one of the three routes")
    found = collected(
        options, collecting, RECORDS, "zero", lambda mesh, home: collect(options, collecting, mesh, home)
    )
    if found is None:
        return None
    data = records.described(found, records.beside(options.workdir) / RECORDS)
    return train_sft.train(recipe, options, "r1_1_cold_start", [sft.Part(records.kept(found))], data)


def collect(options: RunOptions, collecting: Collecting, mesh, home: Path) -> list[dict]:
    """Sampled by three routes, filtered, rewritten into R1's form, filtered again."""
    from r1jax import rewrite
    from r1jax.checkpoint import behind
    from r1jax.collecting import writer
    from r1jax.data import prompts as questions
    from r1jax.generate import generate
    from r1jax.rejection import filtered
    from r1jax.rewards.isolate import Pool
    from r1jax.run import load_policy

    base = load_policy(options, mesh, frozen=True)
    with behind("--zero"):
        zero = load_policy(dataclasses.replace(options, weights=collecting.zero), mesh, frozen=True)
    nano = questions.generated(options.prompts) is not None
    sampling = Sampling(
        samples=collecting.samples, max_tokens=collecting.sample_tokens, wave_rows=collecting.wave_rows
    )
    found = []
    with Pool() as pool:
        for number, (route, style) in enumerate(ROUTES.items()):
            first = OFFSET + number * collecting.questions
            examples = questions.distinct(options.prompts, options.seed, first, collecting.questions)
            policy, params, source = zero if route == "r1_zero" else base
            drawn = generate(
                policy, params, examples, mesh, pool, sampling, home / f"{route}.jsonl",
                seed=options.seed, route=route, source=source, style=style,
                prompts=prompts_of(route, examples, nano, collecting.worked_example, options.seed),
            )  # fmt: skip
            found += filtered(drawn, dataclasses.replace(READABLE, form=style))
        most = max(REWRITTEN + 40, collecting.sample_tokens)
        model = writer(
            "--rewriter", collecting.rewriter, collecting.endpoint, options, mesh, most, collecting.wave_rows, base
        )  # fmt: skip
        own = nano and collecting.rewriter != "endpoint"
        tokens = base[0].tokenizer.encode
        found = rewrite.rewritten(
            found, model, rewrite.NANO if own else rewrite.PAPER, pool, home,
            annotator=rewrite.generator(lambda row: ROUTES[row["route"]]) if nano else None,
            fits=lambda prompt: not own or len(tokens(prompt)) <= REWRITTEN + 80,
        )  # fmt: skip
    return filtered(found, DONE)


def prompts_of(route: str, examples: Sequence[Mapping], nano: bool, worked: str, seed: int) -> list[str]:
    """The whole prompts of a route.

    Raises:
        ValueError: --worked-example is missing or cannot be read.
    """
    from r1jax.nano.corpus import USER
    from r1jax.prompts import DETAILED, NANO_DETAILED, R1_ZERO, fill

    if route == "few_shot" and not nano:
        try:
            before = Path(worked).read_text(encoding="utf-8").rstrip("\n") + "\n"
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"--worked-example={worked} cannot be read ({error}). "
                "Give a text file that holds a question and its long chain of thought, as a user and an assistant"
            ) from error
        return [before + fill(USER, row["problem"]) for row in examples]
    if route == "few_shot":
        return [worked_example(row, seed) + fill(USER, row["problem"]) for row in examples]
    template = R1_ZERO if route == "r1_zero" else NANO_DETAILED if nano else DETAILED
    return [fill(template, row["problem"]) for row in examples]


def worked_example(row: Mapping, seed: int) -> str:
    """Another question of the same task and language with a long chain of thought, by the generator."""
    from r1jax.nano import corpus, tasks
    from r1jax.nano.rewriting import in_one_language
    from r1jax.nano.solutions import solve
    from r1jax.prompts import fill

    rng = random.Random(f"worked {seed} {row['id']}")
    while True:
        other = tasks.draw(rng, "corpus", "corpus", row["task"])
        thought, answer = solve(other, rng, "stubborn")
        if other["language"] == row["language"] and len(thought) <= corpus.LONGEST:
            said = corpus.response_r1(other, in_one_language(thought, row["language"]), answer)
            return f"{fill(corpus.USER, other['problem'])} {said}\n"


def main() -> None:
    from r1jax.command import fine_tune

    fine_tune("R1, stage 1", "runs/r1_1_cold_start", of_recipe, RECIPES, __doc__, train)


if __name__ == "__main__":
    main()
