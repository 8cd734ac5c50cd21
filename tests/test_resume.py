"""Killed, told to stop, finished or lengthened: a run goes on as if nothing had happened."""

import json
import os
import random
import re
import signal
import time

import pytest

from r1jax import jsonl, train_rl
from r1jax.evaluation.during_training import examine
from r1jax.runs import checkpoint
from support.crash import TORN, crashed
from support.marks import WEEKLY
from support.walk import count, ended, files, lines, outcome, wait_until

ANY_MOMENT = random.SystemRandom().randrange(1 << 30)


@pytest.mark.parametrize(
    "last, written, flags",
    [
        pytest.param(4, 4, {}, id="at a checkpoint"),
        pytest.param(4, 5, {}, id="between two checkpoints"),
        pytest.param(4, 6, {}, id="with the last step logged but not saved"),
        pytest.param(None, 1, {}, id="before the first checkpoint"),
        pytest.param(None, 0, {}, id="after the base's evaluation"),
        pytest.param(6, 6, {}, id="after the last checkpoint"),
        pytest.param(4, 5, {"minibatches": 2}, id="in the middle of a round"),
    ],
)
def test_a_run_that_crashed_goes_on_as_if_it_had_not(walk, tmp_path, last, written, flags):
    whole = walk.finished(**flags)
    workdir = crashed(whole, tmp_path / "run", last, written)
    walk.here(workdir, resume=True, **flags)
    assert outcome(workdir) == outcome(whole)
    assert (workdir / "report.html").exists()


def test_a_checkpoint_without_its_commit_is_no_checkpoint(walk, tmp_path):
    workdir = crashed(walk.finished(), tmp_path / "run", 4, 6, uncommitted=True)
    walk.here(workdir, resume=True)
    assert outcome(workdir) == outcome(walk.finished())


def test_a_run_goes_on_over_the_end_of_an_epoch(walk, tmp_path):
    # 4 questions, 2 a round: after step 4 two epochs are over, and the third has another order.
    rows = [{"id": f"q{i}", "problem": f"Which is A? A {i}", "gold": "A", "kind": "choice"} for i in range(4)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    whole = walk.here(tmp_path / "whole", prompts=path, eval_prompts=path)
    for last, written in ((4, 5), (None, 3)):
        workdir = crashed(whole, tmp_path / f"run-{last}", last, written)
        walk.here(workdir, prompts=path, eval_prompts=path, resume=True)
        assert outcome(workdir) == outcome(whole)


def test_kill_9_at_a_random_moment_changes_nothing(walk, tmp_path):
    print(f"the moment: {ANY_MOMENT}")
    moment = random.Random(ANY_MOMENT)
    flags = {"steps": 12, "minibatches": 2}
    process = walk.spawn(tmp_path / "run", **flags)
    at = moment.randrange(12)
    wait_until(lambda: count(tmp_path / "run", "metrics") >= at and count(tmp_path / "run", "eval") > 0, process)
    time.sleep(moment.random() / 2)
    process.kill()
    ended(process)
    print(f"killed with {count(tmp_path / 'run', 'metrics')} steps logged")
    print(f"and checkpoint {checkpoint.latest(tmp_path / 'run/checkpoints')}")
    walk.here(tmp_path / "run", resume=True, **flags)
    assert outcome(tmp_path / "run") == outcome(walk.finished(**flags))


@pytest.mark.weekly
@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_all_the_same(walk, tmp_path):
    print(f"the moments: {ANY_MOMENT}")
    moment = random.Random(ANY_MOMENT)
    flags = {"steps": 12, "minibatches": 2}
    for _ in range(4):
        process = walk.spawn(tmp_path / "run", resume=True, **flags)
        # From the first import to the last step, which is about twice the time to the first line.
        begun = time.monotonic()
        wait_until(lambda: (tmp_path / "run" / "manifest.json").exists(), process)
        time.sleep(2 * moment.random() * (time.monotonic() - begun))
        process.kill()
        ended(process)
    walk.here(tmp_path / "run", resume=True, **flags)
    assert outcome(tmp_path / "run") == outcome(walk.finished(**flags))


def test_sigterm_saves_the_round_and_says_how_to_go_on(walk, tmp_path):
    workdir = tmp_path / "run"
    flags = {"save_every": 1000, "eval_every": 1000, "minibatches": 2}
    process = walk.spawn(workdir, steps=1000, **flags)
    wait_until(lambda: count(workdir, "metrics") >= 3, process)
    process.send_signal(signal.SIGTERM)
    status, _, err = ended(process)
    assert status not in (0, -signal.SIGTERM) and "Traceback" not in err, err[-3000:]
    step = int(re.search(r"stopped at step (\d+)", err)[1])
    assert f"--workdir={workdir} --resume=True" in err
    assert step % 2 == 0 and checkpoint.latest(workdir / "checkpoints") == step == lines(workdir, "metrics")[-1]["step"]
    assert json.loads((workdir / "manifest.json").read_text())["status"] == "running"

    walk.here(workdir, steps=step + 2, resume=True, **flags)
    assert outcome(workdir) == outcome(walk.here(tmp_path / "whole", steps=step + 2, **flags))


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), pytest.param(signal.SIGINT, 130, marks=WEEKLY)])
def test_a_signal_while_a_round_is_sampled_saves_the_step_before_it_at_once(walk, tmp_path, number, code):
    workdir = tmp_path / "run"
    flags = {"questions_per_round": 64, "group_size": 16, "save_every": 1000, "eval_every": 1000, "steps": 2}
    process = walk.spawn(workdir, **flags)
    wait_until(lambda: count(workdir, "eval") > 0, process)
    time.sleep(0.3)
    process.send_signal(number)
    status, _, err = ended(process)
    assert status == code and "Traceback" not in err, err[-3000:]
    step = int(re.search(r"stopped at step (\d+)", err)[1])
    assert checkpoint.latest(workdir / "checkpoints") == step == count(workdir, "metrics") < 2
    assert (workdir / "report.html").exists()
    walk.here(workdir, resume=True, **flags)
    assert outcome(workdir) == outcome(walk.finished(**flags))


@pytest.mark.parametrize("call, step", [(2, 3), (3, 6)])
def test_a_signal_while_the_policy_is_evaluated_leaves_the_evaluation_to_the_resumed_run(
    walk, tmp_path, monkeypatch, call, step
):
    whole, flags = walk.finished(), {}
    run, calls = tmp_path / "run", []

    def examine_or_stop(*arguments):
        calls.append(1)
        if len(calls) == call:  # the first is that of the base
            os.kill(os.getpid(), signal.SIGTERM)
        return examine(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train_rl, "examine", examine_or_stop)
        with pytest.raises(SystemExit) as left:
            walk.here(run, **flags)
    assert left.value.code == 75
    assert checkpoint.latest(run / "checkpoints") == step
    assert [line["step"] for line in lines(run, "eval")] == list(range(0, step, 3))
    with open(run / "eval.jsonl", "a") as log:  # as of a resumed run that was killed after its evaluation
        log.write(json.dumps({"step": step, "reward": 0.0}) + "\n")
    walk.here(run, resume=True, **flags)
    assert outcome(run) == outcome(whole)


def test_a_finished_run_says_so_and_is_left_alone(walk, capsys):
    workdir = walk.finished()
    before = files(workdir)
    capsys.readouterr()
    walk.here(workdir, resume=True)  # SystemExit here would be a non-zero exit
    assert "is complete: 6 steps of --steps=6" in capsys.readouterr().out
    walk.here(workdir, resume=True, steps=5)
    assert "is complete" in capsys.readouterr().out
    assert files(workdir) == before


@pytest.mark.parametrize("steps, flags", [(4, {}), (5, {"minibatches": 2}), (1, {"minibatches": 2})])
def test_more_steps_go_on_as_a_longer_run_would_have(walk, tmp_path, steps, flags):
    """Also where the shorter run ended in the middle of a round, whose samples belong to both of its steps."""
    whole = outcome(walk.finished(**flags))
    workdir = walk.here(tmp_path / "run", steps=steps, **flags)
    walk.here(workdir, resume=True, **flags)
    longer = outcome(workdir)
    # What the shorter run measured at its end, and the longer one did not, may stay.
    expected = {line["step"] for line in whole["eval"]}
    longer["eval"] = [line for line in longer["eval"] if line["step"] in expected]
    assert longer == whole


def test_a_torn_last_line_is_dropped_and_the_lines_before_keep_their_bytes(walk, tmp_path):
    whole = walk.finished()
    workdir = crashed(whole, tmp_path / "run", 4, 5)
    before = (workdir / "metrics.jsonl").read_bytes().splitlines()
    assert before[-1] == TORN
    walk.here(workdir, resume=True)
    after = (workdir / "metrics.jsonl").read_bytes().splitlines()
    assert after[:4] == before[:4]
    assert [line["step"] for line in jsonl.read(workdir / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_intervals_may_change_and_the_numbers_of_the_recipe_may_not(walk, tmp_path, capsys):
    workdir = walk.here(tmp_path / "run", steps=2)
    before = files(workdir)
    said = walk.refused(capsys, workdir, resume=True, learning_rate=0.5)
    assert "learning_rate" in said and "0.5" in said and files(workdir) == before
    walk.here(workdir, resume=True, steps=4, eval_every=4, save_every=4, log_samples=2)
    assert [line["step"] for line in lines(workdir, "metrics")] == [1, 2, 3, 4]
