"""manifest.json, and who may use a working directory."""

import dataclasses
import json

import pytest

from r1jax.runs import manifests
from r1jax.runs.files import hash_files
from r1jax.runs.manifests import Manifest, check_resume, read, versions, write
from support.two_processes import results, start

RECIPE = {
    "steps": 100,
    "save_every": 10,
    "mesh": "auto",
    "clip_eps": 10.0,
    "model": {"width": 64},
    "stop": (1, 2),
}
ALLOWED = {"steps", "save_every", "mesh"}


def manifest(**changes) -> Manifest:
    return dataclasses.replace(Manifest("r1_zero", dict(RECIPE), seed=3, versions={"jax": "0"}), **changes)


def test_a_manifest_reads_back_as_it_was_written(tmp_path):
    results = {
        "base": {
            "accuracy": 0.25,
            "format": 0.5,
            "language": 1.0,
            "length": 20.0,
            "reflective_words": 0.1,
        },
        "final": None,
    }
    whole = manifest(
        recipe={"steps": 2},
        parent={"path": "base", "sha256": "ab"},
        results=results,
        warnings=[{"step": 3, "text": "全错"}],
    )
    write(tmp_path, whole)
    assert read(tmp_path) == whole
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]
    assert read(tmp_path / "elsewhere") is None


def test_a_new_manifest_is_running_without_parent_or_results():
    fields = dataclasses.asdict(manifest())
    assert (fields["status"], fields["parent"], fields["results"]) == (
        "running",
        None,
        {"base": None, "final": None},
    )


def test_a_failed_write_leaves_the_old_manifest(tmp_path, monkeypatch):
    write(tmp_path, manifest())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError):
        write(tmp_path, manifest(status="complete"))
    monkeypatch.undo()
    assert read(tmp_path).status == "running"


@pytest.mark.parametrize("text", ["{", "[]", '{"stage": "x"}', '{"unknown": 1}'])
def test_a_broken_manifest_is_an_error_that_names_the_file(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest.json is not a manifest of r1jax"):
        read(tmp_path)


def test_versions_name_the_libraries_and_the_devices():
    found = versions()
    assert set(found) == {
        "python",
        "r1jax",
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax",
        "numpy",
        "devices",
    }
    assert found["jax"][0].isdigit() and "cpu" in found["devices"]
    json.dumps(found)


def test_a_new_or_empty_directory_is_free_with_and_without_resume(tmp_path):
    for resume in (False, True):
        assert check_resume(tmp_path, RECIPE, resume, ALLOWED) is None
        assert check_resume(tmp_path / "new", RECIPE, resume, ALLOWED) is None


def test_a_used_directory_is_refused_without_resume(tmp_path):
    write(tmp_path, manifest())
    with pytest.raises(
        ValueError,
        match=r"already holds a run \(r1_zero, running\). Continue it with --resume=True, or",
    ):
        check_resume(tmp_path, RECIPE, False, ALLOWED)


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_of_something_else_is_refused(tmp_path, resume):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no run of r1jax"):
        check_resume(tmp_path, RECIPE, resume, ALLOWED)
    with pytest.raises(ValueError, match=r"thesis.tex is not a directory"):
        check_resume(tmp_path / "thesis.tex", RECIPE, resume, ALLOWED)


def test_the_same_recipe_may_resume_with_other_steps_intervals_and_mesh(tmp_path):
    write(tmp_path, manifest(status="complete"))
    here = RECIPE | {"steps": 200, "save_every": 5, "mesh": "8x1"}
    assert check_resume(tmp_path, here, True, ALLOWED).status == "complete"


def test_another_recipe_is_refused_with_every_field_and_both_values(tmp_path):
    write(tmp_path, manifest())
    here = RECIPE | {"clip_eps": 0.2, "model": {"width": 128}, "kl_coef": 0.001, "steps": 7}
    with pytest.raises(ValueError) as error:
        check_resume(tmp_path, here, True, ALLOWED)
    message = str(error.value)
    assert "clip_eps was 10.0 and is now 0.2" in message
    assert "kl_coef was absent and is now 0.001" in message
    assert "model.width was 64 and is now 128" in message
    assert "steps is" not in message and "Only mesh, save_every, steps may change" in message


def test_no_process_writes_before_all_have_looked(tmp_path):
    assert results(start("workdir", str(tmp_path / "run"))) == [{"fresh": True}, {"fresh": True}]


def test_a_run_goes_on_from_the_same_weights_wherever_they_lie(tmp_path):
    before = manifest()
    before = dataclasses.replace(before, parent={"path": "there", "sha256": "a" * 64})
    manifests.check_parent(tmp_path, before, {"path": "here", "sha256": "a" * 64})
    manifests.check_parent(tmp_path, None, {"path": "here", "sha256": "b" * 64})
    with pytest.raises(ValueError, match=r"began with there \(aaaaaaaaaaaa\), not here \(bbbbbbbbbbbb\)"):
        manifests.check_parent(tmp_path, before, {"path": "here", "sha256": "b" * 64})
    with pytest.raises(ValueError, match="not random weights"):
        manifests.check_parent(tmp_path, before, None)


def test_data_is_compared_without_the_places_of_its_sources(tmp_path):
    (tmp_path / "a").write_text("text")
    (tmp_path / "b").write_text("text")
    told = [
        {"rows": 1, "files": hash_files(tmp_path / name), "sources": {"x": [{"path": name, "sha256": "1"}]}}
        for name in "ab"
    ]
    assert told[0] != told[1] and manifests.without_paths(told[0]) == manifests.without_paths(told[1])
    (tmp_path / "b").write_text("other text")
    assert hash_files(tmp_path / "b")[0]["sha256"] != told[1]["files"][0]["sha256"]
