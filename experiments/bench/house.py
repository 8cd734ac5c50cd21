"""Counts rooms, imports and functions of r1jax: `python -m experiments.bench.house [CHECKOUT] [--json]`.

A room is a folder of r1jax, a file directly in r1jax, or the file `__main__` of a folder. The functions that are
counted have more than eight parameters, or take a recipe (a dataclass of hyperparameters). The command parses the files
without importing them, so it can count any checkout.

An arrow leads from a room to a room that it imports. Suppose the rooms are put in order, the lowest first. Then an
arrow goes up if the imported room is higher. The command prints the smallest number of upward arrows that any order
has; 0 means that the rooms form layers. Imports inside functions and imports for types count too. A cycle is a strongly
connected component of two or more rooms.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOST_PARAMETERS = 8
LARGEST_CIRCLE = 16  # most rooms in a cycle that can be ordered


class Tree(NamedTuple):
    """The parsed Python files of a checkout. `files` maps a relative path without suffix to the file's syntax tree."""

    root: Path
    files: dict[str, ast.Module]


def read(root: Path) -> Tree:
    """Parses the Python files in the folders r1jax and experiments of the checkout `root`.

    Raises:
        ValueError: `root` holds no r1jax.
    """
    if not (root / "r1jax").is_dir():
        raise ValueError(f"CHECKOUT={root} holds no folder r1jax: give the root of a checkout of r1jax")
    paths = [path for top in ("r1jax", "experiments") for path in sorted((root / top).rglob("*.py"))]
    return Tree(root, {p.relative_to(root).with_suffix("").as_posix(): ast.parse(p.read_text("utf-8")) for p in paths})


def imports(tree: Tree) -> dict[str, set[str]]:
    """Returns, for each file of the checkout, the other files of the checkout that it imports."""
    return {file: set(imported(tree, parsed)) - {file} for file, parsed in tree.files.items()}


def imported(tree: Tree, parsed: ast.Module) -> Iterator[str]:
    """Yields the files that one file of the checkout imports. `parsed` is the syntax tree of the importing file."""
    for node in ast.walk(parsed):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            stems = ["/".join(parts[:end]) for end in range(len(parts), 0, -1)]
            found = (file for stem in stems for file in (stem, f"{stem}/__init__") if file in tree.files)
            yield from list(found)[:1]


def rooms(files: dict[str, set[str]]) -> dict[str, set[str]]:
    """Returns, for each room of r1jax, the other rooms that it imports. r1jax/__init__.py is not a room.

    A room is a folder of r1jax, a file directly in r1jax, or the file `__main__` of a folder.

    Args:
        files: file -> the files that it imports, as `imports` returns them.
    """
    found: dict[str, set[str]] = {}
    for file, others in files.items():
        if file.startswith("r1jax/") and file != "r1jax/__init__":
            found.setdefault(room(file), set()).update(
                room(other) for other in others if other.startswith("r1jax/") and other != "r1jax/__init__"
            )
    return {name: others - {name} for name, others in found.items()}


def room(file: str) -> str:
    """Returns the room that a file of r1jax belongs to.

    The room is the file's folder, the file itself if it lies directly in r1jax, or FOLDER/__main__.
    """
    folder, _, rest = file.removeprefix("r1jax/").partition("/")
    return f"{folder}/__main__" if rest == "__main__" else folder


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Returns a sorted list of the strongly connected components of two or more nodes, each a sorted list."""
    reached = {node: reachable(graph, node) for node in graph}
    found = {frozenset(o for o in reached[node] if node in reached[o]) for node in graph if node in reached[node]}
    return sorted(sorted(circle) for circle in found)


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Returns the nodes reachable from `start`; `start` itself only if it lies on a cycle."""
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += graph.get(node, ())
    return seen


def upward(graph: dict[str, set[str]]) -> int:
    """Returns the smallest number of upward arrows that any order of the nodes has.

    An arrow (node, imported node) goes up if the imported node is higher in the order. Each strongly connected
    component is ordered separately, by dynamic programming that places the nodes from the lowest up. The state of the
    dynamic program is the set of the nodes placed so far.

    Args:
        graph: node -> the nodes that it imports.
    Raises:
        ValueError: a strongly connected component has more than LARGEST_CIRCLE nodes.
    """
    total = 0
    for circle in circles(graph):
        if len(circle) > LARGEST_CIRCLE:
            raise ValueError(
                f"{len(circle)} rooms (folders or files directly in r1jax) import each other in a cycle, and at most "
                f"{LARGEST_CIRCLE} can be ordered: {', '.join(circle)}. Remove imports until the cycle is smaller"
            )
        needs = [sum(1 << i for i, other in enumerate(circle) if other in graph[node]) for node in circle]
        fewest = {0: 0}  # set of the lowest nodes -> arrows that go up so far
        for below in range(1, 1 << len(circle)):
            fewest[below] = min(
                fewest[rest] + (needs[i] & ~rest).bit_count()
                for i in range(len(circle))
                if below >> i & 1 and (rest := below & ~(1 << i)) in fewest
            )
        total += fewest[(1 << len(circle)) - 1]
    return total


def functions(tree: Tree) -> list[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Returns (file, definition) of every function and method of r1jax."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return [
        (file, node)
        for file, parsed in tree.files.items()
        if file.startswith("r1jax/")
        for node in ast.walk(parsed)
        if isinstance(node, kinds)
    ]


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    """Returns all parameters of a function definition except self and cls."""
    a = node.args
    found = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return [p for p in found if p.arg not in ("self", "cls")]


def takes_recipe(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Returns whether a parameter of the function is named recipe or annotated with a recipe type."""
    return any(
        p.arg == "recipe" or (p.annotation is not None and re.search(r"\w+Recipe\b", ast.unparse(p.annotation)))
        for p in parameters(node)
    )


def lines_of(tree: Tree, file: str, name: str) -> int | None:
    """Returns the number of lines of the top-level function `name` in `file`; None if there is no such function."""
    body = tree.files[file].body if file in tree.files else []
    return next(
        (node.end_lineno - node.lineno + 1 for node in body if isinstance(node, ast.FunctionDef) and node.name == name),
        None,
    )


def count(root: Path) -> dict[str, object]:
    """Counts the rooms (see `room`) and the imports between them in a checkout of r1jax.

    Also counts the functions that have many parameters, and the functions that take a recipe.

    Returns {description in words: count}. Import cycles are not counted but listed: the value is a list of cycles, and
    each cycle is the list of its rooms or files. The entry "lines of train_rl.train" is the length of that function;
    None if the checkout has no such function.

    Raises:
        ValueError: `root` holds no r1jax, or an import cycle has more than LARGEST_CIRCLE rooms.
    """
    tree = read(root)
    files = imports(tree)
    graph = rooms(files)
    defined = functions(tree)
    texts = [p.read_text("utf-8") for top in ("r1jax", "experiments", "tests") for p in (root / top).rglob("*.py")]
    taking = [(file, node) for file, node in defined if takes_recipe(node)]
    return {
        "modules directly in r1jax": len(list((root / "r1jax").glob("*.py"))),
        "rooms": len(graph),
        "arrows between rooms": sum(map(len, graph.values())),
        "arrows that go up": upward(graph),
        "import cycles of rooms": circles(graph),
        "import cycles of files": circles(files),
        f"functions with more than {MOST_PARAMETERS} parameters": sum(
            len(parameters(node)) > MOST_PARAMETERS for _, node in defined
        ),
        "functions that take a recipe": len(taking),
        "files whose functions take a recipe": len({file for file, _ in taking}),
        "fmt: skip": sum(len(re.findall(r"#\s*fmt: skip\b", text)) for text in texts),
        "lines of train_rl.train": lines_of(tree, "r1jax/train_rl", "train"),
    }


def shown(value: object) -> str:
    """Formats a value of `count`. A list of cycles is shown as the number of cycles and the members of each cycle."""
    if isinstance(value, list):
        return f"{len(value)}" + (f"  ({'; '.join(' '.join(circle) for circle in value)})" if value else "")
    return "absent" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.house", description=__doc__.partition(":")[0])
    parser.add_argument("checkout", nargs="?", type=Path, default=Path("."), help="root of a checkout; default: here")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    options = parser.parse_args()
    try:
        found = count(options.checkout)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    if options.json:
        print(json.dumps(found))
    else:
        print("\n".join(f"{name:44}{shown(value)}" for name, value in found.items()))


if __name__ == "__main__":
    main()
