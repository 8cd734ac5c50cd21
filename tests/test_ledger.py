"""Lines of steps, one step late: in order, complete before a checkpoint, and the stop after updates not finite."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest
from walk import count

from experiments.r1_zero import NANO
from r1jax import checkpoint, limits, log
from r1jax.alarms import Alarms
from r1jax.ledger import Ledger, Sampled
from r1jax.pace import Pace
from r1jax.progress import Progress
from r1jax.run import Logs, RunOptions

RECIPE = dataclasses.replace(NANO, group_size=2, max_skips=1)
# Two questions of two completions.
ROWS = {
    name: np.asarray(values, float)
    for name, values in {
        "total": [1, 0, 1, 1], "valid": [1, 1, 1, 1], "advantage": [1, -1, 0, 0], "prompt": [5, 5, 6, 6],
        "length": [3, 4, 5, 6],
        "stopped": [1, 1, 1, 1], "one_completion": [0, 0, 0, 0], "reflective_words": [0, 0, 0, 0],
        "language": [1, 1, 1, 1], "part/accuracy": [1, 0, 1, 1],
    }.items()
}  # fmt: skip

SAMPLED = Sampled(ROWS["prompt"][::2], ROWS["length"], 0.0, 1.0)


def figures(loss: float = 0.5, entropy: float = 1.0) -> dict:
    values = {"weight": 1.0, "loss": loss, "entropy": entropy, "grad_norm": 1.0}
    values |= dict.fromkeys(("log_ratio/max", "sampler_gap/max"), 0.0)
    return {k: jnp.float32(v) for k, v in values.items()} | {"skipped": jnp.int32(not math.isfinite(loss))}


@pytest.fixture
def ledger(tmp_path, cfg):
    logs = Logs(tmp_path, -1, RunOptions(), {})
    device = limits.Device(0.0, 1e12, 1e12)
    pace = Pace(cfg, device, 1, 4, 4)
    with Progress(9) as progress, Ledger(tmp_path, RECIPE, logs, Alarms(), progress, pace) as ledger:
        yield ledger
    logs.close()


def step(ledger: Ledger, number: int, sampled: Sampled | None = None, **changed: float) -> None:
    ledger.enter(number, sampled or SAMPLED, ROWS, [], ledger.ready([]), figures(**changed))


def steps(tmp_path) -> list[int]:
    return [line["step"] for line in log.read(tmp_path / "metrics.jsonl")]


def test_a_line_is_written_when_the_next_step_is_entered_and_the_last_when_the_ledger_is_settled(ledger, tmp_path):
    for number in (1, 2, 3):
        step(ledger, number, loss=number)
        assert steps(tmp_path) == list(range(1, number))
    for _ in range(2):  # the second time there is nothing open
        ledger.settle()
        written = [(line["step"], line["loss"]) for line in log.read(tmp_path / "metrics.jsonl")]
        assert written == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_warning_comes_with_the_line_of_its_step(ledger):
    step(ledger, 1, entropy=0.001)
    assert ledger.warnings == []
    step(ledger, 2, entropy=0.001)
    assert [warning["step"] for warning in ledger.warnings] == [1] and "entropy" in ledger.warnings[0]["text"]
    ledger.settle()
    assert len(ledger.warnings) == 1  # it lasts


def test_updates_that_are_not_finite_stop_the_run_one_step_later_and_only_in_a_row(ledger, tmp_path):
    for number, loss in enumerate([math.nan, 0.5, math.nan, math.nan], start=1):
        step(ledger, number, loss=loss)
    assert steps(tmp_path) == [1, 2, 3]
    with pytest.raises(FloatingPointError, match=r"2 updates in a row were not finite.*nonfinite-4.npz"):
        step(ledger, 5)
    assert steps(tmp_path) == [1, 2, 3, 4]  # the line of the one that was too many is there
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == [f"nonfinite-{step}.npz" for step in (1, 3, 4)]


def test_the_seconds_of_steps_do_not_overlap_and_a_round_has_one_rollout(ledger, tmp_path):
    one = SAMPLED  # long before now, so the first step has all the time until now
    step(ledger, 1, one)
    step(ledger, 2, one)
    ledger.settle()
    first, second = log.read(tmp_path / "metrics.jsonl")
    assert first["perf/rollout_s"] == second["perf/rollout_s"] == 1.0
    assert first["perf/decode_fraction"] == second["perf/decode_fraction"] > 0
    # Tokens of the round over the time since it began; the second step's own time begins where the first was done.
    assert second["perf/tokens_per_s"] == pytest.approx(18 / (first["perf/step_s"] + second["perf/step_s"]))
    assert second["perf/step_s"] < first["perf/step_s"]
    assert first["perf/mfu"] > 0


def test_a_run_whose_updates_are_not_finite_says_so_and_its_checkpoints_have_every_line(walk, tmp_path, capsys):
    workdir = tmp_path / "run"
    said = walk.refused(capsys, workdir, learning_rate=1e38, warmup_steps=0, grad_clip=1e38, steps=12, max_skips=1)
    assert "2 updates in a row were not finite" in said
    written = steps(workdir)
    assert written == list(range(1, len(written) + 1)) and count(workdir, "metrics") == len(written)
    assert (workdir / f"nonfinite-{written[-1]}.npz").exists()
    assert (checkpoint.latest(workdir / "checkpoints") or 0) <= written[-1]
