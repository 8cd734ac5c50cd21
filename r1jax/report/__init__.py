"""Writes the report of a run, or of R1's stages: one HTML page that needs no network.

python -m r1jax.report WORKDIR                                 a run, or all stages if WORKDIR holds stages.json
python -m r1jax.report WORKDIR --compare WORKDIR2 WORKDIR3     a run, with other runs as thin lines
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from r1jax import storage
from r1jax.report import sheet
from r1jax.report.data import choose_samples, load, rows
from r1jax.report.page import page
from r1jax.report.stages import write_stages as write_stages


def write(workdir: str | os.PathLike[str], compare: Sequence[str | os.PathLike[str]] = ()) -> Path:
    """Writes `report.html` into a working directory and returns the file's path.

    Equal logs give an equal file, byte for byte.

    Args:
        workdir: the working directory of the run.
        compare: working directories of other runs, such as other seeds. Their curves are drawn as thin lines.

    Raises:
        ValueError: a directory holds no run, or a log has a line that is not JSON.
    """
    run, others = load(workdir), [load(other) for other in compare]
    folder = storage.path_of(workdir, "--workdir")
    samples = choose_samples(folder / "samples.jsonl")
    first = next(iter(rows(folder / "samples.jsonl")), {})
    html = page(run, others, samples, str(first.get("prompt") or ""))
    return sheet.write(folder, html)
