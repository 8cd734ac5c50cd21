"""The command on many devices and in several processes: the numbers of one device, to float tolerance."""

import pytest

from support.compare import assert_close
from support.marks import WEEKLY
from support.walk import ended, lines

pytestmark = pytest.mark.slow


def test_8x8_on_64_devices_runs_two_steps(walk, tmp_path):
    process = walk.spawn(tmp_path / "run", devices=64, mesh="8x8", steps=2, batch_rows=8)
    status, _, err = ended(process, 580)
    assert status == 0, err[-3000:]
    assert [line["step"] for line in lines(tmp_path / "run", "metrics")] == [1, 2]
    assert_close(walk.finished(steps=2, batch_rows=8), tmp_path / "run")


@pytest.mark.parametrize("mesh", [pytest.param("4x2", marks=WEEKLY), "data:2,fsdp:2,tensor:2"])
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
