"""Writes a part of the plan of an RL run for `--dry-run`: whether the run fits, for three mean completion lengths.

A run fits if the devices have enough memory for it.
"""

from __future__ import annotations

import dataclasses

from r1jax.planning.fit import wave_sizes
from r1jax.planning.rl import config_of, plan, teacher_of
from r1jax.planning.roofline import usable_memory
from r1jax.recipes import PlanOptions, RLRecipe, RunOptions


def describe_lengths(
    run: RunOptions, recipe: RLRecipe, options: PlanOptions, reward_models: int = 0, teacher: str = ""
) -> str:
    """Returns a heading, and a line for each mean length: the peak memory of one device, and whether the run fits.

    There are three mean lengths: the plan's own assumption, twice this number, and --max-tokens. Equal means get one
    line. If the run does not fit, the line gives the largest --wave-rows with which it fits, or says that none does.

    Args:
        run, options, reward_models, teacher: as in `rl.dry_run`.

    Raises:
        ValueError: as `rl.dry_run`.
    """
    cfg, _ = config_of(run.model, run.weights)
    beside = reward_models, teacher_of(teacher), run.processes or 1
    assumed = min(options.mean_tokens or max(1, recipe.max_tokens // 8), recipe.max_tokens)
    usable = usable_memory(options.device)

    def peak(mean: int, wave: int) -> float:
        known = dataclasses.replace(options, mean_tokens=mean)
        return plan(cfg, dataclasses.replace(recipe, wave_rows=wave), run.mesh, known, *beside).peak

    lines = ["peak by the mean length of a completion"]
    for mean in sorted({assumed, min(2 * assumed, recipe.max_tokens), recipe.max_tokens}):
        needed, said = peak(mean, recipe.wave_rows), "fits"
        if needed >= usable:
            waves = wave_sizes(recipe, run.processes or 1)
            wave = next((wave for wave in waves if peak(mean, wave) < usable), None)
            said = "does not fit, nor in waves" if wave is None else f"does not fit; fits with --wave-rows={wave}"
        lines.append(f"{f'  {mean:,} tokens':44}{needed / 1e9:.2f} GB  {said}")
    return "\n".join(lines)
