"""Killed, told to stop, finished or lengthened: a run goes on as if nothing had happened."""

import json
import random
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from walk import count, ended, files, lines, outcome, wait_until

from r1jax import checkpoint, log

ANY_MOMENT = random.SystemRandom().randrange(1 << 30)
TORN = b'{"step": 6, "reward/mean": 0.2'


def crashed(whole: Path, into: Path, last: int | None, written: int, *, uncommitted: bool = False) -> Path:
    """What a finished run's directory was at an earlier moment: the moment of a crash.

    Args:
        last: the newest checkpoint then; None before the first.
        written: the last step in the logs, each of which ends in a torn line.
        uncommitted: whether the next checkpoint was half written.
    """
    shutil.copytree(whole, into)
    for path in (into / "checkpoints").iterdir():
        if last is None or int(path.name) > last:
            if uncommitted:
                (path / "commit_success.txt").unlink()
            else:
                shutil.rmtree(path)
    for name in ("metrics", "samples", "eval"):
        path = into / f"{name}.jsonl"
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if json.loads(line)["step"] <= written]
        path.write_bytes(b"".join(kept) + TORN)
    manifest = json.loads((into / "manifest.json").read_text())
    manifest |= {"status": "running", "warnings": [w for w in manifest["warnings"] if w["step"] <= written]}
    if last is None:
        manifest["results"] = {"base": None, "final": None}
    elif last < 6:
        manifest["results"]["final"] = None  # the manifest is written before the checkpoint
    (into / "manifest.json").write_text(json.dumps(manifest))
    (into / "report.html").unlink()
    return into


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
    whole = walk.here(tmp_path / "whole", prompts=path)
    for last, written in ((4, 5), (None, 3)):
        workdir = crashed(whole, tmp_path / f"run-{last}", last, written)
        walk.here(workdir, prompts=path, resume=True)
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
    assert [line["step"] for line in log.read(workdir / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_intervals_may_change_and_the_numbers_of_the_recipe_may_not(walk, tmp_path, capsys):
    workdir = walk.here(tmp_path / "run", steps=2)
    before = files(workdir)
    said = walk.refused(capsys, workdir, resume=True, learning_rate=0.5)
    assert "learning_rate" in said and "0.5" in said and files(workdir) == before
    walk.here(workdir, resume=True, steps=4, eval_every=4, save_every=4, log_samples=2)
    assert [line["step"] for line in lines(workdir, "metrics")] == [1, 2, 3, 4]
