"""Command lines of experiments: a recipe by name; of reinforcement learning also the options of a run and a plan
without one."""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from r1jax.plan import PlanOptions, dry_run
from r1jax.plan_supervised import dry_tune
from r1jax.recipe import RLRecipe
from r1jax.run import RunOptions, explained

DEFAULT_OPTIONS, DEFAULT_PLAN = RunOptions(), PlanOptions()  # frozen, so one of each serves everybody


@dataclasses.dataclass(frozen=True)
class RLCommand:
    """A reinforcement-learning run."""

    numbers: Annotated[RLRecipe, tyro.conf.arg(name="")]
    options: Annotated[RunOptions, tyro.conf.arg(name="")] = DEFAULT_OPTIONS
    plan: Annotated[PlanOptions, tyro.conf.arg(name="")] = DEFAULT_PLAN
    recipe: str = "nano"
    """Whose numbers are the defaults: nano or paper."""


def by_recipe(
    make: Callable[..., Any], recipes: Mapping[str, Any], description: str | None, arguments: Sequence[str]
) -> Any:
    """A command whose `--recipe`, nano by default, chooses the defaults; every other flag overrides one of them.

    Args:
        make: the command, a dataclass, given the numbers of a recipe and `recipe`, its name.

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
    default = make(recipes[chosen], recipe=chosen)
    flags = (tyro.conf.FlagConversionOff,)
    return tyro.cli(type(default), args=list(arguments), default=default, description=description, config=flags)


def fine_tune(
    title: str, workdir: str, make: Callable[..., Any], recipes: Mapping[str, Any], description: str | None,
    train: Callable[..., Path | None],
) -> None:
    """The command line of a stage that collects its own records: plans or trains, and ends as `run` does.

    Args:
        workdir: where --workdir does not say.
        make: the command, given the numbers of a recipe and its name; it has numbers, collecting, options and plan.
    """  # fmt: skip
    try:
        command = by_recipe(make, recipes, description, sys.argv[1:])
        if command.plan.dry_run:
            o, heading = command.options, f"{title}, recipe {command.recipe}"
            print(dry_tune(o.model, o.weights, command.numbers, o.mesh, command.plan, heading))
            return
        options = dataclasses.replace(command.options, workdir=command.options.workdir or workdir)
        train(command.numbers, options, command.collecting)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on")


def parse(
    arguments: list[str],
    recipes: Mapping[str, RLRecipe],
    description: str | None,
    options: RunOptions = DEFAULT_OPTIONS,
) -> RLCommand:
    """The command line of a reinforcement-learning run.

    Raises:
        ValueError: a recipe that is not there.
    """
    return by_recipe(functools.partial(RLCommand, options=options), recipes, description, arguments)


def run(
    title: str,
    recipes: Mapping[str, RLRecipe],
    description: str | None,
    train: Callable[[RLRecipe, RunOptions], Path],
    options: RunOptions = DEFAULT_OPTIONS,
) -> None:
    """Parses the command line, then plans or trains. A user's error ends in one line on stderr and exit code 1."""
    try:
        command = parse(sys.argv[1:], recipes, description, options)
        if command.plan.dry_run:
            o = command.options
            heading = f"{title}, recipe {command.recipe}"
            print(dry_run(o.model, o.weights, command.numbers, o.mesh, command.plan, heading))
            return
        train(command.numbers, command.options)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(explained(error))
