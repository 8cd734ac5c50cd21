"""What a policy can do: k samples of each problem, judged: pass@k, cons@k, length, form, language, with intervals.

Source:  DeepSeek-AI 2025 (arXiv 2501.12948v2), appendix D.1; Chen et al. 2021 (arXiv 2107.03374) for pass@k
Run:     python -m experiments.evaluate --weights=RUN --benchmarks=nano:reasoning,nano:general --template=r1
         python -m experiments.evaluate --weights=HF_DIR --benchmarks=math500.jsonl,aime24.jsonl --recipe=paper
         python -m experiments.evaluate --weights=HF_DIR --benchmarks=gsm8k_test.jsonl --template=chat
Writes:  <workdir>/NAME.jsonl (every sample), results.json, manifest.json. The same command goes on where it was killed
Expect:  the mean over problems of each figure, with its 95 % bootstrap interval over problems, for samples of one
         problem are not independent
Departs: 1. "right" is the announced answer by this package's verifiers, which compare more forms than a benchmark's own
            script
         2. a problem's k is one number for all benchmarks unless --samples=0, which takes the paper's
         3. how cons@k breaks ties is not published: by a fair lot, as its expected value
         4. LETTER in the prompt of multiple choice is one of the options there are, not always of ABCD
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import tyro

from r1jax.command import by_recipe
from r1jax.run import explained
from r1jax.waves import Sampling

PAPER = Sampling(
    samples=0,  # "k = 64 for AIME and GPQA, 16 for MATH and Codeforces, 8 for LiveCodeBench"
    temperature=0.6,  # "a sampling temperature of 0.6"
    top_p=0.95,  # "a top-p value of 0.95"
    top_k=0, min_p=0.0,
    max_tokens=32_768,  # "the maximum generation length to 32,768 tokens"
    wave_rows=256,
)  # fmt: skip
NANO = dataclasses.replace(PAPER, samples=4, max_tokens=320, wave_rows=512)
RECIPES = {"nano": NANO, "paper": PAPER}


@dataclasses.dataclass(frozen=True)
class Command:
    """An evaluation."""

    sampling: Annotated[Sampling, tyro.conf.arg(name="")]
    benchmarks: str = "nano:reasoning"
    """Files (jsonl, json, parquet) and mixes of the nano generator, with commas between them."""
    weights: str = ""
    """A run's directory, one of its checkpoints, or a Hugging Face directory. Default: the nano base."""
    model: str = "nano"
    """The base that ships with the package, when --weights is not given."""
    problems: int = 0
    """Only the first so many of each; 0: all, of the generator 512."""
    template: str = "r1"
    """r1, r1_zero, chat (the tokenizer's own), or a text file that holds {question}."""
    instruct: bool = True
    """Put the paper's instructions to the problems of a file: step by step, where the answer goes."""
    seed: int = 0
    """Of the noise and of the bootstrap."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:2,fsdp:2,tensor:2,expert:1."""
    workdir: str = ""
    """Where samples and results are written. Default: a new directory below runs/."""
    recipe: str = "nano"
    """Whose numbers are the defaults: nano or paper."""
    coordinator: str | None = None
    """host:port of process 0, where no cluster is detected."""
    processes: int | None = None
    """Number of processes; 1 runs alone even on a cluster."""
    process_id: int | None = None
    """This process's number, from 0."""


MAY_CHANGE = frozenset({
    "weights",  # compared by their hash: they may lie elsewhere
    "mesh", "workdir", "coordinator", "processes", "process_id",
})  # fmt: skip


def evaluate(command: Command) -> dict:
    """The figures of every benchmark by its name, as results.json holds them.

    Raises:
        ValueError: a flag, file or checkpoint that cannot be used; a --workdir with something else in it.
    """
    from r1jax import benchmark, generate, launch, lineage, waves
    from r1jax.data import benchmarks
    from r1jax.data.prompts import fingerprint
    from r1jax.prompts import fill
    from r1jax.rewards.isolate import Pool
    from r1jax.run import new_workdir
    from r1jax.sharding import make_mesh

    launch.share_cpu(command.mesh)
    launch.start(command.coordinator, command.processes, command.process_id)
    launch.keep_compilations()
    mesh = make_mesh(command.mesh)
    waves.check(dataclasses.replace(command.sampling, samples=command.sampling.samples or 1))
    workdir = Path(command.workdir or new_workdir("evaluate"))
    fields = dataclasses.asdict(command)
    before = lineage.check_resume(workdir, fields, True, MAY_CHANGE)
    loaded = [
        benchmarks.load(path, command.problems, command.instruct) for path in command.benchmarks.split(",") if path
    ]
    if not loaded or len({each.name for each in loaded}) < len(loaded):
        raise ValueError(
            f"--benchmarks={command.benchmarks} must name one or more, each by another name: "
            "rename a file, or leave it to a run of its own"
        )
    policy, params, parent = generate.load(command.model, command.weights, command.template, mesh)
    data = {each.name: {"sha256": fingerprint(each.examples), "rows": len(each.examples)} for each in loaded}
    lineage.check_parent(workdir, before, parent)
    lineage.check_same(workdir, before, data, "problems")
    manifest = lineage.Manifest("evaluate", fields, command.seed, lineage.versions(), parent, data)
    if launch.is_main():
        lineage.write(workdir, manifest)
    found: dict = {}
    with Pool() as pool:
        lines = benchmark.measured(pool, policy.style)
        settings = {"source": parent["sha256"], "template": policy.template}
        for each in loaded:
            sampling = dataclasses.replace(command.sampling, samples=command.sampling.samples or each.samples)
            prompts = [fill(policy.template, problem) for problem in each.asked]
            path = workdir / f"{each.name}.jsonl"
            written = waves.in_waves(
                policy,
                params,
                each.examples,
                mesh,
                sampling,
                path,
                lines,
                seed=command.seed,
                settings=settings,
                prompts=prompts,
            )
            found[each.name] = benchmark.figures(written, sampling.samples, command.seed)
    if launch.is_main():
        results = {
            "parent": parent,
            "template": command.template,
            "seed": command.seed,
            "sampling": asked(command),
            "benchmarks": found,
        }
        lineage.write_atomically(workdir / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        lineage.write(workdir, dataclasses.replace(manifest, results={"base": None, "final": found}, status="complete"))
        show(benchmark.shown(found))
        print(f"\nmeans over problems in per cent with 95 % intervals; samples and results are in {workdir}")
    return found


def asked(command: Command) -> dict:
    """What the figures depend on besides the policy: how it was sampled, but for the waves."""
    return {name: value for name, value in dataclasses.asdict(command.sampling).items() if name != "wave_rows"}


def show(rows: list[list[str]]) -> None:
    """The table on standard output."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for i, title in enumerate(rows[0]):
        table.add_column(title, justify="left" if i == 0 else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*row)
    wide = 2 + sum(max(len(row[i]) for row in rows) + 3 for i in range(len(rows[0])))
    Console(width=max(wide, 80), markup=False).print(table)  # a table that is cut off says nothing


def parse(arguments: list[str]) -> Command:
    """The command line. `--recipe` chooses the defaults; every other flag overrides one of them.

    Raises:
        ValueError: a recipe that is not there.
    """
    return by_recipe(Command, RECIPES, __doc__, arguments)


def main() -> None:
    try:
        evaluate(parse(sys.argv[1:]))
    except (ValueError, OSError) as error:
        sys.exit(explained(error))


if __name__ == "__main__":
    main()
