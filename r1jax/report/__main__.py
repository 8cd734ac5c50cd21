"""`python -m r1jax.report WORKDIR [--compare WORKDIR ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from r1jax.report import write, write_stages


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report of the directory named on the command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m r1jax.report",
        description="Writes report.html: of a run, or of all stages where there is stages.json.",
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="the working directory of a run")
    parser.add_argument(
        "--compare",
        nargs="+",
        default=[],
        metavar="WORKDIR",
        help="other runs, drawn as thin lines",
    )
    options = parser.parse_args(arguments)
    try:
        if (Path(options.workdir) / "stages.json").exists():
            if options.compare:
                raise ValueError(
                    f"--compare: {options.workdir} holds stages, not a run. Name one of its folders instead"
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
