"""Measures the code verifier: sandboxed runs per second.

Run: python -m experiments.bench.run_code
Prints one JSON line. A run is one program in a sandbox of its own. A program of the kind "stdin" reads one test from
standard input. A program of the kind "function" defines a function that is called ten times. All programs are distinct.
Two runs are in progress at the same time. In the JSON line, `value` is the number of "stdin" runs per second.
`baseline` is a goal, 25 runs per second on 2 cores, because no other project has a comparable sandbox. `cpu_ms` has the
CPU milliseconds per run of each kind, over all processes.
Cost: a minute on 2 cores.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

import tyro

from experiments.bench.verify_math import cpu_s
from r1jax.rewards import code, sandbox

GOAL = 25.0
STDIN = {"mode": "stdin", "tests": [["1 2\n", "3\n"]]}
CALLS = {"entry": "f", "tests": [[[i, i + 1], 2 * i + 1] for i in range(10)]}


def main(count: int = 100, repeats: int = 3, threads: int = 2) -> None:
    """Measures the sandboxed runs per second. Prints the JSON line.

    Args:
        count: number of programs of each kind (stdin, function) in one repeat.
        repeats: number of repeats; medians are printed.
        threads: number of programs that run at the same time.
    """
    rates: dict[str, list[float]] = {"stdin": [], "function": []}
    cpu_ms: dict[str, list[float]] = {"stdin": [], "function": []}
    jobs = {"stdin": ("print(sum(map(int, input().split())))", STDIN), "function": ("def f(a, b): return a + b", CALLS)}
    failed = 0
    for repeat in range(repeats):
        for name, (program, task) in jobs.items():
            programs = [f"{program}  # {repeat} {i}" for i in range(count)]
            spent, start = cpu_s(), time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                verdicts = list(pool.map(lambda text, task=task: code.grade(text, task), programs))
            rates[name].append(count / (time.perf_counter() - start))
            cpu_ms[name].append(1e3 * (cpu_s() - spent) / count)
            failed += sum(verdict.reward != 1 for verdict in verdicts)
    value = statistics.median(rates["stdin"])
    figures = {
        "name": "run_code",
        "value": round(value, 1),
        "baseline": GOAL,
        "ratio": round(value / GOAL, 2),
        "spread": round((max(rates["stdin"]) - min(rates["stdin"])) / value, 3),
        "cpu_ms": {name: round(statistics.median(each), 1) for name, each in cpu_ms.items()},
        "function_programs_per_s": round(statistics.median(rates["function"]), 1),
        "failed": failed,
        "tier": sandbox.probe().letter,
        "threads": threads,
        "repeats": repeats,
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), "cores": os.cpu_count()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    tyro.cli(main)
