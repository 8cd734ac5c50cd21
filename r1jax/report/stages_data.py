"""Loads the data for the page of all stages (`load_stages`), from stages.json and each stage's folder."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import NamedTuple

from r1jax import storage
from r1jax.report.data import SAMPLE_BYTES, Run, load, script_json, without_middle

TEXT_CHARACTERS = 8_000  # of one completion: up to eight stand side by side
STAGES_FILE = "stages.json"


class Part(NamedTuple):
    """A stage or a reward model.

    Attributes:
        name: the name on the page.
        folder: its folder in the working directory; empty for the base model.
        run: its logs; empty until training begins.
        sha256: hash of its weights, if stages.json holds it; else empty.
    """

    name: str
    folder: str
    run: Run
    sha256: str

    @property
    def status(self) -> str:
        """The status in the manifest, "running" or "complete"; "" without a manifest. A base is always "complete"."""
        return str(self.run.manifest.get("status") or "") if self.folder else "complete"


class Stages(NamedTuple):
    """The contents of stages.json, with the logs of the stages' folders. Missing entries are empty.

    The last four attributes are entries of stages.json, under the same names.

    Attributes:
        name: the working directory's name.
        seed: the runs' seed.
        parts: the stages, in the order of the page.
        models: the reward models.
        table: the results by stage.
        paper: the paper's results.
        budget: the minutes by stage.
        samples: completions by stage.
    """

    name: str
    seed: object
    parts: list[Part]
    models: list[Part]
    table: list[dict]
    paper: dict
    budget: list[dict]
    samples: list[dict]


def mapping(value: object) -> Mapping:
    """Returns the value if it is a mapping, else an empty mapping."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> list[dict]:
    """Returns the entries of a list that are dicts; an empty list for a value that is not a list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def finite(value: object) -> float | None:
    """Returns the value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def load_stages(workdir: str | os.PathLike[str]) -> Stages:
    """Loads stages.json, and the logs that exist so far in the stages' folders.

    Raises:
        ValueError: stages.json is missing or is not a JSON object, or a stage's log has a line that is not JSON.
    """
    home = storage.path_of(workdir, "--workdir")
    try:
        document = json.loads((home / STAGES_FILE).read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{home} holds no {STAGES_FILE}: give the --workdir of python -m experiments.r1") from None
    except ValueError as error:
        raise ValueError(f"{home / STAGES_FILE} is not JSON ({error}): run experiments.r1 again to write it") from None
    if not isinstance(document, dict):
        raise ValueError(f"{home / STAGES_FILE} is not a JSON object: run experiments.r1 again to write it")
    parts = []
    for entry in listed(document.get("stages")):
        folder = str(entry.get("folder") or "")
        parts.append(Part(str(entry.get("name") or folder), folder, _run(home, folder), str(entry.get("sha256") or "")))
    return Stages(
        home.resolve().name,
        document.get("seed"),
        parts,
        _models(home, {part.folder for part in parts}),
        listed(document.get("table")),
        dict(mapping(document.get("paper"))),
        listed(document.get("budget")),
        listed(document.get("samples")),
    )


def _run(home: Path, folder: str) -> Run:
    """Loads the logs of the stage in `home`/`folder`; empty logs if there are none. Reads no folder outside `home`."""
    inside = bool(folder) and PurePath(folder).name == folder and folder not in (".", "..")
    there = inside and any((home / folder / name).exists() for name in ("manifest.json", "metrics.jsonl"))
    return load(home / folder) if there else Run(folder, {}, {}, {})


def _models(home: Path, stages: set[str]) -> list[Part]:
    """Loads the reward models: the folders in `home` whose manifest names a reward model.

    Args:
        stages: folders that belong to stages, which are left out.
    """
    found = []
    for path in sorted(home.glob("*/manifest.json")):
        if path.parent.name not in stages:
            run = load(path.parent)
            if (stage := str(run.manifest.get("stage"))).startswith("reward_model"):
                kind = stage.removeprefix("reward_model").strip("_") or path.parent.name
                found.append(Part(f"{kind} reward", path.parent.name, run, ""))
    return found


def counts(part: Part) -> Mapping:
    """Returns the counts of a stage's data in its manifest; empty if there are none.

    Counts of SFT records, such as "records" and "kept", are described at `sft_data.records.counts`.
    """
    return mapping(mapping(part.run.manifest.get("data")).get("counts"))


def shown_samples(samples: Iterable[dict], names: Iterable[str], limit: int = SAMPLE_BYTES) -> tuple[list[dict], str]:
    """Selects samples that fit into `limit` bytes of JSON, one of each kind of problem in turn.

    Returns the selected samples, and a sentence that says how many of all samples were selected. The sentence is empty
    if all samples fit.

    Args:
        samples: the samples of stages.json. A sample is a problem with the completions of the stages.
        names: names of the stages; completions of other names are dropped.
    """
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
