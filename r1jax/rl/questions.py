"""Opens the questions of a reinforcement-learning run: its stream of training questions, and its held-out problems."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax

from r1jax.data import questions
from r1jax.data.difficulty import read_difficulty
from r1jax.data.readers import read_columns
from r1jax.policy import Policy
from r1jax.prompts import fill
from r1jax.recipes import RLRecipe, RunOptions
from r1jax.rewards import custom
from r1jax.rl.rounds import Ask
from r1jax.runs.manifests import Manifest, without_paths
from r1jax.runs.run import Run

GENERATED = 256  # `fit_questions` reads this many questions of a generator


class Questions(NamedTuple):
    """The questions of a run.

    Attributes:
        ask: `(index in the stream, optimizer step) -> question`.
        held_out: the held-out problems.
        data: the manifest's entry for the questions and rewards.
        without: {problem: reason} of rows that are not trained on.
    """

    ask: Ask
    held_out: list[dict]
    data: dict
    without: dict[str, str]


def open_questions(run: Run, recipe: RLRecipe, rewards: Mapping) -> Questions:
    """Opens the training questions and the held-out problems. Prints how the file of --prompts was read.

    Args:
        rewards: the manifest's entries for the files and checkpoints that define the reward. They are added to `data`
            of the result. Empty for the rule reward.

    Raises:
        ValueError: a file cannot be read, or the rule reward grades no row of --prompts.
    """
    options = run.options
    how = dict(free=bool(options.reward), columns=read_columns(options.column))
    held = hold_out(options, recipe.eval_problems)
    without = {row["problem"]: "held_out" for row in held or ()}
    ask, data = questions_of(recipe, options, without)
    if questions.generator_mix(options.prompts) is None:
        if recipe.accuracy_weight and not rewards:
            questions.require_verifier(options.prompts, (ask(i, 0)["kind"] for i in range(data["counts"]["rows"])))
        tell(
            f"--prompts={options.prompts}: {data['counts']['rows']} rows, {questions.describe(options.prompts, **how)}"
        )
    if held is None:
        held = questions.held_out(options.eval_prompts, recipe.eval_problems, **how)
    else:
        tell(
            f"{data['counts']['held_out']} rows of --prompts are held out for evaluation and not trained on, since "
            f"--eval-prompts={options.eval_prompts} names no file"
        )
    return Questions(ask, held, data | dict(rewards), without)


def fit_questions(run: Run, recipe: RLRecipe, policy: Policy, found: Questions) -> Questions:
    """Returns the questions whose prompts leave room for --max-tokens in a packed row of --row-length tokens. Records
    questions and rewards in the manifest.

    Reads every question in the files of --prompts and --late-prompts, or the first `GENERATED` questions of a
    generator. Prints how many rows of the files are dropped.

    Args:
        policy: the policy, whose template and tokenizer turn questions into prompts.
        found: the questions, from `open_questions`.

    Raises:
        ValueError: a question of a generator does not fit, or no row of a file does; or the run is resumed and began
            with other questions or rewards.
    """
    data, room = found.data, recipe.row_length - recipe.max_tokens
    streams = [
        (0, data, "--prompts"),
        *([(recipe.late_from, data["late"], "--late-prompts")] if "late" in data else []),
    ]
    long: dict[str, str] = {}
    for step, of, flag in streams:
        rows = of["counts"].get("rows")
        asked = [found.ask(i, step)["problem"] for i in range(GENERATED if rows is None else rows)]
        sizes = [len(policy.tokenizer.encode(fill(policy.template, problem))) for problem in asked]
        over = {problem: "too_long" for problem, size in zip(asked, sizes, strict=True) if size > room}
        if over and (rows is None or min(sizes) > room):
            raise ValueError(
                f"--row-length={recipe.row_length} is too short for a prompt of {max(sizes)} tokens and "
                f"--max-tokens={recipe.max_tokens}: use at least {max(sizes) + recipe.max_tokens}"
            )
        if over:
            tell(
                f"{len(over)} of {rows} problems of {flag} are dropped: their prompts have up to {max(sizes)} tokens, "
                f"and --row-length={recipe.row_length} less --max-tokens={recipe.max_tokens} leaves {room}"
            )
        long |= over
    if long:
        rewards = {name: value for name, value in data.items() if name not in ("sha256", "counts", "late")}
        ask, data = questions_of(recipe, run.options, found.without | long)
        found = found._replace(ask=ask, data=rewards | data, without=found.without | long)
    check_data(run.workdir, run.options, run.before, found.data)
    run.claim(found.data, "questions")
    return found


def tell(text: str) -> None:
    """Prints a line on standard error, from process 0."""
    if jax.process_index() == 0:
        print(text, file=sys.stderr, flush=True)


def hold_out(options: RunOptions, count: int) -> list[dict] | None:
    """Returns the rows of --prompts that are held out for evaluation; None if no rows are held out.

    Rows are held out if --prompts names a file and --eval-prompts names the puzzle generator (nano, the default). The
    evaluation then uses these rows, so that a policy that learns from a file is not measured on puzzles.

    Args:
        count: the largest number of rows to hold out.
    """
    if questions.generator_mix(options.prompts) is not None or questions.generator_mix(options.eval_prompts) is None:
        return None
    columns = read_columns(options.column)
    return questions.split_off(options.prompts, count, free=bool(options.reward), columns=columns)


def check_data(workdir: Path, options: RunOptions, before: Manifest | None, data: Mapping) -> None:
    """Raises ValueError if a resumed run would use other questions or rewards than it began with.

    Args:
        workdir, options: the run's directory and flags, for errors.
        before: the manifest of the run that is resumed; None for a new run.
        data: the entry `data` that this command would write to the manifest.
    """
    if before is None:
        return
    there, here = without_paths(before.data), without_paths(data)
    if there.get("rewards") != here.get("rewards"):
        began, now = (custom.format_terms(of.get("rewards")) for of in (before.data, data))
        raise ValueError(
            f"--workdir={workdir} holds a run that began with --reward={began}, and this command has --reward={now}. "
            "Restore the functions, files and weights that it began with, or name a new directory with --workdir"
        )
    for name, what in (("sources", "rewards from "), ("preference_weight", "--preference-weight=")):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"--workdir={workdir} holds a run that began with {what}{before.data.get(name)}, not {data.get(name)}. "
                "Use what it began with, or name a new directory"
            )
    if there != here:
        raise ValueError(
            f"--prompts={options.prompts} gives other questions than the run in --workdir={workdir} began with. "
            "Restore the old questions, or name a new directory"
        )


def questions_of(
    recipe: RLRecipe, options: RunOptions, without: Mapping[str, str] = questions.NOTHING
) -> tuple[Ask, dict]:
    """Returns a function `(index in the stream, step) -> question`, and the manifest's entry for the questions.

    Questions come from --prompts. From step `late_from` on, they come from --late-prompts. With --reward, the rows of
    the files need no `kind`, because the kind does not choose a verifier then.

    Args:
        without: {problem: reason} of rows that are left out.

    Raises:
        ValueError: only one of --late-from and --late-prompts is given, a file cannot be read, or --decontaminate
            cannot be used (see `questions.stream`).
    """
    rules = dict(
        free=bool(options.reward),
        benchmarks=options.decontaminate,
        without=without,
        columns=read_columns(options.column),
    )
    chosen = read_difficulty(recipe.keep_pass_rate, recipe.pass_rates, in_order=recipe.curriculum)
    take, data = questions.stream(options.prompts, options.seed, difficulty=chosen, **rules)
    say_dropped(data, "--prompts")
    if bool(recipe.late_from) != bool(options.late_prompts):
        raise ValueError(
            f"--late-from={recipe.late_from} and --late-prompts={options.late_prompts} go together: "
            "give both or neither"
        )
    if not recipe.late_from:
        return lambda index, step: take(index), data
    later, late = questions.stream(options.late_prompts, options.seed, "--late-prompts", **rules)
    say_dropped(late, "--late-prompts")
    return lambda index, step: (later if step >= recipe.late_from else take)(index), data | {"late": late}


def say_dropped(data: Mapping, flag: str) -> None:
    """Prints how many rows --decontaminate dropped from the file of questions.

    Args:
        data: the manifest's entry for the questions, which has the number.
        flag: the flag that named the file, "--prompts" or "--late-prompts".
    """
    if "dropped" in data["counts"]:
        dropped, kept = data["counts"]["dropped"], data["counts"]["rows"]
        tell(
            f"--decontaminate: {dropped} of {dropped + kept} rows of {flag} share 10 words in a row with a benchmark "
            "and are dropped"
        )
