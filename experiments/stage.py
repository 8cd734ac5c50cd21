"""Defines what the stages' files share: the flags of training commands, their dry runs, and stages of RL."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

from r1jax import cli, train_rl, train_sft
from r1jax.cli import FLAT
from r1jax.planning.fit import fit_rl, fit_tuning
from r1jax.planning.lengths import describe_lengths
from r1jax.planning.processes import describe_deal, place_processes
from r1jax.planning.rl import dry_run, mesh_of
from r1jax.planning.supervised import dry_tune
from r1jax.recipes import PlanOptions, RLRecipe, RunOptions, SFTRecipe, TunePlanOptions
from r1jax.rl.checks import check
from r1jax.train_rl import MakeReward

OPTIONS, PLAN, TUNE_PLAN = RunOptions(), PlanOptions(), TunePlanOptions()
Numbers = TypeVar("Numbers")


@dataclasses.dataclass(frozen=True)
class TrainCommand(Generic[Numbers]):
    """Flags of every training command: the recipe's hyperparameters, the run's options and --dry-run's options."""

    numbers: Annotated[Numbers, FLAT]
    options: Annotated[RunOptions, FLAT] = OPTIONS
    plan: Annotated[PlanOptions, FLAT] = PLAN
    recipe: str = "nano"
    """Which defaults to use: nano, paper, or another recipe of this stage, such as small for R1-Zero."""


@dataclasses.dataclass(frozen=True)
class RLCommand(TrainCommand[RLRecipe]):
    """Trains by reinforcement learning."""


@dataclasses.dataclass(frozen=True)
class TuneCommand(TrainCommand[SFTRecipe]):
    """Trains by supervised fine-tuning."""

    plan: Annotated[TunePlanOptions, FLAT] = TUNE_PLAN


def plan_rl(command: TrainCommand, numbers: RLRecipe, title: str, **beside: Any) -> str:
    """Returns the text that --dry-run prints for reinforcement learning.

    Raises ValueError if the run would refuse the hyperparameters or the mesh.

    Args:
        numbers: the hyperparameters.
        title: the name of the stage, for the heading.
        beside: other models that share the devices, as keyword arguments of `dry_run`.
    """
    o, heading = command.options, f"{title}, recipe {command.recipe}"
    check(numbers, mesh_of(o.mesh))
    if command.plan.fit:
        return fit_rl(o, numbers, command.plan, heading, **beside)
    parts = [dry_run(o, numbers, command.plan, heading, **beside), describe_lengths(o, numbers, command.plan, **beside)]
    if o.processes is not None:
        mesh = numbers.rollout_mesh or o.mesh
        parts.append(describe_deal(mesh, o.processes, numbers.questions_per_round, numbers.group_size))
    return "\n".join(parts)


def plan_tuning(command: TuneCommand, title: str, teacher: str = "") -> str:
    """Returns the text that --dry-run prints for fine-tuning.

    Raises ValueError if the run would refuse the hyperparameters or the mesh.

    Args:
        title: the name of the stage, for the heading.
        teacher: the directory of a teacher's run; empty if there is no teacher.
    """
    o, heading = command.options, f"{title}, recipe {command.recipe}"
    train_sft.check(command.numbers, mesh_of(o.mesh))
    if o.processes is not None:
        place_processes(o.mesh, o.processes)
    if command.plan.fit:
        return fit_tuning(o.model, o.weights, command.numbers, o.mesh, command.plan, heading, teacher)
    return dry_tune(o.model, o.weights, command.numbers, o.mesh, command.plan, heading, teacher)


class RLStage(NamedTuple):
    """A stage of reinforcement learning that needs no flags beyond `RLCommand`'s.

    Attributes:
        name: name of the stage's file, used in manifests and for the stage's working directories below runs/.
        title: heading of the text that --dry-run prints.
        recipes: recipes by the name that --recipe takes; the first recipe is the default.
        description: text of --help, the docstring of the stage's file.
        options: defaults of the run options.
        reward: a function that makes the stage's reward from the policy. None means the rule-based reward, weighted as
            in the recipe.
    """

    name: str
    title: str
    recipes: Mapping[str, RLRecipe]
    description: str | None
    options: RunOptions = OPTIONS
    reward: MakeReward | None = None

    def train(self, recipe: RLRecipe, options: RunOptions) -> Path:
        """Trains the stage. Returns the working directory. Raises the errors of `train_rl.train`."""
        return train_rl.train(recipe, options, self.name, self.reward)

    def commands(self) -> dict[str, RLCommand]:
        """Returns {recipe name: the command with the defaults of this recipe}."""
        return cli.commands_by_recipe(RLCommand, self.recipes, options=self.options)

    def main(self) -> None:
        """Runs the stage from the command line."""
        cli.main(
            self.commands(),
            lambda command: self.train(command.numbers, command.options),
            self.description,
            lambda command: plan_rl(command, command.numbers, self.title),
        )


def main_collecting(
    commands: Mapping[str, TuneCommand], train: Any, description: str | None, title: str, workdir: str
) -> None:
    """Runs the command of a stage that collects its own records. The same command resumes a stopped stage.

    Args:
        commands: the command of each recipe. A command has the fields of `TuneCommand`, and a field `collecting` with
            the stage's settings for collecting records.
        train: called with the hyperparameters, the run options and the value of `collecting`.
        description: text of --help.
        title: heading of the text that --dry-run prints.
        workdir: default of --workdir, the same in every call, so that the records are collected only once.
    """

    def run(command: Any) -> None:
        options = dataclasses.replace(command.options, workdir=command.options.workdir or workdir)
        train(command.numbers, options, command.collecting)

    cli.main(commands, run, description, lambda command: plan_tuning(command, title), resumes=True)
