"""Estimates the memory and time of fine-tuning, reward-model training and preference learning, from shapes alone.

`planning.rl` does the same for RL.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh

from r1jax.model import lora, transformer
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import find_obstacle
from r1jax.planning.memory import Shape, count, count_placed, pass_bytes
from r1jax.planning.rl import config_of, device_of, mesh_of, teacher_of
from r1jax.planning.roofline import DEVICES, WITHOUT_KERNELS, forward_flops, usable_memory
from r1jax.preferences.objectives import PREFERENCES
from r1jax.preferences.recipe import PreferenceRecipe
from r1jax.recipes import PlanOptions, RewardRecipe, SFTRecipe, TunePlanOptions
from r1jax.reward_models.model import bucket
from r1jax.sft.documents import with_steps
from r1jax.training.optimizers import optimizer

PARAMETERS, FROZEN = "parameters, float32", "frozen parameters, bfloat16"
WAY_OUT = "take more devices, or fewer rows per forward pass"


class Work(NamedTuple):
    """The amount of work of a supervised run.

    Attributes:
        rows, row_length: number of rows in one forward pass, and number of slots in a row.
        remat: "none", "dots" or "full", which selects the activations that the backward pass recomputes.
        mean_tokens: mean number of tokens in a text.
        step_tokens: number of tokens in an optimizer step.
        steps: number of optimizer steps.
        passes: number of forward passes over a step's tokens in addition to the update, such as one by a reference
            policy. It is an average over the steps.
    """

    rows: int
    row_length: int
    remat: str
    mean_tokens: int
    step_tokens: float
    steps: int
    passes: float = 0.0


class Held(NamedTuple):
    """What is allocated all the time, as trees of arrays or shapes.

    Attributes:
        trained: the parameters that are trained: all, or the adapters.
        moments: the optimizer's state.
        frozen: the other parameters; None without adapters.
    """

    trained: Any
    moments: Any
    frozen: Any = None


class TrainPlan(NamedTuple):
    """The memory and time that a supervised run needs. Memory is in bytes per device.

    Attributes:
        cfg: the model.
        mesh: the mesh, without devices.
        device: name of the device, a key of `roofline.DEVICES`.
        held: {description: bytes} that are allocated all the time.
        update: {description: bytes} that are allocated only during updates.
        mean_tokens, step_tokens, steps: see `Work`.
        seconds: seconds of an optimizer step, at the hardware's limit.
        teaching: bytes that a teacher takes; 0 without a teacher. The teacher runs before training. While the teacher
            runs, the device holds only the teacher and the model's parameters.
    """

    cfg: ModelConfig
    mesh: AbstractMesh
    device: str
    held: dict[str, float]
    update: dict[str, float]
    mean_tokens: int
    step_tokens: float
    steps: int
    seconds: float
    teaching: float = 0.0

    @property
    def peak(self) -> float:
        """Largest number of bytes that one device needs, in training or while a teacher runs before training."""
        whole = sum(self.held.values()) + sum(self.update.values())
        frozen = self.held.get(FROZEN, 0.0)
        return max(whole, self.held[PARAMETERS] + frozen + self.teaching)


def tune(
    cfg: ModelConfig, recipe: SFTRecipe, mesh: str, options: TunePlanOptions, teacher: ModelConfig | None = None
) -> TrainPlan:
    """Returns the memory and time that fine-tuning on records needs.

    Args:
        mesh: a value of --mesh.
        options: the device, and the number and mean length of records to assume.
        teacher: config of a model whose most likely tokens are computed before training; None without a teacher.

    Raises:
        ValueError: the device is unknown, `mesh` cannot be parsed, or --lora-targets matches no kernel.
    """
    mean = options.mean_tokens or max(1, recipe.max_tokens // 8)
    tokens = recipe.batch_rows * recipe.row_length
    steps = recipe.steps or max(1, round(recipe.epochs * options.plan_records * mean / tokens))
    inner = optimizer(with_steps(recipe, max(steps, recipe.warmup_steps + 1)).descent)
    shapes = transformer.shapes(cfg)
    if recipe.lora_rank:
        shapes = lora.shapes(shapes, recipe.lora_rank, recipe.lora_targets)
        shapes, frozen = lora.partition(shapes)
    else:
        frozen = None
    rows = recipe.micro_rows or recipe.batch_rows
    work = Work(rows, recipe.row_length, recipe.remat, mean, tokens, steps)
    found = planned(cfg, mesh, options, Held(shapes, jax.eval_shape(inner.init, shapes), frozen), work)
    return found._replace(teaching=count_placed(transformer.shapes(teacher), found.mesh) * 2.0 if teacher else 0.0)


def reward(cfg: ModelConfig, recipe: RewardRecipe, kind: str, mesh: str, options: PlanOptions) -> TrainPlan:
    """Returns the memory and time that training a reward model needs. Assumes that every micro-batch is as long as the
    longest text.

    Args:
        kind: "helpful" for a model trained on pairs of responses, "safety" for one trained on labelled responses.
        mesh: a value of --mesh.
        options: the device and the mean text length to assume.

    Raises:
        ValueError: the device is unknown, or `mesh` cannot be parsed.
    """
    cfg = dataclasses.replace(cfg, reward_head=True, mtp_layers=0)
    mean = options.mean_tokens or max(1, recipe.max_tokens // 8)
    steps = recipe.epochs * -(-recipe.items // recipe.batch_items)
    r, shapes = recipe, transformer.shapes(cfg)
    held = Held(shapes, jax.eval_shape(optimizer(r.descent).init, shapes))
    tokens = recipe.batch_items * (2 if kind == "helpful" else 1) * mean
    work = Work(r.batch_rows, bucket(r.max_tokens), r.remat, mean, tokens, steps)
    return planned(cfg, mesh, options, held, work)


def preference(cfg: ModelConfig, recipe: PreferenceRecipe, mesh: str, options: PlanOptions) -> TrainPlan:
    """Returns the memory and time that learning from preferences needs.

    An item is a prompt with two completions. Assumes that there are --items items, and that the rows of every
    micro-batch are as long as the longest item.

    Args:
        mesh: a value of --mesh.
        options: the device and the mean length of an item to assume.

    Raises:
        ValueError: the device is unknown, `mesh` cannot be parsed, or --lora-targets matches no kernel.
    """
    r, entry, shapes = recipe, PREFERENCES[recipe.loss], transformer.shapes(cfg)
    if r.lora_rank:
        shapes = lora.shapes(shapes, r.lora_rank, r.lora_targets)
    trained, frozen = lora.partition(shapes)
    mean = options.mean_tokens or max(1, r.max_tokens // 8)
    steps = r.epochs * -(-r.items // r.batch_items)
    state = jax.eval_shape(optimizer(r.descent(max(steps, r.warmup_steps + 1))).init, trained)
    each = entry.referenced and (entry.labelled or r.reference == "each")
    passes = (1.0 if each else 1 / r.epochs) * entry.referenced
    work = Work(r.batch_rows, bucket(r.max_tokens), r.remat, mean, r.batch_items * mean, steps, passes)
    found = planned(cfg, mesh, options, Held(trained, state, frozen), work)
    if each:
        found.held["reference, float32"] = found.held[PARAMETERS]
    return found


def planned(cfg: ModelConfig, mesh: str, options: PlanOptions, of: Held, work: Work) -> TrainPlan:
    """Returns the memory and time of a supervised run.

    The lengths T of texts are assumed to be exponentially distributed. A token then attends to (E[T²]/2)/E[T] = E[T]
    earlier tokens on average.

    Args:
        of: the arrays that are allocated all the time.
        work: how much the run trains.
    """
    device, abstract = device_of(options), mesh_of(mesh)
    kernel = not cfg.reward_head and not find_obstacle(cfg) and options.device not in WITHOUT_KERNELS
    shape = Shape(
        work.rows, work.row_length, work.row_length, work.remat, scores=not kernel, frozen=of.frozen is not None
    )
    trained = count_placed(of.trained, abstract) * 4.0
    held = {PARAMETERS: trained, "optimizer's moments, float32": count_placed(of.moments, abstract) * 4.0}
    if of.frozen is not None:
        held[FROZEN] = count_placed(of.frozen, abstract) * 2.0
    update = {
        "gradients, float32": trained,
        "gradients being added, float32": trained,
        **pass_bytes(cfg, abstract, shape),
    }
    forward = forward_flops(cfg, work.step_tokens, work.step_tokens * work.mean_tokens, 0 if cfg.reward_head else None)
    backward = (4.0 if work.remat == "full" else 3.0) - (of.frozen is not None)  # frozen kernels have no gradient
    seconds = (backward + work.passes) * forward / abstract.size / device.flops
    return TrainPlan(
        cfg, abstract, options.device, held, update, work.mean_tokens, work.step_tokens, work.steps, seconds
    )


def text(found: TrainPlan, title: str) -> str:
    """Formats a plan as a table with a line for each quantity.

    Args:
        found: the plan.
        title: the first line of the text.
    """
    device = DEVICES[found.device]
    axes = " ".join(f"{name}:{size}" for name, size in found.mesh.shape.items())
    usable = usable_memory(found.device)
    verdict = "fits" if found.peak < usable else f"does not fit {found.device}: {WAY_OUT}"
    rows = [
        ("parameters", f"{count(transformer.shapes(found.cfg)):,}"),
        (f"memory of one device, {usable / 1e9:.0f} of {device.memory / 1e9:.0f} GB", ""),
        *([("  before    teacher, bfloat16", f"{found.teaching / 1e9:.2f} GB")] if found.teaching else []),
        *((f"  always    {part}", f"{size / 1e9:.2f} GB") for part, size in found.held.items()),
        *((f"  update    {part}", f"{size / 1e9:.2f} GB") for part, size in found.update.items()),
        ("  peak", f"{found.peak / 1e9:.2f} GB  {verdict}"),
        ("mean tokens of a text, assumed", f"{found.mean_tokens:,}"),
        ("tokens of a step", f"{found.step_tokens:,.0f}"),
        ("steps", f"{found.steps:,}"),
        ("seconds of a step, at the limit", f"{found.seconds:.2f}"),
        ("hours of all steps, at the limit", f"{found.steps * found.seconds / 3600:.2f}"),
    ]
    table = [f"{name:44}{value}" for name, value in rows]
    return "\n".join([title, f"mesh {axes} = {found.mesh.size} x {found.device}", "", *table])


def dry_tune(
    model: str, weights: str, recipe: SFTRecipe, mesh: str, options: TunePlanOptions, title: str, teacher: str = ""
) -> str:
    """Returns the text that `--dry-run` of fine-tuning prints: the plan as a table.

    Args:
        model, weights: name the model, as for `rl.config_of`.
        recipe, mesh, options: as for `tune`.
        title: the first line of the text, to which the model's name is added.
        teacher: as for `rl.dry_run`.

    Raises:
        ValueError: see `tune` and `rl.config_of`.
    """
    cfg, name = config_of(model, weights)
    return text(tune(cfg, recipe, mesh, options, teacher_of(teacher)), f"{title}: {name}")


def dry_reward(
    model: str, weights: str, recipe: RewardRecipe, kind: str, mesh: str, options: PlanOptions, title: str
) -> str:
    """Returns the text that `--dry-run` of training a reward model prints: the plan as a table.

    Args:
        model, weights: name the model, as for `rl.config_of`.
        recipe, kind, mesh, options: as for `reward`.
        title: the first line of the text, to which the model's name is added.

    Raises:
        ValueError: see `reward` and `rl.config_of`.
    """
    cfg, name = config_of(model, weights)
    return text(reward(cfg, recipe, kind, mesh, options), f"{title}: {name}")


def dry_preference(
    model: str, weights: str, recipe: PreferenceRecipe, mesh: str, options: PlanOptions, title: str
) -> str:
    """Returns the text that `--dry-run` of learning from preferences prints: the plan as a table.

    Args:
        model, weights: name the model, as for `rl.config_of`.
        recipe, mesh, options: as for `preference`.
        title: the first line of the text, to which the model's name is added.

    Raises:
        ValueError: see `preference` and `rl.config_of`.
    """
    cfg, name = config_of(model, weights)
    return text(preference(cfg, recipe, mesh, options), f"{title}: {name}")
