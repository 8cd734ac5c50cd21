"""The wheel holds all of the package and the experiments, and works outside the checkout."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.two_processes import CLUSTER_VARIABLES

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("r1jax", "experiments")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy, because a build leaves folders in its source."""
    pytest.importorskip("build", reason='a wheel needs build: pip install -e ".[test]"')
    home = tmp_path_factory.mktemp("wheel")
    source = home / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(home), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    (made,) = home.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel's content, as pip would put it into site-packages."""
    home = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(home)
    return home


def run(installed: Path, here: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Runs Python in a folder with nothing of the checkout in sight."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(CLUSTER_VARIABLES)}
    env |= {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *arguments], cwd=here, env=env, capture_output=True, text=True, timeout=300)


def test_it_holds_every_file_of_the_packages_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    there = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == there
    assert any(name.endswith("nano/model.safetensors") for name in names)


@pytest.mark.parametrize("module", ["experiments.r1_zero", "experiments.r1", "experiments.evaluate", "r1jax.rewards"])
def test_a_command_shows_its_help(installed, tmp_path, module):
    done = run(installed, tmp_path, "-m", module, "--help")
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout and len(done.stdout.splitlines()) > 20
    assert not list(tmp_path.iterdir())


def test_it_plans_a_run_from_the_weights_inside(installed, tmp_path):
    done = run(installed, tmp_path, "-m", "experiments.r1_zero", "--dry-run")
    assert done.returncode == 0 and "memory of one device" in done.stdout, done.stderr
    where = run(installed, tmp_path, "-c", "import experiments, r1jax; print(experiments.__file__, r1jax.__file__)")
    assert all(Path(path).is_relative_to(installed) for path in where.stdout.split())


def test_it_grades_a_file_in_worker_processes_and_a_sandbox(installed, tmp_path):
    numbers = {"numbers": [4, 4, 10], "target": 44, "pred": "<answer> (4*10)+4 </answer>"}
    program = {"program": "def f(x):\n    return x + 1", "mode": "function", "entry": "f", "tests": [[[1], 2]]}
    for kind, row, verdicts in (
        ("countdown", numbers, {"correct"}),
        ("code", program, {"correct", "sandbox_unavailable"}),  # test_sandbox says where it must be available
    ):
        (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
        done = run(installed, tmp_path, "-m", "r1jax.rewards", kind, "rows.jsonl")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["verdict"] in verdicts
