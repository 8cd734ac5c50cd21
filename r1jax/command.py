"""The command line of a reinforcement-learning experiment: its recipes, the options of every run, a plan without a run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import tyro

from r1jax.plan import PlanOptions, dry_run
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions, explained


@dataclasses.dataclass(frozen=True)
class RLCommand:
    """A reinforcement-learning run."""

    numbers: Annotated[RLRecipe, tyro.conf.arg(name="")]
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = RunOptions()
    plan: Annotated[PlanOptions, tyro.conf.arg(name="")] = PlanOptions()
    recipe: str = "nano"
    """Whose numbers are the defaults: nano or paper."""


def parse(
    arguments: list[str], recipes: Mapping[str, RLRecipe], description: str | None, options: RunOptions = RunOptions()
) -> RLCommand:
    """The command line. `--recipe` chooses the defaults; every other flag overrides one of them.

    Raises:
        ValueError: a recipe that is not there.
    """
    arguments = ["--dry-run=True" if argument == "--dry-run" else argument for argument in arguments]
    chosen = "nano"
    for i, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--recipe":
            chosen = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
    if chosen not in recipes:
        raise ValueError(f"--recipe={chosen} is unknown: use {' or '.join(recipes)}")
    default = RLCommand(recipes[chosen], options, recipe=chosen)
    return tyro.cli(RLCommand, args=arguments, default=default, description=description, config=(tyro.conf.FlagConversionOff,))


def run(
    title: str,
    recipes: Mapping[str, RLRecipe],
    description: str | None,
    train: Callable[[RLRecipe, RunOptions], Path],
    options: RunOptions = RunOptions(),
) -> None:
    """Parses the command line, then plans or trains. A user's error ends in one line on stderr and exit code 1."""
    try:
        command = parse(sys.argv[1:], recipes, description, options)
        if command.plan.dry_run:
            o = command.options
            print(dry_run(o.model, o.weights, command.numbers, o.mesh, command.plan, f"{title}, recipe {command.recipe}"))
            return
        train(command.numbers, command.options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
