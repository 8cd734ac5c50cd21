"""What a report shows: the logs of a run as curves, and a choice of its samples."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from r1jax import log
from r1jax.behaviour import reflective_words
from r1jax.report.curve import Curve

SAMPLE_BYTES = 3_500_000  # with the rest, a page of less than 5 MB
SAMPLE_STEPS = 100
TEXT_CHARACTERS = 20_000


class Run(NamedTuple):
    """The logs of one working directory; curves by name, nested ones as `by_kind/…/accuracy`."""

    name: str
    manifest: dict
    metrics: dict[str, Curve]
    evals: dict[str, Curve]


class Samples(NamedTuple):
    """The samples shown, in the order of the log, and how many there were."""

    rows: list[dict]
    total: int
    rule: str


def load(workdir: str | os.PathLike[str]) -> Run:
    """The logs of a working directory; files that are not there yet count as empty.

    Raises:
        ValueError: there is no run here, or a log has a broken line.
    """
    folder = Path(workdir)
    manifest: dict = {}
    if (folder / "manifest.json").exists():
        try:
            manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{folder / 'manifest.json'}: not JSON ({error})") from None
        if not isinstance(manifest, dict):
            raise ValueError(f"{folder / 'manifest.json'}: not a JSON object")
    elif not (folder / "metrics.jsonl").exists():
        raise ValueError(
            f"{folder}: no run here (neither manifest.json nor metrics.jsonl); "
            "name the directory that a run was given as --workdir"
        )
    return Run(
        folder.resolve().name, manifest,
        _columns(rows(folder / "metrics.jsonl")), _columns(rows(folder / "eval.jsonl")),
    )


def rows(path: Path) -> Iterable[dict]:
    return log.stream(path) if path.exists() else ()


def _columns(rows: Iterable[dict]) -> dict[str, Curve]:
    """Rows to curves. A null is a gap; a figure that a row lacks was not due then: no gap."""
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
    """The samples that fit into `limit` bytes of JSON.

    All of them if they fit. Else `steps` of the logged steps, evenly spaced, the first and the last
    among them; then one sample of each of these steps after another, in the order of the log, until
    the limit. A text of more than `TEXT_CHARACTERS` loses its middle.
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
    "step", "round", "id", "sample", "kind", "language", "problem", "gold", "completion", "length",
    "truncated", "reward", "verdict", "advantage", "key",
)


def _slim(row: Mapping) -> dict:
    """What the page shows of a row. The prompt is the template around the problem: left out."""
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
    """A text of at most about `most` characters: what is longer loses its middle."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters …]\n{text[-half:]}"


def script_json(value: object) -> str:
    """JSON that may stand in a <script>: no <, > or &, no line separators, no lone surrogates."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\x7f\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode("utf-8", "backslashreplace").decode()
