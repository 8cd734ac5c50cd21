"""A file imports only from its own floor and those below."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLOORS = (
    "grpo prompts tokenizer tokenizer_json chat rollout rewards data nano recipe behaviour evaluate alarms estimates "
    "calibration",  # meaning, no network
    "model sharding presets limits pace",  # the network and where it lies
    "logprobs cohorts decode collector sampler lora update reward_model",  # what gets jitted
    "weights digest checkpoint saver lineage log report launch progress plan",  # the outside world
    "run command checks examine rounds carry metrics ledger train_rl train_sft sft supervised teacher on_policy "
    "plan_supervised train_reward_model rejection records writer rewrite collecting waves preference generate "
    "benchmark",  # the walks
)
FLOOR = {name: i for i, names in enumerate(FLOORS) for name in names.split()}
FILES = [p for p in sorted((ROOT / "r1jax").rglob("*.py")) if p != ROOT / "r1jax/__init__.py"]


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


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_file_imports_only_from_its_own_floor_and_below(path):
    here = path.relative_to(ROOT / "r1jax").parts[0].removesuffix(".py")
    assert here in FLOOR, f"{here} has no floor: give it one in this table"
    for name in imports(path):
        package, _, rest = name.partition(".")
        assert package != "experiments", f"{path} imports an experiment"
        if package == "r1jax":
            assert FLOOR[rest.split(".")[0]] <= FLOOR[here], f"{path} looks up to {name}"


def test_grpo_imports_jax_alone():
    assert {name.partition(".")[0] for name in imports(ROOT / "r1jax/grpo.py")} <= {"__future__", "jax"}


def test_rewards_never_import_jax():
    for path in (ROOT / "r1jax/rewards").rglob("*.py"):
        assert not {"jax", "flax"} & {name.partition(".")[0] for name in imports(path)}, path
