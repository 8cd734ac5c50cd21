"""The notebooks are stored with what they printed and drew, and run from top to bottom with small settings."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from support.marks import WEEKLY
from support.two_processes import CLUSTER_VARIABLES

ROOT = Path(__file__).resolve().parent.parent
STORED = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = {
    "ablation": {
        "SEEDS": (0,),
        "STEPS": 2,
        "ROWS": 8,
        "MINIBATCHES": 1,
        "MAX_TOKENS": 32,
        "EVAL_EVERY": 0,
        "EVAL_PROBLEMS": 4,
        "CENTRE": {"group_size": 4, "clip_eps": 10.0, "kl_coef": 0.001},
        "VALUES": {"group_size": (2, 4), "clip_eps": (10.0,)},  # the last two are one recipe
    },
    "grpo_by_hand": {"GROUP_SIZES": (2, 16), "DRAWS": 1000},
    "own_task": {"ROWS": 40, "STEPS": 2, "QUESTIONS": 2, "GROUP_SIZE": 4, "MAX_TOKENS": 32},
    "r1_report": {"RUNS": [str(ROOT / "docs/r1" / seed) for seed in ("seed0", "seed1")]},
    "real_checkpoint": {"CANDIDATES": ("qwen2.5-0.5b", "qwen2.5-7b")},
    "start": {"PROBLEMS": 4, "STEPS": 2, "QUESTIONS": 2, "GROUP_SIZE": 4, "MAX_TOKENS": 32},
    "other_project": {"QUESTIONS": 2, "GROUP_SIZE": 4, "WIDTH": 8, "ROUNDS": 2},
    "verifiers": {"FORMS": ("1/2", "0.5", "3"), "TRIES": 2},
    "walk": {"QUESTIONS": 2, "GROUP_SIZE": 4, "MAX_TOKENS": 48, "ROW_LENGTH": 256, "BATCH_ROWS": 2},
}
MACHINE = re.compile(r"(?<![\w<])/(?:opt|tmp|home|root|work|usr|var|mnt|content|private|Users)/|[A-Z]:\\Users")


def code(book: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in book.cells if cell.cell_type == "code"]


def figures(book: nbformat.NotebookNode) -> list[int]:
    """The number of figures below each code cell."""
    return [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in code(book)]


def with_settings(book: nbformat.NotebookNode, settings: dict) -> nbformat.NotebookNode:
    """The notebook with these settings put in the place of its own, as a cell behind the one tagged `parameters`."""
    (at,) = [i for i, cell in enumerate(book.cells) if "parameters" in cell.metadata.get("tags", ())]
    own = {
        target.id
        for node in ast.walk(ast.parse(book.cells[at].source))
        for target in ast.walk(node)
        if isinstance(target, ast.Name) and isinstance(target.ctx, ast.Store)
    }
    assert settings.keys() <= own, f"the notebook does not set {settings.keys() - own}"
    cell = nbformat.v4.new_code_cell("\n".join(f"{name} = {value!r}" for name, value in settings.items()))
    book.cells.insert(at + 1, cell)
    return book


def test_every_notebook_has_small_settings_to_be_run_with():
    assert [path.stem for path in STORED] == sorted(SMALL)


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_notebook_was_run_from_top_to_bottom_without_an_error(path):
    book = nbformat.read(path, 4)
    nbformat.validate(book)
    assert [cell.execution_count for cell in code(book)] == list(range(1, len(code(book)) + 1))
    assert sum(bool(cell.outputs) for cell in code(book)) >= 5 and sum(figures(book)) >= 1
    for cell in code(book):
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", cell.source
    assert path.stat().st_size < 400_000


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_a_stored_notebook_names_no_folder_of_the_machine_it_was_run_on(path):
    for cell in nbformat.read(path, 4).cells:
        for output in [cell, *cell.get("outputs", ())]:
            data = {kind: value for kind, value in output.get("data", {}).items() if kind != "image/png"}
            assert not (found := MACHINE.search(f"{output.get('source')} {output.get('text')} {data}")), found
    assert MACHINE.search("saved in /tmp/x") and not MACHINE.search("<think> 9 </think> 1/2/3")


def test_all_notebooks_begin_with_the_same_cell_which_installs_and_picks_a_mesh():
    here = [path for path in STORED if path.stem != "real_checkpoint"]  # its commands take the devices
    (first,) = {code(nbformat.read(path, 4))[0].source for path in here}
    assert "%pip install" in first and "make_mesh(" in first


def test_the_real_checkpoint_is_installed_from_one_address_and_names_no_folder_of_a_clone():
    book = nbformat.read(ROOT / "notebooks/real_checkpoint.ipynb", 4)
    first, *rest = [cell.source for cell in code(book)]
    assert first.count("ADDRESS = ") == 1 and '%pip install --quiet "r1jax[{extras}] @ {ADDRESS}"' in first
    assert not [source for source in rest if "ADDRESS" in source or ".." in source.replace("...", "")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_first_cell_of_the_real_checkpoint_installs_from_a_clone(tmp_path):
    """With the clone as its address and nothing of r1jax in sight, but for the dependencies, which are here already."""
    pytest.importorskip("build", reason='pip builds with setuptools: pip install -e ".[test]"')
    clone, site = tmp_path / "clone", tmp_path / "site"
    for name in ("r1jax", "experiments"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    first = code(nbformat.read(ROOT / "notebooks/real_checkpoint.ipynb", 4))[0].source
    refused = run_cell(first, "", site, tmp_path)
    assert refused.returncode != 0 and "write the address of its repository into ADDRESS" in refused.stderr
    done = run_cell(first, clone.as_uri(), site, tmp_path)
    assert done.returncode == 0 and done.stdout.endswith(f"{site / 'r1jax'}\n"), done.stdout + done.stderr


HIDE_OTHERS = """
import sys
from pathlib import Path
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in str(finder).lower()]
sys.path = [SITE, *(path for path in sys.path if not (Path(path) / "r1jax").is_dir())]
"""
SHOW_WHERE = """
importlib.invalidate_caches()
import r1jax
print(Path(r1jax.__file__).parent)
"""


def run_cell(source: str, address: str, site: Path, here: Path) -> subprocess.CompletedProcess:
    """Runs the first cell of the notebook with an address, where pip installs into `site` and finds no other r1jax."""
    magic = '%pip install --quiet "r1jax[{extras}] @ {ADDRESS}"'
    flags = "'--no-deps', '--no-build-isolation', '--target', SITE"
    assert magic in source and 'ADDRESS = ""' in source
    plain = source.replace(
        magic, f"subprocess.run([sys.executable, '-m', 'pip', 'install', {flags}, 'r1jax @ ' + ADDRESS], check=True)"
    )
    plain = plain.replace('ADDRESS = ""', f"ADDRESS = {address!r}")
    plain = f"SITE = {str(site)!r}\n{HIDE_OTHERS}{plain}\n{SHOW_WHERE}"
    return subprocess.run([sys.executable, "-P", "-c", plain], cwd=here, capture_output=True, text=True, timeout=600)


LONGEST = {"ablation", "own_task", "real_checkpoint"}
RUN = [pytest.param(p, id=p.stem, marks=WEEKLY if p.stem in LONGEST else ()) for p in STORED]


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 15 to 30 CPU seconds each, which a busy machine spreads over many minutes
@pytest.mark.parametrize("path", RUN)
def test_a_notebook_runs_with_small_settings_and_leaves_nothing_behind(path, tmp_path):
    stored = nbformat.read(path, 4)
    book = with_settings(nbformat.read(path, 4), SMALL[path.stem])
    env = {k: v for k, v in os.environ.items() if k != "MPLBACKEND" and not k.startswith(CLUSTER_VARIABLES)} | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
    }
    client = NotebookClient(book, timeout=1500, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=env)  # CellExecutionError where a cell fails
    drawn = figures(book)
    del drawn[next(i for i, cell in enumerate(code(book)) if "parameters" in cell.metadata.get("tags", ())) + 1]
    assert drawn == figures(stored)
    assert not list(tmp_path.iterdir())
