"""What supervised training would need, of a policy or of a reward model, from shapes alone, as `plan` says of RL."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh

from r1jax.limits import DEVICES, forward_flops
from r1jax.logprobs import CHUNK
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.plan import PlanOptions, activation_bytes, config_of, count, device_of, mesh_of, placed, teacher_of, whole
from r1jax.reward_model import bucket
from r1jax.sft import TuneRecipe, with_steps
from r1jax.supervised import optimizer
from r1jax.train_reward_model import RewardRecipe
from r1jax.train_rl import adamw

PARAMETERS = "parameters, float32"
WAY_OUT = "take more devices, or fewer rows of one forward pass"


@dataclasses.dataclass(frozen=True)
class TunePlanOptions(PlanOptions):
    """Flags of a dry run of fine-tuning."""

    plan_records: int = 800_000
    """Records that a dry run assumes, where --steps does not say how long it is."""


class TrainPlan(NamedTuple):
    """Bytes are of one device, seconds of one optimizer step at the limit."""

    cfg: ModelConfig
    mesh: AbstractMesh
    device: str
    held: dict[str, float]  # all the time
    update: dict[str, float]
    mean_tokens: int
    step_tokens: float
    steps: int
    seconds: float
    teaching: float = 0.0  # of a teacher that is asked before training begins, beside the parameters alone

    @property
    def peak(self) -> float:
        whole = sum(self.held.values()) + sum(self.update.values())
        return max(whole, self.held[PARAMETERS] + self.teaching)


def tune(
    cfg: ModelConfig, recipe: TuneRecipe, mesh: str, options: TunePlanOptions, teacher: ModelConfig | None = None
) -> TrainPlan:
    """The plan of fine-tuning on records.

    Args:
        teacher: whose likeliest tokens are kept first.

    Raises:
        ValueError: an unknown device or a mesh that cannot be read.
    """
    mean = options.mean_tokens or max(1, recipe.max_tokens // 8)
    tokens = recipe.batch_rows * recipe.row_length
    steps = recipe.steps or max(1, round(recipe.epochs * options.plan_records * mean / tokens))
    inner = optimizer(with_steps(recipe, max(steps, recipe.warmup_steps + 1)))
    state = jax.eval_shape(inner.init, transformer.shapes(cfg))
    rows = recipe.micro_rows or recipe.batch_rows
    found = planned(cfg, mesh, options, state, rows, recipe.row_length, recipe.remat, mean, tokens, steps)
    return found._replace(teaching=placed(transformer.shapes(teacher), found.mesh) * 2.0 if teacher else 0.0)


def reward(cfg: ModelConfig, recipe: RewardRecipe, kind: str, mesh: str, options: PlanOptions) -> TrainPlan:
    """The plan of a reward model. A micro-batch is taken to be as long as the longest text.

    Raises:
        ValueError: an unknown device or a mesh that cannot be read.
    """
    cfg = dataclasses.replace(cfg, reward_head=True, mtp_layers=0)
    mean = options.mean_tokens or max(1, recipe.max_tokens // 8)
    steps = recipe.epochs * -(-recipe.items // recipe.batch_items)
    r = recipe
    inner = adamw(r.learning_rate, r.warmup_steps, r.grad_clip, r.adam_b1, r.adam_b2, r.weight_decay)
    state = jax.eval_shape(inner.init, transformer.shapes(cfg))
    tokens = recipe.batch_items * (2 if kind == "helpful" else 1) * mean
    return planned(cfg, mesh, options, state, r.batch_rows, bucket(r.max_tokens), r.remat, mean, tokens, steps)


def planned(
    cfg: ModelConfig, mesh: str, options: PlanOptions, state: Any, rows: int, row_length: int, remat: str, mean: int,
    tokens: float, steps: int,
) -> TrainPlan:  # fmt: skip
    """A plan from the optimizer's state, the rows of one forward pass, and the tokens of a step.

    Lengths are taken as exponential: tokens read mean·tokens others before them, E[T²]/2 = mean².
    """
    device, abstract = device_of(options), mesh_of(mesh)
    held = {
        PARAMETERS: placed(transformer.shapes(cfg), abstract) * 4.0,
        "optimizer's moments, float32": placed(state, abstract) * 4.0,
    }
    update = {
        "gradients, float32": placed(transformer.shapes(cfg), abstract) * 4.0,
        "activations": activation_bytes(cfg, rows, row_length, remat, abstract),
    }
    if not cfg.reward_head:
        update["logits"] = 2.0 * CHUNK * cfg.vocab_size / whole(cfg.vocab_size, abstract, "tensor") * 4
    forward = forward_flops(cfg, tokens, tokens * mean, 0 if cfg.reward_head else None)
    seconds = (4.0 if remat == "full" else 3.0) * forward / abstract.size / device.flops
    return TrainPlan(cfg, abstract, options.device, held, update, mean, tokens, steps, seconds)


def text(found: TrainPlan, title: str) -> str:
    """The plan as a table."""
    device = DEVICES[found.device]
    axes = " ".join(f"{name}:{size}" for name, size in found.mesh.shape.items())
    verdict = "fits" if found.peak < device.memory else f"does not fit {found.device}: {WAY_OUT}"
    rows = [
        ("parameters", f"{count(transformer.shapes(found.cfg)):,}"),
        (f"memory of one device, of {device.memory / 1e9:.0f} GB", ""),
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
    model: str, weights: str, recipe: TuneRecipe, mesh: str, options: TunePlanOptions, title: str, teacher: str = ""
) -> str:
    """What `--dry-run` of fine-tuning prints.

    Args:
        teacher: see `plan.dry_run`.

    Raises:
        ValueError: see `tune` and `plan.config_of`.
    """
    cfg, name = config_of(model, weights)
    return text(tune(cfg, recipe, mesh, options, teacher_of(teacher)), f"{title}: {name}")


def dry_reward(
    model: str, weights: str, recipe: RewardRecipe, kind: str, mesh: str, options: PlanOptions, title: str
) -> str:
    """What `--dry-run` of a reward model prints.

    Raises:
        ValueError: see `reward` and `plan.config_of`.
    """
    cfg, name = config_of(model, weights)
    return text(reward(cfg, recipe, kind, mesh, options), f"{title}: {name}")
