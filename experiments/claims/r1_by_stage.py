"""Claim: each stage of R1 adds what the paper says it adds, averaged over several seeds.

Run:     python -m experiments.claims.r1_by_stage --runs R1_RUN R1_RUN R1_RUN
Method:  averages each measured value of each policy over the seeds, which all use the same held-out problems. The
         interval of an average runs from the lowest to the highest bound of the seeds' own 95 % intervals. The claim's
         rules are checked on the averages. "reasoning" is the mean pass@1 over the tasks that have a verifier; format,
         language and length are means over the same tasks.
Expect:  every rule holds; otherwise the exit status is 1
Source:  Nature 2025, Table 2 (the paper's by-stage table) and section 2.4 (distillation beats RL on a small base); the
         thresholds are ours
Departs: stage 4 makes the paper's model more helpful, but not nano's. Section 8 of docs/results.md says why
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.claims.protocol import Bench, Finding, dots, read_stages
from r1jax import cli
from r1jax.report.stage_table import mean_of


@dataclasses.dataclass(frozen=True)
class Command:
    """Checks, on several runs of experiments.r1, that each stage adds what the paper says it adds."""

    runs: tuple[str, ...]
    """Working directories of complete runs of experiments.r1, one for each seed."""


class Cell(NamedTuple):
    mean: float
    low: float
    high: float


Table = Mapping[str, Mapping[str, Cell]]  # measured quantity, such as "length" -> policy, such as "Dev1" -> its value
Rule = Callable[[Callable[[str, str], float]], bool]
LIMIT = (
    "Helpfulness falls through stages 1 and 2, where the paper's rises, because nano's cold start has puzzles only. "
    "Stage 4 keeps it, where the paper's lifts it: nano lacks the knowledge that preferences could bring out."
)

RULES: dict[str, Rule] = {
    "R1-Zero's reasoning is 0.20 above its base's": lambda of: (
        of("reasoning", "R1-Zero") >= of("reasoning", "base") + 0.20
    ),
    "R1-Zero mixes languages": lambda of: of("language", "R1-Zero") < of("language", "base"),
    "the cold start keeps to one language": lambda of: of("language", "Dev1") >= 0.97,
    "the cold start keeps the format unless it is cut off": lambda of: (
        of("format", "Dev1") + of("truncated", "Dev1") >= of("format", "base") + of("truncated", "base") + 0.10
    ),
    "stage 2 lifts reasoning": lambda of: of("reasoning", "Dev2") >= of("reasoning", "Dev1") + 0.02,
    "stage 2 keeps language consistency near 1": lambda of: of("language", "Dev2") >= 0.98,
    "stage 3 adds general ability": lambda of: of("helpful", "Dev3") >= of("helpful", "Dev2") + 0.10,
    "stage 3 keeps reasoning": lambda of: of("reasoning", "Dev3") >= of("reasoning", "Dev2") - 0.05,
    "stage 4 improves the format": lambda of: of("format", "R1") >= of("format", "Dev3") + 0.01,
    "stage 4 keeps helpfulness": lambda of: of("helpful", "R1") >= of("helpful", "Dev3") - 0.03,
    "stage 4 keeps reasoning": lambda of: of("reasoning", "R1") >= of("reasoning", "Dev3") - 0.02,
    "stage 4 keeps harmlessness": lambda of: (
        of("harmless", "R1") >= of("harmless", "Dev3") - 0.005
    ),  # one prompt in eight asks
    "the distilled student beats the RL student": lambda of: of("reasoning", "Student") > of("reasoning", "Student RL"),
}


def pool_tasks(rows: Sequence[Mapping]) -> dict[str, dict[str, Cell]]:
    """Averages the results of one run of experiments.r1 over its tasks. Returns {figure: {policy: mean with interval}}.

    A figure is the name of a measured quantity, such as "length"; a policy is "base", "R1-Zero" and so on. The mean is
    over the tasks that have a verifier. Some figures, such as "helpful", exist only for tasks without a verifier. They
    are averaged over these tasks.

    Args:
        rows: the entry "table" of the run's stages.json.
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


def average_runs(runs: Sequence[Table]) -> dict[str, dict[str, Cell]]:
    """Averages the tables of several runs.

    An average's interval runs from the lowest to the highest bound of the runs' intervals.

    Args:
        runs: the table of each run, {figure: {policy: value}}.
    """
    return {
        figure: {
            result: Cell(
                sum(run[figure][result].mean for run in runs) / len(runs),
                min(run[figure][result].low for run in runs),
                max(run[figure][result].high for run in runs),
            )
            for result in runs[0][figure]
            if all(result in run.get(figure, {}) for run in runs)
        }
        for figure in runs[0]
    }


def counts(row: Mapping) -> list[int]:
    """Returns the problem counts behind the values of a table row, without repeats and in ascending order."""
    return sorted({value.get("n", 0) for value in row["values"].values()})


def find_broken_rules(table: Table) -> list[str]:
    """Returns the names of the rules in `RULES` that do not hold for a table of averaged results."""
    return [rule for rule, holds in RULES.items() if not holds(lambda figure, result: table[figure][result].mean)]


def read_runs(command: Command) -> list[Mapping]:
    """Returns the content of stages.json of each run.

    Raises:
        ValueError: a run has no stages.json, two runs share a seed, or the runs measured different tasks.
    """
    runs = []
    for run in command.runs:
        path = Path(run) / "stages.json"
        if not path.exists():
            raise ValueError(f"--runs: {run} has no stages.json: name working directories of experiments.r1")
        runs.append(json.loads(path.read_text(encoding="utf-8")))
    for i, seed in enumerate(seeds := [run["seed"] for run in runs]):
        if (first := seeds.index(seed)) < i:
            raise ValueError(
                f"--runs: {command.runs[first]} and {command.runs[i]} both have --seed={seed}, so they count as one: "
                "name runs of different seeds"
            )
    measured = [sorted((row["figure"], row["group"], *counts(row)) for row in run["table"]) for run in runs]
    if others := [run for run, some in zip(command.runs, measured, strict=True) if some != measured[0]]:
        raise ValueError(
            f"--runs: {others[0]} measured other tasks than {command.runs[0]}, or another number of problems: "
            "name runs with equal --tasks and --problems"
        )
    return runs


def find_missing(table: Table, results: Sequence[str]) -> str:
    """Returns which figures the rules need but the table lacks, as a text for an error message.

    An example is "format, language of R1-Zero; helpful of base". The text is "" if no figure is missing. `results`
    names the policies that must have the figures.
    """
    needed = ("reasoning", "format", "truncated", "language", "helpful", "harmless")
    missing = {name: [figure for figure in needed if name not in table.get(figure, {})] for name in results}
    return "; ".join(f"{', '.join(figures)} of {name}" for name, figures in missing.items() if figures)


def format_rows(table: Table, results: Sequence[str]) -> list[list[str]]:
    """Returns the cells of a text table: a heading, and a row for each figure. `results` names the columns."""
    rows = [["", *results]]
    for figure, cells in table.items():
        shown = "{:.0f} [{:.0f}, {:.0f}]" if figure == "length" else "{:.3f} [{:.3f}, {:.3f}]"
        rows.append([figure, *(shown.format(*cells[name]) if name in cells else "" for name in results)])
    return rows


def check(command: Command) -> bool:
    """Prints the table of averaged results by stage. Returns True if every rule of the claim holds.

    Raises:
        ValueError: the runs are incomplete, share a seed, or measured different tasks.
    """
    runs = read_runs(command)
    results = [stage["name"] for stage in runs[0]["stages"]]
    table = average_runs([pool_tasks(run["table"]) for run in runs])
    if said := find_missing(table, results):
        raise ValueError(
            f"--runs: no results for {said}. Let every run of experiments.r1 finish, with all of its --tasks"
        )
    print("| |", " | ".join(results), "|")
    print("|---|" + "---|" * len(results))
    for figure, *said in format_rows(table, results)[1:]:
        print(f"| {figure} |", " | ".join(said), "|")
    rules = find_broken_rules(table)
    print("every rule holds" if not rules else f"does not hold: {'; '.join(rules)}")
    return not rules


def find(bench: Bench) -> Finding:
    """Checks the rules on the averages of the runs of experiments.r1 in `bench.folders`. Returns the result.

    Raises:
        ValueError: the runs cannot be read, share a seed, or lack results that the rules need.
    """
    runs = read_stages(bench)
    results = [stage["name"] for stage in runs[0]["stages"]]
    tables = [pool_tasks(run["table"]) for run in runs]
    table = average_runs(tables)
    if said := find_missing(table, results):
        raise ValueError(
            f"--runs: no results for {said}. Let every run of experiments.r1 finish, with all of its --tasks"
        )
    broken = find_broken_rules(table)
    return Finding(
        "does not hold" if broken else "holds",
        f"{len(RULES) - len(broken)} of {len(RULES)} rules hold of the means of {len(runs)} runs."
        + (f" Not: {'; '.join(broken)}." if broken else ""),
        LIMIT,
        format_rows(table, results),
        [
            dots(title, "share", {name: [one[figure][name].mean for one in tables] for name in results})
            for title, figure in (("Reasoning", "reasoning"), ("One language", "language"), ("Helpful", "helpful"))
        ],
    )


if __name__ == "__main__":
    sys.exit(not cli.main(Command, check, __doc__))
