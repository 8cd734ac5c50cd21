"""What a policy can do: k samples of each problem, judged; pass@1, pass@k, cons@k, length, form, language, with intervals.

Source:  DeepSeek-AI 2025 (arXiv 2501.12948v2), appendix D.1; Chen et al. 2021 (arXiv 2107.03374) for pass@k
Run:     python -m experiments.evaluate --weights=RUN --benchmarks=nano:reasoning,nano:general --template=r1
         python -m experiments.evaluate --weights=HF_DIR --benchmarks=math500.jsonl,aime24.jsonl --recipe=paper --mesh=8x8
         python -m experiments.evaluate --weights=HF_DIR --benchmarks=gsm8k_test.jsonl --template=chat
Writes:  <workdir>/NAME.jsonl (every sample), results.json, manifest.json. The same command again goes on where it was killed
Expect:  mean over problems of each figure, with a 95 % bootstrap interval over problems; samples of one problem are not independent
Departs: 1. "right" is the announced answer by this package's verifiers, which compare more forms than a benchmark's own script
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

from r1jax.run import RunOptions, explained

CHAT = "chat"


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a benchmark is sampled."""

    samples: int
    """k completions of each problem; 0: the paper's for each benchmark."""
    temperature: float
    """0 is greedy."""
    top_p: float
    """Only the likeliest tokens that hold this share; 1: all."""
    top_k: int
    """Only so many tokens; 0: all."""
    min_p: float
    """Only tokens at least this share as likely as the likeliest; 0: all."""
    max_tokens: int
    """A completion is cut here."""
    wave_rows: int
    """Completions that each process draws together; what they need of memory bounds it."""


PAPER = Protocol(
    samples=0,  # "k = 64 for AIME and GPQA, 16 for MATH and Codeforces, 8 for LiveCodeBench"
    temperature=0.6,  # "a sampling temperature of 0.6"
    top_p=0.95,  # "a top-p value of 0.95"
    top_k=0, min_p=0.0,
    max_tokens=32_768,  # "the maximum generation length to 32,768 tokens"
    wave_rows=256,
)  # fmt: skip
NANO = dataclasses.replace(PAPER, samples=4, max_tokens=320, wave_rows=512)
PROTOCOLS = {"nano": NANO, "paper": PAPER}


@dataclasses.dataclass(frozen=True)
class Command:
    """An evaluation."""

    protocol: Annotated[Protocol, tyro.conf.arg(name="")]
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


MAY_CHANGE = frozenset({"mesh", "workdir", "coordinator", "processes", "process_id"})


def evaluate(command: Command) -> dict:
    """The figures of every benchmark by its name, as results.json holds them.

    Raises:
        ValueError: a flag, file or checkpoint that cannot be used; a --workdir with something else in it.
    """
    from r1jax import benchmark, generate, launch, lineage
    from r1jax.data import benchmarks
    from r1jax.data.prompts import fingerprint
    from r1jax.prompts import fill
    from r1jax.rewards.isolate import Pool
    from r1jax.run import load_policy, new_workdir
    from r1jax.sharding import make_mesh

    launch.share_cpu(command.mesh)
    launch.start(command.coordinator, command.processes, command.process_id)
    launch.keep_compilations()
    mesh = make_mesh(command.mesh)
    asked = dataclasses.asdict(command.protocol)
    sampling = generate.Sampling(**asked | {"samples": max(command.protocol.samples, 1 - (command.protocol.samples == 0) * 0)})
    generate.check(sampling)
