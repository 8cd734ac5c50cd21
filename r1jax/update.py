"""The jitted update: accumulate gradients over packed micro-batches, then apply them once.

The loss is a sum over tokens whose weights were made from the whole minibatch, so micro-batches add up to the minibatch
by construction. What is trained is a tree of its own, `params`, with frozen leaves beside it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from r1jax.grpo import policy_loss, truncated_importance
from r1jax.logprobs import packed_logprobs
from r1jax.model.config import ModelConfig
from r1jax.model.feedforward import imbalance, rebalanced
from r1jax.rollout import Minibatch, PackedRows, numbered
from r1jax.sharding import name_of, shardings

LOAD = "experts/load"  # [L, X], summed over micro-batches like a metric, until `apply` reads it


class TrainState(NamedTuple):
    """What an optimizer step changes; saved, sharded and donated as it is."""

    step: Int[Array, ""]
    params: dict
    opt_state: optax.OptState


class Sums(NamedTuple):
    """Gradients and metrics summed over micro-batches."""

    grads: dict
    metrics: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Learner:
    """The static half of an update: everything `jit` specialises on.

    Attributes:
        loss: `(logp, entropy, batch) -> (sum, metric sums)` on per-token arrays [R, S]; metrics named ".../max" are
            combined by maximum, the others by sum.
        temperature: of sampling; log-probabilities are taken at it.
        row_shards: see `attend_full`.
        attention: its backend, and the mesh that kernels are cut along: see `attend_packed`.
        balance_rate: step of the routers' biases towards an even load of experts.
    """

    cfg: ModelConfig
    optimizer: optax.GradientTransformation
    loss: Callable[[Array, Array, tuple], tuple[Array, dict[str, Array]]]
    temperature: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: str = "dots"
    row_shards: int | None = None
    balance_rate: float = 0.0
    attention: str = "xla"
    mesh: Mesh | None = None


def start(learner: Learner, params: dict, mesh: Mesh | None = None) -> TrainState:
    """A fresh train state around `params`, on the mesh: zeros follow no argument, so the moments must be told where to
    lie."""
    init = learner.optimizer.init
    if mesh is None:
        return TrainState(jnp.int32(0), params, jax.jit(init)(params))
    moments = jax.jit(init, out_shardings=shardings(jax.eval_shape(init, params), mesh))(params)
    return TrainState(jax.device_put(jnp.int32(0), NamedSharding(mesh, P())), params, moments)


def merge(params: dict, frozen: dict | None) -> dict:
    """The whole tree of a model from its trained and its frozen part, each None where the other has a leaf."""
    if frozen is None:
        return params
    return jax.tree.map(lambda a, b: b if a is None else a, params, frozen, is_leaf=lambda x: x is None)


@functools.partial(jax.jit, static_argnames=("learner",))
def score(learner: Learner, params: dict, rows: PackedRows) -> tuple[Float[Array, "R S"], Float[Array, "R S"]]:
    """log π and entropy of every token of packed rows: the old or reference log-probabilities of a rollout."""
    return packed_logprobs(
        learner.cfg, params, rows, learner.temperature,
        dtype=learner.dtype, row_shards=learner.row_shards, attention=learner.attention, mesh=learner.mesh,
    )[:2]  # fmt: skip


def places(tree: Any) -> tuple[jax.sharding.Sharding, ...]:
    """Where each array of a tree lies, as `jit` can specialise on it."""
    return tuple(x.sharding for x in jax.tree.leaves(tree))


def keep_place(tree: Any, where: tuple[jax.sharding.Sharding, ...]) -> Any:
    """The arrays held to their places: left alone, XLA would choose a layout of its own for each result."""
    leaves, structure = jax.tree.flatten(tree)
    held = [
        jax.lax.with_sharding_constraint(x, place) if isinstance(place, NamedSharding) else x
        for x, place in zip(leaves, where, strict=True)
    ]
    return jax.tree.unflatten(structure, held)


@functools.partial(jax.jit, static_argnames=("learner", "where"), donate_argnames=("sums",))
def accumulate(
    learner: Learner, params: dict, frozen: dict | None, sums: Sums | None, batch: tuple, where: tuple = ()
) -> Sums:
    """`sums` with the gradient and metrics of one micro-batch added; None starts a minibatch.

    Args:
        where: `places(params)`; the gradients lie as the parameters do.
    """

    def total(params: dict) -> tuple[Array, dict[str, Array]]:
        logp, entropy, load = packed_logprobs(
            learner.cfg,
            merge(params, frozen),
            batch.rows,
            learner.temperature,
            dtype=learner.dtype,
            remat=learner.remat,
            row_shards=learner.row_shards,
            attention=learner.attention,
            mesh=learner.mesh,
            targets=batch.targets if isinstance(batch, SoftBatch) else None,
        )
        loss, metrics = learner.loss(logp, entropy, batch)
        return loss, metrics | {"loss": loss} | ({} if load is None else {LOAD: load})

    grads, metrics = jax.grad(total, has_aux=True)(params)
    grads = keep_place(grads, where) if where else grads
    if sums is None:
        return Sums(grads, metrics)
    merged = {
        k: jnp.maximum(v, sums.metrics[k]) if k.endswith("/max") else v + sums.metrics[k] for k, v in metrics.items()
    }
    return Sums(jax.tree.map(jnp.add, sums.grads, grads), merged)


@functools.partial(jax.jit, static_argnames=("learner", "where"), donate_argnames=("state",))
def apply(learner: Learner, state: TrainState, sums: Sums, where: tuple = ()) -> tuple[TrainState, dict[str, Array]]:
    """One optimizer step; a non-finite loss or gradient leaves parameters and moments as they were.

    The step counter advances either way. Metrics gain "grad_norm", "skipped" (0 or 1), and with experts
    "experts/imbalance".
    """
    norm = optax.global_norm(sums.grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(sums.metrics["loss"])

    def take() -> tuple[dict, optax.OptState]:
        updates, opt_state = learner.optimizer.update(sums.grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    params, opt_state = jax.lax.cond(finite, take, lambda: (state.params, state.opt_state))
    metrics = sums.metrics | {"grad_norm": norm, "skipped": 1 - finite.astype(jnp.int32)}
    if (load := metrics.pop(LOAD, None)) is not None:
        metrics["experts/imbalance"] = imbalance(load)
        params = balanced(params, load, learner.balance_rate)
    new = TrainState(state.step + 1, params, opt_state)
    return keep_place(new, where) if where else new, metrics


def balanced(params: dict, load: Float[Array, "L X"], rate: float) -> dict:
    """The parameters with every router's bias a step nearer to an even load; those that have none, or are frozen, as
    they are."""

    def leaf(path: tuple, x: Array) -> Array:
        return (
            rebalanced(x, load, rate)
            if rate and name_of(path).endswith("router/bias") and "mtp" not in name_of(path)
            else x
        )

    return jax.tree_util.tree_map_with_path(leaf, params)


def update(
    learner: Learner, state: TrainState, batches: Sequence[tuple], frozen: dict | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """One optimizer step on a minibatch given as micro-batches of equal shape. Donates `state`."""
    sums, where = None, places(state.params)
    for batch in batches:
        sums = accumulate(learner, state.params, frozen, sums, batch, where)
    where = places(state)
    new, metrics = apply(learner, state, sums, where)
    # On a mesh of one device jit names the same place differently, and the next step would compile anew.
    leaves, structure = jax.tree.flatten(new)
    return jax.tree.unflatten(structure, jax.device_put(leaves, list(where))), metrics


@functools.cache
def grpo_objective(
    clip_eps: float,
    kl_coef: float,
    *,
    clip_eps_high: float | None = None,
    by_sequence: bool = False,
    tis_cap: float = 0.0,
) -> Callable:
    """`Learner.loss` of reinforcement learning on a `Minibatch`. Cached: equal losses share their compiled updates.

    Args:
        clip_eps_high: see `policy_loss`.
        by_sequence: ratios of whole completions.
        tis_cap: cap of `truncated_importance`; 0 corrects nothing.
    """

    @functools.wraps(policy_loss)
    def loss(logp: Array, entropy: Array, batch: Minibatch) -> tuple[Array, dict[str, Array]]:
        old_logp = jax.lax.stop_gradient(logp) if batch.old_logp is None else batch.old_logp
        ref_logp = old_logp if batch.ref_logp is None else batch.ref_logp
        counted = batch.weight != 0
        gap = jnp.where(counted, old_logp - batch.rollout_logp, 0.0)
        sequence = numbered(batch.rows) if by_sequence else None
        correction = truncated_importance(old_logp, batch.rollout_logp, tis_cap) if tis_cap else None
        value, metrics = policy_loss(
            logp, old_logp, ref_logp, batch.advantage, batch.weight, clip_eps=clip_eps, kl_coef=kl_coef,
            clip_eps_high=clip_eps_high, sequence=sequence, correction=correction,
        )  # fmt: skip
        truncated = {"sampler_gap/truncated": jnp.sum(batch.weight * (jnp.exp(gap) > tis_cap))} if tis_cap else {}
        return value, metrics | truncated | {
            "entropy": jnp.sum(batch.weight * jnp.where(counted, entropy, 0.0)),
            "sampler_gap/max": jnp.max(jnp.abs(gap)),
            # k3 estimate of KL(sampler || trainer), always >= 0
            "sampler_gap/k3": jnp.sum(batch.weight * (jnp.expm1(gap) - gap)),
        }

    return loss


class TokenBatch(NamedTuple):
    """Packed rows with a weight for each token, for supervised training."""

    rows: PackedRows
    weight: Float[Array, "R S"]


class SoftBatch(NamedTuple):
    """The same with several tokens in the place of each, such as a teacher's likeliest, and the share of each."""

    rows: PackedRows
    weight: Float[Array, "R S"]
    targets: Int[Array, "R S K"]
    shares: Float[Array, "R S K"]


def soft_cross_entropy(logp: Array, entropy: Array, batch: SoftBatch) -> tuple[Array, dict[str, Array]]:
    """`Learner.loss` of distillation: −Σ w Σ_k share_k log π_k."""
    counted = jnp.where(batch.shares > 0, logp, 0.0)
    return -jnp.sum(batch.weight[..., None] * batch.shares * counted), {"weight": jnp.sum(batch.weight)}


def cross_entropy(logp: Array, entropy: Array, batch: TokenBatch) -> tuple[Array, dict[str, Array]]:
    """`Learner.loss` of supervised training: −Σ w log π."""
    counted = jnp.where(batch.weight != 0, logp, 0.0)
    return -jnp.sum(batch.weight * counted), {"weight": jnp.sum(batch.weight)}
