"""Evaluates a policy on benchmarks: pass@k, cons@k, length, format and language over k samples of each problem.

Source:  DeepSeek-AI 2025 (arXiv 2501.12948v2), appendix D.1; Chen et al. 2021 (arXiv 2107.03374) for pass@k
Run:     python -m experiments.evaluate --weights=RUN --benchmarks=nano:reasoning,nano:general --template=r1
         python -m experiments.evaluate --weights=HF_DIR --benchmarks=math500.jsonl,aime24.jsonl --recipe=paper
         python -m experiments.evaluate --weights=HF_DIR --benchmarks=gsm8k_test.jsonl --template=chat
Writes:  <workdir>/NAME.jsonl (every sample), results.json, manifest.json. The same command continues a killed run
Expect:  the mean of each measured value over problems, with a 95 % bootstrap interval. The bootstrap resamples
         problems, because the samples of one problem are not independent
Departs: 1. this package's verifiers judge the final answer; they accept more forms than a benchmark's own script
         2. all benchmarks have the same k, --samples. Only --samples=0 takes the paper's k for each benchmark
         3. how cons@k breaks ties is not published; we take the expected value under a random choice
         4. the paper's multiple-choice prompt asks for one of ABCD; ours asks for one of the problem's own options
"""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

from rich import box
from rich.console import Console
from rich.table import Table

from r1jax import cli, distributed
from r1jax.data.questions import fingerprint
from r1jax.data.readers import read_columns
from r1jax.evaluation import benchmark
from r1jax.evaluation.prompts import load
from r1jax.prompts import fill
from r1jax.recipes import CheckpointOptions, SamplingOptions
from r1jax.rewards.isolate import Pool
from r1jax.runs import manifests
from r1jax.runs.files import write_atomically
from r1jax.runs.run import Run
from r1jax.sft_data import batch_sampling, generate

PAPER = SamplingOptions(
    samples=0,  # "k = 64 for AIME and GPQA, 16 for MATH and Codeforces, 8 for LiveCodeBench"
    temperature=0.6,  # "a sampling temperature of 0.6"
    top_p=0.95,  # "a top-p value of 0.95"
    top_k=0,
    min_p=0.0,
    max_tokens=32_768,  # "the maximum generation length to 32,768 tokens"
    wave_rows=256,
)
NANO = dataclasses.replace(PAPER, samples=4, max_tokens=320, wave_rows=512)
RECIPES = {"nano": NANO, "paper": PAPER}
OPTIONS = CheckpointOptions()


@dataclasses.dataclass(frozen=True)
class Command:
    """Evaluates a policy."""

    sampling: Annotated[SamplingOptions, cli.FLAT]
    options: Annotated[CheckpointOptions, cli.FLAT] = OPTIONS
    benchmarks: str = "nano:reasoning"
    """Files (jsonl, json, parquet) and mixes of the nano generator (such as nano:reasoning), separated by commas."""
    problems: int = 0
    """Number of problems from each benchmark; 0: all problems of a file, or 512 of the nano generator."""
    instruct: bool = True
    """Add the paper's instructions to the problems of a file: reason step by step, and where to put the answer."""
    recipe: str = "nano"
    """Which defaults to use: nano or paper."""


COMMANDS = {name: Command(sampling, recipe=name) for name, sampling in RECIPES.items()}


def evaluate(command: Command) -> dict:
    """Evaluates the policy. Returns the results of each benchmark by the benchmark's name, as in results.json.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used, or --workdir holds another run.
    """
    options = command.options
    defaults = manifests.defaults_of(command, options)
    with Run("evaluate", options, settings_of(command), defaults=defaults, resume=True) as run:
        batch_sampling.check(dataclasses.replace(command.sampling, samples=command.sampling.samples or 1))
        loaded = [
            load(path, command.problems, command.instruct, read_columns(options.column))
            for path in command.benchmarks.split(",")
            if path
        ]
        if not loaded or len({each.name for each in loaded}) < len(loaded):
            raise ValueError(
                f"--benchmarks={command.benchmarks} must name at least one benchmark, and no name may occur twice "
                "(a file's suffix is no part of its name), because results are stored by name. Name a benchmark; if "
                "two files share a name, rename one, or evaluate it with another --workdir"
            )
        author = generate.load(options, run.mesh)
        run.claim_parent(author.source)
        run.claim({x.name: {"sha256": fingerprint(x.examples), "rows": len(x.examples)} for x in loaded}, "problems")
        run.write_manifest()
        pool, policy, found = run.enter(Pool()), author.policy, {}
        settings = {"source": author.source["sha256"], "template": policy.template}
        for each in loaded:
            sampling = dataclasses.replace(command.sampling, samples=command.sampling.samples or each.samples)
            prompts = [fill(policy.template, problem) for problem in each.asked]
            path = run.workdir / f"{each.name}.jsonl"
            output = batch_sampling.Output(path, benchmark.make_lines(pool, policy.style), settings)
            written = batch_sampling.sample_in_waves(
                policy, author.params, each.examples, run.mesh, sampling, output, seed=options.seed, prompts=prompts
            )
            found[each.name] = benchmark.figures(written, sampling.samples, options.seed)
        if distributed.is_main():
            results = {
                "parent": author.source,
                "template": options.template,
                "seed": options.seed,
                "sampling": describe_sampling(command),
                "benchmarks": found,
            }
            text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
            write_atomically(run.workdir / "results.json", text)
        run.complete({"base": None, "final": found})
        if distributed.is_main():
            show(benchmark.format_table(found))
            print(f"\nmeans over problems in per cent with 95 % intervals; samples and results are in {run.workdir}")
    return found


def settings_of(command: Command) -> dict:
    """Returns the flags as the manifest stores them, in a dict.

    The sampling flags are in an inner dict under "sampling".
    """
    fields = dataclasses.asdict(command)
    return fields.pop("options") | fields


def describe_sampling(command: Command) -> dict:
    """Returns the sampling settings that the results depend on: all but `wave_rows` (completions sampled at once)."""
    return {name: value for name, value in dataclasses.asdict(command.sampling).items() if name != "wave_rows"}


def show(rows: list[list[str]]) -> None:
    """Prints a table. `rows` holds the cells of each row; rows[0] is the header."""
    table = Table(box=box.SIMPLE)
    for i, title in enumerate(rows[0]):
        table.add_column(title, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    wide = 2 + sum(max(len(row[i]) for row in rows) + 3 for i in range(len(rows[0])))
    Console(width=max(wide, 80), markup=False).print(table)  # wide enough that no cell is cut off


def main() -> None:
    cli.main(COMMANDS, evaluate, __doc__, resumes=True)


if __name__ == "__main__":
    main()
