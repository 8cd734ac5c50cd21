"""Lines of steps, one step late: in order, complete before a checkpoint, and the stop after updates not finite."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import jsonl
from r1jax.planning import roofline
from r1jax.planning.utilization import Pace
from r1jax.recipes import RunOptions
from r1jax.rewards.rule import Scores
from r1jax.rl.metrics import RoundLog
from r1jax.rl.rounds import Round
from r1jax.runs import checkpoint
from r1jax.runs.health import Alarms
from r1jax.runs.logs import Logs
from r1jax.runs.progress import Progress
from r1jax.runs.step_logger import StepLogger, Times
from r1jax.sampling.rollout import Rollout
from support.walk import count

# Two questions of two completions, sampled from 0 to 1 s: long before now.
LENGTHS = np.asarray([3, 4, 5, 6])
ROUND = Round(
    [{"id": str(i), "kind": "math", "gold": "1", "problem": "?"} for i in range(2)],
    Rollout([[1] * 5, [1] * 6], np.ones((4, 6), np.int32), LENGTHS, np.zeros((4, 6), np.float32), np.ones(4, bool)),
    [""] * 4,
    np.arange(2),
    Scores(np.asarray([1.0, 0, 1, 1]), np.ones(4, bool), {"accuracy": np.asarray([1.0, 0, 1, 1])}, []),
    np.asarray([1.0, -1, 0, 0]),
)


def figures(loss: float = 0.5, entropy: float = 1.0) -> dict:
    values = {"weight": 1.0, "loss": loss, "entropy": entropy, "grad_norm": 1.0}
    values |= dict.fromkeys(("log_ratio/max", "sampler_gap/max"), 0.0)
    return {k: jnp.float32(v) for k, v in values.items()} | {"skipped": jnp.int32(not math.isfinite(loss))}


@pytest.fixture
def pace(cfg):
    return Pace(cfg, roofline.Device(0.0, 1e12, 1e12), 1, 4, 4)


@pytest.fixture
def lines(pace) -> RoundLog:
    made = RoundLog(ROUND, 1, pace, False, all_parameters=True)
    made._ended = 1.0
    return made


@pytest.fixture
def logger(tmp_path):
    logs = Logs(tmp_path, -1, -1, RunOptions(), {})
    with Progress(9) as progress:
        logger = StepLogger(tmp_path, logs, progress, max_skips=1, shown=(), alarms=Alarms())
        yield logger
        logger.close()
    logs.close()


def step(logger: StepLogger, lines: RoundLog, number: int, **changed: float) -> None:
    logger.enter(number, figures(**changed), lines.describe(0), logger.watch([]))


def steps(tmp_path) -> list[int]:
    return [line["step"] for line in jsonl.read(tmp_path / "metrics.jsonl")]


def test_a_line_is_written_when_the_next_step_is_entered_and_the_last_when_it_is_settled(logger, lines, tmp_path):
    for number in (1, 2, 3):
        step(logger, lines, number, loss=number)
        assert steps(tmp_path) == list(range(1, number))
    for _ in range(2):  # the second time there is nothing open
        logger.settle()
        written = [(line["step"], line["loss"]) for line in jsonl.read(tmp_path / "metrics.jsonl")]
        assert written == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_warning_comes_with_the_line_of_its_step(logger, lines):
    step(logger, lines, 1, entropy=0.001)
    assert logger.warnings == []
    step(logger, lines, 2, entropy=0.001)
    assert [warning["step"] for warning in logger.warnings] == [1] and "entropy" in logger.warnings[0]["text"]
    logger.settle()
    assert len(logger.warnings) == 1  # it lasts


def test_updates_that_are_not_finite_stop_the_run_one_step_later_and_only_in_a_row(logger, lines, tmp_path):
    for number, loss in enumerate([math.nan, 0.5, math.nan, math.nan], start=1):
        step(logger, lines, number, loss=loss)
    assert steps(tmp_path) == [1, 2, 3]
    with pytest.raises(FloatingPointError, match=r"2 updates in a row were not finite.*nonfinite-4.npz"):
        step(logger, lines, 5)
    assert steps(tmp_path) == [1, 2, 3, 4]  # the line of the one that was too many is there
    assert sorted(path.name for path in tmp_path.glob("*.npz")) == [f"nonfinite-{step}.npz" for step in (1, 3, 4)]


def test_the_seconds_of_steps_do_not_overlap_and_a_round_has_one_rollout(logger, lines, tmp_path):
    # The round began long before now, so the first step has all the time until now.
    step(logger, lines, 1)
    step(logger, lines, 2)
    logger.settle()
    first, second = jsonl.read(tmp_path / "metrics.jsonl")
    assert first["perf/rollout_s"] == second["perf/rollout_s"] == 1.0
    assert first["perf/decode_fraction"] == second["perf/decode_fraction"] > 0
    # Tokens of the round over the time since it began; the second step's own time begins where the first was done.
    assert second["perf/tokens_per_s"] == pytest.approx(18 / (first["perf/step_s"] + second["perf/step_s"]))
    assert second["perf/step_s"] < first["perf/step_s"]
    assert first["perf/mfu"] > 0


def test_a_round_sampled_ahead_begins_when_the_loop_asks_for_it_or_when_the_step_before_ends(cfg):
    pace, round_ = Pace(cfg, None, 1, 4, 4), ROUND._replace(began=100.0, arrived=103.0, took=50.0)

    def line(before: float) -> dict:
        describe = RoundLog(round_, 1, pace, False, all_parameters=True).describe(0)
        return describe({name: float(value) for name, value in figures().items()}, Times(before, 103.5, 110.0))

    early, late, later = line(0.0), line(102.0), line(104.0)
    assert early["perf/rollout_s"] == 50.0 and early["perf/wait_s"] == 3.0 and early["perf/step_s"] == 10.0
    assert late["perf/wait_s"] == 1.0 and late["perf/step_s"] == 8.0  # until 102 the devices had the step before
    assert later["perf/wait_s"] == 0.0


def test_a_run_whose_updates_are_not_finite_says_so_and_its_checkpoints_have_every_line(walk, tmp_path, capsys):
    workdir = tmp_path / "run"
    said = walk.refused(capsys, workdir, learning_rate=1e38, warmup_steps=0, grad_clip=1e38, steps=12, max_skips=1)
    assert "2 updates in a row were not finite" in said
    written = steps(workdir)
    assert written == list(range(1, len(written) + 1)) and count(workdir, "metrics") == len(written)
    assert (workdir / f"nonfinite-{written[-1]}.npz").exists()
    assert (checkpoint.latest(workdir / "checkpoints") or 0) <= written[-1]
