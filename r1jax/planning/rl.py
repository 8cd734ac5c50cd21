"""Estimates an RL run's memory and time from shapes alone: no weights are read and no device is touched.

Memory is counted by the sharding rules that also place the arrays of a run; only the memory of activations is
estimated. Times are lower bounds (the hardware's *limit*). They count only matrix products and reads of memory, so
communication is left out. A good run takes about twice as long.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from jax.sharding import AbstractMesh

from r1jax import storage
from r1jax.losses import LOSSES
from r1jax.model import lora, transformer
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import find_obstacle
from r1jax.model.presets import PRESETS
from r1jax.planning.memory import Shape, count, count_placed, pass_bytes, whole
from r1jax.planning.roofline import (
    DEVICES,
    WITHOUT_KERNELS,
    Device,
    forward_flops,
    pair_flops,
    read_params,
    usable_memory,
)
from r1jax.recipes import PlanOptions, RLRecipe, RunOptions
from r1jax.runs import checkpoint
from r1jax.sharding import AXES, mesh_sizes, row_shards
from r1jax.weights import bundled, hub
from r1jax.weights.config_in import read_config

WAY_OUT = (
    "take more devices, --lora-rank, a smaller --batch-rows or --wave-rows, or a shorter --max-tokens; --fit searches"
)
PROMPT = 256  # assumed tokens of a prompt, template included
LADDER_WASTE = 1.08  # allocated slots per sampled token of a wave, from a simulation


class Plan(NamedTuple):
    """The memory and time that an RL run needs.

    Memory is in bytes per device. Times are in seconds per optimizer step, at the hardware's limit.

    Attributes:
        cfg: the model.
        mesh: the mesh, without devices.
        device: name of the device, a key of `roofline.DEVICES`.
        parameters: number of parameters of the model.
        trained: number of parameters that the optimizer updates.
        held: {description: bytes} that are allocated all the time.
        rollout: {description: bytes} that are allocated only during sampling.
        update: {description: bytes} that are allocated only during updates.
        rows: number of completions of a round.
        mean_tokens: assumed mean length of a completion.
        step_tokens: number of completion tokens of an optimizer step.
        seconds: {part: seconds}. The parts of a step are "sampling", "scoring" and "update".
    """

    cfg: ModelConfig
    mesh: AbstractMesh
    device: str
    parameters: int
    trained: int
    held: dict[str, float]
    rollout: dict[str, float]
    update: dict[str, float]
    rows: int
    mean_tokens: int
    step_tokens: float
    seconds: dict[str, float]

    @property
    def peak(self) -> float:
        """The most bytes that one device needs: `held` plus the larger of `rollout` and `update`."""
        return sum(self.held.values()) + max(sum(self.rollout.values()), sum(self.update.values()))


def plan(
    cfg: ModelConfig,
    recipe: RLRecipe,
    mesh: str,
    options: PlanOptions,
    reward_models: int = 0,
    teacher: ModelConfig | None = None,
    processes: int = 1,
) -> Plan:
    """Returns the memory and time that an RL run needs.

    Args:
        cfg: the policy's model config.
        mesh: a value of --mesh.
        options: the device and the mean completion length to assume.
        reward_models: number of reward models beside the policy, each as large as the policy.
        teacher: config of the model that replaces the reference policy; if None, the reference policy stays.
        processes: number of processes. Each of them samples --wave-rows completions at once.

    Raises:
        ValueError: the device is unknown, or `mesh` cannot be parsed.
    """
    device_of(options)
    abstract = mesh_of(mesh)
    shapes = transformer.shapes(cfg)
    adapted = shapes
    if recipe.lora_rank:
        adapted = lora.shapes(shapes, recipe.lora_rank, recipe.lora_targets)
    trained, frozen = lora.partition(adapted)
    mean = options.mean_tokens or max(1, recipe.max_tokens // 8)
    rows = recipe.questions_per_round * recipe.group_size
    held = {
        "trained parameters, float32": count_placed(trained, abstract) * 4,
        "Adam's moments, float32": count_placed(trained, abstract) * 8,
    }
    if teacher:
        held["teacher, bfloat16"] = count_placed(transformer.shapes(teacher), abstract) * 2
    else:
        held["reference, float32"] = count_placed(trained, abstract) * 4
    if frozen is not None:
        held["frozen parameters, bfloat16"] = count_placed(frozen, abstract) * 2
    if LOSSES[recipe.loss].valued:
        valued = transformer.shapes(dataclasses.replace(cfg, reward_head=True, mtp_layers=0))
        held["value network, float32"] = count_placed(valued, abstract) * 4
        held["its moments, float32"] = count_placed(valued, abstract) * 8
    if reward_models:
        held["reward models, float32"] = reward_models * count_placed(shapes, abstract) * 4
    sampled = {k: v for k, v in shapes.items() if k != "mtp"}
    rollout = {
        "sampler's copy, bfloat16": count_placed(sampled, abstract, ("tensor", "expert")) * 2,
        "keys and values, bfloat16": round_cache_bytes(cfg, recipe, abstract, mean, processes),
    }
    copy, cache = rollout.values()
    rollout["more while they are made"] = max(copy - cache, cache / cfg.layers)
    rows_at_once = max(recipe.batch_rows, row_shards(abstract))
    shape = Shape(
        rows_at_once,
        recipe.row_length,
        recipe.row_length,
        recipe.remat,
        scores=bool(find_obstacle(cfg)) or options.device in WITHOUT_KERNELS,
        frozen=frozen is not None and recipe.lora_rank > 0,
    )
    # A value network is updated after the policy, and needs no more than it: it has no logits.
    update = {
        "gradients, float32": count_placed(trained, abstract) * 4,
        "gradients being added, float32": count_placed(trained, abstract) * 4,
        **pass_bytes(cfg, abstract, shape),
    }
    return Plan(
        cfg,
        abstract,
        options.device,
        count(shapes),
        count(trained),
        held,
        rollout,
        update,
        rows,
        mean,
        rows / recipe.minibatches * mean,
        step_seconds(cfg, recipe, abstract, DEVICES[options.device], rows, mean, teacher),
    )


def device_of(options: PlanOptions) -> Device:
    """Returns the limits of the device that --device names. Raises ValueError if `DEVICES` lacks the name."""
    if options.device not in DEVICES:
        raise ValueError(f"--device={options.device} is unknown: use one of {', '.join(DEVICES)}")
    return DEVICES[options.device]


def mesh_of(mesh: str) -> AbstractMesh:
    """Parses a value of --mesh, without using devices. Turns "auto" into a mesh of one device."""
    return AbstractMesh(mesh_sizes("1x1" if mesh == "auto" else mesh), AXES)


def cache_bytes(cfg: ModelConfig, mesh: AbstractMesh, rows: int, questions: int, mean: int) -> float:
    """Returns the largest number of bytes that keys and values take on one device while `rows` completions are sampled.

    Args:
        rows: number of completions that are sampled at once.
        questions: number of their questions. The completions of a question share the keys and values of its prompt.
        mean: mean number of tokens of a completion.
    """
    token = cfg.layers * cfg.cache_width * 2 / (1 if cfg.latent else whole(cfg.kv_heads, mesh, "tensor"))
    return (rows * mean * LADDER_WASTE + questions * PROMPT) / row_shards(mesh) * token


def round_cache_bytes(cfg: ModelConfig, recipe: RLRecipe, mesh: AbstractMesh, mean: int, processes: int = 1) -> float:
    """Returns the largest number of bytes that keys and values take on one device while a round is sampled.

    A round may be sampled in waves (--wave-rows). Up to half of a wave may be long completions that an earlier wave
    left unfinished. So the mean length of the completions of a wave is assumed to be 2 · `mean`, or --max-tokens if
    that is less. `rl.memory.fitting_rows` assumes the same.

    Args:
        mean: mean number of tokens of a completion.
        processes: number of processes. Each of them samples --wave-rows completions at once.
    """
    rows = recipe.questions_per_round * recipe.group_size
    every = cache_bytes(cfg, mesh, rows, recipe.questions_per_round, mean)
    if not recipe.wave_rows:
        return every
    wave, longest = recipe.wave_rows * processes, min(2 * mean, recipe.max_tokens)
    return min(every, cache_bytes(cfg, mesh, wave, -(-wave // recipe.group_size), longest))


def step_seconds(
    cfg: ModelConfig,
    recipe: RLRecipe,
    mesh: AbstractMesh,
    device: Device,
    rows: int,
    mean: int,
    teacher: ModelConfig | None = None,
) -> dict[str, float]:
    """Returns lower bounds on the seconds of an optimizer step: {"sampling", "scoring", "update"}.

    Completion lengths T are assumed to be exponentially distributed, so that E[T²] = 2·mean². The time of
    sampling and scoring a round is divided equally among the optimizer steps of the round.

    Args:
        device: the limits of one device.
        rows: completions of a round.
        mean: mean tokens of a completion.
        teacher: config of the model that gives the reference log-probabilities; None means a model of the policy's
            size.
    """
    devices, lanes = mesh.size, row_shards(mesh) * (1 if cfg.latent else whole(cfg.kv_heads, mesh, "tensor"))
    tokens, squares, questions = rows * mean, rows * 2 * mean**2, recipe.questions_per_round
    read = squares / 2 + tokens * PROMPT  # earlier tokens that attention reads, summed over all sampled tokens
    prefill = forward_flops(cfg, questions * PROMPT, questions * PROMPT**2 / 2, 0)
    products = 2 * cfg.matmul_params * tokens + pair_flops(cfg, cached=True) * read + prefill
    copy = (
        count_placed({k: v for k, v in transformer.shapes(cfg).items() if k != "mtp"}, mesh, ("tensor", "expert")) * 2
    )
    visited = read_params(cfg, rows / row_shards(mesh)) / read_params(cfg, float("inf"))
    weights = recipe.max_tokens * copy * visited / device.bandwidth
    cached = cfg.layers * cfg.cache_width * 2 * read / lanes / device.bandwidth
    forward = forward_flops(cfg, tokens, read)
    scoring = (recipe.old_logp == "trainer") * (1 - 1 / recipe.minibatches) * forward
    if recipe.kl_coef > 0:
        scoring += forward_flops(teacher or cfg, tokens, read)
    valued = forward_flops(cfg, tokens, read, 0) if LOSSES[recipe.loss].valued else 0.0
    backward = (4.0 if recipe.remat == "full" else 3.0) - (
        1.0 if recipe.lora_rank else 0.0
    )  # frozen kernels have no gradient
    share = 1 / recipe.minibatches
    return {
        "sampling": (max(weights, products / devices / device.flops) + cached) * share,
        "scoring": (scoring + valued) / devices / device.flops * share,
        "update": backward * (forward + valued) / devices / device.flops * share,
    }


def text(found: Plan, title: str) -> str:
    """Formats a plan as a table with a line for each quantity.

    Args:
        found: the plan.
        title: the first line of the text.
    """
    device = DEVICES[found.device]
    axes = " ".join(f"{name}:{size}" for name, size in found.mesh.shape.items())
    active = found.cfg.matmul_params + (0 if found.cfg.tie_embeddings else found.cfg.vocab_size * found.cfg.width)
    seconds = found.seconds | {"together": sum(found.seconds.values())}
    usable = usable_memory(found.device)
    verdict = "fits" if found.peak < usable else f"does not fit {found.device}: {WAY_OUT}"
    rows = [
        ("parameters", f"{found.parameters:,}"),
        ("  visited by one token", f"{active:,}"),
        ("  trained", f"{found.trained:,}"),
        (f"memory of one device, {usable / 1e9:.0f} of {device.memory / 1e9:.0f} GB", ""),
        *((f"  always    {part}", f"{size / 1e9:.2f} GB") for part, size in found.held.items()),
        *((f"  sampling  {part}", f"{size / 1e9:.2f} GB") for part, size in found.rollout.items()),
        *((f"  update    {part}", f"{size / 1e9:.2f} GB") for part, size in found.update.items()),
        ("  peak", f"{found.peak / 1e9:.2f} GB  {verdict}"),
        ("completions of a round", f"{found.rows:,}"),
        ("mean tokens of one, assumed", f"{found.mean_tokens:,}"),
        ("completion tokens of a step", f"{found.step_tokens:,.0f}"),
        ("seconds of a step, at the limit", ""),
        *((f"  {name}", f"{value:.2f}") for name, value in seconds.items()),
    ]
    table = [f"{name:44}{value}" for name, value in rows]
    return "\n".join([title, f"mesh {axes} = {found.mesh.size} x {found.device}", "", *table])


def dry_run(
    run: RunOptions, recipe: RLRecipe, options: PlanOptions, title: str, reward_models: int = 0, teacher: str = ""
) -> str:
    """Returns the text that `--dry-run` of an RL run prints: the plan as a table.

    Args:
        run: the model (see `config_of`), the mesh and the number of processes.
        options: the device and the mean completion length to assume.
        title: the first line of the text, to which the model's name is added.
        reward_models: see `plan`.
        teacher: a known model's name, a run, or a directory with a config.json (the value of --teacher). "" means no
            teacher.

    Raises:
        ValueError: the model or the teacher cannot be found, the device is unknown, or the mesh cannot be parsed.
    """
    cfg, name = config_of(run.model, run.weights)
    found = plan(cfg, recipe, run.mesh, options, reward_models, teacher_of(teacher), run.processes or 1)
    return text(found, f"{title}: {name}")


def teacher_of(given: str) -> ModelConfig | None:
    """Returns the config of the model that `given`, the value of --teacher, names; None if `given` is empty.

    Raises:
        ValueError: `config_of` finds no such model.
    """
    return config_of(given, given, "--teacher")[0] if given else None


def config_of(model: str, weights: str, flag: str = "--weights") -> tuple[ModelConfig, str]:
    """Returns (model config, name) of the model that the flags name.

    The model is the preset called `model`, if there is one. Otherwise it is the Hugging Face directory or run at
    `weights`, if `weights` is given. Otherwise it is the base model called `model` that ships with the package.

    Args:
        flag: the flag that gave `weights`, for errors.

    Raises:
        ValueError: there is no such model.
    """
    if model in PRESETS:
        return PRESETS[model], model
    if not weights:
        return read_config(bundled.directory(model, flag), flag=flag), model
    path = storage.absolute(storage.path_of(hub.locate(weights, flag), flag).expanduser())
    for home in (path, *path.parents[:2]):  # `path` may be a run, its checkpoints/ or one checkpoint
        if (home / checkpoint.MODEL).exists():
            return checkpoint.read_model(home, weights, flag), weights
    return read_config(path, flag=flag), weights
