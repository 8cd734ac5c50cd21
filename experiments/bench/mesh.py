"""Benchmark C10: wall time of a rollout and of an update on two CPU devices, compared with one device on two threads.

The rollout is that of benchmark C1 (`decode`), and the update is that of benchmark C9 (`update`).
The benchmark needs a quiet machine. If other work takes the cores, one device and two devices are equally fast. The
result holds the machine's load.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
from typing import Any

from experiments.bench import decode
from experiments.bench.measure import Options, line
from experiments.bench.worker import Side, take_turns

QUIET = 0.5  # highest load by other work at which the measured times count


def measure(options: Options) -> dict[str, Any]:
    """Measures tokens per second on one and on two CPU devices (benchmark C10). Returns the benchmark's JSON line.

    `ratio` is the speed on two devices divided by the speed on one device, for "decode" (the rollout) and for "update".
    """
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        shape = decode.write(directory, options.size)
        same = dict(directory=directory, group=shape["group"], tokens=shape["tokens"])
        sides = {}
        for devices in (1, 2):
            two = dict(threads=2, devices=devices)
            sides[f"decode, {devices}"] = stack.enter_context(
                Side(sys.executable, "experiments.bench.decode:ours", **two, **same)
            )
            sides[f"update, {devices}"] = stack.enter_context(
                Side(sys.executable, "experiments.bench.update:side", **two, size=options.size)
            )
        found = take_turns(sides, options.repeats)
    wall = {name: statistics.median(run["tokens"] / run["wall"] for run in runs) for name, runs in found.items()}
    # Cores that each side really used: below 2 if the machine was not quiet, or if the program cannot use both.
    cores = {name: statistics.median(run["cpu"] / run["wall"] for run in runs) for name, runs in found.items()}
    ratio = {kind: wall[f"{kind}, 2"] / wall[f"{kind}, 1"] for kind in ("decode", "update")}
    runs = [run["tokens"] / run["wall"] for run in found["decode, 2"]]
    return line(
        "mesh",
        wall["decode, 2"],
        "tokens per second of wall time, two devices",
        baseline=wall["decode, 1"],
        ratio=ratio,
        spread=(max(runs) - min(runs)) / wall["decode, 2"],
        tokens_per_wall_s=wall,
        cores_had=cores,
        quiet=load < QUIET,
        passes=options.repeats,
        goals={"decode >= 1.3 x": ratio["decode"] >= 1.3, "update >= 1.25 x": ratio["update"] >= 1.25},
    )
