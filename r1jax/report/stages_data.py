"""What the page of all stages shows: stages.json, and the folder of every stage: `load_stages`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from r1jax.report.data import SAMPLE_BYTES, Run, load, script_json, without_middle

TEXT_CHARACTERS = 8_000  # of one completion: eight stand side by side
STAGES_FILE = "stages.json"


class Part(NamedTuple):
    """A stage or a reward model; `run` is empty before it has begun. The base has no folder."""

    name: str
    folder: str
    run: Run
    sha256: str

    @property
    def status(self) -> str:
        return str(self.run.manifest.get("status") or "") if self.folder else "complete"


class Stages(NamedTuple):
    """stages.json with what lies in the folders; what is not there yet is empty."""

    name: str
    seed: object
    parts: list[Part]
    models: list[Part]
    table: list[dict]
    paper: dict
    budget: list[dict]
    samples: list[dict]


def mapping(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> list[dict]:
    """The objects of a list; anything else holds none."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def finite(value: object) -> float | None:
    """A number that can be drawn, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def load_stages(workdir: str | os.PathLike[str]) -> Stages:
    """What there is so far.

    Raises:
        ValueError: there is no stages.json, it is no JSON object, or a log of a stage has a broken line.
    """
    home = Path(workdir)
    try:
        document = json.loads((home / STAGES_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{home}: no {STAGES_FILE} here; name the --workdir of python -m experiments.r1") from None
    except ValueError as error:
        raise ValueError(f"{home / STAGES_FILE}: not JSON ({error})") from None
    if not isinstance(document, dict):
        raise ValueError(f"{home / STAGES_FILE}: not a JSON object")
    parts = []
    for entry in listed(document.get("stages")):
        folder = str(entry.get("folder") or "")
        parts.append(Part(str(entry.get("name") or folder), folder, _run(home, folder), str(entry.get("sha256") or "")))
    return Stages(
        home.resolve().name, document.get("seed"), parts, _models(home, {part.folder for part in parts}),
        listed(document.get("table")), dict(mapping(document.get("paper"))), listed(document.get("budget")),
        listed(document.get("samples")),
    )  # fmt: skip


def _run(home: Path, folder: str) -> Run:
    """The logs of a stage. A folder outside the working directory is not looked into."""
    inside = bool(folder) and PurePath(folder).name == folder and folder not in (".", "..")
    there = inside and any((home / folder / name).exists() for name in ("manifest.json", "metrics.jsonl"))
    return load(home / folder) if there else Run(folder, {}, {}, {})


def _models(home: Path, stages: set[str]) -> list[Part]:
    """The reward models: the other folders whose manifest says so."""
    found = []
    for path in sorted(home.glob("*/manifest.json")):
        if path.parent.name not in stages:
            run = load(path.parent)
            if (stage := str(run.manifest.get("stage"))).startswith("reward_model"):
                kind = stage.removeprefix("reward_model").strip("_") or path.parent.name
                found.append(Part(f"{kind} reward", path.parent.name, run, ""))
    return found


def counts(part: Part) -> Mapping:
    """What a stage's manifest says about its data."""
    return mapping(mapping(part.run.manifest.get("data")).get("counts"))


def shown_samples(samples: Iterable[dict], names: Iterable[str], limit: int = SAMPLE_BYTES) -> tuple[list[dict], str]:
    """The samples that fit into `limit` bytes of JSON, in turn one of each kind, and a sentence about the rest."""
    known, rows = set(names), []
    for sample in samples:
        row = {key: sample[key] for key in ("id", "kind", "problem", "gold") if sample.get(key) is not None}
        for key in ("problem", "gold"):
            if isinstance(row.get(key), str):
                row[key] = without_middle(row[key], TEXT_CHARACTERS)
        row["completions"] = {}
        for name, said in mapping(sample.get("completions")).items():
            if name in known and isinstance(said, Mapping):
                text = said.get("text")
                text = text if isinstance(text, str) else "" if text is None else json.dumps(text, ensure_ascii=False)
                row["completions"][name] = {**said, "text": without_middle(text, TEXT_CHARACTERS)}
        rows.append(row)
    chosen, left = set(), limit
    turns: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        turns.setdefault(str(row.get("kind")), []).append(i)
    for turn in range(max(map(len, turns.values()), default=0)):
        for members in turns.values():
            if turn < len(members):
                size = len(script_json(rows[members[turn]]).encode())
                if size <= left:
                    chosen.add(members[turn])
                    left -= size
    kept = [row for i, row in enumerate(rows) if i in chosen]
    rule = "" if len(kept) == len(rows) else f"{len(kept):,} of {len(rows):,}, so that the page stays small. "
    return kept, rule
