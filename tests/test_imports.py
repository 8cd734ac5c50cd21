"""What an import brings with it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import r1jax

ROOT = Path(__file__).resolve().parent.parent


def imported_by(statement: str) -> set[str]:
    """Top-level packages loaded in a fresh interpreter after one statement."""
    code = f"{statement}\nimport json, sys\n"
    code += "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return set(json.loads(out.splitlines()[-1]))


HEAVY = {"jax", "jaxlib", "flax", "optax", "orbax", "grain", "sympy", "numpy", "torch", "transformers"}


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import r1jax", HEAVY),
        ("import r1jax.rewards", HEAVY - {"numpy"}),
        ("from r1jax.rewards import choice, countdown, format, math", {"jax", "sympy"}),
        ("from r1jax import group_advantages, grpo_loss", {"flax", "optax", "orbax", "grain", "sympy"}),
    ],
)
def test_an_import_brings_nothing_heavy(statement, absent):
    assert not imported_by(statement) & absent


def test_the_check_sees_what_is_imported():
    assert {"jax", "numpy"} <= imported_by("import r1jax.grpo")


def test_every_public_name_resolves_where_it_says_it_lives():
    import r1jax

    for name in r1jax.__all__:
        assert getattr(r1jax, name) is not None, name
    with pytest.raises(AttributeError, match="grpo_los"):
        _ = r1jax.grpo_los


def test_no_public_name_is_that_of_a_module():
    """Importing the module would put it in the place of the name."""
    modules = {path.stem for path in Path(r1jax.__file__).parent.glob("*.py")}
    assert "grpo" in modules and not modules & set(r1jax.__all__)
