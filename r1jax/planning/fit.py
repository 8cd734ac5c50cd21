"""Searches for the settings with which a run fits a device, for `--dry-run --fit`.

Three settings are searched. Two of them change memory and speed, but not what a run learns: the number of packed rows
in a forward pass, and the number of completions sampled at once (a wave). The third is the rank of the adapters. It
decides what is trained: adapters of this rank, or all parameters if the rank is 0.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from r1jax.planning.rl import PROMPT, config_of, mesh_of, plan, teacher_of
from r1jax.planning.roofline import DEVICES, usable_memory
from r1jax.planning.supervised import tune
from r1jax.recipes import PlanOptions, RLRecipe, RunOptions, SFTRecipe, TunePlanOptions
from r1jax.sharding import row_shards

RANK = 32  # of the adapters that are tried

Flags = Mapping[str, int]  # name of a recipe's field -> value
Peak = Callable[[Flags, str], float]  # (flags, mesh) -> bytes that one device needs at its peak


class Choices(NamedTuple):
    """The values that a search tries for each setting, in the order in which the search tries them.

    Attributes:
        ranks: ranks of adapters; 0 trains all parameters.
        rows: {field of the recipe: numbers of packed rows in a forward pass, from large to small}. Has one key.
        waves: {field of the recipe: numbers of completions sampled at once, from large to small}. Has one key. The
            number 0 stands for all completions of a round. {} for a run without sampling.
    """

    ranks: list[int]
    rows: dict[str, list[int]]
    waves: dict[str, list[int]]


class Setting(NamedTuple):
    """Flags with which a run fits, and the bytes that one device needs at its peak."""

    flags: Flags
    peak: float


def halvings(largest: int, of: int) -> list[int]:
    """Returns `largest`, its half, its quarter and so on down to `of`, each rounded up to a multiple of `of`."""
    found = [-(-max(largest, 1) // of) * of]
    while found[-1] > of:
        found.append(-(-found[-1] // (2 * of)) * of)
    return found


def search(choices: Choices, peak: Peak, mesh: str, usable: float) -> list[Setting]:
    """Returns the settings that fit, in the order of `choices`: training all parameters comes first, then adapters.

    For each rank, the settings go from many packed rows to few. A setting with fewer rows is returned only if it
    needs less memory than the settings with more rows. All settings of a rank have the same wave: the largest wave that
    fits together with the fewest packed rows. More packed rows need no smaller wave, because sampling and updates never
    need their memory at the same time.

    Args:
        choices: the values to try.
        peak: a function `(flags, mesh)` that returns the bytes that one device needs at its peak.
        mesh: a value of --mesh.
        usable: bytes of a device's memory that arrays may take.
    """
    ((field, sizes),) = choices.rows.items()
    found = []
    for rank in choices.ranks:
        smallest = {"lora_rank": rank, field: sizes[-1]}
        wave = next((wave for wave in waves_of(choices) if peak(smallest | wave, mesh) < usable), None)
        if wave is None:
            continue
        least = usable
        for rows in sizes:
            flags = {"lora_rank": rank, field: rows} | wave
            if (needed := peak(flags, mesh)) < least:
                found.append(Setting(flags, needed))
                least = needed
    return found


def waves_of(choices: Choices) -> Iterator[dict[str, int]]:
    """Yields {field: completions in a wave}, the largest wave first. For a run without sampling, yields {} once."""
    if not choices.waves:
        yield {}
    for field, sizes in choices.waves.items():
        yield from ({field: size} for size in sizes)


def smallest_of(choices: Choices) -> Flags:
    """Returns the flags of the smallest setting in `choices`, the one that needs the least memory."""
    least = {field: sizes[-1] for field, sizes in (choices.rows | choices.waves).items()}
    return {"lora_rank": choices.ranks[-1]} | least


def write_flags(flags: Flags) -> str:
    """Returns flags as command-line text. Leaves out flags whose value is 0, because 0 is their default."""
    return " ".join(f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value)


def describe(choices: Choices, peak: Peak, mesh: str, options: PlanOptions, title: str) -> str:
    """Returns the text that `--dry-run --fit` prints: the settings that fit, as flags.

    Settings that train all parameters come first. For each rank, the settings go from many packed rows to few.

    Raises:
        ValueError: no setting fits. The message says how much memory is missing, and on which mesh, if any, the
            smallest setting would fit.
    """
    device = DEVICES[options.device]
    usable = usable_memory(options.device)
    found, devices = search(choices, peak, mesh, usable), mesh_of(mesh).size
    if not found:
        raise ValueError(explain(choices, peak, mesh, options.device, usable))
    lines = [title, f"on {devices} x {options.device}, {usable / 1e9:.1f} of {device.memory / 1e9:.0f} GB each", ""]
    for rank in choices.ranks:
        some = [setting for setting in found if setting.flags["lora_rank"] == rank]
        lines.append("adapters" if rank else "all parameters")
        lines += [f"  {write_flags(setting.flags):56}{setting.peak / 1e9:.2f} GB" for setting in some]
        if not some:
            least = peak({"lora_rank": rank, **smallest_rows(choices)}, mesh)
            lines.append(f"  do not fit: they need at least {least / 1e9:.2f} GB")
    return "\n".join(lines)


def smallest_rows(choices: Choices) -> dict[str, int]:
    """Returns `smallest_of(choices)` without its rank of adapters."""
    return {name: value for name, value in smallest_of(choices).items() if name != "lora_rank"}


def explain(choices: Choices, peak: Peak, mesh: str, device: str, usable: float) -> str:
    """Returns the error text for a search that found no setting: how much memory is missing, and what to change."""
    least = smallest_of(choices)
    needed, devices, ways = peak(least, mesh), mesh_of(mesh).size, "a smaller model, or a shorter --row-length"
    counts = [2**i for i in range(1, 11) if 2**i > devices]
    larger = (spec for n in counts for spec in (f"{n}x1", f"1x{n}"))
    if fitting := next((spec for spec in larger if peak(least, spec) < usable), ""):
        ways = f"--mesh={fitting}, {ways}"
    return (
        f"--fit: no setting fits {device}. The smallest, {write_flags(least)}, needs {needed / 1e9:.1f} GB, and "
        f"{usable / 1e9:.1f} GB can be used: {(needed - usable) / 1e9:.1f} GB too many. Take {ways}"
    )


def ranks_of(rank: int) -> list[int]:
    """Returns the ranks to try if --lora-rank is `rank`."""
    return [rank] if rank else [0, RANK]


def fit_rl(
    run: RunOptions, recipe: RLRecipe, options: PlanOptions, title: str, reward_models: int = 0, teacher: str = ""
) -> str:
    """Returns the text that `--dry-run --fit` of an RL run prints. The arguments are those of `rl.dry_run`.

    Raises:
        ValueError: no setting fits, or `rl.dry_run` would raise an error.
    """
    cfg, name = config_of(run.model, run.weights)
    beside, shards = (reward_models, teacher_of(teacher), run.processes or 1), row_shards(mesh_of(run.mesh))

    def peak(flags: Flags, mesh: str) -> float:
        return plan(cfg, dataclasses.replace(recipe, **flags), mesh, options, *beside).peak

    mean = options.mean_tokens or max(1, recipe.max_tokens // 8)
    in_row = max(1, (recipe.row_length - PROMPT) // mean)  # completions of one question
    packed = -(-recipe.questions_per_round // recipe.minibatches) * -(-recipe.group_size // in_row)  # of a minibatch
    choices = Choices(
        ranks_of(recipe.lora_rank),
        {"batch_rows": [shards * rows for rows in halvings(power_of_two(packed / shards), 1)]},
        {"wave_rows": wave_sizes(recipe, run.processes or 1)},
    )
    return describe(choices, peak, run.mesh, options, f"{title}: {name}")


def wave_sizes(recipe: RLRecipe, processes: int) -> list[int]:
    """Returns the values of --wave-rows to try, from large to small. 0 means that a round is not divided.

    Together, the waves of all processes have room for at least one group and for the rows that --carry-over keeps. No
    value is above `recipe.wave_rows`, if that is given.
    """
    every = -(-recipe.questions_per_round * recipe.group_size // processes)
    least = -(-(recipe.group_size + recipe.carry_over) // processes)
    step = -(-recipe.group_size // processes)
    sizes = [size for size in halvings(min(recipe.wave_rows or every, every), step) if least <= size < every]
    return sizes if 0 < recipe.wave_rows < every else [0, *sizes]


def power_of_two(number: float) -> int:
    """Returns the least power of two that is not below `number`, and at least 1."""
    return 2 ** max(0, math.ceil(math.log2(number)))


def fit_tuning(
    model: str, weights: str, recipe: SFTRecipe, mesh: str, options: TunePlanOptions, title: str, teacher: str = ""
) -> str:
    """Returns the text that `--dry-run --fit` of fine-tuning prints. The arguments are those of `supervised.dry_tune`.

    Raises:
        ValueError: no setting fits, or `supervised.dry_tune` would raise an error.
    """
    cfg, name = config_of(model, weights)
    taught, shards = teacher_of(teacher), row_shards(mesh_of(mesh))

    def peak(flags: Flags, mesh: str) -> float:
        return tune(cfg, dataclasses.replace(recipe, **flags), mesh, options, taught).peak

    rows = [n for n in range(recipe.batch_rows, 0, -1) if recipe.batch_rows % n == 0 and n % shards == 0]
    choices = Choices(ranks_of(recipe.lora_rank), {"micro_rows": rows}, {})
    return describe(choices, peak, mesh, options, f"{title}: {name}")
