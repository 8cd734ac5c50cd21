"""Reads and writes files of SFT records: JSON lines that people can review, and that a stage passes to the next.

    id, domain, kind, task, language, problem, gold      the question
    raw, response                                        the sampled text; the text to train on, with chain of thought
    route, source {path, sha256}, rewritten_by           how the text was made, by which checkpoint, and who rewrote it
    keep, reason, tokens                                 whether the record is trained on, why not, and its length

A person may edit `keep` and `response`. Training reads the records with keep=true.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from r1jax import storage
from r1jax.distributed import is_main, wait_for_all
from r1jax.runs import checkpoint
from r1jax.runs.files import hash_files, write_lines
from r1jax.runs.manifests import claim
from r1jax.weights import hub
from r1jax.weights.files import is_hugging_face

TEXTS = ("id", "problem", "response")


def write(path: Path, records: Sequence[Mapping]) -> None:
    """Writes the records to the file `path` (.jsonl) atomically, from process 0.

    All processes return once the file exists.
    """
    if is_main():
        write_lines(path, records)
    wait_for_all(f"{path.name} written")


def read(path: str | Path, flag: str = "--records") -> list[dict]:
    """Reads all records of a file, including records with keep=false.

    Args:
        flag: the command-line flag whose value is `path`; errors name this flag.
    Raises:
        ValueError: the file cannot be read, or a line is not a record; the message names the line.
    """
    try:
        lines = storage.path_of(path, flag).read_text(encoding="utf-8").split("\n")  # U+2028 may stand in a line
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
                f"{flag}={path}, line {number} is not JSON ({error}). Mend the line, or delete it"
            ) from error
        bad = [name for name in TEXTS if not isinstance(record, dict) or not isinstance(record.get(name), str)]
        if bad or not isinstance(record.get("keep", True), bool):
            said = (
                f"has no text under {', '.join(bad)}"
                if bad
                else f"has keep={record['keep']!r}, which is neither true nor false"
            )
            raise ValueError(f"{flag}={path}, line {number} {said}. Mend the line, or delete it")
        found.append(record)
    return found


def select_kept(records: Sequence[Mapping]) -> list[Mapping]:
    """Returns the records to train on: those with keep=true, and those without the key `keep`."""
    return [record for record in records if record.get("keep", True)]


def counts(records: Sequence[Mapping]) -> dict:
    """Returns the numbers of records for a manifest, as a dict.

    "records" is the number of all records, and "kept" the number of records with keep=true. "domain" and "route" count
    the kept records for each domain and for each route. "rewritten_by" counts, within each route, the kept records of
    each rewriter. "reason" counts the dropped records for each reason. "reason_by_domain" does the same within each
    domain.
    """

    def by(key: str, chosen: Sequence[Mapping]) -> dict[str, int]:
        return dict(sorted(Counter(str(record.get(key)) for record in chosen).items()))

    good = select_kept(records)
    dropped = [record for record in records if not record.get("keep", True)]
    domains = sorted({str(record.get("domain")) for record in dropped})
    parts = {name: [record for record in dropped if str(record.get("domain")) == name] for name in domains}
    ways = sorted({str(record.get("route")) for record in good})
    return {
        "records": len(records),
        "kept": len(good),
        "domain": by("domain", good),
        "route": by("route", good),
        "rewritten_by": {way: by("rewritten_by", [r for r in good if str(r.get("route")) == way]) for way in ways},
        "reason": by("reason", dropped),
        "reason_by_domain": {name: by("reason", part) for name, part in parts.items()},
    }


def sources(records: Sequence[Mapping]) -> dict[str, list]:
    """Returns, for each route, the distinct checkpoints ({path, sha256}) that wrote its records, for a manifest."""
    found: dict[str, list] = {}
    for record in records:
        if record.get("source") and record["source"] not in found.setdefault(str(record.get("route")), []):
            found[str(record.get("route"))].append(dict(record["source"]))
    return found


def make_manifest_entry(records: Sequence[Mapping], *files: str | Path) -> dict:
    """Returns a manifest's entry about records: their `counts`, their `sources`, and the hashes of `files`."""
    return {"counts": counts(records), "sources": sources(records), "files": hash_files(*files)}


def beside(workdir: str | Path) -> Path:
    """Returns the folder of a stage's records, WORKDIR_data. WORKDIR itself holds only the run's own files."""
    return storage.path_of(f"{str(workdir).rstrip('/')}_data")


def identity(weights: str, flag: str = "--weights") -> str:
    """Returns a text that identifies the weights at a path.

    For a run's directory, this is the sha256 of the run's newest checkpoint. For a Hugging Face folder, or an empty
    path, it is the path itself. For a model of the Hub, it is the path of the model's snapshot.

    Args:
        flag: the command-line flag whose value is `weights`; errors name this flag.
    Raises:
        ValueError: the directory holds no checkpoint.
    """
    weights = hub.locate(weights, flag)
    if not weights or is_hugging_face(storage.path_of(weights, flag)):
        return weights
    return checkpoint.sha256(checkpoint.find(weights, flag=flag), flag)


def claim_records(path: Path, settings: Mapping) -> bool:
    """Checks the settings of a file of records, and returns whether the file exists already.

    Compares `settings` with the settings stored beside the file. If none are stored yet, stores `settings` there.

    Raises:
        ValueError: the stored settings differ from `settings`, or the file exists without stored settings.
    """
    storage.make_folder(path.parent)
    claim(path, settings)
    return path.exists()
