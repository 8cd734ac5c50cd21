"""A sample of the fault campaign: every kind of fault once or twice, on two stages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.bench.fault_kinds import KINDS, SILENT
from experiments.bench.faults import Options, format_table, schedule

ROOT = Path(__file__).resolve().parent.parent


def test_every_kind_is_tried_and_the_numbers_add_up():
    for runs in (20, 208):
        planned = schedule(Options(runs=runs))
        assert len(planned) == runs and {kind for kind, _, _ in planned} == KINDS.keys()
        assert planned == schedule(Options(runs=runs))
    with pytest.raises(ValueError, match="--stages=elsewhere"):
        schedule(Options(stages=("elsewhere",)))
    assert [kind for kind, *_ in schedule(Options(runs=3, kinds=("SIGINT",)))] == ["SIGINT"] * 3
    with pytest.raises(ValueError, match="--kinds=fire is unknown: use kill -9, "):
        schedule(Options(kinds=("fire",)))


def test_the_table_counts_each_verdict():
    lines = [{"kind": "kill -9", "verdict": "equal"}, {"kind": "kill -9", "verdict": "silent"}]
    assert "| kill -9 | 2 | 1 | 0 | 1 |" in format_table(lines) and "| all | 2 | 1 | 0 | 1 |" in format_table(lines)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # six minutes beside another test, each run in a process of its own
def test_a_sample_of_the_campaign_finds_no_silent_difference(tmp_path):
    command = [sys.executable, "-m", "experiments.bench.faults", "--runs=20", f"--workdir={tmp_path}"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "--stages", "r1_zero", "generate"], env=env, capture_output=True, text=True)
    lines = [json.loads(line) for line in (tmp_path / "faults.jsonl").read_text().splitlines()]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert len(lines) == 20 and not [line for line in lines if line["verdict"] == SILENT]
