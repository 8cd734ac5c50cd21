"""Claim: a small student learns more from the records of a larger model than from RL on the same questions.

Run:     python -m experiments.claims.distillation_beats_rl --runs R1_RUN R1_RUN R1_RUN
         ... without --runs                          reads the results that the repository keeps in docs/r1
Method:  reads stages.json of experiments.r1. Both students begin with the same smaller base. One student is fine-tuned
         on stage 3's records, and the other is trained by R1-Zero's recipe. Both learn nano's tasks: chains,
         comparisons, countdowns and programs. Their pass@1 on the same held-out problems is compared seed by seed, once
         over all tasks and once without programs
Expect:  the distilled student is ahead by more than the half-width of the 95 % interval over seeds, with programs and
         without
Cost:    seconds with kept results; about 60 minutes a seed for experiments.r1
Source:  DeepSeek-AI 2025, section 4.1, Table 6: distillation 72.6, RL on the same 32B base 47.0 (AIME 2024)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.claims.protocol import Bench, Finding, decide, dots, estimate, main, read_stages

STUDENTS = ("Student", "Student RL")
PROGRAMS = "program"
LIMIT = (
    "Prompts are equal, compute is not: the records cost the teacher's training and sampling, and the student by RL "
    "has had 40 steps, not the paper's ten thousand. The teacher is of nearly the student's size."
)


def read_tasks(run: Mapping) -> dict[str, dict[str, float]]:
    """Returns {task: {policy: pass@1}} of the content of a stages.json."""
    rows = [row for row in run["table"] if row["figure"] == "pass@1"]
    return {row["group"]: {name: value["mean"] for name, value in row["values"].items()} for row in rows}


def average(tasks: Mapping[str, Mapping[str, float]], names: Sequence[str], policy: str) -> float:
    """Returns a policy's mean pass@1 over the tasks called `names`.

    Raises:
        ValueError: the policy was not evaluated on one of the tasks.
    """
    if not names or any(policy not in tasks.get(name, {}) for name in names):
        raise ValueError(
            f"--runs: {policy} has no pass@1 of {', '.join(names) or 'any task'}. "
            "Let every run of experiments.r1 finish"
        )
    return sum(tasks[name][policy] for name in names) / len(names)


def find(bench: Bench) -> Finding:
    """Compares the two students of each run of experiments.r1."""
    stages = read_stages(bench)
    runs = [read_tasks(run) for run in stages]
    everything = list(runs[0])
    sets = {"all tasks": everything, "without programs": [task for task in everything if task != PROGRAMS]}
    sets |= {task: [task] for task in everything}
    minutes = [{part["stage"]: part["minutes"] for part in run["budget"]} for run in stages]
    rows = [["pass@1", "distilled", "by RL", "difference"]]
    ahead = {}
    for name, tasks in sets.items():
        distilled, by_rl = ([average(run, tasks, policy) for run in runs] for policy in STUDENTS)
        ahead[name] = [a - b for a, b in zip(distilled, by_rl, strict=True)]
        means = [estimate(values).text() for values in (distilled, by_rl)]
        rows.append([name, *means, estimate(ahead[name]).text(3, "+")])
    took = [
        estimate([run[stage] for run in minutes]).text(1)
        for stage in ("distill_nano-small", "distill_nano-small_rl")
        if all(stage in run for run in minutes)
    ]
    if len(took) == 2:
        rows.append(["minutes", *took, ""])
    whole, rest = estimate(ahead["all tasks"]), estimate(ahead["without programs"])
    return Finding(
        decide(whole.low > 0, rest.low > 0, seeds=len(runs)),
        f"The distilled student is ahead by {whole.text(3, '+')} over all tasks, and by {rest.text(3, '+')} without "
        "programs.",
        LIMIT,
        rows,
        [dots("Distilled ahead of RL", "difference of pass@1", {name: ahead[name] for name in sets})],
    )


if __name__ == "__main__":
    main(Bench, find, __doc__)
