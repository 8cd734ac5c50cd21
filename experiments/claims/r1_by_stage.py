"""Claim: each stage of R1 adds what the paper says it adds, whatever the seed.

Run:     python -m experiments.claims.r1_by_stage --runs R1_RUN R1_RUN R1_RUN
Method:  the figures of `experiments.r1` for every result on the same held-out problems, averaged over the seeds, each
         with the lowest and the highest bound of the seeds' own 95 % intervals; and what must hold of the averages.
         "reasoning" is the mean pass@1 of the tasks that have a rule; format, language and length are theirs, too.
Expect:  every line holds, or the exit status says that one does not
Source:  Nature 2025, Table 2 (the paper's by-stage table) and section 2.4 (distillation beats RL on a small base); the
         bounds are ours
Departs: stage 4 does not make nano more helpful, as it makes the paper's: BUILD_NOTES 8 says why
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import tyro

from r1jax.report.stage_table import mean_of


@dataclasses.dataclass(frozen=True)
class Command:
    """What the stages of R1 did, in several runs."""

    runs: tuple[str, ...]
    """Working directories of complete runs of experiments.r1, one of each seed."""


class Cell(NamedTuple):
    mean: float
    low: float
    high: float


Table = Mapping[str, Mapping[str, Cell]]  # figure -> result -> its value
Rule = Callable[[Callable[[str, str], float]], bool]

RULES: dict[str, Rule] = {
    "R1-Zero reasons, 0.20 above its base": lambda of: of("reasoning", "R1-Zero") >= of("reasoning", "base") + 0.20,
    "R1-Zero mixes languages": lambda of: of("language", "R1-Zero") < of("language", "base"),
    "the cold start keeps to one language": lambda of: of("language", "Dev1") >= 0.97,
    "and to its form, unless it is cut off": lambda of: of("format", "Dev1") + of("truncated", "Dev1")
    >= of("format", "base") + of("truncated", "base") + 0.10,
    "stage 2 lifts reasoning": lambda of: of("reasoning", "Dev2") >= of("reasoning", "Dev1") + 0.02,
    "with consistency near 1": lambda of: of("language", "Dev2") >= 0.98,
    "stage 3 adds general ability": lambda of: of("helpful", "Dev3") >= of("helpful", "Dev2") + 0.10,
    "and keeps reasoning": lambda of: of("reasoning", "Dev3") >= of("reasoning", "Dev2") - 0.05,
    "stage 4 mends the form": lambda of: of("format", "R1") >= of("format", "Dev3") + 0.01,
    "without losing what is helpful": lambda of: of("helpful", "R1") >= of("helpful", "Dev3") - 0.03,
    "nor reasoning": lambda of: of("reasoning", "R1") >= of("reasoning", "Dev3") - 0.02,
    "nor doing harm": lambda of: of("harmless", "R1") >= of("harmless", "Dev3") - 0.005,  # one prompt in eight asks
    "the distilled student beats the student of RL": lambda of: of("reasoning", "Student")
    > of("reasoning", "Student RL"),
}


def pooled(rows: Sequence[Mapping]) -> dict[str, dict[str, Cell]]:
    """figure -> result -> the mean over one run's tasks, of the rows of its stages.json.

    Of tasks that have a rule; what only the others have, such as helpfulness, is theirs.
    """
    ruled = {row["group"] for row in rows if row["figure"] == "pass@1"}
    measured = {row["figure"] for row in rows if row["group"] in ruled}
    kept: dict[str, list[Mapping]] = {}
    for row in rows:
        if row["figure"] in measured and row["group"] not in ruled:
            continue
        name = "reasoning" if row["figure"] == "pass@1" else row["figure"]
        kept.setdefault(name, []).append(row["values"])
        if name == "reasoning":
            kept[f"  {row['group']}"] = [row["values"]]
    return {
        figure: {
            result: Cell(*mean_of([tuple(task[result][part] for part in Cell._fields) for task in tasks]))
            for result in tasks[0]
            if all(result in task for task in tasks)
        }
        for figure, tasks in kept.items()
    }


def averaged(runs: Sequence[Table]) -> dict[str, dict[str, Cell]]:
    """The mean over runs, with the lowest and the highest of their bounds."""
    return {
        figure: {
            result: Cell(
                sum(run[figure][result].mean for run in runs) / len(runs),
                min(run[figure][result].low for run in runs), max(run[figure][result].high for run in runs),
            )
            for result in runs[0][figure]
            if all(result in run.get(figure, {}) for run in runs)
        }
        for figure in runs[0]
    }  # fmt: skip


def counts(row: Mapping) -> list[int]:
    """How many problems the cells of a row are of."""
    return sorted({value.get("n", 0) for value in row["values"].values()})


def broken(table: Table) -> list[str]:
    """The rules that do not hold."""
    return [rule for rule, holds in RULES.items() if not holds(lambda figure, result: table[figure][result].mean)]


def main(command: Command) -> bool:
    """Prints the table. True if every rule holds."""
    runs = []
    for run in command.runs:
        path = Path(run) / "stages.json"
        if not path.exists():
            raise ValueError(f"--runs: {run} has no stages.json: give working directories of experiments.r1")
        runs.append(json.loads(path.read_text(encoding="utf-8")))
    if len({run["seed"] for run in runs}) < len(runs):
        raise ValueError("--runs: two of them have one seed, so that they are one run: give runs of different seeds")
    results = [stage["name"] for stage in runs[0]["stages"]]
    measured = [sorted((row["figure"], row["group"], *counts(row)) for row in run["table"]) for run in runs]
    if any(some != measured[0] for some in measured):
        raise ValueError("--runs: they measured other tasks, or other numbers of problems: give --runs that are alike")
    table = averaged([pooled(run["table"]) for run in runs])
    needed = ("reasoning", "format", "truncated", "language", "helpful", "harmless")
    missing = {name: [figure for figure in needed if name not in table.get(figure, {})] for name in results}
    if said := "; ".join(f"{', '.join(figures)} of {name}" for name, figures in missing.items() if figures):
        raise ValueError(f"--runs: no figures of {said}: let every run end, with all of its --tasks")
    print("| |", " | ".join(results), "|")
    print("|---|" + "---|" * len(results))
    for figure, cells in table.items():
        shown = "{:.0f} [{:.0f}, {:.0f}]" if figure == "length" else "{:.3f} [{:.3f}, {:.3f}]"
        said = (shown.format(*cells[name]) if name in cells else "" for name in results)
        print(f"| {figure} |", " | ".join(said), "|")
    rules = broken(table)
    print("every rule holds" if not rules else f"does not hold: {'; '.join(rules)}")
    return not rules


if __name__ == "__main__":
    try:
        sys.exit(not main(tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,))))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
