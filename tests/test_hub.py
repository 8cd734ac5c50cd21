"""A model of the Hugging Face Hub as --weights, downloaded from a Hub of our own."""

import os
import shutil
import subprocess
import sys

import pytest

from r1jax.weights import bundled, hub
from support import fake_hub

pytest.importorskip("huggingface_hub", reason="the Hub wants the extra 'hf'")

LOOK = """
import sys
from pathlib import Path
from r1jax.recipes import RunOptions
from r1jax.runs.policies import load_policy, step_of
from r1jax.sharding import make_mesh
from r1jax.weights import hub
for weights in sys.argv[1:]:
    try:
        found = Path(hub.locate(weights))
        policy, params, parent = load_policy(RunOptions(weights=weights), make_mesh("1x1"))
        print(found, sorted(file.name for file in found.iterdir()), parent["path"], policy.cfg.layers, step_of(weights))
    except ValueError as error:
        print("error:", error)
"""


def look(home, endpoint, *weights, **environ):
    """What a fresh process says of each weights, with its cache in `home`, line by line."""
    settings = (
        os.environ | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"} | environ
    )
    for name in ("HF_TOKEN", "HF_HUB_CACHE"):
        settings.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *weights], env=settings, cwd=home, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_downloads_a_model_once_and_says_what_is_wrong(tmp_path):
    (model := tmp_path / "model").mkdir()
    for file in bundled.directory("nano-small").iterdir():
        shutil.copy(file, model)
    for name in ("README.md", "pytorch_model.bin", "training_args.bin"):
        (model / name).write_text("not wanted")
    (home := tmp_path / "home").mkdir()
    with fake_hub.serve({"tiny/model": model}) as (url, asked):
        said = look(home, url, "tiny/model", "hf://tiny/model@main", "tiny/none", "tiny/gated", "tiny/model@v9")
        fetched = {line.rpartition("/")[2] for line in asked if line.startswith("GET") and "/resolve/" in line}
    assert fetched == {"config.json", "model.safetensors", "tokenizer.model"}
    for line in said[:2]:
        folder, names, parent, *rest = line.replace("', '", "','").split()
        assert folder == parent and folder.endswith(f"models--tiny--model/snapshots/{fake_hub.COMMIT}")
        assert names == "['config.json','model.safetensors','tokenizer.model']" and rest == ["3", "{}"]
    assert hub.name_of_snapshot(folder) == ("tiny/model", fake_hub.COMMIT)
    none, gated, revision = said[2:]
    assert none.startswith(
        "error: --weights=tiny/none: there is no such path here, and the Hugging Face Hub shows no model"
    )
    assert "hf auth login" in none and "name the directory" in none
    assert "--weights=tiny/gated: tiny/gated is gated" in gated and "HF_TOKEN" in gated
    assert "--weights=tiny/model@v9: tiny/model has no revision v9" in revision

    cached, other = look(home, url, "tiny/model", "tiny/other")  # the Hub is down now
    assert cached == said[0]
    assert "--weights=tiny/other: there is no such path here, and tiny/other could not be downloaded" in other
    assert "hf download tiny/other --local-dir=DIR" in other
    cached, other = look(home, url, "tiny/model", "tiny/other", HF_HUB_OFFLINE="1")
    assert cached == said[0] and "hf download tiny/other" in other


def test_a_path_is_no_name_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for path in ("", "model", "runs/r1_zero", "./a/b", "/a/b", "a/b/c", "gs://bucket/run", "../a"):
        assert hub.locate(path) == path
    with pytest.raises(ValueError, match=r"--source=hf://model names no model: write hf://OWNER/NAME"):
        hub.locate("hf://model", "--source")
