"""Writes a report from the command line: `python -m r1jax.report WORKDIR [--compare WORKDIR ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from r1jax import storage
from r1jax.report import write, write_stages


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report of the given directory. Returns the exit status: 0, or 2 after an error.

    Args:
        arguments: the command line without the program's name; None means the command line of this process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m r1jax.report",
        description="Writes report.html for a run, or for all stages if WORKDIR holds stages.json.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="the working directory of a run, or of experiments.r1")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="WORKDIR",
        help="other runs, drawn as thin lines",
    )
    options = parser.parse_args(arguments)
    try:
        if (storage.path_of(options.workdir, "--workdir") / "stages.json").exists():
            if options.compare:
                raise ValueError(
                    f"--compare={' '.join(options.compare)} needs a single run as WORKDIR, but {options.workdir} holds "
                    "all stages of R1. Leave --compare out, or name the folder of one stage as WORKDIR"
                )
            print(write_stages(options.workdir))
        else:
            print(write(options.workdir, options.compare))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
