"""Checkpoints: written, restored, pruned, and refused when they are not what they should be."""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tensorstore
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.runs.checkpoint import find, latest, read_meta, restore, restore_params, sha256
from r1jax.runs.hashing import params_sha256
from r1jax.runs.saver import Saver, try_writing
from r1jax.sharding import abstract, make_mesh, place
from support.two_processes import ROOT, results, start


class TrainState(NamedTuple):
    step: Any
    params: Any
    opt_state: Any
    key: Any


def fresh(mesh: str = "4x2", width: int = 64, seed: int = 0) -> TrainState:
    rng = np.random.default_rng(seed)
    kernel = {"kernel": rng.standard_normal((2, width, 128)).astype(np.float32)}
    params = {
        "embed": {"embedding": rng.standard_normal((16, width)).astype(np.float32)},
        "layers": [{"mlp": {"gate": kernel}, "mlp_norm": {"scale": np.ones((2, width), np.float32)}}],
    }
    opt_state = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)).init(jax.tree.map(jnp.asarray, params))
    state = TrainState(jnp.int32(7), params, opt_state, jax.random.key(seed))
    return place(state, make_mesh(mesh))


def assert_same(got: Any, want: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def state():
    return fresh()


@pytest.fixture(scope="module")
def saved(state, tmp_path_factory):
    """A run's directory with checkpoints of steps 10 and 20. Read only."""
    workdir = tmp_path_factory.mktemp("run")
    with Saver(workdir / "checkpoints") as saver:
        saver.save(10, state)
        saver.save(20, state, {"round": 3, "text": "等等", "nothing": None, "list": [1, 2.5]})
    return workdir


@pytest.fixture
def copied(saved, tmp_path):
    """The same, to damage."""
    shutil.copytree(saved, tmp_path / "run")
    return tmp_path / "run"


def test_a_state_comes_back_bit_for_bit_on_another_mesh(saved, state):
    mesh = make_mesh("2x4")
    back = restore(saved, abstract(state, mesh))
    assert_same(back, state)
    assert back.params["embed"]["embedding"].sharding == NamedSharding(mesh, P("tensor", "fsdp"))
    moment = back.opt_state[1][0].mu["embed"]["embedding"]
    assert moment.sharding == NamedSharding(mesh, P("tensor", "fsdp"))
    assert read_meta(saved) == {"round": 3, "text": "等等", "nothing": None, "list": [1, 2.5]}


def test_a_run_its_checkpoints_and_one_checkpoint_name_the_same(saved, state):
    folder = saved / "checkpoints"
    assert latest(folder) == 20
    assert find(saved) == find(folder) == find(folder / "20") == folder / "20"
    assert find(saved, step=10) == folder / "10"


def test_parameters_alone_come_back_cast(saved, state):
    mesh = make_mesh("8x1")
    params = restore_params(saved, abstract(state.params, mesh), dtype=jnp.bfloat16)
    want = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params)
    assert_same(params, want)
    assert params["embed"]["embedding"].sharding.mesh == mesh


def test_the_state_may_be_donated_right_after_save(tmp_path):
    state = fresh()
    want = jax.tree.map(np.asarray, state.params)
    update = jax.jit(lambda params: jax.tree.map(lambda x: x * 0, params), donate_argnums=0)
    with Saver(tmp_path) as saver:
        saver.save(1, {"params": state.params})
        update(state.params)
    assert_same(restore_params(tmp_path, abstract(state.params, make_mesh("8x1"))), want)


def test_every_save_happens_though_one_is_running(tmp_path, state):
    with Saver(tmp_path, keep=10) as saver:
        for step in (1, 2, 3):
            saver.save(step, state)  # no wait in between
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [1, 2, 3]


def test_the_newest_are_kept(tmp_path, state):
    with Saver(tmp_path, keep=2) as saver:
        for step in (2, 4, 6, 8, 9):
            saver.save(step, {"params": state.params["embed"]})
    assert sorted(int(p.name) for p in tmp_path.iterdir()) == [8, 9]


def test_saving_a_step_again_keeps_it_and_an_earlier_step_is_refused(tmp_path, state):
    with Saver(tmp_path) as saver:
        saver.save(5, {"params": state.params})
        saver.save(5, {"params": state.params})
        with pytest.raises(ValueError, match="has a checkpoint of step 5; step 4 cannot follow"):
            saver.save(4, {"params": state.params})
    assert latest(tmp_path) == 5


def test_what_a_crash_left_is_no_checkpoint_and_is_cleared_by_the_next_writer(copied, state):
    folder = copied / "checkpoints"
    (folder / "30").mkdir()  # empty, yet Orbax would restore it
    shutil.copytree(folder / "20", folder / "40")
    (folder / "40" / "commit_success.txt").unlink()  # torn
    (folder / "50.orbax-checkpoint-tmp").mkdir()
    assert latest(folder) == 20
    assert_same(restore(copied, abstract(state, make_mesh("4x2"))), state)
    with Saver(folder, keep=2) as saver:
        saver.save(30, state)
    assert sorted(p.name for p in folder.iterdir()) == ["20", "30"]


def test_a_killed_writer_leaves_the_last_committed_checkpoint(tmp_path, state):
    script = """
import os
import signal
import sys
import time
import numpy as np
import jax
from r1jax.runs.saver import Saver, try_writing
table = np.random.default_rng(0).standard_normal((4096, 2048)).astype(np.float32)
params = {"embed": {"embedding": jax.device_put(table)}}
saver = Saver(sys.argv[1], keep=1)
saver.save(1, {"params": params}); saver.wait()
saver.save(2, {"params": params})
while not any(name.startswith("2.") for name in os.listdir(sys.argv[1])):
    time.sleep(0.001)
os.kill(os.getpid(), signal.SIGKILL)  # in the middle of writing 32 MB
"""
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == -signal.SIGKILL
    assert latest(tmp_path) == 1 and any(p.name.startswith("2.") for p in tmp_path.iterdir())
    target = {
        "embed": {
            "embedding": jax.ShapeDtypeStruct((4096, 2048), jnp.float32, sharding=NamedSharding(make_mesh("8x1"), P()))
        }
    }
    want = np.random.default_rng(0).standard_normal((4096, 2048)).astype(np.float32)
    np.testing.assert_array_equal(restore_params(tmp_path, target)["embed"]["embedding"], want)


def test_a_write_that_ends_after_its_event_loop_prints_nothing_and_other_errors_are_reported(tmp_path, monkeypatch):
    reported = []

    def end_late():
        """Ends a write of TensorStore that an event loop waited for, after the loop is closed."""
        promise, future = tensorstore.Promise.new()

        async def wait():
            return await future

        async def begin():
            task = asyncio.ensure_future(wait())
            await asyncio.sleep(0)
            return task

        loop = asyncio.new_event_loop()
        task = loop.run_until_complete(begin())
        loop.close()
        promise.set_result(None)
        task._log_destroy_pending = False

    monkeypatch.setattr(sys, "unraisablehook", lambda raised: reported.append(str(raised.exc_value)))
    end_late()
    assert reported == ["Event loop is closed"]
    with Saver(tmp_path):
        end_late()
        assert len(reported) == 1
        sys.unraisablehook(types.SimpleNamespace(exc_value=ValueError("another")))
        sys.unraisablehook(types.SimpleNamespace(exc_value=RuntimeError("another")))
    assert reported[1:] == ["another", "another"]
    end_late()
    assert len(reported) == 4


@pytest.mark.parametrize("change", ["flip", "truncate", "remove"])
def test_any_damaged_file_is_noticed_and_named(copied, state, change):
    target = abstract(state, make_mesh("4x2"))
    one = copied / "checkpoints" / "20"
    # Without the commit marker it is no checkpoint; the checksums say nothing of themselves.
    files = [p for p in one.rglob("*") if p.is_file() and not (p.parent == one and p.suffix in (".txt", ".json"))]
    assert len(files) > 5
    for file in files:
        whole = file.read_bytes()
        if change == "flip":
            file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        elif change == "truncate":
            file.write_bytes(whole[: len(whole) // 2])
        else:
            file.unlink()
        with pytest.raises(ValueError, match=r"is corrupt: .* Other checkpoints beside it: 10") as error:
            restore(copied, target)
        assert file.relative_to(one).as_posix() in str(error.value)
        file.write_bytes(whole)
    assert_same(restore(copied, target), state)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's own
def test_damage_without_checksums_is_an_error_too_where_orbax_notices(copied, state):
    one = copied / "checkpoints" / "20"
    (one / "checksums_0.json").unlink()
    (one / "state" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"the checkpoint .*20 cannot be read"):
        restore_params(copied, abstract(state.params, make_mesh("4x2")))


def test_another_model_is_refused_by_the_array_that_differs(saved, state):
    wide = abstract(jax.eval_shape(lambda: fresh(width=32)), make_mesh("4x2"))
    with pytest.raises(ValueError) as error:
        restore(saved, wide)
    assert "float32[16, 64] in the checkpoint and float32[16, 32] in this command" in str(
        error.value
    ) and "--model" in str(error.value)
    with pytest.raises(ValueError, match=r"--weights: .* belongs to another model"):
        restore_params(saved, wide.params)
    more = {**wide.params, "reward_head": {"kernel": jax.ShapeDtypeStruct((64, 1), jnp.float32)}}
    with pytest.raises(ValueError, match=r"and \d more"):
        restore_params(saved, more)
    with pytest.raises(ValueError, match=r"params/layers/0/.* in the checkpoint and missing in this command"):
        restore_params(saved, {"embed": state.params["embed"]})


def test_a_state_without_one_of_the_stored_arrays_is_another_state(saved, state):
    target = abstract(state, make_mesh("4x2"))
    with pytest.raises(ValueError, match=r"key is uint32.* in the checkpoint and missing in this command"):
        restore(saved, target._replace(key=None))


def test_weights_of_nowhere_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"--weights=/no/such/run: there is nothing at .* takes the directory of a run",
    ):
        find("/no/such/run")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match=r"no complete checkpoint in .* \(found: notes.txt\)"):
        restore_params(tmp_path, {})
    with pytest.raises(ValueError, match="found: a file"):
        find(tmp_path / "notes.txt")
    assert latest(tmp_path / "absent") is None


def test_the_sha256_depends_on_the_parameters_alone(saved, state, tmp_path):
    want = sha256(saved)
    assert want == sha256(saved / "checkpoints" / "10") == params_sha256(state.params)
    other_mesh = restore_params(saved, abstract(state.params, make_mesh("1x8")))
    with Saver(tmp_path / "other") as saver:
        saver.save(1, {"params": other_mesh, "more": np.ones(3)})
    assert sha256(tmp_path / "other") == want
    assert params_sha256(fresh(seed=1).params) != want
    renamed = {"embed": state.params["embed"], "blocks": state.params["layers"]}
    assert params_sha256(renamed) != want


def test_the_sha256_of_large_arrays_is_that_of_their_pieces(monkeypatch, state, saved):
    monkeypatch.setattr("r1jax.runs.hashing.PIECE_BYTES", 1000)  # two rows of [.., 64] floats at a time
    assert sha256(saved) == params_sha256(state.params)
    monkeypatch.undo()
    assert sha256(saved) == params_sha256(state.params)


@contextlib.contextmanager
def files_no_larger_than(size: int):
    """Writes beyond it fail, as on a full disk, with EFBIG (Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_reported_and_earlier_checkpoints_stay_whole(tmp_path, state, caplog):
    full = pytest.raises(
        OSError, match=r"full: the checkpoint of step 2 is incomplete. The checkpoint of step 1 is complete"
    )
    with full as error, Saver(tmp_path, keep=1) as saver:
        saver.save(1, state)
        saver.wait()
        with files_no_larger_than(20_000):
            saver.save(2, state)
            saver.wait()
    assert error.value.filename == str(tmp_path)
    assert "Traceback" not in caplog.text  # Orbax logs a thousand lines
    # The space of the failed one is free again.
    assert [p.name for p in tmp_path.iterdir()] == ["1"]
    assert_same(restore(tmp_path, abstract(state, make_mesh("4x2"))), state)


def test_a_directory_that_cannot_be_written_is_an_error_at_once(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(OSError, match="checkpoints"):
        try_writing(tmp_path / "checkpoints")
    try_writing(tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())


def tiny_disk(path: Path) -> bool:
    return (
        sys.platform == "linux"
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", path], capture_output=True).returncode
        == 0
    )


def test_a_really_full_disk_is_reported_and_earlier_checkpoints_stay_whole(tmp_path, state):
    if not tiny_disk(tmp_path):
        pytest.skip("mounting a small disk needs root")
    try:
        full = pytest.raises(OSError, match="the disk is full")
        with full as error, Saver(tmp_path / "checkpoints", keep=8) as saver:
            for step in range(1, 9):
                saver.save(step, state)
        newest = latest(tmp_path / "checkpoints")
        assert f"The checkpoint of step {newest} is complete." in str(error.value)
        assert_same(restore(tmp_path, abstract(state, make_mesh("4x2"))), state)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_two_processes_save_one_checkpoint_and_restore_it(tmp_path):
    first, second = results(start("save", str(tmp_path / "checkpoints")))
    assert {**first, "main": False} == second and first["main"]
    assert first["newest"] == 2 and first["same"] and first["meta"] == {"round": 1}
    # One process reads what two wrote.
    tree = {"embed": {"embedding": np.arange(64.0, dtype=np.float32).reshape(8, 8)}}
    assert sha256(tmp_path) == first["sha256"] == params_sha256(tree)
    assert_same(restore_params(tmp_path, abstract(place(tree, make_mesh("8x1")), make_mesh("8x1"))), tree)
    assert sorted(p.name for p in (tmp_path / "checkpoints" / "2").glob("checksums*")) == [
        "checksums_0.json",
        "checksums_1.json",
    ]
