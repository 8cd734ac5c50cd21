"""What a run checks before it begins; of reinforcement learning also the questions that it asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import jax
from jax.sharding import Mesh

from r1jax.data import prompts as questions
from r1jax.grpo import LOSSES
from r1jax.lineage import Manifest, without_paths
from r1jax.prompts import fill
from r1jax.recipe import RLRecipe
from r1jax.run import Policy, RunOptions
from r1jax.sharding import row_shards


def require(rules: Iterable[tuple[object, str]]) -> None:
    """Raises ValueError with the message of the first rule that does not hold."""
    for holds, message in rules:
        if not holds:
            raise ValueError(message)


def check(recipe: RLRecipe, mesh: Mesh) -> None:
    """Raises ValueError for a recipe that cannot run, before anything is allocated."""
    processes, shards = jax.process_count(), row_shards(mesh)
    rules = (
        (recipe.group_size >= 2, f"--group-size={recipe.group_size} leaves nothing to compare: at least 2"),
        (recipe.questions_per_round % (recipe.minibatches * processes) == 0,
         f"--questions-per-round={recipe.questions_per_round} must be a multiple of "
         f"--minibatches={recipe.minibatches} x {processes} processes: whole groups are split"),
        (recipe.batch_rows % shards == 0 or shards % recipe.batch_rows == 0,
         f"--batch-rows={recipe.batch_rows} does not fit {shards} row shards of the mesh: "
         f"use a multiple, such as {shards}"),
        (recipe.old_logp in ("trainer", "sampler"), f"--old-logp={recipe.old_logp} must be trainer or sampler"),
        (recipe.loss in LOSSES, f"--loss={recipe.loss} must be one of {', '.join(LOSSES)}"),
        (recipe.clip_eps_high >= 0, f"--clip-eps-high={recipe.clip_eps_high} must be 0, which is --clip-eps, or more"),
        (recipe.tis_cap == 0 or (recipe.tis_cap > 0 and recipe.old_logp == "trainer"),
         f"--tis-cap={recipe.tis_cap} needs --old-logp=trainer and a positive cap: it weighs the trainer's old policy "
         "against the sampler; leave it at 0 or use 2"),
        (recipe.temperature > 0,
         f"--temperature={recipe.temperature} must be above 0: greedy rows of a group are all the same"),
        (recipe.lora_rank >= 0, f"--lora-rank={recipe.lora_rank} must be 0, which trains every parameter, or more"),
        (recipe.late_from >= 0, f"--late-from={recipe.late_from} must be 0, which is never, or a step"),
        (0 <= recipe.carry_over <= recipe.questions_per_round - recipe.minibatches,
         f"--carry-over={recipe.carry_over} must lie between 0 and --questions-per-round={recipe.questions_per_round} "
         f"less --minibatches={recipe.minibatches}: each row may hold a group back, and every step needs one"),
        (recipe.carry_over == 0 or processes == 1,
         f"--carry-over={recipe.carry_over} needs one process, not {processes}: leave it at 0"),
        (recipe.carry_over == 0 or not recipe.replay_routes,
         f"--carry-over={recipe.carry_over} keeps no routes of rows that go on: use --replay-routes=False, "
         "or leave it at 0"),
        (recipe.steps >= 1, f"--steps={recipe.steps} must be at least 1"),
        (recipe.eval_problems >= 1, f"--eval-problems={recipe.eval_problems} must be at least 1"),
    )  # fmt: skip
    require(rules)


def check_row_length(recipe: RLRecipe, policy: Policy, examples: Iterable[Mapping]) -> None:
    """Raises ValueError where a prompt and the longest completion do not fit a packed row."""
    longest = max(len(policy.tokenizer.encode(fill(policy.template, example["problem"]))) for example in examples)
    if (needed := longest + recipe.max_tokens) > recipe.row_length:
        raise ValueError(
            f"--row-length={recipe.row_length} is too short for a prompt of {longest} tokens and "
            f"--max-tokens={recipe.max_tokens}: use at least {needed}"
        )


def check_data(workdir: Path, options: RunOptions, before: Manifest | None, data: Mapping) -> None:
    """Raises ValueError where a run that goes on would ask other questions, or earn other rewards, than it began
    with."""
    if before is None:
        return
    there, here = without_paths(before.data), without_paths(data)
    for name, what in (("sources", "rewards from "), ("preference_weight", "--preference-weight=")):
        if there.get(name) != here.get(name):
            raise ValueError(
                f"{workdir} began with {what}{before.data.get(name)}, not {data.get(name)}. "
                "Give what it began with, or name a new directory"
            )
    if there != here:
        raise ValueError(
            f"--prompts={options.prompts} gives other questions than those {workdir} began with. "
            "Restore them, or name a new directory"
        )


def questions_of(
    recipe: RLRecipe, options: RunOptions, take: questions.Take
) -> tuple[Callable[[int, int], dict], dict]:
    """The question at (index, step): `take`'s, from step `late_from` on those of --late-prompts; and what to write
    about the latter.

    Raises:
        ValueError: one of the two flags without the other; a file that cannot be read.
    """
    if bool(recipe.late_from) != bool(options.late_prompts):
        raise ValueError(
            f"--late-from={recipe.late_from} and --late-prompts={options.late_prompts} go together: "
            "give both or neither"
        )
    if not recipe.late_from:
        return lambda index, step: take(index), {}
    later, data = questions.stream(options.late_prompts, options.seed, "--late-prompts")
    return lambda index, step: (later if step >= recipe.late_from else take)(index), {"late": data}
