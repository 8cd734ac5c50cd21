"""R1, stage 1: a small readable data set, and supervised fine-tuning of the base on it (cold start).

Source:  DeepSeek-AI 2025, section 2.3.1 (routes); v2 B.3.2 (filters, rewriting), B.4.2 (numbers)
Run:     python -m experiments.r1_1_cold_start --zero=RUN_OF_R1_ZERO
         ... --review=True         stops before training: edit cold_start.jsonl, then run again without it
Routes:  few_shot   a worked long chain of thought before the question, sampled from the base
         detailed   a prompt that asks for detail, reflection and verification, sampled from the base
         r1_zero    what R1-Zero writes, where it is readable
Writes:  <workdir>_data/cold_start.jsonl (every record: raw, edited, keep, reason, who rewrote it); <workdir> is a run's directory
Departs: 1. the paper has thousands of records; nano has a few hundred to two thousand
         2. annotators: nano's are the generator, which deletes and translates; it is counted as a rewriter of its own
         3. rewriting is done by the base itself, for which rewriting is a task of its corpus
"""

from __future__ import annotations

import dataclasses
import json
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

PAPER = TuneRecipe(
    epochs=2.0,  # "2-3 epochs"
    learning_rate=5e-5, final_learning_rate=5e-6,  # "cosine decay ... from 5e-5 to 5e-6"
    row_length=32_768,  # "maximum context length is 32,768"
    batch_rows=128,  # "the batch size is 128"
    warmup_steps=0, optimizer="adamw", weight_decay=0.0, grad_clip=1.0,  # not published
    remat="full", max_tokens=32_768, eval_problems=512, save_every=200,
)  # fmt: skip
NANO = dataclasses.replace(
    PAPER, epochs=3.0, learning_rate=1e-3, final_learning_rate=1e-4, warmup_steps=5, row_length=512, batch_rows=8, max_tokens=320,
    eval_problems=256, save_every=50,
)  # fmt: skip
RECIPES = {"nano": NANO, "paper": PAPER}
ROUTES = ("few_shot", "detailed", "r1_zero")
RECORDS = "cold_start.jsonl"
LONGEST_REWRITE = 180  # tokens of a chain of thought that a base of nano's size can copy
OFFSET = 1 << 20  # questions of the stream that R1-Zero has not met


@dataclasses.dataclass(frozen=True)
class Collecting:
    """How many samples are drawn, and which are kept."""

    zero: str = ""
    """Directory of the R1-Zero run."""
    questions: int = 160
    """Questions of each route."""
    samples: int = 4
    """Completions of each question and route."""
    sample_tokens: int = 320
    """A completion is cut here."""
    review: bool = False
    """Stop once the records are written, so that people can edit them."""


@dataclasses.dataclass(frozen=True)
class Command:
    """Cold start."""

    numbers: Annotated[TuneRecipe, tyro.conf.arg(name="")] = NANO
    collecting: Annotated[Collecting, tyro.conf.arg(name="")] = Collecting()
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions(template="r1", prompts="nano:reasoning", eval_prompts="nano:reasoning")


class Writer(NamedTuple):
    """A checkpoint that writes samples."""

    policy: object
    params: dict
    source: dict


def train(recipe: TuneRecipe, options: RunOptions, collecting: Collecting) -> Path | None:
    """Collects the records unless they are there, then fine-tunes the base on those kept."""
    from r1jax import launch, train_sft
    from r1jax.sharding import make_mesh

    if not collecting.zero:
        raise ValueError("--zero=DIR is missing: the run of R1-Zero whose readable samples are a third of the data")
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
    from r1jax.rejection import counts

    kept = [record for record in records if record["keep"]]
    return train_sft.train(recipe, options, "r1_1_cold_start", kept, {"counts": counts(records)})


def beside(workdir: str) -> Path:
    """Where the records of a stage lie: beside its working directory, which is a run's alone."""
    return Path(f"{workdir.rstrip('/')}_data")


def collect(options: RunOptions, collecting: Collecting, mesh, home: Path) -> list[dict]:
    """Sampled by three routes, filtered, rewritten into R1's form, filtered again."""
    from r1jax.data import prompts as questions
    from r1jax.generate import generate
    from r1jax.prompts import NANO_DETAILED, R1_ZERO, fill
    from r1jax.rejection import filtered
    from r1jax.rewards import rule
    from r1jax.rewards.isolate import Pool
    from r1jax.run import load_policy

    base = Writer(*load_policy(options, mesh, frozen=True))
    zero = Writer(*load_policy(dataclasses.replace(options, weights=collecting.zero), mesh, frozen=True))
    take, _ = questions.stream(options.prompts, options.seed)
    sampling = Sampling(samples=collecting.samples, max_tokens=collecting.sample_tokens)
    home.mkdir(parents=True, exist_ok=True)
    records = []
    with Pool() as pool:
        for number, route in enumerate(ROUTES):
            first = OFFSET + number * collecting.questions
            examples = [take(first + i) for i in range(collecting.questions)]
            prompts = {
                "few_shot": lambda rows: [worked_example(row, options.seed) + fill(USER, row["problem"]) for row in rows],
                "detailed": lambda rows: [fill(NANO_DETAILED, row["problem"]) for row in rows],
                "r1_zero": lambda rows: [fill(R1_ZERO, row["problem"]) for row in rows],
            }[route](examples)
            writer, style = (zero if route == "r1_zero" else base), ("r1" if route == "few_shot" else "r1_zero")
            drawn = generate(
                writer.policy, writer.params, examples, mesh, pool, sampling, home / f"{route}.jsonl",
                seed=options.seed, route=route, source=writer.source, style=style, prompts=prompts,
            )  # fmt: skip
            formed = rule.well_formed([record["response"] for record in drawn], drawn, style)
            records += [record | {"reason": "" if form else "format"} for record, form in zip(drawn, formed, strict=True)]
        # Mixed language is repaired, not dropped.
        records = filtered(records, Filters(least_language=0.0, most_each=2))
        return filtered(rewritten(records, base, pool, mesh, home, options.seed), Filters())


USER = "User: {question} Assistant:"


def worked_example(row: Mapping, seed: int) -> str:
    """Another question of the same task and language with a long chain of thought, by the generator."""
    from r1jax.nano import corpus, tasks
    from r1jax.nano.rewriting import in_one_language
    from r1jax.nano.solutions import solve

    rng = random.Random(f"worked {seed} {row['id']}")
    while True:
        other = tasks.draw(rng, "corpus", "corpus", row["task"])
        thought, answer = solve(other, rng, "stubborn")
        if other["language"] == row["language"] and len(thought) <= corpus.LONGEST:
            thought = in_one_language(thought, row["language"])
            return USER.replace("{question}", other["problem"]) + f" {corpus.response_r1(other, thought, answer)}\n"


def rewritten(records: Sequence[dict], base: Writer, pool, mesh, home: Path, seed: int) -> list[dict]:
    """The kept records in R1's form and one language: translated and summed up by the base, or, where it fails, by the annotator."""
    from r1jax.nano import rewriting
    from r1jax.prompts import NANO_SUMMARY, NANO_TRANSLATE
    from r1jax.rewards import rule
    from r1jax.rewards.format import think
    from r1jax.rewards.language import consistency
    from r1jax.rewrite import adds_nothing, by_checkpoint

    def ask(template: str, rows: Sequence[dict], thoughts: Sequence[str], name: str) -> list[str]:
        short = [i for i, thought in enumerate(thoughts) if len(base.policy.tokenizer.encode(thought)) <= LONGEST_REWRITE]
        prompts = [template.replace("{question}", rows[i]["problem"]).replace("{thought}", thoughts[i]) for i in short]
        rewrite = by_checkpoint(
            base.policy, base.params, mesh, home / f"{name}.jsonl", max_tokens=LONGEST_REWRITE + 40, seed=seed, source=base.source["sha256"]
        )
        written = [""] * len(thoughts)
        for i, text in zip(short, rewrite(prompts), strict=True):
            written[i] = text.strip()
        return written

    kept = [record for record in records if record["keep"]]
    thoughts = [(think(record["response"]) or "").strip() for record in kept]
    mixed = [i for i, r in enumerate(kept) if r["language"] and (consistency(thoughts[i], r["language"]) or 1.0) < 1.0]
    by = [set() for _ in kept]
    for i, text in zip(mixed, ask(NANO_TRANSLATE, [kept[i] for i in mixed], [thoughts[i] for i in mixed], "translated"), strict=True):
        good = text and adds_nothing(thoughts[i], text) and same_work(thoughts[i], text) and (consistency(text, kept[i]["language"]) or 1.0) == 1.0
        thoughts[i] = text if good else rewriting.in_one_language(thoughts[i], kept[i]["language"])
        by[i].add("base" if good else "annotator")
    solutions = ask(NANO_SUMMARY, kept, thoughts, "solutions")
    jobs = [rule.accuracy_job(f"<think> {t} </think> {s}", r, "r1") for r, t, s in zip(kept, thoughts, solutions, strict=True)]
    verdicts = iter(pool.run([job for job in jobs if job is not None]))
    right = [job is not None and next(verdicts).reward == 1.0 for job in jobs]
    done = {}
    for i, record in enumerate(kept):
        good = right[i] and adds_nothing(thoughts[i], solutions[i])
        answer = rule.given_answer(record["response"], record["kind"], "r1" if record["route"] == "few_shot" else "r1_zero")
        said = solutions[i] if good else rewriting.solution(record, thoughts[i], strip_fence(answer or ""))
        by[i].add("base" if good else "annotator")
        response = f" <think> {thoughts[i]} </think> {said}"
        done[record["id"]] = record | {"response": response, "rewritten_by": "+".join(sorted(by[i])), "verdict": "correct", "right": True}
    return [done.get(record["id"], record) for record in records]


def strip_fence(answer: str) -> str:
    """A program without its fence; any other answer as it is."""
    return "\n".join(line for line in answer.splitlines() if not line.startswith("```")).strip()


def same_work(raw: str, edited: str) -> bool:
    """Whether an edited chain of thought still has at least half the computations of the raw one."""
    return 2 * edited.count("=") >= raw.count("=")


def write(path: Path, records: Sequence[Mapping]) -> None:
    from r1jax.lineage import write_atomically

    write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))


def main() -> None:
    command = tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,))
    try:
        options = command.options
        if not options.workdir:
            options = dataclasses.replace(options, workdir="runs/r1_1_cold_start")
        train(command.numbers, options, command.collecting)
    except (ValueError, OSError) as error:
        sys.exit(explained(error))


if __name__ == "__main__":
    main()
