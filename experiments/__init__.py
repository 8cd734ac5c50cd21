"""Holds the training recipes and the other commands: `python -m experiments.NAME` runs experiments/NAME.py."""

import sys

if sys.argv[:1] == ["-m"]:  # Python imports this package first when it starts such a command
    from r1jax import interrupts

    interrupts.remember()
