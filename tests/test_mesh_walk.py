"""The command on many devices and in several processes: the numbers of one device, to float tolerance."""

import json
import os

import numpy as np
import pytest
from two_processes import free_port
from walk import count, ended, lines, wait_until

from r1jax import checkpoint, log

pytestmark = pytest.mark.slow
# Logarithms of ratios of on-policy probabilities, and what is 0 but for rounding: their size says nothing.
NOISE = {"kl", "loss", "log_ratio/max", "sampler_gap/max", "sampler_gap/k3"}


def arrays(workdir) -> dict[str, np.ndarray]:
    """The parameters of a run's newest checkpoint by name."""
    found = checkpoint.find(workdir)
    names = [name for name in checkpoint.stored_arrays(found, "--weights") if name.startswith("params/")]
    return {name: np.asarray(checkpoint.StoredArray(found, name)) for name in names}


def assert_close(one, other) -> None:
    """The same tokens and rewards, and parameters that differ by rounding alone."""
    for a, b in zip(lines(one, "metrics"), lines(other, "metrics"), strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - NOISE:
            assert a[key] == (b[key] if b[key] is None else pytest.approx(b[key], rel=1e-3, abs=1e-6)), (a["step"], key)
        assert max(a["sampler_gap/max"], b["sampler_gap/max"]) <= 2e-5
    for a, b in zip(lines(one, "eval"), lines(other, "eval"), strict=True):
        assert a == b
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        # Two steps of Adam move an element by 6e-5 at most; one whose gradient is rounding may differ by a part of it.
        np.testing.assert_allclose(second[name], array, atol=2e-5, err_msg=name)


def test_8x8_on_64_devices_runs_two_steps(walk, tmp_path):
    process = walk.spawn(tmp_path / "run", devices=64, mesh="8x8", steps=2, batch_rows=8)
    status, _, err = ended(process, 580)
    assert status == 0, err[-3000:]
    assert [line["step"] for line in lines(tmp_path / "run", "metrics")] == [1, 2]
    assert_close(walk.finished(steps=2, batch_rows=8), tmp_path / "run")


@pytest.mark.parametrize("mesh", ["4x2", "data:2,fsdp:2,tensor:2"])
def test_eight_devices_give_the_tokens_of_one(walk, tmp_path, mesh):
    flags = {"steps": 2, "log_samples": 8}
    one, many = walk.finished(**flags), walk.here(tmp_path / "run", mesh=mesh, **flags)
    for a, b in zip(lines(one, "samples"), lines(many, "samples"), strict=True):
        assert a | {"advantage": 0} == b | {"advantage": 0}
        assert a["advantage"] == pytest.approx(b["advantage"], abs=1e-5)
    assert_close(one, many)


def test_a_run_may_go_on_on_another_mesh(walk, tmp_path):
    workdir = walk.here(tmp_path / "run", mesh="4x2", steps=2)
    walk.here(workdir, mesh="1x1", steps=4, resume=True)
    assert [line["completion"] for line in lines(workdir, "samples")] == [
        line["completion"] for line in lines(walk.finished(), "samples") if line["step"] <= 4
    ]


def test_two_processes_give_the_run_of_one_and_process_0_writes_the_files(walk, tmp_path):
    flags = {"steps": 2, "mesh": "4x1", "log_samples": 8, "batch_rows": 4}
    status, _, err = ended(walk.spawn(tmp_path / "one", devices=4, **flags))
    assert status == 0, err[-3000:]

    workdir, where = tmp_path / "two", f"127.0.0.1:{free_port()}"
    pair = [
        walk.spawn(workdir, devices=2, coordinator=where, processes=2, process_id=i, **flags) for i in range(2)
    ]
    try:
        wait_until(lambda: count(workdir, "metrics") > 0, pair[0])
        open_files = [{os.path.basename(os.readlink(link)) for link in links(process.pid)} for process in pair]
        results = [ended(process) for process in pair]
    finally:
        for process in pair:
            process.kill()
    for status, _, err in results:
        assert status == 0, err[-3000:]
    logs = {"metrics.jsonl", "eval.jsonl", "samples.jsonl"}
    assert logs <= open_files[0] and not logs & open_files[1]

    assert_close(tmp_path / "one", workdir)
    # Process 0 has the first question of each round, and logs the samples of its own.
    whole = {json.dumps(line["key"]): line for line in lines(tmp_path / "one", "samples")}
    mine = log.read(workdir / "samples.jsonl")
    assert len(whole) == 16 and len(mine) == 8
    for line in mine:
        same = whole[json.dumps(line["key"])]
        assert line | {"advantage": 0} == same | {"advantage": 0}
        assert line["advantage"] == pytest.approx(same["advantage"], abs=1e-5)


def links(pid: int) -> list[str]:
    """The open files of a process, as links; one closed meanwhile is left out."""
    folder = f"/proc/{pid}/fd"
    return [f"{folder}/{name}" for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}")]
