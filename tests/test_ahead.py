"""Sampling beside training: under which policy a round is sampled, how a run resumes and ends, and what is refused."""

import dataclasses
import os
import signal
import threading
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.r1_zero import NANO, PAPER
from r1jax import jsonl, train_rl
from r1jax.distributed import beat
from r1jax.distributed.phases import beside, pulse, waiting
from r1jax.distributed.signals import LEFT, asked, stop_together, until
from r1jax.model.presets import PRESETS
from r1jax.planning.rl import mesh_of, plan, text
from r1jax.recipes import PlanOptions
from r1jax.rl import ahead_rounds, memory
from r1jax.rl.ahead_rounds import AheadRounds
from r1jax.rl.checks import check
from r1jax.rl.on_policy_distillation import check as check_taught
from r1jax.rl.rounds import WholeRounds, gather_scores
from r1jax.runs import checkpoint
from r1jax.sharding import copy_to, make_mesh, place
from support.crash import crashed
from support.marks import WEEKLY
from support.two_processes import free_port
from support.walk import count, ended, lines, outcome, wait_until

# Updates so large that the policy of one round differs from that of the next. All rows are logged.
FLAGS = dict(ahead=1, tis_cap=2.0, learning_rate=3e-3, warmup_steps=0, log_samples=64)
APART = dict(mesh="2x1", rollout_mesh="2x1")


class InTurn:
    """Samples a round when the loop asks for it, under a copy of what the loop had one round earlier."""

    def __init__(self, setting):
        self._sample, self._setting, self._earlier = WholeRounds(setting), setting, None

    def waiting_at(self, step):
        return None

    def __call__(self, params, number):
        now = jax.tree.map(np.asarray, params)
        earlier, self._earlier = self._earlier or now, now
        round_ = self._sample(place(earlier, self._setting.mesh), number)
        steps = self._setting.draws.minibatches
        version = np.full(round_.rollout.tokens.shape, max(number - 1, 0) * steps, np.int32)
        return round_._replace(rollout=round_.rollout._replace(version=version))


def no_thread_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("sampling")]


@pytest.mark.parametrize(
    "changed",
    [
        {},
        APART,
        pytest.param(APART | {"minibatches": 2, "steps": 9}, marks=WEEKLY),
        pytest.param(APART | {"lora_rank": 2, "old_logp": "sampler", "tis_cap": 0.0}, marks=WEEKLY),
        pytest.param({"mesh": "data:2", "rollout_mesh": "data:3"}, marks=WEEKLY),
    ],
    ids=["one device", "apart", "two minibatches", "adapters", "other sizes"],
)
def test_a_round_is_sampled_under_the_policy_with_which_the_round_before_it_began(walk, tmp_path, monkeypatch, changed):
    flags = FLAGS | changed
    found = walk.here(tmp_path / "ahead", **flags)
    assert no_thread_is_left()
    with monkeypatch.context() as patch:
        patch.setattr(train_rl, "make_sample", lambda run, recipe, setting, waiting, task: InTurn(setting))
        want = walk.here(tmp_path / "turns", **flags)
    assert outcome(found) == outcome(want)
    steps = changed.get("minibatches", 1)
    for line in lines(found, "samples"):
        assert line["versions"] == [[max(line["round"] - 1, 0) * steps, line["length"]]]
    metrics = lines(found, "metrics")
    assert [line["staleness/max"] for line in metrics] == [0.0] * steps + [steps] * (len(metrics) - steps)
    gap = "log_ratio/max" if flags.get("old_logp") == "sampler" else "sampler_gap/max"
    assert metrics[0][gap] <= 2e-5
    assert max(line[gap] for line in metrics[steps:]) > 1e-3, "the policy did not move: the test would see nothing"


def test_the_first_two_rounds_are_the_first_policys(walk, tmp_path):
    still = walk.finished(log_samples=64, learning_rate=0.0, warmup_steps=0)
    found = walk.here(tmp_path / "run", **FLAGS)
    for step in (1, 2, 3):
        a, b = (
            [line["completion"] for line in lines(run, "samples") if line["step"] == step] for run in (still, found)
        )
        assert (a == b) == (step < 3)


def test_without_ahead_nothing_of_it_is_there(walk):
    run = walk.finished()
    arrays = checkpoint.list_arrays(checkpoint.find(run), "--weights")
    assert not any(name.startswith("behaviour") for name in arrays) and not list(run.glob("**/*behaviour*"))
    for line in (*lines(run, "metrics"), *lines(run, "samples")):
        assert not {name for name in line if "staleness" in name or name == "versions"}
    assert "perf/wait_s" not in (run / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def whole(walk):
    """A finished run with a checkpoint after each step. Read only."""
    return walk.here(walk.home / "ahead", **FLAGS, save_every=1)


def test_the_log_tells_how_long_sampling_took_and_how_long_the_loop_waited(whole):
    for line in jsonl.read(whole / "metrics.jsonl"):
        assert 0 <= line["perf/wait_s"] <= line["perf/step_s"] and line["perf/rollout_s"] > 0


@pytest.mark.parametrize("last, written", [(5, 5), (5, 6), (None, 1)])
def test_a_run_that_crashed_goes_on_as_if_it_had_not(walk, whole, tmp_path, last, written):
    workdir = crashed(whole, tmp_path / "run", last, written)
    walk.here(workdir, resume=True, **FLAGS, save_every=1)
    assert outcome(workdir) == outcome(whole)


def test_more_steps_and_another_rollout_mesh_go_on_as_a_longer_run_would_have(walk, whole, tmp_path):
    workdir = walk.here(tmp_path / "run", **FLAGS, save_every=1, steps=3)
    walk.here(workdir, resume=True, **FLAGS, save_every=1, rollout_mesh="1x1")
    assert outcome(workdir) == outcome(whole)


def test_more_steps_go_on_where_the_shorter_run_ended_in_the_middle_of_a_round(walk, tmp_path):
    flags = FLAGS | {"minibatches": 2, "eval_every": 100}
    workdir = walk.here(tmp_path / "run", **flags, steps=3)
    walk.here(workdir, resume=True, **flags, steps=6)
    whole = walk.here(tmp_path / "whole", **flags, steps=6)
    logs = ("metrics", "samples")
    assert outcome(workdir, *logs)["params"] == outcome(whole, *logs)["params"]
    assert [lines(workdir, name) for name in logs] == [lines(whole, name) for name in logs]


@pytest.mark.parametrize("flags", [FLAGS, dict(questions_per_round=4, carry_over=3, max_tokens=40, log_samples=64)])
def test_a_signal_while_answers_are_verified_saves_the_step_before_the_round(walk, tmp_path, monkeypatch, flags):
    """The next round is being sampled then, or groups wait already for the next round."""
    run, calls = tmp_path / "run", []

    def stop(scores, rollout):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return gather_scores(scores, rollout)

    with monkeypatch.context() as patch:
        patch.setattr(train_rl, "gather_scores", stop)
        with pytest.raises(SystemExit) as left:
            walk.here(run, **flags)
    assert left.value.code == 75 and checkpoint.latest(run / "checkpoints") == 2 and no_thread_is_left()
    walk.here(run, resume=True, **flags)
    assert outcome(run) == outcome(walk.here(tmp_path / "whole", **flags))


class Busy(WholeRounds):
    """Samples like `WholeRounds`, but does something else in some rounds."""

    def __call__(self, params, number):
        self.instead(number)
        return super().__call__(params, number)


def busy(monkeypatch, instead) -> None:
    """Makes a run's thread call `instead(number)` before it samples a round."""
    monkeypatch.setattr(Busy, "instead", staticmethod(instead), raising=False)
    monkeypatch.setattr(ahead_rounds, "WholeRounds", Busy)


def sample_for_ever(number: int) -> None:
    """Like sampling without an end, which looks after each chunk whether it is to stop."""
    for _ in range(3000):
        stop_together(asked())
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_round_is_sampled_saves_the_step_before_it(walk, whole, tmp_path, monkeypatch, number):
    def stop(round_: int) -> None:
        if round_ == 3:
            os.kill(os.getpid(), number)
            sample_for_ever(round_)

    with monkeypatch.context() as patch:
        busy(patch, stop)
        with pytest.raises(SystemExit) as left:
            walk.here(tmp_path / "run", **FLAGS, save_every=1)
    assert left.value.code == (75 if number == signal.SIGTERM else 130) and no_thread_is_left()
    assert checkpoint.latest(tmp_path / "run/checkpoints") in (2, 3)
    walk.here(tmp_path / "run", resume=True, **FLAGS, save_every=1)
    assert outcome(tmp_path / "run") == outcome(whole)


def test_an_error_of_the_loop_ends_the_round_that_is_being_sampled(walk, tmp_path, monkeypatch, capsys):
    def fail(scores, rollout):
        raise ValueError("a reward that cannot be used")

    monkeypatch.setattr(train_rl, "gather_scores", fail)
    busy(monkeypatch, lambda number: number and sample_for_ever(number))
    began = time.monotonic()
    assert "error: a reward that cannot be used" in walk.refused(capsys, tmp_path / "run", **FLAGS, eval_problems=1)
    assert no_thread_is_left() and time.monotonic() - began < 25  # and not the 30 s of the sampling


@pytest.mark.parametrize(
    "error, words",
    [
        (ValueError("a broken sampler"), "error: a broken sampler"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1000 bytes."), "in the phase: sampling. 0.00 GB"),
    ],
)
def test_an_error_of_the_thread_is_that_of_the_run(walk, tmp_path, monkeypatch, capsys, error, words):
    def fail(number: int) -> None:
        if number == 2:
            raise error

    busy(monkeypatch, fail)
    assert words in walk.refused(capsys, tmp_path / "run", **FLAGS, save_every=1)
    assert no_thread_is_left() and checkpoint.latest(tmp_path / "run/checkpoints") == 2


def test_leaving_the_context_stops_a_round_within_a_chunk(monkeypatch):
    class Endless:
        def __init__(self, setting):
            pass

        def __call__(self, params, number):
            while True:
                stop_together(asked())
                time.sleep(0.01)

    class Setting:
        policy, mesh, draws = type("Policy", (), {"cfg": NoExperts})(), make_mesh("1x1"), None

    monkeypatch.setattr(ahead_rounds, "WholeRounds", Endless)
    with AheadRounds(Setting, {}, 3) as sample:
        flight = sample._begin(0)
        time.sleep(0.05)
        assert not flight.done()
    assert flight.exception().code == LEFT and no_thread_is_left()


class NoExperts:
    experts = None


def test_a_thread_beside_leaves_the_phase_and_is_told_alone_to_stop():
    beat("update")
    before, event, seen = pulse(), threading.Event(), []

    def work() -> None:
        with beside(), until(event):
            beat("sampling")
            seen.append((pulse().phase, pulse().since > before.since, asked()))
            event.set()
            with waiting():
                seen.append((pulse().waits, asked()))

    thread = threading.Thread(target=work)
    time.sleep(0.01)
    thread.start()
    thread.join()
    assert seen == [("update", True, 0), (True, LEFT)]
    assert asked() == 0 and not pulse().waits
    beat("sampling")
    assert pulse().phase == "sampling"


@pytest.mark.parametrize(
    "changed, mesh, words",
    [
        ({"ahead": 2}, "1x1", "--ahead=2 must be 0, .* or 1"),
        ({"ahead": -1}, "1x1", "--ahead=-1 must be 0"),
        ({"carry_over": 3}, "1x1", "--ahead=1 .*--carry-over=3 .*set one of the two flags to 0"),
        ({"refill": 3}, "1x1", "--ahead=1 .*--refill=3 .*set one of the two flags to 0"),
        ({"loss": "ppo", "kl_coef": 0.0}, "1x1", "--ahead=1 does not go with --loss=ppo.*--loss=grpo, or --ahead=0"),
        ({"tis_cap": 0.0}, "1x1", "--tis-cap=0.0 with --old-logp=trainer .*--tis-cap=2, or use --old-logp=sampler"),
        ({}, "4x2", "--ahead=1 on 8 devices needs --rollout-mesh.*--mesh=4x1 --rollout-mesh=4x1, or use --mesh=1x1"),
        ({"ahead": 0, "rollout_mesh": "1x1"}, "1x1", "--rollout-mesh=1x1 is for --ahead=1.*leave --rollout-mesh out"),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_its_flag(changed, mesh, words):
    recipe = dataclasses.replace(NANO, **{"ahead": 1, "tis_cap": 2.0} | changed)
    with pytest.raises(ValueError, match=words):
        check(recipe, mesh_of(mesh))


def test_routes_are_replayed_by_one_process_and_a_teacher_asks_the_present_student(monkeypatch):
    recipe = dataclasses.replace(NANO, ahead=1, tis_cap=2.0, replay_routes=True)
    check(recipe, mesh_of("1x1"))
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="--ahead=1 in 2 processes cannot use --replay-routes=True"):
        check(dataclasses.replace(recipe, rollout_mesh="2x1"), mesh_of("2x1"))
    with pytest.raises(ValueError, match=r"--on-policy\.ahead=1 must be 0"):
        check_taught(dataclasses.replace(NANO, ahead=1, ref_every=0), "on-policy.")


def test_a_run_says_what_is_refused_and_leaves_no_directory(walk, tmp_path, capsys):
    said = walk.refused(capsys, tmp_path / "run", ahead=1, tis_cap=2.0, mesh="2x1")
    assert "--ahead=1 on 2 devices needs --rollout-mesh" in said
    said = walk.refused(capsys, tmp_path / "run", ahead=1, tis_cap=2.0, mesh="8x1", rollout_mesh="2x1")
    assert "--mesh=8x1 needs 8 devices; --rollout-mesh=2x1 leaves 6" in said
    assert not (tmp_path / "run").exists()


def test_a_plan_counts_both_policies_that_sample_and_both_meshes():
    cfg, options = PRESETS["qwen2.5-1.5b"], PlanOptions(mean_tokens=1024)
    recipe = dataclasses.replace(PAPER, minibatches=1, tis_cap=2.0, max_tokens=4096, row_length=4608, batch_rows=4)
    recipe = dataclasses.replace(recipe, questions_per_round=16)
    turns, shared = (plan(cfg, dataclasses.replace(recipe, ahead=n), "1x1", options) for n in (0, 1))
    n = 1_543_714_304
    assert shared.beside == {"two policies that sample, float32": 8 * n} and turns.beside == {}
    both = sum(turns.rollout.values()) + sum(turns.update.values())
    assert shared.peak == sum(turns.held.values()) + both + 8 * n > turns.peak
    seconds = turns.seconds
    assert turns.step_seconds == sum(seconds.values())
    assert shared.step_seconds == max(seconds["sampling"], seconds["scoring"] + seconds["update"])

    apart = plan(cfg, dataclasses.replace(recipe, ahead=1, rollout_mesh="2x1"), "4x1", options)
    four, two = (plan(cfg, recipe, mesh, options) for mesh in ("4x1", "2x1"))
    assert apart.peaks["training"] == sum(four.held.values()) + sum(four.update.values())
    assert apart.peaks["sampling"] == pytest.approx(4 * n + sum(two.rollout.values()), rel=1e-3)
    assert apart.seconds == four.seconds | {"sampling": two.seconds["sampling"]}
    said = text(apart, "")
    assert "rollout mesh data:1 fsdp:2 tensor:1 expert:1 = 2 x h200" in said and "peak, sampling" in said
    adapters = plan(cfg, dataclasses.replace(recipe, ahead=1, rollout_mesh="2x1", lora_rank=8), "4x1", options)
    assert adapters.beside["frozen parameters, bfloat16"] == pytest.approx(n, rel=1e-3)


def test_updates_keep_half_of_the_memory_that_they_share_with_sampling(one):
    recipe = dataclasses.replace(PAPER, questions_per_round=64, max_tokens=4096, eval_problems=16)

    def waves(ahead: int, rollout_mesh: str, free: int) -> tuple[int, int]:
        stats = {"bytes_limit": free, "bytes_in_use": 0}
        device = types.SimpleNamespace(memory_stats=lambda: stats)
        trains, samples = (types.SimpleNamespace(shape=one.shape, local_devices=[device]) for _ in range(2))
        given = dataclasses.replace(recipe, ahead=ahead, rollout_mesh=rollout_mesh)
        return memory.choose_waves(given, PRESETS["qwen2.5-1.5b"], samples if rollout_mesh else trains, trains)

    turns, apart, shared = waves(0, "", 20 << 30), waves(1, "1x1", 20 << 30), waves(1, "", 40 << 30)
    # A second copy of the policy that samples takes 6 GB. An evaluation of 16 problems fits whole on the other mesh.
    assert shared == (apart[0],) * 2 and apart[1] == 0 and turns[0] == turns[1]
    assert abs(turns[0] - apart[0] - 4 * 1.54e9 / (28_672 * 1024)) < 32


@pytest.mark.slow
@pytest.mark.weekly
def test_200_rounds_on_devices_apart_end(walk, tmp_path):
    flags = FLAGS | APART | dict(steps=200, save_every=7, eval_every=11, learning_rate=1e-4, log_samples=2)
    process = walk.spawn(tmp_path / "run", devices=4, **flags)
    status, _, err = ended(process, 580)
    assert status == 0, err[-3000:]
    assert count(tmp_path / "run", "metrics") == 200


@pytest.mark.slow
@pytest.mark.weekly
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_at_any_moment_goes_on(walk, tmp_path, number):
    flags = FLAGS | APART | dict(steps=30, save_every=3, eval_every=100)
    process = walk.spawn(tmp_path / "run", devices=4, **flags)
    wait_until(lambda: count(tmp_path / "run", "metrics") >= 8, process)
    process.send_signal(number)
    status, _, err = ended(process, 120)
    assert status == (75 if number == signal.SIGTERM else -9) and "Traceback" not in err, err[-3000:]
    for workdir, resume in ((tmp_path / "run", True), (tmp_path / "whole", False)):
        status, _, err = ended(walk.spawn(workdir, devices=4, resume=resume, **flags), 300)
        assert status == 0, err[-3000:]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.weekly
def test_a_signal_to_one_of_two_processes_saves_on_both_and_the_run_goes_on(walk, tmp_path):
    flags = FLAGS | APART | dict(batch_rows=4, steps=1000, save_every=1000, eval_every=1000)
    workdir, where = tmp_path / "run", f"127.0.0.1:{free_port()}"
    pair = [walk.spawn(workdir, devices=2, coordinator=where, processes=2, process_id=i, **flags) for i in range(2)]
    try:
        wait_until(lambda: count(workdir, "metrics") > 2, pair[0])
        pair[1].send_signal(signal.SIGTERM)
        results = [ended(process, 120) for process in pair]
    finally:
        for process in pair:
            process.kill()
    for status, _, err in results:
        assert status == 75 and "Traceback" not in err, err[-3000:]
    steps = count(workdir, "metrics")
    walk.together(workdir, 2, 2, **flags | {"steps": steps + 2, "resume": True})
    walk.together(tmp_path / "whole", 2, 2, **flags | {"steps": steps + 2})
    assert outcome(workdir, "metrics", "samples") == outcome(tmp_path / "whole", "metrics", "samples")


def test_a_pushed_policy_outlives_the_one_that_an_update_donates(one):
    params = place({"embed": {"embedding": np.arange(64.0, dtype=np.float32).reshape(8, 8)}}, one)
    pushed = copy_to(params, one)
    spent = jax.jit(lambda tree: jax.tree.map(jnp.negative, tree), donate_argnums=0)(params)
    np.testing.assert_array_equal(pushed["embed"]["embedding"], -np.asarray(spent["embed"]["embedding"]))
