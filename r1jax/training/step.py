"""Runs the jitted update: accumulates gradients over micro-batches, then applies them once.

The same `update` serves every kind of training; a `Learner` supplies the loss. A loss is a weighted sum whose weights
were computed from the whole minibatch, so the losses of the micro-batches add up to the loss of the minibatch. The
trained parameters form a tree of their own, `params`; frozen parameters are passed separately.
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
from jaxtyping import Array, Float, Int

from r1jax.distributed import beat
from r1jax.model.feedforward import imbalance, rebalance
from r1jax.model.lora import merge
from r1jax.model.packed_rows import PackedRows
from r1jax.sharding import name_of, shardings
from r1jax.training.logprobs import LOAD, Network

Loss = Callable[[Network, dict, Any], tuple[Array, dict[str, Array]]]


class TrainState(NamedTuple):
    """The state that an optimizer step changes: step counter, trained parameters, state of the optimizer."""

    step: Int[Array, ""]
    params: dict
    opt_state: optax.OptState


class Sums(NamedTuple):
    """Gradients and metrics summed over micro-batches."""

    grads: dict
    metrics: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Learner:
    """The static part of an update. `jit` specialises on a learner, and equal learners share their compiled programs.

    Attributes:
        network: settings of the forward pass, which `loss` receives.
        loss: `(network, params, batch) -> (loss, metrics)` of one micro-batch, such as `cross_entropy` or a result of
            `grpo_objective`. The loss and the metrics are sums over the tokens of the micro-batch, and are added up
            over micro-batches. Metrics named ".../max" are maxima instead of sums.
        balance_rate: how far each step moves the routers' biases towards an even expert load; 0 leaves the biases
            unchanged.
    """

    network: Network
    optimizer: optax.GradientTransformation
    loss: Loss
    balance_rate: float = 0.0

    def forward(self, params: dict, batch: Any) -> tuple[Array, dict[str, Array]]:
        """Returns (loss, metrics) of a micro-batch, as sums over its tokens.

        Args:
            params: all parameters of the model, trained and frozen.
            batch: a micro-batch in the form that `loss` reads, such as a `Minibatch` or a `TokenBatch`.
        """
        return self.loss(self.network, params, batch)


def start(learner: Learner, params: dict, mesh: Mesh | None = None) -> TrainState:
    """Returns a train state at step 0 with the given trained parameters and a fresh optimizer state.

    Args:
        mesh: mesh that the optimizer's moments are sharded over; None for a single device. The moments start as
            zeros, which do not inherit the sharding of `params`. So they are placed explicitly.
    """
    init = learner.optimizer.init
    if mesh is None:
        return TrainState(jnp.int32(0), params, jax.jit(init)(params))
    moments = jax.jit(init, out_shardings=shardings(jax.eval_shape(init, params), mesh))(params)
    return TrainState(jax.device_put(jnp.int32(0), NamedSharding(mesh, P())), params, moments)


@functools.partial(jax.jit, static_argnames=("network",))
def score(network: Network, params: dict, rows: PackedRows) -> tuple[Float[Array, "R S"], Float[Array, "R S"]]:
    """Returns the log-probability and the entropy of every token of packed rows, without gradients.

    Used for the log-probabilities under the old policy and under the reference policy.

    Args:
        params: all parameters of the model.
    """
    return dataclasses.replace(network, remat="none").logprobs(params, rows)[:2]


def places(tree: Any) -> tuple[jax.sharding.Sharding, ...]:
    """Returns the sharding of each array in a tree, as a tuple that `jit` can specialise on."""
    return tuple(x.sharding for x in jax.tree.leaves(tree))


def keep_place(tree: Any, where: tuple[jax.sharding.Sharding, ...]) -> Any:
    """Returns the tree with each array constrained to a given sharding. Without this, XLA would choose the shardings.

    Args:
        where: the sharding of each array of the tree, from `places`. An entry that is not a `NamedSharding` leaves its
            array unconstrained.
    """
    leaves, structure = jax.tree.flatten(tree)
    held = [
        jax.lax.with_sharding_constraint(x, place) if isinstance(place, NamedSharding) else x
        for x, place in zip(leaves, where, strict=True)
    ]
    return jax.tree.unflatten(structure, held)


@functools.partial(jax.jit, static_argnames=("learner", "where"), donate_argnames=("sums",))
def accumulate(
    learner: Learner, params: dict, frozen: dict | None, sums: Sums | None, batch: Any, where: tuple = ()
) -> Sums:
    """Returns `sums` plus the gradient and metrics of one micro-batch.

    Args:
        params: trained parameters, for which gradients are computed.
        frozen: the other parameters of the model (see `lora.partition`); None if all are trained.
        sums: sums over the earlier micro-batches of the minibatch; None for the first micro-batch.
        batch: any tree of arrays that `learner.loss` reads.
        where: `places(params)`, so that the gradients get the shardings of the parameters; () lets XLA choose.
    """

    def total(params: dict) -> tuple[Array, dict[str, Array]]:
        loss, metrics = learner.forward(merge(params, frozen), batch)
        return loss, metrics | {"loss": loss}

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
    """Applies one optimizer step with the gradients in `sums`. Returns the new state, and the metrics of the step.

    If the loss or a gradient is not finite, the parameters and the optimizer's state stay unchanged, but the step
    counter still advances. The metrics of the step are those in `sums`, "grad_norm" (before clipping), "skipped" (1 if
    the step was not finite, else 0), and, for a model with experts, "experts/imbalance" (see `imbalance`).

    Args:
        where: `places(state)`, so that the new state keeps the shardings of the old; () lets XLA choose.
    """
    norm = optax.global_norm(sums.grads)
    finite = jnp.isfinite(norm) & jnp.isfinite(sums.metrics["loss"])

    updates, opt_state = learner.optimizer.update(sums.grads, state.opt_state, state.params)
    taken = optax.apply_updates(state.params, updates), opt_state
    # A choice for each number, and not `cond`: the new state then takes the place of the old one in memory.
    params, opt_state = jax.tree.map(lambda a, b: jnp.where(finite, a, b), taken, (state.params, state.opt_state))
    metrics = sums.metrics | {"grad_norm": norm, "skipped": 1 - finite.astype(jnp.int32)}
    if (load := metrics.pop(LOAD, None)) is not None:
        metrics["experts/imbalance"] = imbalance(load)
        params = balance_routers(params, load, learner.balance_rate)
    new = TrainState(state.step + 1, params, opt_state)
    return keep_place(new, where) if where else new, metrics


def balance_routers(params: dict, load: Float[Array, "L X"], rate: float) -> dict:
    """Returns the parameters, with every router's bias changed by one step towards an even load of the experts.

    Routers without a bias, frozen routers, and routers of multi-token-prediction layers stay unchanged.

    Args:
        load: number of tokens that chose each expert in each layer with experts.
        rate: size of the step; 0 changes nothing.
    """

    def leaf(path: tuple, x: Array) -> Array:
        return (
            rebalance(x, load, rate)
            if rate and name_of(path).endswith("router/bias") and "mtp" not in name_of(path)
            else x
        )

    return jax.tree_util.tree_map_with_path(leaf, params)


def update(
    learner: Learner, state: TrainState, batches: Sequence[Any], frozen: dict | None = None
) -> tuple[TrainState, dict[str, Array]]:
    """Runs one optimizer step on a minibatch. Returns the new state, and the metrics of the step (see `apply`).

    The buffers of `state` are donated: do not use `state` afterwards.

    Args:
        batches: the minibatch as micro-batches, whose losses are summed. Each different shape compiles another program.
        frozen: parameters that are not trained (see `lora.partition`); None if all are trained.
    """
    sums, where = None, places(state.params)
    for batch in batches:
        beat("update")
        sums = accumulate(learner, state.params, frozen, sums, batch, where)
    where = places(state)
    new, metrics = apply(learner, state, sums, where)
    # On a one-device mesh, jit gives the same place another name, and the next step would compile again.
    leaves, structure = jax.tree.flatten(new)
    return jax.tree.unflatten(structure, jax.device_put(leaves, list(where))), metrics
