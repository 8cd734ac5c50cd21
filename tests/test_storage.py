"""Paths in a bucket: what is read and written there, and what is refused by name."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import jsonl, storage
from r1jax.data import questions, readers
from r1jax.recipes import RunOptions
from r1jax.reward_models.load import load_reward_model
from r1jax.runs import checkpoint, manifests
from r1jax.runs.files import hash_files, write_atomically
from r1jax.runs.hashing import params_sha256
from r1jax.runs.policies import load_policy
from r1jax.runs.run import Run
from r1jax.runs.saver import Saver
from r1jax.runs.templates import template_of
from r1jax.sft_data import batch_sampling, records
from r1jax.sharding import abstract, make_mesh, place
from support import stores
from support.two_processes import ROOT
from support.walk import ended, outcome, wait_until

ROWS = [{"id": f"q{i}", "problem": f"Which is A? A {i}", "gold": "A", "kind": "choice"} for i in range(4)]


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request, tmp_path_factory):
    """The URL of a bucket on this machine. Copies of its objects lie in a folder of the test's."""
    with pytest.MonkeyPatch.context() as patch, getattr(stores, request.param)() as url:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield url


@pytest.fixture
def bucket(store, request):
    """A folder of its own for each test."""
    return storage.path_of(f"{store}/{request.node.name.partition('[')[0]}")


def tree(seed: int = 0) -> dict:
    values = np.random.default_rng(seed).standard_normal((64, 8)).astype(np.float32)
    return {"params": place({"embed": {"embedding": values}}, make_mesh("8x1"))}


# Without a bucket


def test_a_local_path_stays_a_path():
    for text in ("runs/a", "/runs/a", "~/a", Path("runs"), "a:b"):
        assert storage.path_of(text) == Path(text) and type(storage.path_of(text)) is type(Path())
    assert storage.fetch(Path("runs/a")) == Path("runs/a")


@pytest.mark.parametrize("url", ["memory://a/b", "file:///a", "https://a/b", "az://a/b", "C://a"])
def test_other_schemes_are_refused_by_name(url):
    with pytest.raises(ValueError, match=f"--prompts={url}: .*:// is not supported; use a bucket of gs:// or s3://"):
        storage.path_of(url, "--prompts")


@pytest.mark.parametrize("url", ["gs://", "s3:///a"])
def test_a_url_without_a_bucket_is_refused(url):
    with pytest.raises(ValueError, match=f"--weights={url} names no bucket: write .*://BUCKET/PATH"):
        storage.path_of(url, "--weights")


def open_run(url: str) -> None:
    with Run("r1_zero", RunOptions(workdir=url), {}):
        pass


USES = {
    "--workdir": open_run,
    "--weights": lambda url: load_policy(RunOptions(weights=url), make_mesh("1x1", jax.devices()[:1])),
    "--template": template_of,
    "--prompts": lambda url: questions.read(url, "--prompts"),
    "--benchmarks": lambda url: questions.read(url, "--benchmarks"),
    "--records": records.read,
    "--helpful": lambda url: load_reward_model(url, "helpful", make_mesh("1x1", jax.devices()[:1])),
}


@pytest.mark.parametrize("scheme, client, package", [("gs", "gcsfs", "r1jax[gs]"), ("s3", "s3fs", "r1jax[s3]")])
@pytest.mark.parametrize("flag", USES)
def test_without_its_client_a_store_is_refused_by_name_and_nothing_is_written(
    flag, scheme, client, package, monkeypatch, tmp_path
):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == client else find(name, *a))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        USES[flag](f"{scheme}://b/x.jsonl")
    for said in (flag, f"{scheme}://b/x.jsonl", f"{scheme}:// needs {client}", f"pip install '{package}'"):
        assert said in str(error.value)
    assert not list(tmp_path.iterdir())


def test_without_keys_a_bucket_is_refused_by_name():
    pytest.importorskip("s3fs")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    clean |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": os.devnull, "PYTHONPATH": str(ROOT)}
    script = "from r1jax import storage; storage.path_of('s3://b/x', '--weights')"
    done = subprocess.run([sys.executable, "-c", script], env=clean, capture_output=True, text=True)
    assert "ValueError: --weights=s3://b/x cannot be reached: " in done.stderr


# With one


def test_a_text_is_written_as_one_object_and_hashed_as_a_local_file_is(bucket, tmp_path):
    for folder in (bucket, tmp_path):
        write_atomically(folder / "a/b.txt", "à\n")
        write_atomically(folder / "a/b.txt", "é\n")
    assert [path.name for path in (bucket / "a").iterdir()] == ["b.txt"]
    assert (bucket / "a/b.txt").read_bytes() == (tmp_path / "a/b.txt").read_bytes()
    (there,), (here,) = hash_files(bucket / "a/b.txt"), hash_files(tmp_path / "a/b.txt")
    assert there["sha256"] == here["sha256"] and there["path"] == f"{bucket}/a/b.txt"


def test_a_log_has_the_bytes_of_a_local_one_at_each_sync_and_when_it_is_opened_again(bucket, tmp_path):
    paths = [folder / "metrics.jsonl" for folder in (bucket, tmp_path)]
    for path in paths:
        with jsonl.JsonLines(path) as log:
            log.write({"step": 1, "text": "\u2028", "x": float("nan")})
            log.sync()
            assert len(jsonl.read(path)) == 1
            log.write({"step": 2})
        with jsonl.JsonLines(path) as log:
            log.write({"step": 3})
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [jsonl.cut_back(path, 1) for path in paths] == [2, 2]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [jsonl.cut_back(path, 1) for path in paths] == [0, 0]
    assert jsonl.cut_back(bucket / "none.jsonl", 1) == 0


def test_a_torn_line_goes_when_a_log_is_opened_or_kept_to_a_number_of_lines(bucket):
    path = bucket / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"st')
    batch_sampling.keep_lines(path, 1)
    assert path.read_bytes() == b'{"step": 1}\n'
    path.write_bytes(b'{"step": 1}\n{"st')
    with jsonl.JsonLines(path) as log:
        log.write({"step": 2})
    assert jsonl.read(path) == [{"step": 1}, {"step": 2}]


def test_a_log_is_uploaded_now_and_then_without_a_sync(bucket, monkeypatch):
    monkeypatch.setattr(jsonl, "UPLOAD_S", 0.0)
    with jsonl.JsonLines(bucket / "log.jsonl") as log:
        log.write({"step": 1})
        assert jsonl.read(bucket / "log.jsonl") == [{"step": 1}]


def test_a_bad_line_is_named_by_its_url(bucket):
    (bucket / "log.jsonl").write_bytes(b"[]\n")
    with pytest.raises(ValueError, match=f"{bucket}/log.jsonl, line 1: not a JSON object"):
        jsonl.cut_back(bucket / "log.jsonl", 1)


def test_questions_and_records_are_read(bucket, tmp_path):
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "rows.jsonl").write_text(text)
    (bucket / "rows.jsonl").write_bytes(text.encode())
    assert questions.read(f"{bucket}/rows.jsonl", "--prompts") == questions.read(tmp_path / "rows.jsonl", "--prompts")
    pyarrow = pytest.importorskip("pyarrow.parquet")
    table = pytest.importorskip("pyarrow").Table.from_pylist(ROWS)
    pyarrow.write_table(table, tmp_path / "rows.parquet")
    storage.put(tmp_path / "rows.parquet", bucket / "rows.parquet")
    assert list(readers.rows(f"{bucket}/rows.parquet")) == ROWS
    records.write(bucket / "records.jsonl", [{"id": "a", "problem": "p", "response": "r"}])
    assert records.read(f"{bucket}/records.jsonl") == [{"id": "a", "problem": "p", "response": "r"}]
    with pytest.raises(ValueError, match=f"--prompts={bucket}/none.jsonl cannot be read"):
        questions.read(f"{bucket}/none.jsonl", "--prompts")


def test_a_copy_is_kept_until_the_object_changes(bucket):
    folder = bucket / "model"
    for name in ("a.bin", "b.bin", "deep/c.bin"):
        (folder / name).write_bytes(b"one")
    held = storage.fetch(folder)
    assert [path.name for path in sorted(held.iterdir()) if not path.name.startswith(".")] == ["a.bin", "b.bin"]
    first = (held / "a.bin").stat().st_mtime_ns
    (folder / "b.bin").write_bytes(b"two")
    storage.fetch(folder)
    assert (held / "a.bin").stat().st_mtime_ns == first and (held / "b.bin").read_bytes() == b"two"
    (held / "a.bin").write_bytes(b"cut")  # by somebody else, and of the same size
    (folder / "a.bin").unlink()
    (folder / "d.bin").write_bytes(b"new")
    assert sorted(path.name for path in storage.fetch(folder).glob("*.bin")) == ["b.bin", "d.bin"]
    assert (storage.fetch(folder, deep=True) / "deep/c.bin").read_bytes() == b"one"
    with pytest.raises(FileNotFoundError):
        storage.fetch(bucket / "nothing")


def test_checkpoints_are_written_pruned_restored_and_hashed(bucket):
    folder, state = bucket / "run/checkpoints", tree(3)
    with Saver(folder, keep=2) as saver:
        for step in (1, 2, 3):
            saver.save(step, tree(step), {"round": step})
    assert sorted(path.name for path in folder.iterdir()) == ["2", "3"] and checkpoint.latest(folder) == 3
    back = checkpoint.restore(bucket / "run", abstract(state, make_mesh("4x1", jax.devices()[:4])))
    np.testing.assert_array_equal(*(x["params"]["embed"]["embedding"] for x in (back, state)))
    half = checkpoint.restore_params(str(bucket / "run"), abstract(state["params"], make_mesh("8x1")), jnp.bfloat16)
    assert half["embed"]["embedding"].dtype == jnp.bfloat16
    assert checkpoint.sha256(f"{bucket}/run") == params_sha256(state["params"])
    assert checkpoint.read_meta(bucket / "run", 2) == {"round": 2}
    with Saver(folder, keep=2) as saver:  # goes on in a bucket that has checkpoints
        saver.save(3, tree(9))
        saver.save(4, tree(4))
        with pytest.raises(ValueError, match="has a checkpoint of step 4; step 2 cannot follow"):
            saver.save(2, tree(2))
    assert sorted(path.name for path in folder.iterdir()) == ["3", "4"]


def test_a_torn_checkpoint_is_none_and_a_damaged_one_is_refused(bucket):
    folder, shapes = bucket / "checkpoints", abstract(tree(), make_mesh("8x1"))
    with Saver(folder) as saver:
        saver.save(1, tree(1))
        saver.save(2, tree(2))
    (folder / "2/commit_success.txt").unlink()
    assert checkpoint.latest(folder) == 1
    Saver(folder).close()
    assert [path.name for path in folder.iterdir()] == ["1"]
    (file,) = (path for path in storage.list_files(folder / "1/state") if "/ocdbt.process_0/d/" in str(path))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"--workdir: the checkpoint .* is corrupt: .* is damaged or truncated"):
        checkpoint.restore(folder, shapes)
    with pytest.raises(ValueError, match=f"--weights={bucket}/none: there is nothing at {bucket}/none"):
        checkpoint.find(f"{bucket}/none")


def test_what_a_bucket_cannot_hold_is_refused_before_the_run(bucket, monkeypatch):
    with pytest.raises(ValueError, match=r"--workdir=.* must be a local path: --track=tensorboard appends to files"):
        manifests.check_resume(bucket, {"track": "tensorboard"}, False, set())
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    if storage.scheme_of(bucket) == "s3":
        with pytest.raises(
            ValueError, match=r"Orbax cannot write to s3:// from several processes. Otherwise use gs://"
        ):
            manifests.check_workdir(bucket, {}, False, set())
    else:
        assert manifests.check_workdir(bucket, {}, False, set()) is None


def test_a_bucket_that_is_used_is_refused_as_a_folder_is(bucket):
    assert manifests.check_resume(bucket, {}, False, set()) is None
    (bucket / "a.txt").write_bytes(b"")
    with pytest.raises(ValueError, match="is not empty and holds no run of r1jax"):
        manifests.check_resume(bucket, {}, False, set())


# Whole runs


@pytest.mark.slow
def test_a_run_killed_in_a_bucket_goes_on_and_is_the_run_of_a_local_folder(bucket, walk, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = bucket / "rows.jsonl"
    rows.write_bytes("".join(json.dumps(row) + "\n" for row in ROWS).encode())
    (tmp_path / "rows.jsonl").write_bytes(rows.read_bytes())
    whole = walk.here(tmp_path / "whole", prompts=tmp_path / "rows.jsonl")
    workdir = bucket / "run"
    process = walk.spawn(workdir, prompts=rows)
    wait_until(lambda: checkpoint.latest(workdir / "checkpoints") is not None, process)
    os.kill(process.pid, signal.SIGKILL)
    assert ended(process)[0] == -signal.SIGKILL
    code, _, said = ended(walk.spawn(workdir, prompts=rows, resume=True))
    assert code == 0, said[-3000:]
    assert outcome(workdir) == outcome(whole)
    assert b"</html>" in (workdir / "report.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl", "whole"]  # no folder called s3:


@pytest.mark.slow
def test_a_run_and_a_hugging_face_folder_in_a_bucket_are_taken_as_weights(bucket, walk, tmp_path):
    storage.put_folder(walk.base, bucket / "base")
    storage.put_folder(walk.finished(), bucket / "run")
    mesh = make_mesh("1x1", jax.devices()[:1])
    for there, here in ((bucket / "base", walk.base), (bucket / "run", walk.finished())):
        (policy, params, source), (ours, kept, parent) = (
            load_policy(RunOptions(weights=str(path)), mesh) for path in (there, here)
        )
        assert policy.cfg == ours.cfg and source == {"path": str(there), "sha256": parent["sha256"]}
        jax.tree.map(np.testing.assert_array_equal, params, kept)
