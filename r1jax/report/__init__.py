"""The report of a run: one HTML page that needs no network.

    python -m r1jax.report WORKDIR
    python -m r1jax.report WORKDIR --compare WORKDIR2 WORKDIR3     other seeds as thin lines
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from r1jax.report.data import choose_samples, load, rows
from r1jax.report.page import page


def write(
    workdir: str | os.PathLike[str], compare: Sequence[str | os.PathLike[str]] = ()
) -> Path:
    """Writes `report.html` into a working directory and returns its path.

    The same logs give the same bytes.

    Args:
        compare: working directories of other runs, say other seeds, drawn as thin lines.

    Raises:
        ValueError: one of the directories holds no run, or a log has a broken line.
    """
    run, others = load(workdir), [load(other) for other in compare]
    folder = Path(workdir)
    samples = choose_samples(folder / "samples.jsonl")
    first = next(iter(rows(folder / "samples.jsonl")), {})
    html = page(run, others, samples, str(first.get("prompt") or ""))
    part = folder / "report.html.part"
    try:
        part.write_bytes(html.encode("utf-8", "replace"))
        os.replace(part, folder / "report.html")
    finally:
        part.unlink(missing_ok=True)
    return folder / "report.html"
