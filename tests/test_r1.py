"""`experiments.r1` at a size for tests: the whole graph, what it skips, what it refuses, and that no kill changes it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from two_processes import CLUSTER_VARIABLES
from walk import ROOT, count, ended, wait_until

from experiments import r1
from r1jax import checkpoint, lineage, records

RL = dict(
    steps=3, questions_per_round=8, group_size=4, max_tokens=24, eval_problems=2, row_length=320, batch_rows=4,
    save_every=2, eval_every=0, log_samples=2, warmup_steps=0, learning_rate=3e-4, temperature=1.0,
)  # fmt: skip
SFT = dict(
    epochs=0.0, steps=40, learning_rate=2e-2, final_learning_rate=1e-3, warmup_steps=0, row_length=128, batch_rows=2,
    held_out_problems=0, max_tokens=24, eval_problems=2, log_samples=1, save_every=20,
)  # fmt: skip
SAMPLES = dict(questions=128, samples=1, sample_tokens=32)  # of a quarter the answer is a letter, of those C one in four
NUMBERS = {
    "zero": RL, "cold_data": SAMPLES, "cold": SFT, "reasoning": RL,
    "rejection_data": SAMPLES | dict(general_questions=4, general_samples=1), "rejection": SFT,
    "rewards": dict(items=16, held_out_items=8, batch_items=8, batch_rows=8, max_tokens=64, save_every=1, warmup_steps=0),
    "scenarios": RL | dict(late_from=1), "distilled": SFT, "student_rl": RL, "evaluation": dict(max_tokens=24),
}  # fmt: skip
FOLDERS = [stage.folder for stage in r1.STAGES]


def flags(base: Path, home: Path, **changed: object) -> list[str]:
    """The command line of a small run, with some flags changed."""
    fields = {f"{part}.{name}": value for part, some in NUMBERS.items() for name, value in some.items()}
    fields |= dict(weights=base, student_weights=base, workdir=home, mesh="1x1", problems=2)
    return [f"--{name.replace('_', '-')}={value}" for name, value in (fields | changed).items()]


def spawn(base: Path, home: Path, **changed: object) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTER_VARIABLES)} | {
        "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }  # fmt: skip
    command = [sys.executable, "-m", "experiments.r1", *flags(base, home, **changed)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def whole(zero, tmp_path_factory):
    """An uninterrupted run, in a process of its own, which leaves its programs to those that are killed. Read only."""
    home = tmp_path_factory.mktemp("r1") / "whole"
    status, _, err = ended(spawn(zero, home))
    assert status == 0, err[-3000:]
    return home


def manifests(home: Path) -> dict[str, lineage.Manifest]:
    return {folder: lineage.read(home / folder) for folder in FOLDERS}


def test_every_stage_is_trained_and_the_page_shows_them(whole):
    assert {name: made.status for name, made in manifests(whole).items()} == dict.fromkeys(FOLDERS, "complete")
    page = (whole / "report.html").read_text()
    assert all(stage.folder in page and stage.result in page for stage in r1.STAGES)
