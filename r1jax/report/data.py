"""Loads the data of a report: a run's logs as curves, and a selection of its samples."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from r1jax import jsonl, storage
from r1jax.evaluation.completions import reflective_words
from r1jax.report.curve import Curve

SAMPLE_BYTES = 3_500_000  # keeps the whole page below 5 MB
SAMPLE_STEPS = 100
TEXT_CHARACTERS = 20_000


class Run(NamedTuple):
    """The logs of one working directory.

    `metrics` has a curve for each key of metrics.jsonl, and `evals` for each key of eval.jsonl. The keys of nested
    dictionaries are joined, as in `by_kind/…/accuracy`.
    """

    name: str
    manifest: dict
    metrics: dict[str, Curve]
    evals: dict[str, Curve]


class Samples(NamedTuple):
    """The samples that the page shows.

    Attributes:
        rows: the samples, in the order of the log.
        total: number of logged samples.
        rule: a sentence for the reader that says which of the logged samples are shown.
    """

    rows: list[dict]
    total: int
    rule: str


def load(workdir: str | os.PathLike[str]) -> Run:
    """Loads the logs of a working directory. A log that does not exist yet counts as empty.

    Raises:
        ValueError: the directory has neither manifest.json nor metrics.jsonl, or a file is not JSON.
    """
    folder = storage.path_of(workdir, "--workdir")
    manifest: dict = {}
    if (folder / "manifest.json").exists():
        try:
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / 'manifest.json'} is not JSON ({error}): restore or delete it") from None
        if not isinstance(manifest, dict):
            raise ValueError(f"{folder / 'manifest.json'} is not a JSON object: restore or delete it")
    elif not (folder / "metrics.jsonl").exists():
        raise ValueError(
            f"{folder} holds no run (neither manifest.json nor metrics.jsonl): name the --workdir of a run"
        )
    return Run(
        folder.name if storage.scheme_of(folder) else folder.resolve().name,
        manifest,
        _columns(rows(folder / "metrics.jsonl")),
        _columns(rows(folder / "eval.jsonl")),
    )


def rows(path: Path) -> Iterable[dict]:
    """Returns the lines of a JSONL file as dicts; no lines if the file does not exist."""
    return jsonl.stream(path) if path.exists() else ()


def _columns(rows: Iterable[dict]) -> dict[str, Curve]:
    """Converts the lines of a log to curves by name.

    A value of null is a gap in its curve. If a line lacks a name, that curve has no point at the line's step.
    """
    curves: dict[str, Curve] = {}
    for row in rows:
        step = row.get("step")
        if not isinstance(step, int):
            continue
        for key, value in _flat(row):
            if key in ("step", "nonfinite"):
                continue
            if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
                curve = curves.setdefault(key, Curve([], []))
                curve.steps.append(step)
                finite = value is not None and math.isfinite(value)
                curve.values.append(value if finite else None)
    return {key: curve for key, curve in curves.items() if any(v is not None for v in curve.values)}


def _flat(row: Mapping, prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in row.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def choose_samples(path: Path, *, limit: int = SAMPLE_BYTES, steps: int = SAMPLE_STEPS) -> Samples:
    """Selects samples of samples.jsonl that fit into `limit` bytes of JSON.

    If not all samples fit, `steps` evenly spaced training steps are selected, including the first and the last. The
    first sample of each of these steps is taken, then the second of each, and so on, as long as they fit. The middle of
    a text longer than `TEXT_CHARACTERS` is cut out.

    Args:
        path: the file samples.jsonl.
    """
    sizes: dict[int, list[tuple[int, int]]] = {}  # step -> (line, bytes) of its samples
    total = 0
    for line, row in enumerate(rows(path)):
        step = row.get("step")
        if isinstance(step, int):
            sizes.setdefault(step, []).append((line, len(script_json(_slim(row)).encode())))
            total += 1
    if sum(size for group in sizes.values() for _, size in group) <= limit:
        chosen = {line for group in sizes.values() for line, _ in group}
        rule = f"All {total:,} logged samples."
    else:
        order = sorted(sizes)
        count = min(steps, len(order))
        apart = (len(order) - 1) / max(1, count - 1)
        picked = sorted({order[round(i * apart)] for i in range(count)})
        chosen, left = set(), limit
        for turn in range(max(len(sizes[step]) for step in picked)):
            for step in picked:
                if turn < len(sizes[step]):
                    line, size = sizes[step][turn]
                    if size <= left:
                        chosen.add(line)
                        left -= size
        rule = (
            f"{len(chosen):,} of {total:,} logged samples, so that the page stays small: from "
            f"{len(picked)} of {len(order):,} steps, evenly spaced, the first samples of each."
        )
    shown = [_slim(row) for line, row in enumerate(rows(path)) if line in chosen]
    if any("cut" in row for row in shown):
        rule += f" Texts of more than {TEXT_CHARACTERS:,} characters have lost their middle."
    return Samples(shown, total, rule)


_SHOWN = (
    "step",
    "round",
    "id",
    "sample",
    "kind",
    "language",
    "problem",
    "gold",
    "completion",
    "length",
    "truncated",
    "reward",
    "verdict",
    "why",
    "advantage",
    "key",
)


def _slim(row: Mapping) -> dict:
    """Returns the fields of a logged sample that the page shows.

    The prompt is left out: it is the template around the problem. Long texts lose their middle; `cut` is true then.
    """
    slim = {key: row[key] for key in _SHOWN if row.get(key) is not None}
    if "problem" not in slim and isinstance(row.get("prompt"), str):
        slim["problem"] = row["prompt"]
    if isinstance(slim.get("completion"), str):
        slim["words"] = reflective_words(slim["completion"])
    for key in ("problem", "completion", "gold"):
        text = slim.get(key)
        if isinstance(text, str) and len(text) > TEXT_CHARACTERS:
            slim[key] = without_middle(text)
            slim["cut"] = True
    return slim


def without_middle(text: str, most: int = TEXT_CHARACTERS) -> str:
    """Cuts the middle out of a text longer than `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"


def script_json(value: object) -> str:
    """Encodes a value as JSON that is safe inside <script>.

    The text has no <, >, &, line separators or lone surrogates.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\x7f\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()
