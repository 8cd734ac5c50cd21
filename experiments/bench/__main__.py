"""Runs benchmarks from the command line: `python -m experiments.bench NAME`.

The docstring of `experiments.bench` describes the benchmarks.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro

from experiments.bench.measure import Options
from experiments.bench.worker import narrow, roam

NAMES = {
    "decode": "C1",
    "fraction": "C2",
    "tail": "C3",
    "sharing": "C4",
    "exactness": "C5",
    "drawing": "C6",
    "packing": "C7",
    "logprobs": "C8",
    "update": "C9",
    "mesh": "C10",
    "copies": "C11",
    "compiles": "C12",
    "iteration": "C13",
}
SIDES = {"decode", "mesh", "compiles", "iteration"}  # start a process for each side
DEVICES = {"exactness": 8}
OUT = "bench.jsonl"


def run(name: str, options: Options) -> dict[str, Any]:
    """Runs one benchmark. Returns the benchmark's JSON line as a dict (`measure.line`).

    This process must not have imported JAX yet.

    Args:
        name: the benchmark's name, a key of `NAMES`.
    """
    if name not in SIDES:
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["JAX_NUM_CPU_DEVICES"] = str(DEVICES.get(name, 1))
        narrow(1)
        import jax

        jax.devices()
        roam()
    return importlib.import_module(f"experiments.bench.{name}").measure(options) | {"id": NAMES[name]}


def brief(value: Any) -> str:
    """Returns a value of a benchmark's JSON line as short text, for a cell of the table."""
    if isinstance(value, dict):
        return "; ".join(f"{key} {brief(each)}" for key, each in value.items())
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def table(lines: list[dict[str, Any]]) -> str:
    """Returns a Markdown table with one row per benchmark. `lines` holds the benchmarks' JSON lines."""
    head = ["", "value", "baseline", "ratio", "fraction of limit", "spread", "goals"]
    rows = [head, ["---"] * len(head)]
    for each in lines:
        if "error" in each:
            rows.append(
                [f"{each['id']} {each['name']}", "failed: " + each["error"][-200:].replace("\n", " "), *[""] * 5]
            )
            continue
        said = {True: "yes", False: "NO", None: "missing"}
        goals = "; ".join(f"{goal}: {said[met]}" for goal, met in each["goals"].items())
        value = f"{brief(each['value'])} {each['unit']}"
        rows.append(
            [
                f"{each['id']} {each['name']}",
                value,
                *(brief(each[k]) for k in ("baseline", "ratio", "fraction", "spread")),
                goals,
            ]
        )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def every(options: list[str]) -> None:
    """Runs all benchmarks, each in a process of its own. Prints a table at the end.

    The result of a benchmark is appended to bench.jsonl as soon as the benchmark ends.

    Args:
        options: flags that the command of every benchmark gets, such as "--size=toy".
    """
    lines = []
    with Path(OUT).open("a", encoding="utf-8") as out:
        for name in NAMES:
            done = subprocess.run(
                [sys.executable, "-m", "experiments.bench", name, *options], capture_output=True, text=True
            )
            said = done.stdout.strip().splitlines()
            failed = {"name": name, "id": NAMES[name], "error": done.stderr[-2000:]}
            lines.append(json.loads(said[-1]) if done.returncode == 0 and said else failed)
            out.write(json.dumps(lines[-1]) + "\n")
            out.flush()
            print(f"{name}: {'failed' if 'error' in lines[-1] else 'done'}", file=sys.stderr)
    print(table(lines))


def main() -> None:
    name, *rest = sys.argv[1:] or [""]
    if name != "all" and name not in NAMES:
        sys.exit(f"benchmark {name!r} is unknown: name one of {', '.join(NAMES)}, or all")
    options = tyro.cli(Options, args=rest, prog=f"python -m experiments.bench {name}")
    if name == "all":
        every(rest)
    else:
        print(json.dumps(run(name, options)))


if __name__ == "__main__":
    main()
