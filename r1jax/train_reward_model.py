"""The walk of a reward model: judged replies, a head on a policy's body, held-out accuracy, bias for length, calibration."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from r1jax import checkpoint, launch, lineage
from r1jax.data.prompts import fingerprint
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.nano import general
from r1jax.progress import Progress
from r1jax.reward_model import (
    Loss, RewardModel, Texts, head, helpful_input, packed_texts, pairwise, pointwise, rewards, safety_input, score,
)  # fmt: skip
from r1jax.rollout import PackedRows
from r1jax.run import MODEL, Logs, Policy, RunOptions, load_policy, new_workdir, tokenizer_of, write_policy
from r1jax.saver import Saver
from r1jax.sharding import abstract, make_mesh, row_shards, rows_in_turn, shard_rows
from r1jax.update import TrainState

MAY_CHANGE = frozenset({"mesh", "save_every", "workdir", "resume"})
KINDS = ("helpful", "safety")


@dataclasses.dataclass(frozen=True)
class RewardRecipe:
    """Every number of a reward model's training. Fields are flags."""

    epochs: float
    """Times each judged item is read."""
    batch_items: int
    """Pairs, or labelled responses, of one step."""
    learning_rate: float
    """Of AdamW, constant after the warm-up."""
    warmup_steps: int
    weight_decay: float
    grad_clip: float
    """Largest global norm of a gradient."""
    row_length: int
    """Slots of a packed row; longer texts lose their beginning."""
    items: int
    """Judged items of the nano annotator, where --data names no file."""
    held_out_items: int
    """Items kept for measuring."""
    save_every: int
    """Steps between two checkpoints; the last step is saved always."""


def texts_of(kind: str, items: Sequence[dict]) -> list[str]:
    """What the model reads of each item: of a pair the chosen and then the rejected text."""
    if kind == "helpful":
        return [helpful_input(item["problem"], item[side]) for item in items for side in ("chosen", "rejected")]
    return [safety_input(item["problem"], item["response"]) for item in items]


def read(path: str, kind: str) -> list[dict]:
    """Judged items of a jsonl file: {problem, chosen, rejected} or {problem, response, safe}.

    Raises:
        ValueError: the file cannot be read or a line lacks a key.
    """
    wanted = ("problem", "chosen", "rejected") if kind == "helpful" else ("problem", "response", "safe")
    try:
        items = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"--data={path} cannot be read ({error})") from error
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict) or (missing := [key for key in wanted if key not in item]):
            raise ValueError(f"--data={path} line {number} lacks {', '.join(missing) if isinstance(item, dict) else 'an object'}; a {kind} item is {{{', '.join(wanted)}}}")
    if len(items) < 2:
        raise ValueError(f"--data={path} holds {len(items)} items; give at least 2")
    return items


@functools.partial(jax.jit, static_argnames=("cfg", "loss", "optimizer", "shards"), donate_argnames=("state",))
def step(
    cfg: ModelConfig, loss: Loss, optimizer: optax.GradientTransformation, state: TrainState, batch: Texts, labels: Any, weight: Any, shards: int | None
) -> tuple[TrainState, dict]:
    """One optimizer step on a batch of texts; the loss is a mean over items by `weight`."""
    value, grads = jax.value_and_grad(lambda p: loss(rewards(cfg, p, batch, remat="full", shards=shards), labels, weight))(state.params)
    updates, moments = optimizer.update(grads, state.opt_state, state.params)
    new = TrainState(state.step + 1, optax.apply_updates(state.params, updates), moments)
    return new, {"loss": value, "grad_norm": optax.tree.norm(grads)}


def measured(kind: str, model: RewardModel, items: Sequence[dict], mesh: Mesh) -> tuple[dict, np.ndarray]:
    """Held-out figures, and the raw rewards: accuracy (of pairs, or of the sign), and how much the reward follows length and stock phrases."""
    values = np.concatenate([score(model, texts_of(kind, items[i : i + 128]), mesh) for i in range(0, len(items), 128)])
    said = [item[side] for item in items for side in ("chosen", "rejected")] if kind == "helpful" else [item["response"] for item in items]
    lengths, padding = np.asarray([len(text) for text in said], float), np.asarray([general.fillers(text) for text in said], float)
    figures: dict = {"n": len(items), "length_correlation": correlation(values, lengths), "padding_correlation": correlation(values, padding)}
    if kind == "helpful":
        won, longer = values[0::2] > values[1::2], lengths[0::2] > lengths[1::2]
        figures |= {"accuracy": float(won.mean()), "length_chosen": float(lengths[0::2].mean()), "length_rejected": float(lengths[1::2].mean())}
        figures |= {f"accuracy_{name}": float(won[mask].mean()) if mask.any() else None for name, mask in (("chosen_longer", longer), ("chosen_shorter", ~longer))}
    else:
        safe = np.asarray([bool(item["safe"]) for item in items])
        figures |= {"accuracy": float(((values > 0) == safe).mean()), "auc": float((values[safe][:, None] > values[~safe][None]).mean()) if 0 < safe.sum() < len(safe) else None}
    return figures, values


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else None


def train(recipe: RewardRecipe, options: RunOptions, kind: str, data: str = "") -> Path:
    """Trains one reward model. The working directory can be given to `load`.

    Raises:
        ValueError: a flag, file or checkpoint that cannot be used.
    """
    from r1jax.nano import preferences

    if kind not in KINDS:
        raise ValueError(f"--kind={kind} must be {' or '.join(KINDS)}")
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    workdir, mesh = Path(options.workdir or new_workdir(f"reward-{kind}")), make_mesh(options.mesh)
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options) | {"kind": kind, "data": data}
    before = lineage.check_resume(workdir, fields, options.resume, MAY_CHANGE)
    if data:
        found = read(data, kind)
        order = np.random.default_rng(options.seed).permutation(len(found))
        kept = min(recipe.held_out_items, len(found) // 5 or 1)
        held_out, items = [found[i] for i in order[:kept]], [found[i] for i in order[kept:]]
    else:
        make: Callable = preferences.pair if kind == "helpful" else preferences.labelled
        items = [make(options.seed, i) for i in range(recipe.items)]
        held_out = [make(options.seed, i, "held out") for i in range(recipe.held_out_items)]
    policy, params, parent = load_policy(options, mesh)
    cfg, params = head(policy.cfg, params)
    steps = max(1, round(recipe.epochs * len(items) / recipe.batch_items))
    rate = optax.linear_schedule(0.0, recipe.learning_rate, recipe.warmup_steps) if recipe.warmup_steps else recipe.learning_rate
    optimizer = optax.chain(optax.clip_by_global_norm(recipe.grad_clip), optax.adamw(rate, 0.9, 0.95, weight_decay=recipe.weight_decay))
    state = TrainState(jnp.int32(0), params, jax.jit(optimizer.init)(params))
    info = {"sha256": fingerprint(items), "counts": {"items": len(items), "held_out": len(held_out)}}
    manifest = lineage.Manifest(f"reward_model_{kind}", fields, options.seed, lineage.versions(), parent, info)
    last = checkpoint.latest(workdir / "checkpoints")
    if last is not None:
        state = TrainState(*checkpoint.restore(workdir, abstract(jax.eval_shape(lambda: state), mesh), last))
        manifest = dataclasses.replace(before, status="running")
    if launch.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        lineage.write(workdir, manifest)
        write_policy(workdir, Policy(cfg, policy.tokenizer, policy.template))
    loss, shards = (pairwise if kind == "helpful" else pointwise), rows_in_turn(mesh)
    logs = Logs(workdir, -1 if last is None else last)
    with Saver(workdir / "checkpoints", keep=1) as saver, launch.stop_requests() as stopping, Progress(steps, last or 0) as progress:
        for number in range((last or 0) + 1, steps + 1):
            began = time.monotonic()
            chosen = in_order(len(items), number - 1, recipe.batch_items, options.seed)
            some = [items[i] for i in chosen]
            batch = packed_texts(policy.tokenizer, texts_of(kind, some), recipe.row_length, max(8, row_shards(mesh)))
            labels = np.asarray([float(bool(item.get("safe", True))) for item in some], np.float32)
            weight = np.full(len(some), 1.0 / len(some), np.float32)
            placed = Texts(PackedRows(*shard_rows(batch.rows, mesh)), batch.last)
            state, figures = step(cfg, loss, optimizer, state, placed, labels, weight, shards)
            figures = {k: float(v) for k, v in figures.items()}
            if not np.isfinite(figures["loss"]):
                raise FloatingPointError(f"the loss of step {number} is not finite. Lower --learning-rate")
            logs.write("metrics", {"step": number, **figures, "perf/step_s": time.monotonic() - began})
            progress.update(number, {"loss": figures["loss"]})
            done, stop = number == steps, stopping()
            if done:
                model = RewardModel(cfg, state.params, policy.tokenizer, recipe.row_length)
                results, values = measured(kind, model, held_out, mesh)
                # Calibrated: mean 0 and deviation 1 over held-out texts, so that a weight means the same for every model.
                calibration = {"offset": float(values.mean()), "scale": float(1.0 / max(values.std(), 1e-6))}
                manifest = dataclasses.replace(manifest, results={"base": None, "final": results | {"calibration": calibration}})
                progress.say(f"{kind}: held-out " + ", ".join(f"{k} {v:.3f}" for k, v in results.items() if isinstance(v, float)))
            if number % recipe.save_every == 0 or done or stop:
                logs.sync()
                if launch.is_main():
                    lineage.write(workdir, manifest)
                saver.save(number, state, {})
            if stop and not done:
                saver.wait()
                raise SystemExit(f"stopped at step {number}; go on with --workdir={workdir} --resume=True and the same flags")
        saver.wait()
    logs.close()
    if launch.is_main():
        lineage.write(workdir, dataclasses.replace(manifest, status="complete"))
    return workdir


def in_order(count: int, batch: int, size: int, seed: int) -> list[int]:
    """The items of a batch: each epoch is a new order of all, a function of the seed and the epoch."""
    places = range(batch * size, (batch + 1) * size)
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(count) for epoch in {i // count for i in places}}
    return [int(orders[i // count][i % count]) for i in places]


def load(directory: str, kind: str, mesh: Mesh) -> RewardModel:
    """A trained reward model, calibrated.

    Raises:
        ValueError: no complete reward model of this kind there.
    """
    home = Path(directory)
    manifest = lineage.read(home)
    if manifest is None or manifest.stage != f"reward_model_{kind}" or manifest.status != "complete":
        raise ValueError(f"--{kind}={directory} is no complete reward model of kind {kind}: train one with python -m experiments.train_reward_model --kind={kind}")
    cfg = ModelConfig.from_dict(json.loads((home / MODEL).read_text()))
    params = checkpoint.restore_params(checkpoint.find(home), abstract(transformer.shapes(cfg), mesh))
    found = manifest.results["final"]["calibration"]
    return RewardModel(cfg, params, tokenizer_of(home, cfg, directory), manifest.recipe["row_length"], found["offset"], found["scale"])
