"""What a run would need, from shapes alone: no weights are read and no device is touched.

Memory is counted from the same tables that place the arrays; activations are an estimate. Time is a *limit*: what the
hardware's own speed allows when everything else is free, communication included. A good run takes about twice that.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax import checkpoint, lora
from r1jax.limits import DEVICES, Device, forward_flops, pair_flops, read_params
from r1jax.logprobs import CHUNK
from r1jax.model import transformer
from r1jax.model.attention import QUERY_BLOCK
from r1jax.model.config import ModelConfig
from r1jax.nano import base
from r1jax.presets import PRESETS
from r1jax.recipe import RLRecipe
from r1jax.sharding import AXES, PARAM_RULES, fit, mesh_sizes, row_shards, rule_for
from r1jax.weights.config_in import read_config

WAY_OUT = (
    "take more devices, --lora-rank, a smaller --batch-rows, fewer --questions-per-round or a shorter --max-tokens"
)
PROMPT = 256  # tokens of a prompt, template included
LADDER_WASTE = 1.08  # of the wave: room allocated over tokens sampled, by simulation


@dataclasses.dataclass(frozen=True)
class PlanOptions:
    """Flags of a dry run."""

    dry_run: bool = False
    """Print what the run would need, and stop: neither weights nor devices are wanted."""
    device: str = "h200"
    """What a dry run plans for: h200, h100, a100, v5e, v5p or v6e."""
    mean_tokens: int = 0
    """Mean length of a completion that a dry run assumes. 0: an eighth of --max-tokens."""


class Plan(NamedTuple):
    """Bytes are of one device, seconds of one optimizer step at the limit."""

    cfg: ModelConfig
    mesh: AbstractMesh
    device: str
    parameters: int
    trained: int
    held: dict[str, float]  # all the time
    rollout: dict[str, float]
    update: dict[str, float]
    rows: int
    mean_tokens: int
    step_tokens: float
    seconds: dict[str, float]

    @property
    def peak(self) -> float:
        return sum(self.held.values()) + max(sum(self.rollout.values()), sum(self.update.values()))


def plan(
    cfg: ModelConfig, recipe: RLRecipe, mesh: str, options: PlanOptions, reward_models: int = 0,
    teacher: ModelConfig | None = None,
) -> Plan:
    """The plan of a run.

    Args:
        reward_models: how many lie beside the policy, each of its size.
        teacher: in the reference's place.

    Raises:
        ValueError: an unknown device or a mesh that cannot be read.
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
        "trained parameters, float32": placed(trained, abstract) * 4,
        "Adam's moments, float32": placed(trained, abstract) * 8,
    }
    if teacher:
        held["teacher, bfloat16"] = placed(transformer.shapes(teacher), abstract) * 2
    else:
        held["reference, float32"] = placed(trained, abstract) * 4
    if frozen is not None:
        held["frozen parameters, bfloat16"] = placed(frozen, abstract) * 2
    if reward_models:
        held["reward models, float32"] = reward_models * placed(shapes, abstract) * 4
    sampled = {k: v for k, v in shapes.items() if k != "mtp"}
    rollout = {
        "sampler's copy, bfloat16": placed(sampled, abstract, ("tensor", "expert")) * 2,
        "keys and values, bfloat16": cache_bytes(cfg, abstract, rows, recipe.questions_per_round, mean),
    }
    update = {
        "gradients, float32": placed(trained, abstract) * 4,
        "activations": activation_bytes(cfg, recipe.batch_rows, recipe.row_length, recipe.remat, abstract),
        "logits": 2 * CHUNK * cfg.vocab_size / whole(cfg.vocab_size, abstract, "tensor") * 4,
    }
    return Plan(
        cfg, abstract, options.device, count(shapes), count(trained), held, rollout, update, rows, mean,
        rows / recipe.minibatches * mean,
        step_seconds(cfg, recipe, abstract, DEVICES[options.device], rows, mean, teacher),
    )  # fmt: skip


def device_of(options: PlanOptions) -> Device:
    """Raises ValueError for a device that is not known."""
    if options.device not in DEVICES:
        raise ValueError(f"--device={options.device} is not known; there are {', '.join(DEVICES)}")
    return DEVICES[options.device]


def mesh_of(mesh: str) -> AbstractMesh:
    return AbstractMesh(mesh_sizes("1x1" if mesh == "auto" else mesh), AXES)


def count(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def placed(tree: Any, mesh: AbstractMesh, axes: tuple[str, ...] = AXES) -> int:
    """Numbers of a tree that one device holds, where only `axes` cut them."""
    total = 0
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        spec = fit(P(*(axis if axis in axes else None for axis in rule_for(path, x, PARAM_RULES))), x.shape, mesh)
        shard = NamedSharding(mesh, spec).shard_shape(x.shape)
        size = 1
        for n in shard:
            size *= n
        total += size
    return total


def whole(dimension: int, mesh: AbstractMesh, axis: str) -> int:
    """Parts that a mesh axis cuts a dimension into: 1 where it does not divide."""
    return mesh.shape[axis] if dimension % mesh.shape[axis] == 0 else 1


def cache_bytes(cfg: ModelConfig, mesh: AbstractMesh, rows: int, questions: int, mean: int) -> float:
    """Keys and values of one device's rows at the wave's fullest, each prompt once."""
    token = cfg.layers * cfg.cache_width * 2 / (1 if cfg.latent else whole(cfg.kv_heads, mesh, "tensor"))
    return (rows * mean * LADDER_WASTE + questions * PROMPT) / row_shards(mesh) * token


def activation_bytes(cfg: ModelConfig, rows: int, row_length: int, remat: str, mesh: AbstractMesh) -> float:
    """An estimate: what layers keep for the backward pass of a micro-batch, and what one holds while it runs."""
    rows = max(1, rows // row_shards(mesh))
    tensor = whole(cfg.heads, mesh, "tensor")
    x = cfg.experts
    mlp = (x.per_token + x.shared) * x.width if x else cfg.mlp_width
    outputs = (2 * cfg.heads * cfg.head_width + 2 * cfg.kv_heads * cfg.head_width + 3 * mlp) / tensor + 3 * cfg.width
    scores = 3 * cfg.heads / tensor * QUERY_BLOCK * row_length * 4 * rows
    kept = {"none": 3 * outputs, "dots": outputs, "full": cfg.width}[remat]
    return rows * row_length * 2 * (cfg.layers * kept + 2 * outputs) + scores


def step_seconds(
    cfg: ModelConfig, recipe: RLRecipe, mesh: AbstractMesh, device: Device, rows: int, mean: int,
    teacher: ModelConfig | None = None,
) -> dict[str, float]:
    """Seconds of one optimizer step that the hardware cannot undercut.

    Completion lengths are taken as exponential, cut at `max_tokens`: E[T²] = 2·mean². A round's sampling and scoring
    are shared out to its optimizer steps.
    """
    devices, lanes = mesh.size, row_shards(mesh) * (1 if cfg.latent else whole(cfg.kv_heads, mesh, "tensor"))
    tokens, squares, questions = rows * mean, rows * 2 * mean**2, recipe.questions_per_round
    read = squares / 2 + tokens * PROMPT  # Σ over sampled tokens of the tokens they read
    prefill = forward_flops(cfg, questions * PROMPT, questions * PROMPT**2 / 2, 0)
    products = 2 * cfg.matmul_params * tokens + pair_flops(cfg, cached=True) * read + prefill
    copy = placed({k: v for k, v in transformer.shapes(cfg).items() if k != "mtp"}, mesh, ("tensor", "expert")) * 2
    visited = read_params(cfg, rows / row_shards(mesh)) / read_params(cfg, float("inf"))
    weights = recipe.max_tokens * copy * visited / device.bandwidth
    cached = cfg.layers * cfg.cache_width * 2 * read / lanes / device.bandwidth
    forward = forward_flops(cfg, tokens, read)
    scoring = (recipe.old_logp == "trainer") * (1 - 1 / recipe.minibatches) * forward
    if recipe.kl_coef > 0:
        scoring += forward_flops(teacher or cfg, tokens, read)
    backward = (4.0 if recipe.remat == "full" else 3.0) - (
        1.0 if recipe.lora_rank else 0.0
    )  # frozen kernels have no gradient
    share = 1 / recipe.minibatches
    return {
        "sampling": (max(weights, products / devices / device.flops) + cached) * share,
        "scoring": scoring / devices / device.flops * share,
        "update": backward * forward / devices / device.flops * share,
    }


def text(found: Plan, title: str) -> str:
    """The plan as a table."""
    device = DEVICES[found.device]
    axes = " ".join(f"{name}:{size}" for name, size in found.mesh.shape.items())
    active = found.cfg.matmul_params + (0 if found.cfg.tie_embeddings else found.cfg.vocab_size * found.cfg.width)
    seconds = found.seconds | {"together": sum(found.seconds.values())}
    verdict = "fits" if found.peak < device.memory else f"does not fit {found.device}: {WAY_OUT}"
    rows = [
        ("parameters", f"{found.parameters:,}"),
        ("  visited by one token", f"{active:,}"),
        ("  trained", f"{found.trained:,}"),
        (f"memory of one device, of {device.memory / 1e9:.0f} GB", ""),
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
    model: str, weights: str, recipe: RLRecipe, mesh: str, options: PlanOptions, title: str, reward_models: int = 0,
    teacher: str = "",
) -> str:
    """What `--dry-run` prints: for a preset by name, else for what is at `weights`, else for a shipped base.

    Args:
        reward_models: see `plan`.
        teacher: a known model's name, a directory with its config.json, or a run.

    Raises:
        ValueError: none of these.
    """  # fmt: skip
    cfg, name = config_of(model, weights)
    return text(plan(cfg, recipe, mesh, options, reward_models, teacher_of(teacher)), f"{title}: {name}")


def teacher_of(given: str) -> ModelConfig | None:
    """Shapes of what --teacher names, see `dry_run`; None where it names nobody.

    Raises:
        ValueError: see `config_of`.
    """
    with checkpoint.behind("--teacher"):
        return config_of(given, given)[0] if given else None


def config_of(model: str, weights: str) -> tuple[ModelConfig, str]:
    """Shapes and name: a preset's, else of the Hugging Face directory or the run at `weights`, else of a shipped base.

    Raises:
        ValueError: none of these.
    """
    if model in PRESETS:
        return PRESETS[model], model
    if not weights:
        return read_config(base.directory(model)), model
    path = Path(weights).expanduser().absolute()
    for home in (path, *path.parents[:2]):  # of a run, its checkpoints, or one of them
        if (home / checkpoint.MODEL).exists():
            return checkpoint.read_model(home, weights), weights
    return read_config(path), weights
