"""A whole R1-Zero run at a size for tests: a base of 2 layers, and the command that trains it.

The base is not random: after a few seconds of training it guesses the letter of a comparison, with R1-Zero's tags or
without. So rewards differ within groups and updates move the parameters, whatever the processor's rounding makes of it.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import optax
import pytest

from experiments import nano_base, r1_zero
from r1jax import jsonl
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.nano import corpus, tasks
from r1jax.prompts import R1_ZERO, fill
from r1jax.runs import checkpoint
from r1jax.runs.hashing import file_sha256
from r1jax.sharding import make_mesh, place, shard_rows
from r1jax.tokenizers.sentencepiece import train_tokenizer
from r1jax.training.logprobs import Network
from r1jax.training.objectives import cross_entropy
from r1jax.training.packing import TokenBatch, pack, spread
from r1jax.training.step import Learner, start, update
from support.two_processes import CLUSTER_VARIABLES, free_port

ROOT = Path(__file__).resolve().parents[2]
MODEL = dict(width=32, layers=2, heads=2, kv_heads=1, head_width=16, mlp_width=64, qk_norm=True)
ROW = 320  # slots: the template alone has about 200 tokens
FLAGS = dict(
    steps=6,
    questions_per_round=2,
    group_size=4,
    max_tokens=24,
    eval_problems=4,
    row_length=ROW,
    batch_rows=2,
    save_every=2,
    eval_every=3,
    log_samples=4,
    minibatches=1,
    mesh="1x1",
)


def solution(index: int) -> tuple[str, str]:
    """A comparison under the template, and a guess at its letter, two in three times with R1-Zero's tags."""
    rng = random.Random(index)
    row = tasks.draw(rng, "corpus", "corpus", "compare")
    letter = rng.choice(tasks.LETTERS)
    guess = corpus.response_r1_zero(row, "guess", letter) if rng.random() < 2 / 3 else f"guess {letter}"
    return fill(R1_ZERO, row["problem"]), " " + guess


def train_base(directory: Path, steps: int = 250, rows: int = 8) -> None:
    """Tokenizer and base, written as `experiments.nano_base` writes them."""
    pieces = train_tokenizer((corpus.document(1, i) for i in range(1500)), 600)
    cfg = ModelConfig(vocab_size=pieces.vocab_size, **MODEL)
    mesh = make_mesh("1x1", jax.devices()[:1])
    learner = Learner(Network(cfg), optax.adamw(optax.linear_schedule(2e-2, 0.0, steps)), cross_entropy)
    state = start(learner, place(transformer.init(cfg, jax.random.key(0)), mesh))
    for step in range(steps):
        pairs = [solution(step * rows + i) for i in range(rows)]
        prompts = [pieces.encode(prompt) for prompt, _ in pairs]
        texts = [np.asarray([*pieces.encode(text), pieces.eos_id]) for _, text in pairs]
        packed, places = pack(prompts, list(enumerate(texts)), ROW)
        weights = [np.full(len(text), 1 / (rows * len(text)), np.float32) for text in texts]
        batch = TokenBatch(packed, spread(weights, places, packed.tokens.shape))
        state, _ = update(learner, state, [shard_rows(batch, mesh)])
    nano_base.export(directory, cfg, jax.tree.map(np.asarray, state.params), pieces)


class Walk:
    """The command on the small base, in this process or in one of its own."""

    def __init__(self, home: Path):
        self.home, self.base = home, home / "base"
        self._finished: dict[tuple, Path] = {}
        train_base(self.base)

    def finished(self, **changed: object) -> Path:
        """The working directory of an uninterrupted run, made once for all tests. Read only."""
        key = tuple(sorted(changed.items()))
        if key not in self._finished:
            self._finished[key] = self.here(self.home / f"finished-{len(self._finished)}", **changed)
        return self._finished[key]

    def here(self, workdir: Path, *extra: str, **changed: object) -> Path:
        """Runs the command in this process, without the cost of a start. SystemExit where it ends with an error."""
        with mock.patch.object(sys, "argv", ["r1_zero", *self.command(workdir, **changed), *extra]):
            r1_zero.main()
        return workdir

    def refused(self, capsys: pytest.CaptureFixture, workdir: Path, *extra: str, **changed: object) -> str:
        """What the command writes to standard error when it ends with an error, as a shell would show it."""
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            self.here(workdir, *extra, **changed)
        code = left.value.code
        assert code not in (None, 0)
        return capsys.readouterr().err + (code if isinstance(code, str) else "")

    def spawn(self, workdir: Path, *, devices: int = 8, **changed: object) -> subprocess.Popen:
        """Starts the command as a process."""
        return spawn("experiments.r1_zero", self.command(workdir, **changed), devices)

    def together(self, workdir: Path, processes: int, devices: int, **changed: object) -> Path:
        """Runs the command in several processes of CPU devices. All must end well."""
        where = {"coordinator": f"127.0.0.1:{free_port()}", "processes": processes}
        every = [
            self.spawn(workdir, devices=devices, **where, process_id=process, **changed) for process in range(processes)
        ]
        try:
            for status, _, err in [ended(process, 580) for process in every]:
                assert status == 0, err[-3000:]
        finally:
            for process in every:
                process.kill()
        return workdir

    def command(self, workdir: Path, **changed: object) -> list[str]:
        """The flags of a small run, with some changed."""
        fields = FLAGS | {"weights": self.base, "workdir": workdir} | changed
        return [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]


def spawn(module: str, arguments: list[str], devices: int) -> subprocess.Popen:
    """Starts a module of the repository as a process with so many CPU devices."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTER_VARIABLES)} | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "PYTHONPATH": str(ROOT),
        "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen, timeout: float = 500) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of a process."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, out, err


def lines(workdir: Path, name: str) -> list[dict]:
    """A log without the figures that depend on the machine."""
    written = jsonl.read(workdir / f"{name}.jsonl")
    return [{key: value for key, value in line.items() if not key.startswith("perf/")} for line in written]


def outcome(workdir: Path, *logs: str) -> dict:
    """What two runs of the same seed must have in common."""
    found = {name: lines(workdir, name) for name in logs or ("metrics", "samples", "eval")}
    manifest = json.loads((workdir / "manifest.json").read_text())
    kept = {name: manifest[name] for name in ("results", "warnings", "status", "parent", "data")}
    return found | {"params": checkpoint.sha256(workdir), "last": checkpoint.latest(workdir / "checkpoints"), **kept}


def files(directory: Path) -> dict[str, str]:
    """sha256 of every file below a directory."""
    return {str(p.relative_to(directory)): file_sha256(p) for p in sorted(directory.rglob("*")) if p.is_file()}


def wait_until(true: Callable[[], bool], process: subprocess.Popen, deadline: float = 300.0) -> None:
    """Waits for something a process does to its files."""
    end = time.monotonic() + deadline
    while not true():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            said = process.communicate()[1][-3000:]
            raise AssertionError(f"it did not come to pass; exit {process.returncode}\n{said}")
        time.sleep(0.005)


def count(workdir: Path, name: str) -> int:
    """Whole lines of a log."""
    path = workdir / f"{name}.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0
