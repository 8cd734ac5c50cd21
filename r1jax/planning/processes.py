"""Computes which process handles which rows of a round, without starting a process."""

from __future__ import annotations

import math

import numpy as np

from r1jax.sampling.cohorts import make_cohorts, rows_of_process
from r1jax.sharding import holders_of, mesh_sizes


def place_processes(mesh: str, processes: int) -> np.ndarray:
    """Returns the process index of each device, as an array with the axes data, fsdp, tensor and expert.

    Each process has consecutive devices.

    Args:
        mesh: a value of --mesh. "auto" means one device, as in every dry run.

    Raises:
        ValueError: the processes cannot have equally many devices.
    """
    sizes = (1, 1, 1, 1) if mesh == "auto" else mesh_sizes(mesh)
    devices = math.prod(sizes)
    if processes < 1 or devices % processes:
        fitting = [n for n in range(1, devices + 1) if devices % n == 0]
        near = min(fitting, key=lambda n: abs(n - processes))
        raise ValueError(
            f"--processes={processes} does not divide the {devices} devices of --mesh={mesh}, but every process "
            f"must have equally many devices. Use --processes={near}, or another mesh"
        )
    return (np.arange(devices) // (devices // processes)).reshape(sizes)


def deal(mesh: str, processes: int, groups: int, group_size: int) -> list[np.ndarray]:
    """Returns, for each process, an array with the indices of the rows that the process handles in a round.

    A process decodes the tokens of its rows to text, and judges and counts these rows. A round has B·G rows, indexed
    from 0.

    Args:
        mesh, processes: see `place_processes`.
        groups: B, questions of the round.
        group_size: G, completions of each question.
    """
    holders, rows = holders_of(place_processes(mesh, processes)), groups * group_size
    cohorts = make_cohorts([[0]] * groups, rows, None, 0, len(holders))
    return [rows_of_process(cohorts, rows, holders, process) for process in range(processes)]


def describe_deal(mesh: str, processes: int, groups: int, group_size: int) -> str:
    """Returns lines for a dry run that say how the rows of a round are divided among the processes.

    The arguments are those of `deal`.
    """
    holders = holders_of(place_processes(mesh, processes))
    shares = [len(rows) for rows in deal(mesh, processes, groups, group_size)]
    each = place_processes(mesh, processes).size // processes
    some = f"{min(shares):,}" if min(shares) == max(shares) else f"{min(shares):,} to {max(shares):,}"
    return (
        f"{'processes':40}{processes:,} of {each:,} devices each\n"
        f"{'row shards':40}{len(holders):,}, each on {len(holders[0]):,} processes\n"
        f"{'rows of a round':40}{groups * group_size:,}, {some} for each process to judge and count"
    )
