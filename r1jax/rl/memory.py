"""Chooses how many completions are sampled at once, by the memory that the devices have left."""

from __future__ import annotations

import logging

import jax
from jax.sharding import Mesh

from r1jax.distributed import agree, is_main
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.recipes import RLRecipe
from r1jax.sharding import row_shards

SHARE = 0.8  # of the free memory; the rest is for prefill and for what XLA allocates beside

log = logging.getLogger(__name__)


def choose_waves(recipe: RLRecipe, cfg: ModelConfig, rollout_mesh: Mesh, mesh: Mesh) -> tuple[int, int]:
    """Returns `choose_wave_rows` for rollouts and for evaluations. Every process must call this function.

    Args:
        rollout_mesh: the mesh that samples rollouts.
        mesh: the mesh that trains and evaluates.
    """
    rows = choose_wave_rows(recipe, cfg, rollout_mesh)
    return rows, rows if rollout_mesh is mesh else choose_wave_rows(recipe, cfg, mesh, recipe.eval_problems)


def choose_wave_rows(recipe: RLRecipe, cfg: ModelConfig, mesh: Mesh, every: int | None = None) -> int:
    """Returns the largest number of rows (completions) that all processes together sample at once. 0 means all rows.
    Every process must call this function.

    If --wave-rows is given, the number is --wave-rows times the number of processes. Otherwise the devices' free memory
    decides. If this memory is too small for all rows, a warning gives the number of rows per process. Devices that do
    not report their memory, such as CPUs, sample all rows. With --ahead on one device, half of the free memory is left
    to the updates, which run beside.

    Args:
        every: the number of all rows; if None, the rows of a round.
    """
    if recipe.wave_rows:
        return recipe.wave_rows * jax.process_count()
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    free = [s["bytes_limit"] - s["bytes_in_use"] for s in stats if {"bytes_limit", "bytes_in_use"} <= s.keys()]
    least = agree(min(free, default=0) >> 20, min) << 20  # in MiB: `agree` takes small integers
    least //= 2 if recipe.ahead and not recipe.rollout_mesh else 1
    every = recipe.questions_per_round * recipe.group_size + recipe.carry_over if every is None else every
    if not least:
        return 0
    rows = fitting_rows(recipe, cfg, mesh, least)
    if rows >= every:
        return 0
    per_process = -(-rows // jax.process_count())
    if is_main():
        log.warning(
            "--wave-rows=%d: %.1f GB are free on a device, too little for all %d completions at once. Give "
            "--wave-rows to choose another number",
            per_process,
            least / 1e9,
            every,
        )
    return per_process * jax.process_count()


def fitting_rows(recipe: RLRecipe, cfg: ModelConfig, mesh: Mesh, free: int) -> int:
    """Returns how many rows (completions) fit into the memory of all devices together.

    Returns at least the rows of one group plus the rows that --carry-over keeps, even if these do not fit.

    Each row is assumed to need a cache for a quarter of --max-tokens. This is twice the mean length that --dry-run
    assumes, for two reasons. First, the sampler doubles the size of a cache that is full, so half of a cache may be
    empty. Second, half of the rows may be long rows that earlier sampling left unfinished.

    Args:
        free: bytes that a device has left beside the trained policy.
    """
    tensor = mesh.shape["tensor"]
    sizes = [x.size for x in jax.tree.leaves(transformer.shapes(cfg))]
    copy = 2 * sum(sizes) / (tensor * mesh.shape["expert"] if cfg.experts else tensor)  # the sampler's, in bfloat16
    if recipe.ahead:  # still to come: a second copy of the policy that samples, or the frozen parameters
        copy += (2 if recipe.lora_rank else 4) * sum(sizes) / (mesh.shape["fsdp"] * tensor * mesh.shape["expert"])
    token = 2 * cfg.layers * cfg.cache_width / (tensor if not cfg.latent and cfg.kv_heads % tensor == 0 else 1)
    per_shard = (SHARE * free - copy) / (token * max(1, recipe.max_tokens // 4))
    whole = int(per_shard * row_shards(mesh)) // recipe.group_size * recipe.group_size
    return max(whole, recipe.group_size + recipe.carry_over)
