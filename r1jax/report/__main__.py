"""`python -m r1jax.report WORKDIR [--compare WORKDIR ...]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from r1jax.report import write


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the report of the directory named on the command line; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m r1jax.report", description="Writes a run's report.html."
    )
    parser.add_argument("workdir", metavar="WORKDIR", help="the working directory of a run")
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="WORKDIR",
        help="other runs, drawn as thin lines",
    )
    options = parser.parse_args(arguments)
    try:
        print(write(options.workdir, options.compare))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
