"""Shares of the limit: by hand, and in the log of a run."""

import jax
import numpy as np
import pytest

from r1jax import jsonl
from r1jax.planning import roofline, utilization
from r1jax.sharding import make_mesh
from support.walk import lines, outcome

# 1 GFLOP/s, and a memory that is never waited for.
SLOW = roofline.Device(0.0, 1e18, 1e9)


def test_devices_that_hold_a_policy_together_count_as_one(cfg, monkeypatch):
    monkeypatch.setattr(utilization, "ceiling", lambda devices: roofline.Device(1e9, 2e9, 3e9, ((1, 1e9), (8, 2e9))))
    found = utilization.Pace.of(cfg, make_mesh("4x2"))
    assert found.device == roofline.Device(2e9, 4e9, 6e9, ((1, 2e9), (8, 4e9)))
    assert (found.shards, found.size, found.cache_size) == (4, 4, 8)  # float32 on CPUs, read in float64
    assert utilization.Pace.of(cfg, make_mesh("1x1")).device.flops == 3e9


def test_rollouts_on_devices_of_their_own_are_compared_with_those(cfg, monkeypatch):
    monkeypatch.setattr(utilization, "ceiling", lambda devices: roofline.Device(1e9, 1e18, 1e9 * len(devices)))
    trains, samples = make_mesh("4x1"), make_mesh("1x2")
    apart, own = (utilization.Pace.of(cfg, *meshes) for meshes in ((trains, "xla", samples), (samples, "xla")))
    prompts, lengths = np.asarray([10, 20]), np.asarray([3, 1, 2, 2])
    assert apart.rollout(prompts, lengths, 0.5) == own.rollout(prompts, lengths, 0.5)
    assert utilization.Pace.of(cfg, trains, "xla", trains).sampler is None


def test_the_share_of_a_rollout_is_its_limit_over_its_seconds(cfg):
    # Two prompts of 10 and 20 tokens; lengths 3, 1 | 2, 2: steps of 3 rows and of 1 row after prefill, products alone.
    products = 2 * cfg.matmul_params * (3 + 1) / 1e9
    prefill = roofline.forward_flops(cfg, 30, (100 + 400) / 2, 2) / 1e9
    one = utilization.Pace(cfg, SLOW, 1, 4, 4)
    prompts, lengths = np.asarray([10, 20]), np.asarray([3, 1, 2, 2])
    found = one.rollout(prompts, lengths, 0.5)["perf/decode_fraction"]
    assert found == pytest.approx((products + prefill) / 0.5)
    assert one._replace(shards=2).rollout(prompts, lengths, 0.5)["perf/decode_fraction"] == pytest.approx(found / 2)


def test_rows_an_update_leaves_out_are_no_work_nor_is_a_prompt_whose_rows_all_are(cfg):
    one = utilization.Pace(cfg, SLOW, 1, 4, 4)
    prompts, lengths = np.asarray([10, 20]), np.asarray([4, 6, 5, 5])
    found = one.update(prompts, lengths, np.asarray([True, False, False, False]), 2.0)["perf/mfu"]
    assert found == pytest.approx(roofline.update_flops(cfg, [10], [4]) / 2e9)
    every = one.update(prompts, lengths, np.ones(4, bool), 2.0)["perf/mfu"]
    assert every == pytest.approx(roofline.update_flops(cfg, [10, 20], [4, 6, 5, 5]) / 2e9)


def test_on_an_unknown_device_nothing_is_said(cfg):
    unknown = utilization.Pace(cfg, None, 1, 4, 4)
    assert unknown.rollout(np.asarray([10]), np.asarray([3, 2]), 1.0) == {}
    assert unknown.update(np.asarray([10]), np.asarray([3, 2]), np.ones(2, bool), 1.0) == {}


def test_a_mesh_is_measured_once_in_a_process(cfg, monkeypatch):
    asked = []
    monkeypatch.setattr(roofline, "ceiling", lambda devices: asked.append(devices) or SLOW)
    utilization.ceiling.cache_clear()
    try:
        for _ in range(2):
            assert utilization.Pace.of(cfg, make_mesh("1x1")).device == SLOW
    finally:
        utilization.ceiling.cache_clear()  # of SLOW
    assert asked == [(jax.devices()[0],)]


def test_the_log_has_shares_of_the_limit_and_the_ceiling_changes_no_token(walk, tmp_path, monkeypatch):
    whole = walk.finished()
    for line in jsonl.read(whole / "metrics.jsonl"):
        assert line["perf/decode_fraction"] > 0 and line["perf/mfu"] > 0
    monkeypatch.setattr(utilization, "ceiling", lambda devices: None)
    silent = walk.here(tmp_path / "run")
    assert not {key for line in jsonl.read(silent / "metrics.jsonl") for key in line} & {
        "perf/decode_fraction",
        "perf/mfu",
    }
    assert outcome(silent) == outcome(whole)
    assert lines(silent, "samples") == lines(whole, "samples")
