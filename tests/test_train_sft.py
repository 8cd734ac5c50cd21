"""Supervised fine-tuning from the command line: what it leaves, that it learns, and that no crash changes it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from experiments import distill
from r1jax import jsonl
from r1jax.runs import checkpoint
from r1jax.runs.files import hash_files
from r1jax.sft_data import records
from support.crash import crashed
from support.tuning import guesses
from support.two_processes import CLUSTER_VARIABLES
from support.walk import ROOT, count, ended, lines, outcome, wait_until

ANY_MOMENT = random.SystemRandom().randrange(1 << 30)
FLAGS = dict(
    steps=6,
    learning_rate=1e-3,
    final_learning_rate=1e-4,
    warmup_steps=0,
    row_length=128,
    batch_rows=4,
    micro_rows=2,
    held_out_problems=4,
    max_tokens=16,
    eval_problems=4,
    eval_every=3,
    log_samples=2,
    save_every=2,
    model="nano",
    eval_prompts="nano:compare",
    mesh="1x1",
)


class Tuning:
    """The command on the walk's base, here or in a process of its own."""

    def __init__(self, home: Path, base: Path):
        self.home, self.base, self.file = home, base, guesses(home / "records.jsonl", 60)
        self._finished: dict[tuple, Path] = {}

    def command(self, workdir: Path, **changed: object) -> list[str]:
        fields = FLAGS | {"weights": self.base, "workdir": workdir, "records": self.file} | changed
        return [f"--{name.replace('_', '-')}={value}" for name, value in fields.items()]

    def here(self, workdir: Path, **changed: object) -> Path:
        with mock.patch.object(sys, "argv", ["distill", *self.command(workdir, **changed)]):
            distill.main()
        return workdir

    def finished(self, **changed: object) -> Path:
        key = tuple(sorted(changed.items()))
        if key not in self._finished:
            self._finished[key] = self.here(self.home / f"finished-{len(self._finished)}", **changed)
        return self._finished[key]

    def spawn(self, workdir: Path, **changed: object) -> subprocess.Popen:
        env = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTER_VARIABLES)} | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "8",
            "PYTHONPATH": str(ROOT),
        }
        command = [sys.executable, "-m", "experiments.distill", *self.command(workdir, **changed)]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def refused(self, workdir: Path, **changed: object) -> str:
        with pytest.raises(SystemExit) as left:
            self.here(workdir, **changed)
        assert isinstance(left.value.code, str)
        return left.value.code


@pytest.fixture(scope="module")
def tuning(tmp_path_factory, walk):
    return Tuning(tmp_path_factory.mktemp("tuning"), walk.base)


@pytest.mark.weekly
@pytest.mark.slow
def test_a_run_leaves_what_a_reinforcement_learning_run_leaves(tuning, walk):
    workdir = tuning.finished()
    names = {path.name for path in workdir.iterdir() if not path.name.startswith(".")}
    assert names == {
        "metrics.jsonl",
        "eval.jsonl",
        "samples.jsonl",
        "checkpoints",
        "report.html",
        "manifest.json",
        "model.json",
        "tokenizer.model",
    }
    assert [line["step"] for line in jsonl.read(workdir / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in jsonl.read(workdir / "eval.jsonl")] == [0, 3, 6]
    samples = jsonl.read(workdir / "samples.jsonl")
    assert [line["step"] for line in samples] == [0, 0, 3, 3, 6, 6]
    assert samples[0]["prompt"] == f"<｜User｜>{samples[0]['problem']}<｜Assistant｜>"
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["stage"] == "distill" and manifest["status"] == "complete"
    assert manifest["parent"]["path"] == str(walk.base) and len(manifest["parent"]["sha256"]) == 64
    assert manifest["data"]["counts"]["records"] == 60 and manifest["data"]["counts"]["kept"] == 48
    assert manifest["data"]["records"] == [48] and len(manifest["data"]["sha256"]) == 64
    assert manifest["results"]["final"] == jsonl.read(workdir / "eval.jsonl")[-1]
    assert "Held-out" in (workdir / "report.html").read_text()


def test_it_learns_the_form_of_its_records_and_the_loss_of_unseen_ones_falls(tuning):
    workdir = tuning.finished(steps=80, learning_rate=2e-2, eval_every=0, save_every=80)
    first, last = jsonl.read(workdir / "eval.jsonl")
    # The base writes R1-Zero's form under another template: next to none of its completions have R1's.
    assert first["format"] <= 0.5 < last["format"]
    assert last["loss"] < 0.5 * first["loss"]


def test_a_checkpoint_is_another_runs_weights(tuning, tmp_path):
    before = tuning.finished()
    after = tuning.here(tmp_path / "run", weights=before, steps=1)
    parent = json.loads((after / "manifest.json").read_text())["parent"]
    assert parent == {"path": str(before), "sha256": checkpoint.sha256(before), "step": 6}
    ended_at, began_at = (json.loads((path / "manifest.json").read_text())["results"] for path in (before, after))
    assert ended_at["final"] | {"step": 0} == began_at["base"] | {"step": 0}


@pytest.mark.parametrize(
    "last, written",
    [
        pytest.param(4, 4, id="at a checkpoint"),
        pytest.param(4, 6, id="with the last step logged but not saved"),
        pytest.param(None, 1, id="before the first checkpoint"),
        pytest.param(6, 6, id="after the last checkpoint"),
    ],
)
def test_a_run_that_crashed_goes_on_as_if_it_had_not(tuning, tmp_path, last, written):
    workdir = crashed(tuning.finished(), tmp_path / "run", last, written)
    tuning.here(workdir, resume=True)
    assert outcome(workdir) == outcome(tuning.finished())


def test_kill_9_at_a_random_moment_changes_nothing(tuning, tmp_path):
    print(f"the moment: {ANY_MOMENT}")
    moment = random.Random(ANY_MOMENT)
    process = tuning.spawn(tmp_path / "run")
    at = moment.randrange(6)
    wait_until(lambda: count(tmp_path / "run", "metrics") >= at and count(tmp_path / "run", "eval") > 0, process)
    time.sleep(moment.random() / 2)
    process.kill()
    ended(process)
    tuning.here(tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == outcome(tuning.finished())


@pytest.mark.slow
def test_ctrl_c_saves_the_step_and_says_how_to_go_on(tuning, tmp_path):
    workdir = tmp_path / "run"
    flags = {"save_every": 10_000, "eval_every": 0}
    process = tuning.spawn(workdir, steps=10_000, **flags)
    wait_until(lambda: count(workdir, "metrics") >= 3, process)
    process.send_signal(signal.SIGINT)
    status, _, err = ended(process)
    assert status != 0 and "Traceback" not in err and f"--workdir={workdir} --resume=True" in err
    assert checkpoint.latest(workdir / "checkpoints") == lines(workdir, "metrics")[-1]["step"]


def test_a_finished_run_is_left_alone_and_other_records_are_refused(tuning, tmp_path, capsys):
    workdir = shutil.copytree(tuning.finished(), tmp_path / "run")
    before = outcome(workdir)
    tuning.here(workdir, resume=True)
    assert "is complete: 6 steps" in capsys.readouterr().out and outcome(workdir) == before
    other = guesses(tmp_path / "other.jsonl", 60, seed=1)
    assert "began with other records" in tuning.refused(workdir, resume=True, records=other)
    assert "already holds a run" in tuning.refused(workdir)


def test_nothing_to_train_on_and_a_long_record_end_before_anything_is_written(tuning, tmp_path):
    found = records.read(tuning.file)
    records.write(tmp_path / "none.jsonl", [record | {"keep": False} for record in found])
    assert "no record to train on" in tuning.refused(tmp_path / "run", records=tmp_path / "none.jsonl")
    records.write(tmp_path / "long.jsonl", [found[1] | {"response": "x1 " * 200}])
    assert "does not fit --row-length=128" in tuning.refused(tmp_path / "run", records=tmp_path / "long.jsonl")
    assert not (tmp_path / "run").exists()


def test_a_text_may_hold_every_kind_of_line_break(tmp_path):
    said = " <think> a\u2028b\u0085c\x0b </think> 1\n2\r\n3"
    record = {"id": "1", "problem": "p", "response": said, "keep": True}
    records.write(tmp_path / "one.jsonl", [record, record])
    assert records.read(tmp_path / "one.jsonl") == [record, record]


def test_two_files_are_mixed_by_their_shares_and_the_manifest_says_so(tuning, tmp_path):
    files = [guesses(tmp_path / f"{seed}.jsonl", 20, seed) for seed in (1, 2)]
    arguments = ["distill", *(a for a in tuning.command(tmp_path / "run", steps=1) if not a.startswith("--records"))]
    with mock.patch.object(sys, "argv", [*arguments, "--records", *map(str, files), "--shares", "3", "1"]):
        distill.main()
    data = json.loads((tmp_path / "run/manifest.json").read_text())["data"]
    assert data["records"] == [16, 16] and data["shares"] == [3.0, 1.0]
    assert data["files"] == hash_files(*files)
    arguments += ["--records", *map(str, files), "--shares", "3"]
    with mock.patch.object(sys, "argv", arguments), pytest.raises(SystemExit, match="for each of the 2 files"):
        distill.main()


@pytest.mark.weekly
@pytest.mark.slow
def test_a_mesh_of_eight_devices_gives_the_losses_of_one(tuning, tmp_path):
    one = lines(tuning.finished(), "metrics")
    eight = lines(tuning.here(tmp_path / "run", mesh="4x2", micro_rows=0), "metrics")
    assert [a["loss"] for a in one] == pytest.approx([b["loss"] for b in eight], rel=1e-4)
