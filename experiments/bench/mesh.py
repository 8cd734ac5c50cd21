"""C10: a mesh of two CPU devices beside one device with two threads: wall time of C1's rollout and C9's update.

Only a quiet machine can tell: with both cores taken all modes tie. The load stands in the line.
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

QUIET = 0.5  # load of others up to which the figures count


def measure(options: Options) -> dict[str, Any]:
    """The line of C10."""
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
    # How many cores each really had: below 2 the machine was not quiet, or the program has no use for them.
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
