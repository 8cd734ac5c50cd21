"""The report of a run, or of R1's stages: one HTML page that needs no network.

    python -m r1jax.report WORKDIR                                 a directory with stages.json: all stages on one page
    python -m r1jax.report WORKDIR --compare WORKDIR2 WORKDIR3     other seeds as thin lines
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from r1jax.report import sheet
from r1jax.report.data import choose_samples, load, rows
from r1jax.report.page import page
from r1jax.report.stages import write_stages as write_stages


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
    return sheet.write(folder, html)
