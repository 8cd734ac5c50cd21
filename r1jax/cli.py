"""Runs an experiment from the command line.

The module parses the flags, prints --help, plans or runs the experiment, and turns an error into one line.

This module does not depend on the experiments, and imports nothing heavy. A command is a dataclass whose fields are
flags. An experiment passes `main` its command, a function that runs the command, and a function that plans the run.
"""

from __future__ import annotations

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from r1jax import interrupts

BARE = ("--dry-run", "--fit", "--parity")  # flags that may be given without =True
FLAT = tyro.conf.arg(name="")  # marks a field that is a dataclass: the flags of its fields get no prefix
# The beginning of a docstring line: a label or its indent, then a list number or everything before a second column.
BEGINNING = re.compile(r"(\w+: +| +)?(\d+\. |\S.* {3,}(?=\S))?")
NARROWEST = 30  # a second column narrower than this, in characters, is not folded


def main(
    command: Any,
    run: Callable[[Any], Any],
    description: str | None,
    plan: Callable[[Any], str] | None = None,
    *,
    resumes: bool = False,
) -> Any:
    """Parses the command line, then runs the command. With --dry-run, prints the plan of the command instead.

    Returns the result of `run`, or None after a plan. A user error or a non-finite loss ends the process with one line
    on standard error and exit code 1.

    Args:
        command: a dataclass whose fields are the flags, or {recipe name: dataclass}; see `parse`.
        run: runs the parsed command.
        description: the text that --help prints above the flags, usually the docstring of the experiment's module.
        plan: takes the parsed command, and returns the text that --dry-run prints. The command must have a field `plan`
            with the flags `dry_run` and `fit`. None if the command has no --dry-run.
        resumes: whether the same command line continues an interrupted run. The message after Ctrl-C then says so.
    """
    try:
        parsed = parse(command, sys.argv[1:], description)
        if plan is not None and parsed.plan.fit and not parsed.plan.dry_run:
            raise ValueError("--fit prints the settings that fit and trains nothing: give --dry-run, too")
        if plan is not None and parsed.plan.dry_run:
            print(plan(parsed))
            return None
        interrupts.raise_lost()
        result = run(parsed)
        interrupts.ignore_at_exit()
        return result
    except (ValueError, OSError, FloatingPointError, MemoryError) as error:
        sys.exit(explain(error))
    except KeyboardInterrupt:
        if not resumes:
            raise
        sys.exit("stopped; run the same command again to continue")


def commands_by_recipe(make: Callable[..., Any], recipes: Mapping[str, Any], **defaults: Any) -> dict[str, Any]:
    """Returns {recipe name: command}, the argument `command` of `parse`.

    Args:
        make: the command's class, a dataclass with the fields `numbers` (hyperparameters) and `recipe` (name).
        recipes: {recipe name: hyperparameters}. The first recipe is the default of --recipe.
        defaults: {field name: value} for other fields of the command.
    """
    return {name: make(numbers=numbers, recipe=name, **defaults) for name, numbers in recipes.items()}


def parse(command: Any, arguments: Sequence[str], description: str | None = None) -> Any:
    """Parses command-line arguments into a command.

    Args:
        command: a dataclass whose fields are the flags, or a dict {recipe name: instance of this dataclass}. With a
            dict, --recipe chooses the instance, by default the first one. The fields of the instance are the defaults
            of the flags.
        arguments: the arguments of the command line, without the program's name.
        description: the text that --help prints above the flags.

    Raises:
        ValueError: the recipe is unknown.
        SystemExit: a flag is unknown or cannot be parsed, or --help was given.
    """
    arguments = [f"{argument}=True" if argument in BARE else argument for argument in arguments]
    default = None
    if isinstance(command, Mapping):
        default = command[find_recipe(arguments, list(command))]
        command = type(default)
    more = {} if default is None else {"default": default}
    flags = (tyro.conf.FlagConversionOff,)
    return tyro.cli(command, args=arguments, description=lay_out(description), config=flags, **more)


def find_recipe(arguments: Sequence[str], names: Sequence[str]) -> str:
    """Returns the value of --recipe in `arguments`. Without this flag, returns the first of `names`.

    Raises ValueError if the value is not in `names`.
    """
    chosen = names[0]
    for i, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if flag == "--recipe":
            chosen = value or (arguments[i + 1] if i + 1 < len(arguments) else "")
    if chosen not in names:
        raise ValueError(f"--recipe={chosen} is unknown: use {' or '.join(names)}")
    return chosen


def lay_out(description: str | None) -> str | None:
    """Formats a docstring for --help: wraps its paragraphs and list entries to the terminal, with a hanging indent.

    Every line of the result but the first is indented by a space. Without this indent, tyro would join a line that
    begins with a letter to the previous line.
    """
    if description is None:
        return None
    width = shutil.get_terminal_size().columns - 2
    first, *rest = description.rstrip().splitlines()
    return "\n".join([first, *(line and f" {line}" for item in items(rest) for line in fold(item, width))])


def items(lines: Sequence[str]) -> list[str]:
    """Joins the wrapped lines of each item of a docstring into one string.

    An item is a paragraph or a list entry. A label (a word and a colon) at the start of a line begins a new paragraph.
    Lines below the label "Run:" are commands and stay separate.
    """
    found: list[str] = []
    label, hanging = "", 0
    for line in lines:
        begins = BEGINNING.match(line)
        room, mark = begins[1] or "", begins[2]
        label = room if room.strip() or not room else label
        goes_on = found and found[-1] and line and not room.strip() and not mark and len(room) == hanging
        if goes_on and not label.startswith("Run:"):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
            hanging = begins.end()
    return found


def fold(item: str, width: int) -> list[str]:
    """Wraps an item of a docstring (see `items`) into lines of at most `width` characters, with a hanging indent."""
    begins = BEGINNING.match(item)
    hanging = begins.end() if begins.end() <= width - NARROWEST else max(begins.end(1), 0)
    return textwrap.wrap(
        item, width, subsequent_indent=" " * hanging, break_long_words=False, break_on_hyphens=False
    ) or [""]


def explain(error: Exception) -> str:
    """Returns the line that the user reads when `error` ends a command."""
    from r1jax.runs.saver import is_disk_full  # it imports Orbax, which a command without checkpoints does not need

    if is_disk_full(error) and "--resume" not in str(error):
        whole = "Earlier checkpoints are intact: free some space, then continue with --resume=True"
        return f"error: the disk is full ({error}). {whole}"
    return f"error: {error}"
