"""What the documents say about the repository's files is true: paths exist, links lead somewhere, lines are short."""

import ast
import inspect
import re
from itertools import takewhile
from pathlib import Path

import pytest

import r1jax

ROOT = Path(__file__).resolve().parent.parent
AT_THE_ROOT = ("README.md", "BUILD_NOTES.md", "CHANGELOG.md", "CONTRIBUTING.md")
DOCUMENTS = [*(ROOT / name for name in AT_THE_ROOT), *sorted((ROOT / "docs").rglob("*.md"))]
BASES = (ROOT, ROOT / "r1jax", ROOT / "experiments")  # paths in prose may begin in any of these
WRITTEN_BY_RUNS = re.compile(r"runs/|checkpoints/")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def paths_in_prose(text: str) -> set[str]:
    """Names in backticks that are paths: of Python files and notebooks, or with a slash at their end."""
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text))
    found = {word for span in spans for word in span.split() if re.fullmatch(r"[\w./]+(\.py|\.ipynb|/)", word)}
    return {path for path in found if not WRITTEN_BY_RUNS.match(path)}


def paths_in_tree(text: str) -> set[str]:
    """Files and folders of README's tree, whose lines begin with a name."""
    tree = next(block for block in FENCE.findall(text) if "\nr1jax/" in block)
    found, folder = set(), ""
    for indent, name in re.findall(r"^( *)([\w.]+/?)(?: |$)", tree, re.MULTILINE):
        found.add(folder + name if indent else name)
        folder = folder if indent else name
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_paths_and_links_exist(document):
    text = document.read_text(encoding="utf-8")
    for path in paths_in_prose(text):
        assert any((base / path).exists() for base in BASES), f"{document.name} names {path}, which is not there"
    for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", FENCE.sub("", text)):
        assert (document.parent / link).exists(), f"{document.name} links to {link}, which is not there"


def test_every_name_in_the_tree_of_the_readme_exists_and_no_module_is_left_out():
    named = paths_in_tree((ROOT / "README.md").read_text(encoding="utf-8"))
    for path in named:
        assert (ROOT / path).exists(), f"README's tree names {path}, which is not there"
    top = {
        p.name + "/" * p.is_dir()
        for p in (ROOT / "r1jax").iterdir()
        if p.suffix == ".py" or (p / "__init__.py").exists()
    }
    assert {f"r1jax/{name}" for name in top - {"__init__.py"}} <= named


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_lines_are_at_most_140_columns_and_nothing_waits_to_be_filled_in(document):
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        assert len(line) <= 140, f"{document.name}:{number} has {len(line)} columns"
        assert "{{" not in line, f"{document.name}:{number} has a placeholder"


def described(docstring: str, section: str) -> set[str]:
    """The names in a section of a docstring: `old, new: what they are` gives two."""
    _, _, rest = inspect.cleandoc(docstring).partition(f"\n{section}:\n")
    lines = takewhile(lambda line: line.startswith(" "), rest.splitlines())
    entries = [found[1] for line in lines if (found := re.match(r"    ([*\w]+(?:, [*\w]+)*): ", line))]
    return {name.strip(" *") for entry in entries for name in entry.split(",")}


def test_every_argument_that_a_docstring_describes_is_an_argument():
    seen = 0
    for path in (ROOT / "r1jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not (text := ast.get_docstring(node)):
                continue
            given = {x.arg for x in ast.walk(node.args) if isinstance(x, ast.arg)}
            names = described(text, "Args")
            seen += len(names)
            assert names <= given, f"{path.relative_to(ROOT)}: {node.name} has no {', '.join(names - given)}"
    assert seen > 1000
    text = "X.\n\nArgs:\n    a, b: two.\n        c: deeper.\n    *rest: more.\nRaises:\n    d: no."
    assert described(text, "Args") == {"a", "b", "rest"}


def test_the_citation_and_the_changes_name_the_version_of_the_package():
    assert f"\nversion: {r1jax.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## {r1jax.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
