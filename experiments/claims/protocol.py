"""Defines what every claim shares: its flags (`Bench`), what it finds (`Finding`), and intervals over seeds.

A claim is a file and a line in `table.py`. The file defines `find`, which makes the runs that are missing and returns a
`Finding`. If the claim has flags of its own, the file also defines a `Command` that extends `Bench`. `main` runs one
claim from the command line.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from r1jax import cli, storage
from r1jax.report.claim_pictures import Curves, Dots

Verdict = Literal["holds", "does not hold", "cannot be shown here"]
# Student's t at 97.5 %, by the number of seeds.
STUDENT = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
KEPT = Path(__file__).resolve().parents[2] / "docs" / "r1"  # the results of three seeds, in a clone of the repository


@dataclasses.dataclass(frozen=True)
class Bench:
    """Flags that all claims share."""

    workdir: str = "runs/claims"
    """Directory of the runs that the claims start. Claims that need the same run share it."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the runs. A 95 % interval needs at least two seeds."""
    runs: tuple[str, ...] = ()
    """Working directories of experiments.r1, one for each seed. Claims about R1's stages read them. Default:
    docs/r1/seed0 and so on, which hold results but no checkpoints."""
    steps: int = 64
    """Optimizer steps of each RL run."""
    problems: int = 512
    """Held-out problems of each evaluation."""
    flags: tuple[str, ...] = ()
    """Further flags of every RL run, such as --group-size=8."""

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"--seeds={' '.join(map(str, self.seeds))} must name at least one seed, and none twice")

    @property
    def home(self) -> Path:
        return storage.path_of(self.workdir, "--workdir")

    @property
    def folders(self) -> list[Path]:
        """The working directories of the runs of experiments.r1: those in --runs, or in docs/r1 if --runs is empty."""
        return [Path(run) for run in self.runs] or sorted(KEPT.glob("seed*"))


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of measuring a claim.

    Attributes:
        verdict: whether the claim holds on nano, the small model that ships with the package.
        figure: a sentence with the numbers that decide the verdict.
        limit: a sentence on what nano cannot show.
        table: the cells of the table's rows, the heading first; [] if there is no table.
        pictures: the charts that report.html, the page of all claims, shows for this claim.
    """

    verdict: Verdict
    figure: str
    limit: str
    table: list[list[str]] = dataclasses.field(default_factory=list)
    pictures: list[Curves | Dots] = dataclasses.field(default_factory=list)


class Interval(NamedTuple):
    """A mean over seeds, and half the width of its 95 % interval. The half-width is nan with a single seed."""

    mean: float
    half: float

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    def text(self, digits: int = 3, sign: str = "") -> str:
        """Returns "mean ± half", or the mean alone if there is one seed.

        If `sign` is "+", a mean of 0 or more is written with a plus sign.
        """
        mean = f"{self.mean:{sign}.{digits}f}"
        return mean if np.isnan(self.half) else f"{mean} ± {self.half:.{digits}f}"


def summarise(values: Sequence[float | None]) -> Interval | None:
    """Returns the mean of the values over seeds with its 95 % interval by Student's t; None if every value is None."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if len(known) < 2:
        return Interval(float(known[0]), float("nan"))
    spread = np.std(known, ddof=1) / np.sqrt(len(known))
    return Interval(float(np.mean(known)), float(STUDENT.get(len(known), 1.96) * spread))


def estimate(values: Sequence[float]) -> Interval:
    """Returns the mean of the values over seeds with its 95 % interval. No value may be None.

    `summarise` computes the same, but leaves out values that are None.

    Raises:
        ValueError: a value is None, because the seed's run was too small to measure the value.
    """
    found = summarise(values)
    if found is None or len([value for value in values if value is not None]) < len(values):
        raise ValueError("a run was too small to measure every value of this claim: raise --problems or --steps")
    return found


def decide(*rules: bool, seeds: int = 2) -> Verdict:
    """Returns "holds" if every rule holds, else "does not hold".

    With fewer than two seeds there is no interval, so the verdict is "cannot be shown here".

    Args:
        rules: whether each rule holds. A rule that compares with nan does not hold.
        seeds: number of seeds over which the rules' intervals are computed.
    """
    if seeds < 2:
        return "cannot be shown here"
    return "holds" if all(rules) else "does not hold"


def dots(title: str, unit: str, groups: Mapping[str, Sequence[float]]) -> Dots:
    """Returns a picture with a dot for each seed of each group, and the mean with its interval.

    Args:
        groups: label -> a value for each seed.
    """
    found = {}
    for label, values in groups.items():
        mean, half = estimate(values)
        found[label] = {"values": list(values), "mean": mean, "half": None if np.isnan(half) else half}
    return Dots(title, unit, found)


def missing(limit: str, what: str) -> Finding:
    """Returns the finding of a claim that cannot be measured. `what` is a sentence that says what is missing."""
    return Finding("cannot be shown here", what, limit)


def read_stages(bench: Bench) -> list[Mapping[str, Any]]:
    """Returns the content of the file stages.json in each run of experiments.r1, in the order of the runs.

    Raises:
        ValueError: no directory is found, a directory has no stages.json, or two directories have the same seed.
    """
    found: list[Mapping[str, Any]] = []
    for folder in bench.folders:
        path = folder / "stages.json"
        if not path.exists():
            raise ValueError(f"--runs: {folder} has no stages.json: name working directories of experiments.r1")
        found.append(json.loads(path.read_text(encoding="utf-8")))
    if not found:
        raise ValueError(
            "--runs is missing, and docs/r1 is not here: set --runs to working directories of experiments.r1"
        )
    if len({run["seed"] for run in found}) < len(found):
        raise ValueError("--runs: two directories have the same seed, so they count as one: name runs of other seeds")
    return found


def format_markdown(table: Sequence[Sequence[str]]) -> str:
    """Returns the table as Markdown. `table` holds the cells of each row, the heading first."""
    head, *rows = table
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows))


def show(finding: Finding) -> Finding:
    """Prints a finding, and returns it."""
    print(f"{finding.verdict}: {finding.figure}")
    if finding.table:
        print(f"\n{format_markdown(finding.table)}")
    print(f"\nWhat nano cannot show: {finding.limit}")
    return finding


def main(command: type[Bench], find: Callable[[Any], Finding], description: str | None) -> None:
    """Runs one claim from the command line."""
    cli.main(command, lambda parsed: show(find(parsed)), description, resumes=True)
