"""Rows that a wave leaves and a later one takes up: the tokens they would have had, each group trained once."""

import signal
from pathlib import Path

import numpy as np
import pytest

from r1jax.rl.minibatches import rows_of
from r1jax.runs import checkpoint
from r1jax.sampling import programs, sampler
from r1jax.sampling.cohorts import join, split
from r1jax.sampling.sampler import Partial, Sizes, sync
from support.crash import crashed
from support.marks import WEEKLY
from support.tiny import draw, keys, prompts
from support.walk import Walk, ended, lines, outcome, wait_until

# Chunks, ladders and caches so small that few rows move along all of them.
SMALL = Sizes(chunk=4, least_rows=1, exact_rows=1, least_slots=8, least_carried=8)


def look_often(patch: pytest.MonkeyPatch, chunk: int) -> None:
    """Waves of a whole run look after `chunk` tokens who has ended, so that few rows are left at some look."""
    sample = sampler.sample

    def often(cfg, weights, prompts, keys, mesh, sampling, *more):
        sampling = sampling._replace(sizes=Sizes(chunk=chunk))
        return sample(cfg, weights, prompts, keys, mesh, sampling, *more)

    patch.setattr(sampler, "sample", often)


def test_rows_are_split_by_cohort_within_each_shard():
    # Two shards of three rows and one row.
    x = np.arange(8)[:, None]
    first, second = split(x, [6, 2], 2)
    assert first[:, 0].tolist() == [0, 1, 2, 4, 5, 6] and second[:, 0].tolist() == [3, 7]
    np.testing.assert_array_equal(join([first, second], 2), x)


@pytest.mark.parametrize(
    "mesh, attention",
    [("one", "xla"), pytest.param("one", "exact", marks=WEEKLY), pytest.param("eight", "xla", marks=WEEKLY)],
)
def test_a_row_carried_over_has_the_tokens_and_logprobs_of_one_that_was_not(
    cfg, params, mesh, attention, rolled, request, monkeypatch
):
    mesh, heard, shrunk, shrink = request.getfixturevalue(mesh), [], [], programs.shrink

    def watched(rows, *args, **options):
        shrunk.extend(k.dtype for k, _ in rows.carried)
        return shrink(rows, *args, **options)

    monkeypatch.setattr(programs, "shrink", watched)
    weights, how = sync(params, mesh), {"attention": attention, "sizes": SMALL}
    order = (3, 0, 1, 2)  # of the first two most rows are long, of the last two few enough for a shrink
    asked, row_keys = [prompts()[i] for i in order], keys(4, order)
    rows = rows_of(np.asarray(order), 4)
    want = rolled._replace(**{name: getattr(rolled, name)[rows] for name in rolled._fields[1:5]})
    first = draw(cfg, weights, mesh, asked[:2], row_keys[:8], partial=Partial(leave=5), **how)
    carried = np.flatnonzero(first.unfinished)
    assert len(carried) == 5 and (first.lengths[carried] == 9).all()
    shrunk.clear()
    both = draw(cfg, weights, mesh, asked[2:], row_keys, heard.extend, Partial(first), **how)
    # On eight shards each has one new row, of which none can be dropped.
    kept = np.dtype("float64" if attention == "exact" else "float32")
    assert set(shrunk) == ({kept} if mesh.size == 1 else set())
    assert both.prompts == asked
    for name in ("tokens", "lengths", "stopped"):
        np.testing.assert_array_equal(getattr(both, name), getattr(want, name))
    np.testing.assert_allclose(both.logp, want.logp, atol=2e-5)
    before = np.arange(40) < first.lengths[:, None]
    np.testing.assert_array_equal(both.logp[:8][before], first.logp[before])  # as it was, not read again
    # Every row is heard of once: what ended in the first wave was heard of then.
    assert sorted(row for row, _ in heard) == [*carried, *range(8, 16)]
    for row, tokens in heard:
        np.testing.assert_array_equal(tokens, both.tokens[row, : both.lengths[row]])


@pytest.mark.weekly
@pytest.mark.slow
def test_a_row_may_be_carried_over_again_and_again(cfg, params, one, rolled):
    weights, waves, sizes = sync(params, one), 0, SMALL._replace(chunk=1)
    got = draw(cfg, weights, one, prompts()[:1], keys(4)[:4], partial=Partial(leave=3), sizes=sizes)
    while got.unfinished.any():
        # Another prompt in each wave, of which nobody waits for the last rows either.
        partial = Partial(got, leave=2 + int(got.unfinished.sum()))
        wave = draw(cfg, weights, one, prompts()[1:2], keys(4)[:8], partial=partial, sizes=sizes)
        got, waves = got._replace(**{name: getattr(wave, name)[:4] for name in wave._fields[1:5]}), waves + 1
    assert waves > 1
    np.testing.assert_array_equal(got.tokens, rolled.tokens[:4])
    np.testing.assert_allclose(got.logp, rolled.logp[:4], atol=2e-5)


def test_a_wave_ends_when_few_enough_rows_are_left(cfg, params, one, rolled):
    for leave in (0, 1, 5):
        partial, sizes = Partial(leave=leave), Sizes(chunk=1)
        got = draw(cfg, sync(params, one), one, prompts(), keys(4), partial=partial, sizes=sizes)
        assert got.unfinished.sum() <= leave
        # One step earlier there were more: rows that end at the last step were all unfinished before it.
        last = got.lengths.max()
        assert leave == 0 or np.sum(rolled.lengths >= last) > leave
        np.testing.assert_array_equal(got.tokens[:, :last], rolled.tokens[:, :last])


FLAGS = dict(questions_per_round=4, carry_over=3, max_tokens=40, log_samples=64)  # all 16 rows are logged


@pytest.fixture
def often(monkeypatch):
    look_often(monkeypatch, 4)


@pytest.fixture(scope="module")
def run(walk, tmp_path_factory) -> Path:
    """A finished run in which groups waited. Read only."""
    with pytest.MonkeyPatch.context() as patch:
        look_often(patch, 4)
        return carrying(walk, tmp_path_factory.mktemp("carried") / "run")


def carrying(walk: Walk, workdir: Path, **changed: object) -> Path:
    return walk.here(workdir, **FLAGS | changed)


def staleness(sample: dict) -> list[int]:
    """Steps between the policy of each token and that of the round in which it was trained, which has one step."""
    return [sample["step"] - 1 - version for version, tokens in sample["versions"] for _ in range(tokens)]


def test_every_group_is_trained_once_when_its_last_row_has_ended(run):
    samples, metrics = lines(run, "samples"), lines(run, "metrics")
    assert len({str(line["key"]) for line in samples}) == len(samples)
    groups = {}
    for line in samples:
        groups.setdefault((line["round"], line["id"]), []).append(line)
    for (asked, id_), rows in groups.items():
        assert [row["sample"] for row in rows] == [0, 1, 2, 3] and len({row["step"] for row in rows}) == 1
        assert all(row["length"] == 40 for row in rows if row["truncated"])
        # A round has four questions; question i is asked in round i // 4, and trained in its step or later.
        assert int(id_.split("-")[-1]) // 4 == asked < rows[0]["step"]
    # Of the 24 questions those are missing that wait still: the first ones were not forgotten.
    assert len(groups) == 24 - metrics[-1]["group/waiting"] and metrics[-1]["group/waiting"] <= 3
    assert {asked for asked, _ in groups} == set(range(6))
    assert any(row["step"] > row["round"] + 1 for row in samples), "no group ever waited: the test would see nothing"


def test_each_token_has_the_version_of_the_policy_that_sampled_it(run):
    samples = lines(run, "samples")
    for row in samples:
        versions = [version for version, _ in row["versions"]]
        assert sum(tokens for _, tokens in row["versions"]) == row["length"]
        # A wave in each round, from its own on.
        assert versions == list(range(row["round"], row["round"] + len(versions)))
        assert versions[-1] < row["step"]
    assert any(len(row["versions"]) > 1 for row in samples)
    for line in lines(run, "metrics"):
        ages = [age for row in samples if row["step"] == line["step"] for age in staleness(row)]
        assert line["staleness/max"] == max(ages) and line["staleness/mean"] == pytest.approx(np.mean(ages))


@pytest.mark.weekly
@pytest.mark.slow
def test_under_a_policy_that_does_not_change_carrying_over_changes_no_completion(walk, tmp_path, often):
    still = dict(learning_rate=0.0, eval_every=100)
    plain, carried = (carrying(walk, tmp_path / str(n), carry_over=n, **still) for n in (0, 3))
    want = {str(line["key"]): line for line in lines(plain, "samples")}
    samples = lines(carried, "samples")
    assert any(len(row["versions"]) > 1 for row in samples)
    for row in samples:
        same = want[str(row["key"])]
        for name in ("completion", "length", "truncated", "reward", "verdict"):
            assert row[name] == same[name]
        assert row["advantage"] == pytest.approx(same["advantage"], abs=1e-5)


@pytest.mark.parametrize("minibatches", [1, pytest.param(2, marks=WEEKLY)])
def test_a_run_goes_on_with_the_rows_its_checkpoint_holds(walk, tmp_path, monkeypatch, minibatches):
    look_often(monkeypatch, 1)  # every wave ends as soon as it may
    flags = FLAGS | {"minibatches": minibatches, "carry_over": 4 - minibatches, "max_tokens": 64, "save_every": 1}
    whole = walk.here(tmp_path / "whole", **flags)
    waiting = [line["group/waiting"] for line in lines(whole, "metrics")]
    at = next(step for step in (4, 3, 2, 1, 5) if waiting[step - 1])  # which depends on the processor's rounding
    workdir = crashed(whole, tmp_path / "run", at, at + 1)
    walk.here(workdir, resume=True, **flags)
    assert outcome(workdir) == outcome(whole)


@pytest.mark.weekly
@pytest.mark.slow
def test_kill_9_while_groups_wait_changes_nothing(walk, tmp_path):
    flags = FLAGS | {"steps": 8, "max_tokens": 64, "save_every": 1}
    whole, workdir = walk.here(tmp_path / "whole", **flags), tmp_path / "run"
    waiting = [line["group/waiting"] for line in lines(whole, "metrics")]
    at = next(step for step in range(1, 7) if waiting[step - 1] and waiting[step])  # the next step's would do as well
    process = walk.spawn(workdir, **flags)
    wait_until(lambda: (checkpoint.latest(workdir / "checkpoints") or 0) >= at, process)
    process.send_signal(signal.SIGKILL)
    assert ended(process)[0] == -signal.SIGKILL
    last = checkpoint.latest(workdir / "checkpoints")
    assert last < 8 and waiting[last - 1] > 0
    walk.here(workdir, resume=True, **flags)
    assert outcome(workdir) == outcome(whole)


@pytest.mark.weekly
@pytest.mark.slow
def test_old_is_the_policy_of_the_round_or_the_samplers_own_of_each_token(walk, tmp_path, often):
    flags = dict(learning_rate=1e-2, warmup_steps=0)
    trainer, own = (
        lines(carrying(walk, tmp_path / old, old_logp=old, **flags), "metrics") for old in ("trainer", "sampler")
    )
    # The gap of the one is the ratio of the other: rounding where every token is of the round's policy.
    assert all(line["log_ratio/max"] <= 1e-5 for line in trainer) and all(line["sampler_gap/max"] == 0 for line in own)
    for found, name in ((trainer, "sampler_gap/max"), (own, "log_ratio/max")):
        assert all(line[name] <= 1e-4 for line in found if line["staleness/max"] == 0)
        assert any(line[name] > 1e-3 for line in found if line["staleness/max"] > 0)


def test_what_cannot_be_carried_over_is_refused(walk, tmp_path, capsys):
    said = walk.refused(capsys, tmp_path / "run", carry_over=2)  # of two questions a round, and one step
    assert "--carry-over=2 must lie between 0 and --questions-per-round=2 minus --minibatches=1" in said
    said = walk.refused(capsys, tmp_path / "run", carry_over=1, replay_routes=True)
    assert "--carry-over=1" in said and "--replay-routes=False" in said
    assert not (tmp_path / "run").exists()
