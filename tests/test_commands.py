"""The commands that the documents print exist, and so do their flags."""

import contextlib
import io
import re
import runpy
import sys
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# The pages of docs/extending are run by test_extending.
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/stages").glob("*.md"))]
BENCHES = "experiments.bench"  # their arguments are names, not flags
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(python -m (?:experiments|r1jax)\.[^`]+)`")
COMMAND = re.compile(r"python -m ((?:experiments|r1jax)[\w.]*)([^\n#;&|]*)")


def found() -> dict[str, dict[str, str]]:
    """{module: {flag: a document that gives it}} of all commands."""
    flags = defaultdict(dict)
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        shown = "".join(BLOCK.findall(text)).replace("\\\n", " ") + "\n".join(INLINE.findall(text))
        for module, arguments in COMMAND.findall(shown):
            flags[module] |= {flag: page.name for flag in re.findall(r"--[\w.-]+", arguments)}
    return flags


FOUND = found()


def help_of(module: str, monkeypatch) -> str:
    """What a command prints with --help."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.setenv("COLUMNS", "200")
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert not ended.value.code
    return printed.getvalue()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules after import:RuntimeWarning")
@pytest.mark.parametrize("module", sorted(name for name in FOUND if not name.startswith(BENCHES)))
def test_the_flags_of_a_printed_command_are_flags_of_it(module, monkeypatch):
    known = set(re.findall(r"--[\w.-]+", help_of(module, monkeypatch)))
    for flag, page in FOUND[module].items():
        assert flag in known, f"{page} gives {flag} to {module}, which has no such flag"


def test_commands_are_found():
    assert {"experiments.r1_zero", "experiments.r1", "r1jax.rewards"} <= FOUND.keys() and len(FOUND) > 10
