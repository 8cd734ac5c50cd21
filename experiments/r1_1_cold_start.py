"""R1, stage 1: a small readable data set, and supervised fine-tuning of the base on it (cold start).

Source:  DeepSeek-AI 2025, section 2.3.1 (routes); v2 B.3.2 (filters, rewriting, Listing 1), B.4.2 (numbers)
Run:     python -m experiments.r1_1_cold_start --zero=RUN_OF_R1_ZERO
         ... --review=True                              stops before training: edit cold_start.jsonl, then run again without it
         ... --rewriter=endpoint --endpoint.url=...     another model rewrites; its key is read from OPENAI_API_KEY
         ... --recipe=paper --weights=BASE --zero=RUN --prompts=FILE --worked-example=FILE --mesh=8x8
Routes:  few_shot   a worked long chain of thought before the question, sampled from the base
         detailed   a prompt that asks for detail, reflection and verification, sampled from the base
         r1_zero    what R1-Zero writes, where it is readable
Writes:  <workdir>_data/cold_start.jsonl (every record: raw, edited, keep, reason, who rewrote it); <workdir> is a run's directory
Departs: 1. the paper has thousands of records; nano has a thousand or two
         2. annotators: nano's are the generator, which translates and deletes and never solves. It is counted as a rewriter of its
            own; files of prompts have none, and what the model rewrites badly is dropped
         3. rewriting is done by the base itself, for which rewriting is a task of its corpus; its prompts are the corpus's
         4. a batch is 128 packed rows, not 128 records
"""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import tyro

from r1jax.generate import Sampling
from r1jax.rejection import Filters
from r1jax.run import RunOptions, explained
from r1jax.train_sft import TuneRecipe
from r1jax.writer import Endpoint

PAPER = TuneRecipe(
    epochs=2.0,  # "2-3 epochs"
    steps=0,
    learning_rate=5e-5, final_learning_rate=5e-6,  # "a cosine decay learning rate scheduler, 5e-5 ... to 5e-6"
    row_length=32_768,  # "the maximum context length is set to 32,768 tokens"
    batch_rows=128,  # "the batch size is 128"
    warmup_steps=0, optimizer="adamw", weight_decay=0.0, grad_clip=1.0,  # not published
    micro_rows=0, remat="full", held_out_problems=64, max_tokens=32_768, eval_problems=512, eval_every=0, log_samples=64, save_every=200,
)  # fmt: skip
NANO = dataclasses.replace(
    PAPER, epochs=4.0, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=5, row_length=512, batch_rows=8, max_tokens=320,
    eval_problems=256, log_samples=16, save_every=50, held_out_problems=32,
)  # fmt: skip
RECIPES = {"nano": NANO, "paper": PAPER}
ROUTES = ("few_shot", "detailed", "r1_zero")
STYLES = {"few_shot": "r1", "detailed": "r1_zero", "r1_zero": "r1_zero"}  # the form a route asks for
RECORDS = "cold_start.jsonl"
USER = "User: {question} Assistant:"
REWRITTEN = 180  # tokens of a chain of thought that a base of nano's size copies without a slip
OFFSET = 1 << 20  # questions of the stream that R1-Zero has not met
READABLE = Filters(judged=True, least_language=0.0, most_each=2)  # mixed languages are mended, not dropped
DONE = Filters(judged=True, form="r1", least_language=1.0)


@dataclasses.dataclass(frozen=True)
class Collecting:
    """How many samples are drawn, and who rewrites them."""

    zero: str = ""
    """Directory of the R1-Zero run."""
    questions: int = 320
    """Questions of each route."""
    samples: int = 4
    """Completions of each question and route."""
    sample_tokens: int = 320
    """A completion is cut here."""
    worked_example: str = ""
    """Text file that stands before the questions of few_shot; nano's questions have the generator's."""
    rewriter: str = "base"
    """Who rewrites: base, endpoint, or the directory of another checkpoint."""
    endpoint: Endpoint = Endpoint()
    """Where another model answers, for --rewriter=endpoint."""
    review: bool = False
    """Stop once the records are written, so that people can edit them."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Cold start."""

    numbers: Annotated[TuneRecipe, tyro.conf.arg(name="")] = NANO
    collecting: Annotated[Collecting, tyro.conf.arg(name="")] = Collecting()
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:reasoning")
    recipe: str = "nano"
    """Whose numbers are the defaults: nano or paper."""


class Model(NamedTuple):
    """A checkpoint that is sampled."""

    policy: object
    params: dict
    source: dict


def train(recipe: TuneRecipe, options: RunOptions, collecting: Collecting) -> Path | None:
    """Collects the records unless they are there, then fine-tunes the base on those kept. None where it stops for a review."""
    from r1jax import records, train_sft

    found = collected(options, collecting, RECORDS, collect, collecting.zero)
    if found is None:
        return None
    data = {"counts": records.counts(found), "sources": records.sources(found)}
    return train_sft.train(recipe, options, "r1_1_cold_start", [train_sft.Part(records.kept(found))], data)


def collected(options: RunOptions, collecting, name: str, collect, sampled: str) -> list[dict] | None:
    """The records of a stage, collected once; None where a review is asked for.

    Args:
        sampled: the run that is sampled, besides the base.
    """
    from r1jax import launch, records
    from r1jax.sharding import make_mesh

    if not sampled:
        raise ValueError("--zero=DIR (stage 1) or --reasoner=DIR (stage 3) is missing: the run whose samples the records are made of")
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    path = records.beside(options.workdir) / name
    asked = {key: value for key, value in dataclasses.asdict(collecting).items() if key != "review"}
    parents = {"sampled": records.identity(sampled), "base": records.identity(options.weights) or options.model}
    if not records.claim(path, asked | parents | {"seed": options.seed, "prompts": options.prompts, "template": options.template}):
        records.write(path, collect(options, collecting, make_mesh(options.mesh), path.parent))
    found = records.read(path, "records")
    if collecting.review:
        print(f"{path}: {len(records.kept(found))} of {len(found)} records kept. Edit keep and response, then run again without --review")
        return None
    return found


def collect(options: RunOptions, collecting: Collecting, mesh, home: Path) -> list[dict]:
    """Sampled by three routes, filtered, rewritten into R1's form, filtered again."""
    from r1jax import rewrite
    from r1jax.data import prompts as questions
    from r1jax.generate import generate
    from r1jax.rejection import filtered
    from r1jax.rewards.isolate import Pool
    from r1jax.run import load_policy

    base = Model(*load_policy(options, mesh, frozen=True))
    zero = Model(*load_policy(dataclasses.replace(options, weights=collecting.zero), mesh, frozen=True))
    nano = questions.generated(options.prompts) is not None
    take, _ = questions.stream(options.prompts, options.seed)
    sampling = Sampling(samples=collecting.samples, max_tokens=collecting.sample_tokens)
    found = []
    with Pool() as pool:
        for number, route in enumerate(ROUTES):
            examples = list({row["id"]: row for row in (take(OFFSET + number * collecting.questions + i) for i in range(collecting.questions))}.values())
            model = zero if route == "r1_zero" else base
            drawn = generate(
                model.policy, model.params, examples, mesh, pool, sampling, home / f"{route}.jsonl", seed=options.seed, route=route,
                source=model.source, style=STYLES[route], prompts=prompts_of(route, examples, nano, collecting.worked_example, options.seed),
            )  # fmt: skip
            found += filtered(drawn, dataclasses.replace(READABLE, form=STYLES[route]))
        writer = rewriter(collecting, options, base, mesh)
        count = base.policy.tokenizer.encode
        own = nano and collecting.rewriter != "endpoint"
        found = rewrite.rewritten(
            found, writer, rewrite.NANO if own else rewrite.PAPER, pool, home,
            annotator=rewrite.generator(lambda row: STYLES[row["route"]]) if nano else None,
            fits=(lambda prompt: len(count(prompt)) <= REWRITTEN + 80) if own else (lambda prompt: True),
        )  # fmt: skip
    return filtered(found, DONE)


def prompts_of(route: str, examples: Sequence[Mapping], nano: bool, worked: str, seed: int) -> list[str]:
    """The whole prompts of a route.

    Raises:
        ValueError: --worked-example is missing or cannot be read.
    """
    from r1jax import prompts

    if route == "few_shot" and not nano:
        try:
            before = Path(worked).read_text(encoding="utf-8").rstrip("\n") + "\n"
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--worked-example={worked} cannot be read ({error}). Give a text file with a question and its long chain of thought") from error
        return [before + prompts.fill(USER, row["problem"]) for row in examples]
    if route == "few_shot":
        return [worked_example(row, seed) + prompts.fill(USER, row["problem"]) for row in examples]
    template = prompts.R1_ZERO if route == "r1_zero" else prompts.NANO_DETAILED if nano else prompts.DETAILED
    return [prompts.fill(template, row["problem"]) for row in examples]


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
            return f"{fill(USER, other['problem'])} {corpus.response_r1(other, in_one_language(thought, row['language']), answer)}\n"


def rewriter(collecting: Collecting, options: RunOptions, base: Model, mesh):
    """Who rewrites.

    Raises:
        ValueError: an endpoint without an address, a directory without a checkpoint.
    """
    from r1jax.run import load_policy
    from r1jax.writer import by_checkpoint, by_endpoint

    if collecting.rewriter == "endpoint":
        return by_endpoint(collecting.endpoint)
    model = base if collecting.rewriter == "base" else Model(*load_policy(dataclasses.replace(options, weights=collecting.rewriter), mesh, frozen=True))
    most = max(REWRITTEN + 40, collecting.sample_tokens)
    return by_checkpoint(collecting.rewriter, model.policy, model.params, mesh, model.source["sha256"], max_tokens=most, seed=options.seed)


def command_line(kind, recipes: Mapping[str, TuneRecipe], description: str | None, arguments: Sequence[str]):
    """A command whose `--recipe` chooses the defaults; every other flag overrides one of them.

    Raises:
        ValueError: a recipe that is not there.
    """
    chosen = next((a.partition("=")[2] for a in arguments if a.startswith("--recipe=")), "nano")
    if chosen not in recipes:
        raise ValueError(f"--recipe={chosen} is unknown: use {', '.join(recipes)}")
    default = kind(numbers=recipes[chosen], recipe=chosen)
    return tyro.cli(kind, args=list(arguments), default=default, description=description, config=(tyro.conf.FlagConversionOff,))


def main() -> None:
    try:
        command = command_line(Command, RECIPES, __doc__, sys.argv[1:])
        options = command.options
        if not options.workdir:
            options = dataclasses.replace(options, workdir="runs/r1_1_cold_start")
        train(command.numbers, options, command.collecting)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")


if __name__ == "__main__":
    main()
