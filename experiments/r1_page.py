"""Writes stages.json, from which the report page of `experiments.r1` takes names, results, samples and minutes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1jax import jsonl
from r1jax.runs.files import write_atomically

PAPER = {  # Nature 2025, Table 2, for the page
    "AIME24 pass@1": {"R1-Zero": 77.9, "Dev1": 59.0, "Dev2": 74.0, "Dev3": 78.1, "R1": 79.8},
    "MATH-500 pass@1": {"R1-Zero": 95.9, "Dev1": 94.2, "Dev2": 95.9, "Dev3": 95.4, "R1": 97.3},
    "LiveCodeBench pass@1": {"R1-Zero": 50.0, "Dev1": 57.5, "Dev2": 63.5, "Dev3": 64.6, "R1": 65.9},
    "AlpacaEval 2.0": {"R1-Zero": 24.7, "Dev1": 50.1, "Dev2": 55.8, "Dev3": 62.1, "R1": 87.6},
    "IF-Eval": {"R1-Zero": 46.6, "Dev1": 71.7, "Dev2": 72.0, "Dev3": 78.1, "R1": 83.3},
}
FIGURES = ("pass@1", "format", "truncated", "language", "length", "helpful", "harmless", "padding")
UNITS = {"length": "tokens", "padding": "per reply"}  # units of the values that are not shares
SAMPLES_SHOWN = 24  # problems per task on the page


def read_minutes(home: Path) -> dict[str, float]:
    """Returns {folder: minutes that the stage has taken so far} from stages.json; {} if there is no such file."""
    path = home / "stages.json"
    if not path.exists():
        return {}
    return {entry["stage"]: entry["minutes"] for entry in json.loads(path.read_text(encoding="utf-8"))["budget"]}


def write(
    home: Path,
    seed: int,
    names: Mapping[str, str],
    tasks: Sequence[str],
    minutes: Mapping[str, float],
    planned: Mapping[str, float],
) -> None:
    """Writes stages.json into `home`.

    Args:
        seed: the seed of the runs.
        names: name of each base and trained policy -> its folder, in the order of the report. The folder of a base is
            "".
        tasks: the tasks that were evaluated.
        minutes, planned: minutes that each stage took, and minutes that it was planned to take, by folder.
    """
    results = {name: read_results(find_evaluation(home, name, folder)) for name, folder in names.items()}
    table = []
    for task in tasks:
        for figure in FIGURES:
            values = {name: found[f"nano_{task}"] for name, found in results.items() if f"nano_{task}" in found}
            values = {name: cell[figure] | {"n": cell["n"]} for name, cell in values.items() if figure in cell}
            if values:
                unit = UNITS.get(figure, "share")
                table.append({"figure": figure, "group": task, "unit": unit, "values": values})
    document = {
        "seed": seed,
        "budget": [{"stage": s, "minutes": m, "planned": planned.get(s)} for s, m in minutes.items()],
        "stages": [{"name": name, "folder": folder} for name, folder in names.items()],
        "table": table,
        "paper": PAPER,
        "samples": samples(home, names, tasks),
    }
    write_atomically(home / "stages.json", json.dumps(document, ensure_ascii=False) + "\n")


def find_evaluation(home: Path, name: str, folder: str) -> Path:
    """Returns the directory in which a policy was evaluated.

    Args:
        name: the policy's name on the page; used if the policy is a base, which has no folder.
        folder: the folder of the stage that trained the policy; empty for a base.
    """
    return home / "evaluation" / (folder or name.replace(" ", "_"))


def read_results(folder: Path) -> dict:
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))["benchmarks"] if path.exists() else {}


def samples(home: Path, names: Mapping[str, str], tasks: Sequence[str]) -> list[dict]:
    """Returns the first `SAMPLES_SHOWN` problems of each task, with the completion of every policy.

    Args:
        names: name of each policy -> its folder.
    """
    found: dict[str, dict] = {}
    for name, folder in names.items():
        for task in tasks:
            path = find_evaluation(home, name, folder) / f"nano_{task}.jsonl"
            first = [line for line in jsonl.read(path) if line["sample"] == 0] if path.exists() else []
            for line in first[:SAMPLES_SHOWN]:
                asked = {"id": line["id"], "problem": line["problem"], "kind": line["task"], "gold": line["gold"]}
                entry = found.setdefault(line["id"], asked | {"completions": {}})
                verdict = line["verdict"] or ("helpful" if line["helpful"] else "not helpful")
                said = {"text": line["completion"], "verdict": verdict, "truncated": line["truncated"]}
                entry["completions"][name] = said
    return list(found.values())
