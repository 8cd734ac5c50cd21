"""Folders import downwards only, and no files import each other in a circle."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The lowest first: a line may import from the lines above it. A name is a folder of r1jax, or a file directly in it.
ORDER = """
interrupts
losses
grpo
prompts
recipes
storage
jsonl
distributed
rewards/math
rewards/sandbox
rewards/proofs
rewards
nano
data
rewards/__main__
tokenizers
sharding
model
model/kernels
weights
policy
sampling
evaluation
report
runs
training
serving
reward_models
sft
sft_data
preferences
planning
rl
train_reward_model
train_sft
train_rl
cli
""".split()
FILES = {path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted((ROOT / "r1jax").rglob("*.py"))}
FILES |= {
    path.relative_to(ROOT).with_suffix("").as_posix(): path for path in sorted((ROOT / "experiments").rglob("*.py"))
}
del FILES["r1jax/__init__"]  # it imports by name, when asked


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports anywhere, `from a import b` as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files_of(path: Path) -> set[str]:
    """The files of ours that a file imports."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        for end in range(len(parts), 0, -1):
            stem = "/".join(parts[:end])
            if (file := next((f for f in (stem, f"{stem}/__init__") if f in FILES), None)) is not None:
                found.add(file)
                break
    return found


def room(file: str) -> str | None:
    """The longest line of ORDER that a file lies in. The face of a folder within a folder belongs to the outer one."""
    parts = file.split("/")[1:]
    if len(parts) > 2 and parts[-1] == "__init__" and "/".join(parts[:-1]) in FACES:
        parts = parts[:-2]
    if parts[-1] == "__init__":
        parts = parts[:-1]
    return next(("/".join(parts[:n]) for n in range(len(parts), 0, -1) if "/".join(parts[:n]) in ORDER), None)


FACES = ("rewards/math",)  # r1jax.rewards.math, the verifier: its parser lies below the verdicts, itself beside them
IMPORTS = {file: files_of(path) - {file} for file, path in FILES.items()}


@pytest.mark.parametrize("file", [file for file in FILES if file.startswith("r1jax/")])
def test_a_file_imports_only_from_its_own_folder_and_those_below(file):
    here = room(file)
    assert here, f"{file} has no place: give its folder a line in ORDER"
    for other in IMPORTS[file]:
        assert other.startswith("r1jax/"), f"{file} imports an experiment"
        assert ORDER.index(room(other)) <= ORDER.index(here), f"{file} looks up to {other}"


def test_every_line_of_the_order_is_there():
    assert {room(file) for file in FILES if file.startswith("r1jax/")} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


def test_no_files_import_each_other_in_a_circle():
    left = {file: set(others) for file, others in IMPORTS.items()}
    while free := {file for file, others in left.items() if not others & left.keys()}:
        left = {file: others for file, others in left.items() if file not in free}
    # What is left is in a circle, or above one.
    while top := {file for file in left if not any(file in others for others in left.values())}:
        left = {file: others for file, others in left.items() if file not in top}
    assert not left, f"a circle: {sorted(left)}"


def test_at_most_a_dozen_files_lie_directly_in_the_package():
    assert len([path for path in (ROOT / "r1jax").glob("*.py") if path.stem != "__init__"]) <= 12


def test_the_training_loop_stays_on_a_page():
    body = ast.parse((ROOT / "r1jax/train_rl.py").read_text(encoding="utf-8")).body
    loop = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert loop.end_lineno - loop.lineno + 1 <= 90


def test_losses_import_jax_and_the_standard_library_alone():
    for path in (ROOT / "r1jax/losses").glob("*.py"):
        found = {name.partition(".")[0] for name in imports(path) if not name.startswith("r1jax.losses.")}
        assert found - sys.stdlib_module_names <= {"jax"}, path


def test_rewards_never_import_jax():
    for path in (ROOT / "r1jax/rewards").rglob("*.py"):
        assert not {"jax", "flax"} & {name.partition(".")[0] for name in imports(path)}, path
