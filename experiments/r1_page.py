"""What the page of `experiments.r1` shows besides the stages' own files: stages.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

PAPER = {  # Nature 2025, Table 2, for the page
    "AIME24 pass@1": {"R1-Zero": 77.9, "Dev1": 59.0, "Dev2": 74.0, "Dev3": 78.1, "R1": 79.8},
    "MATH-500 pass@1": {"R1-Zero": 95.9, "Dev1": 94.2, "Dev2": 95.9, "Dev3": 95.4, "R1": 97.3},
    "LiveCodeBench pass@1": {"R1-Zero": 50.0, "Dev1": 57.5, "Dev2": 63.5, "Dev3": 64.6, "R1": 65.9},
    "AlpacaEval 2.0": {"R1-Zero": 24.7, "Dev1": 50.1, "Dev2": 55.8, "Dev3": 62.1, "R1": 87.6},
    "IF-Eval": {"R1-Zero": 46.6, "Dev1": 71.7, "Dev2": 72.0, "Dev3": 78.1, "R1": 83.3},
}
FIGURES = ("pass@1", "format", "truncated", "language", "length", "helpful", "harmless", "padding")
UNITS = {"length": "tokens", "padding": "per reply"}  # of figures that are no shares
SAMPLES_SHOWN = 24  # problems of each task on the page


def read_minutes(home: Path) -> dict[str, float]:
    """What each stage has cost so far."""
    path = home / "stages.json"
    if not path.exists():
        return {}
    return {entry["stage"]: entry["minutes"] for entry in json.loads(path.read_text(encoding="utf-8"))["budget"]}


def write(
    home: Path, seed: int, names: Mapping[str, str], tasks: Sequence[str], minutes: Mapping[str, float],
    planned: Mapping[str, float],
) -> None:  # fmt: skip
    """Writes stages.json.

    Args:
        names: of the results, in their order, and their folders; the base has none.
        tasks: that were evaluated.
        minutes, planned: that each stage cost, and should.
    """
    from r1jax.lineage import write_atomically

    results = {name: read_results(evaluated(home, name, folder)) for name, folder in names.items()}
    table = []
    for task in tasks:
        for figure in FIGURES:
            values = {name: found[f"nano_{task}"] for name, found in results.items() if f"nano_{task}" in found}
            values = {name: cell[figure] | {"n": cell["n"]} for name, cell in values.items() if figure in cell}
            if values:
                unit = UNITS.get(figure, "share")
                table.append({"figure": figure, "group": task, "unit": unit, "values": values})
    document = {
        "seed": seed, "budget": [{"stage": s, "minutes": m, "planned": planned.get(s)} for s, m in minutes.items()],
        "stages": [{"name": name, "folder": folder} for name, folder in names.items()],
        "table": table, "paper": PAPER, "samples": samples(home, names, tasks),
    }  # fmt: skip
    write_atomically(home / "stages.json", json.dumps(document, ensure_ascii=False) + "\n")


def evaluated(home: Path, name: str, folder: str) -> Path:
    """Where a result is measured; a base has no folder of its own."""
    return home / "evaluation" / (folder or name.replace(" ", "_"))


def read_results(folder: Path) -> dict:
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))["benchmarks"] if path.exists() else {}


def samples(home: Path, names: Mapping[str, str], tasks: Sequence[str]) -> list[dict]:
    """The first problems of each task with what every stage wrote."""
    from r1jax import log

    found: dict[str, dict] = {}
    for name, folder in names.items():
        for task in tasks:
            path = evaluated(home, name, folder) / f"nano_{task}.jsonl"
            first = [line for line in log.read(path) if line["sample"] == 0] if path.exists() else []
            for line in first[:SAMPLES_SHOWN]:
                asked = {"id": line["id"], "problem": line["problem"], "kind": line["task"], "gold": line["gold"]}
                entry = found.setdefault(line["id"], asked | {"completions": {}})
                verdict = line["verdict"] or ("helpful" if line["helpful"] else "not helpful")
                said = {"text": line["completion"], "verdict": verdict, "truncated": line["truncated"]}
                entry["completions"][name] = said
    return list(found.values())
