"""Records for supervised fine-tuning: a file of JSON lines that people review, the only hand-over between stages.

    id, domain, kind, task, language, problem, gold      what was asked
    raw, response                                        what was sampled; what is trained on, chain of thought included
    route, source {path, sha256}, rewritten_by           who wrote it, by which way
    keep, reason, tokens                                 whether it is trained on, and why not

A person may edit `keep` and `response`; training reads what is kept.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from r1jax import checkpoint, lineage, waves
from r1jax.launch import is_main
from r1jax.lineage import write_atomically

TEXTS = ("id", "problem", "response")


def write(path: Path, records: Sequence[Mapping]) -> None:
    """The whole file or nothing, by process 0; all processes return when it is there."""
    if is_main():
        write_atomically(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"{path.name} written")


def read(path: str | Path, flag: str = "--records") -> list[dict]:
    """All records of a file, kept or not.

    Raises:
        ValueError: it cannot be read, or a line (named) is no record.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # U+2028 may stand in a line
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{flag}={path} cannot be read ({error}). Give a .jsonl of records {{id, problem, response, keep}}"
        ) from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{flag}={path}, line {number} is not JSON ({error}). Mend it, or delete the line"
            ) from error
        bad = [name for name in TEXTS if not isinstance(record, dict) or not isinstance(record.get(name), str)]
        if bad or not isinstance(record.get("keep", True), bool):
            said = (
                f"has no text under {', '.join(bad)}"
                if bad
                else f"has keep={record['keep']!r}, which is neither true nor false"
            )
            raise ValueError(f"{flag}={path}, line {number} {said}. Mend it, or delete the line")
        found.append(record)
    return found


def kept(records: Sequence[Mapping]) -> list[Mapping]:
    return [record for record in records if record.get("keep", True)]


def counts(records: Sequence[Mapping]) -> dict:
    """What a manifest says about records: those kept by domain, route and who rewrote them; those dropped by reason.

    The reasons are counted of each domain, too, and the rewriters of each route.
    """

    def by(key: str, chosen: Sequence[Mapping]) -> dict[str, int]:
        return dict(sorted(Counter(str(record.get(key)) for record in chosen).items()))

    good = kept(records)
    dropped = [record for record in records if not record.get("keep", True)]
    domains = sorted({str(record.get("domain")) for record in dropped})
    parts = {name: [record for record in dropped if str(record.get("domain")) == name] for name in domains}
    ways = sorted({str(record.get("route")) for record in good})
    return {
        "records": len(records), "kept": len(good), "domain": by("domain", good), "route": by("route", good),
        "rewritten_by": {way: by("rewritten_by", [r for r in good if str(r.get("route")) == way]) for way in ways},
        "reason": by("reason", dropped),
        "reason_by_domain": {name: by("reason", part) for name, part in parts.items()},
    }  # fmt: skip


def sources(records: Sequence[Mapping]) -> dict[str, list]:
    """The checkpoints that wrote the records of each route, for a manifest."""
    found: dict[str, list] = {}
    for record in records:
        if record.get("source") and record["source"] not in found.setdefault(str(record.get("route")), []):
            found[str(record.get("route"))].append(dict(record["source"]))
    return found


def described(records: Sequence[Mapping], *files: str | Path) -> dict:
    """What a manifest says about the records of some files."""
    return {"counts": counts(records), "sources": sources(records), "files": lineage.files(*files)}


def beside(workdir: str | Path) -> Path:
    """Where the records of a stage lie: beside its working directory, which is a run's alone."""
    return Path(f"{str(workdir).rstrip('/')}_data")


def identity(weights: str) -> str:
    """What tells whether the weights at a path are still the same: of a run the sha256 of its newest checkpoint.

    Raises:
        ValueError: there is nothing.
    """
    if not weights or (Path(weights) / "config.json").exists():
        return weights
    return checkpoint.sha256(checkpoint.find(weights))


def claim(path: Path, settings: Mapping) -> bool:
    """Whether the records are there already; notes beside them what they were collected with.

    Raises:
        ValueError: they were collected with something else, or are none of ours.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    waves.claim(path, settings)
    return path.exists()
