"""Defines the two kinds of feed-forward: the gated MLP, and the mixture of experts."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.config import Experts, ModelConfig
from r1jax.model.layers import ACTIVATIONS, Kernel, Linear
from r1jax.sharding import ROW_AXES

EXCHANGED = 16384  # tokens that the shards of experts exchange at once


class GatedMLP(nn.Module):
    """Gated MLP: down(act(gate x) * up x), where down, gate and up are matrices; no biases (Shazeer 2020)."""

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32
    width: int = 0  # MLP width; 0 = mlp_width of cfg

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        def dense(name: str, width: int) -> Linear:
            return Linear(width, dtype=self.dtype, name=name)

        width = self.width or self.cfg.mlp_width
        # One axis of tokens: with two, XLA's CPU backend transposes copies for each weight gradient, twice as slow.
        flat = x.reshape(-1, x.shape[-1])
        hidden = ACTIVATIONS[self.cfg.activation](dense("gate", width)(flat)) * dense("up", width)(flat)
        return dense("down", self.cfg.width)(hidden).reshape(x.shape)


class ExpertKernels(nn.Module):
    """The matrices of all experts: gate and up [X, D, F], down [X, F, D]."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self) -> tuple[Array, Array, Array]:
        x, width = self.cfg.experts, self.cfg.width
        up = (x.count, width, x.width)
        return Kernel(up, name="gate")(), Kernel(up, name="up")(), Kernel((x.count, x.width, width), name="down")()


class Router(nn.Module):
    """Returns a score for each token and expert, [M, X] float32, and a bias for each expert, [X].

    The bias is added to the scores only when experts are chosen; it does not enter the gates (Wang et al. 2024).
    """

    cfg: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "M D"]) -> tuple[Float[Array, "M X"], Float[Array, " X"]]:
        experts = self.cfg.experts
        kernel = self.param("kernel", nn.initializers.zeros, (x.shape[-1], experts.count)).astype(jnp.float32)
        logits = jnp.dot(x.astype(jnp.float32), kernel, precision="highest")
        if experts.scores == "softmax":
            return jax.nn.softmax(logits), jnp.zeros(experts.count)
        bias = self.param("bias", nn.initializers.zeros, (experts.count,)).astype(jnp.float32)
        return jax.nn.sigmoid(logits), jax.lax.stop_gradient(bias)


class MoE(nn.Module):
    """Mixture of experts: Σ gate · expert(x) over the k experts that a token chooses, plus the shared experts.

    No token is dropped. Returns the output and the experts chosen, [.., k].

    The argument `chosen` [.., k] of a call names experts that an earlier pass chose. The tokens visit these experts.
    Where `chosen` is negative or None, the router chooses. The gates always come from the scores of this pass.
    """

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "*rows D"], chosen: Any = None
    ) -> tuple[Float[Array, "*rows D"], Int[Array, "*rows k"]]:
        experts = self.cfg.experts
        flat = x.reshape(-1, x.shape[-1])
        scores, bias = Router(self.cfg, name="router")(flat)
        if chosen is None:
            choice = choose(scores + bias.reshape(1, -1), experts)
        else:
            replayed = chosen.reshape(-1, experts.per_token).astype(jnp.int32)
            choice = jnp.where(replayed < 0, choose(scores + bias.reshape(1, -1), experts), replayed)
        gates = jnp.take_along_axis(scores, choice, axis=-1)
        if experts.normalise:
            gates = gates / (gates.sum(axis=-1, keepdims=True) + 1e-20)
        kernels = [kernel.astype(self.dtype) for kernel in ExpertKernels(self.cfg, name="experts")()]
        out = visit(flat, choice, gates * experts.scale, kernels, self.cfg.activation).reshape(x.shape)
        if experts.shared:
            out = out + GatedMLP(self.cfg, self.dtype, experts.shared * experts.width, name="shared")(x)
        return out, choice.reshape(*x.shape[:-1], -1)


def choose(scores: Float[Array, "M X"], experts: Experts) -> Int[Array, "M k"]:
    """Returns the experts of each token: the `per_token` experts with the highest scores in the token's best groups.

    The experts are divided into groups. A token chooses only from its `groups_kept` best groups. A group ranks by its
    highest score (DeepSeek-V2), or by the sum of its two highest scores (V3, whose scores are sigmoids).
    """
    if experts.groups > 1:
        grouped = scores.reshape(-1, experts.groups, experts.count // experts.groups)
        best = jax.lax.top_k(grouped, 2 if experts.scores == "sigmoid" else 1)[0].sum(-1)
        kept = jax.lax.top_k(best, experts.groups_kept)[1]
        inside: Bool[Array, "M g"] = (kept[:, :, None] == jnp.arange(experts.groups)[None, None, :]).any(1)
        scores = jnp.where(inside[:, :, None], grouped, -jnp.inf).reshape(scores.shape)
    return jax.lax.top_k(scores, experts.per_token)[1]


def visit(
    x: Float[Array, "M D"],
    chosen: Int[Array, "M k"],
    gates: Float[Array, "M k"],
    kernels: Sequence[Array],
    activation: str,
) -> Float[Array, "M D"]:
    """Sends every token through its experts. Returns, for each token, the sum of the experts' outputs times the gates.

    Runs on the ambient mesh (`jax.set_mesh`) if there is one. Each shard of the mesh axis `expert` holds some of the
    experts. The shard gathers the tokens of all these shards, sorts the tokens by expert, and computes the outputs of
    its own experts. Then the outputs are summed over the shards, and each shard gets the sums for its own tokens. So
    the weights of an expert stay on their devices, and no token is dropped, however unevenly the experts are chosen.
    Tokens are gathered in pieces, because a device needs room for all tokens that it gathers at once.

    Args:
        chosen: [M, k] experts of each token.
        gates: [M, k] factors on the outputs of these experts.
        kernels: the experts' matrices gate and up [X, D, F], and down [X, F, D].
        activation: a key of `ACTIVATIONS`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return visit_here(x, chosen, gates, kernels, activation)
    rows = ROW_AXES if x.shape[0] % math.prod(mesh.shape[axis] for axis in ROW_AXES) == 0 else None
    count, _, width = kernels[0].shape
    expert = "expert" if mesh.shape["expert"] > 1 and count % mesh.shape["expert"] == 0 else None
    tensor = "tensor" if width % mesh.shape["tensor"] == 0 else None
    apart = rows and expert  # the shards of experts hold different tokens
    summed = tuple(axis for axis in (None if apart else expert, tensor) if axis)

    def share(x: Array, chosen: Array, gates: Array, kernels: Sequence[Array]) -> Array:
        if apart:
            x, chosen, gates = (jax.lax.all_gather(each, "expert", tiled=True) for each in (x, chosen, gates))
        held = kernels[0].shape[0]
        first = jax.lax.axis_index("expert") * held if expert else 0
        mine = (chosen >= first) & (chosen < first + held)
        out = visit_here(x, jnp.where(mine, chosen - first, held), jnp.where(mine, gates, 0.0), kernels, activation)
        out = jax.lax.psum_scatter(out, "expert", tiled=True) if apart else out
        return jax.lax.psum(out, summed) if summed else out

    def in_pieces(x: Array, chosen: Array, gates: Array, *here: Array) -> Array:
        run = functools.partial(share, kernels=here)
        pieces = -(-x.shape[0] * mesh.shape["expert"] // EXCHANGED) if apart else 1
        if pieces == 1:
            return run(x, chosen, gates)
        more = -x.shape[0] % pieces

        def cut(a: Array, fill: int) -> Array:
            return jnp.pad(a, ((0, more), (0, 0)), constant_values=fill).reshape(pieces, -1, a.shape[1])

        parts = cut(x, 0), cut(chosen, count), cut(gates, 0)  # what is added visits no expert
        out = jax.lax.map(lambda part: jax.checkpoint(run)(*part), parts)
        return out.reshape(-1, x.shape[1])[: x.shape[0]]

    return jax.shard_map(
        in_pieces,
        mesh=mesh,
        out_specs=P(rows),
        check_vma=False,
        in_specs=(P(rows), P(rows), P(rows), P(expert, None, tensor), P(expert, None, tensor), P(expert, tensor)),
    )(x, chosen, gates, *kernels)


def visit_here(x: Array, chosen: Array, gates: Array, kernels: Sequence[Array], activation: str) -> Array:
    """Returns the same as `visit`, on one device: sorts tokens by expert, then computes one ragged product per matrix.

    X is the number of experts that `kernels` holds. Entries of `chosen` that are X or more contribute nothing.
    """
    gate, up, down = kernels
    order = jnp.argsort(chosen.reshape(-1), stable=True)
    sizes = jnp.bincount(chosen.reshape(-1), length=gate.shape[0]).astype(jnp.int32)
    rows = x[order // chosen.shape[1]]
    hidden = ACTIVATIONS[activation](jax.lax.ragged_dot(rows, gate, sizes)) * jax.lax.ragged_dot(rows, up, sizes)
    out = jax.lax.ragged_dot(hidden, down, sizes)
    out = jnp.where(jnp.arange(len(order))[:, None] < sizes.sum(), out, 0)  # rows after the last group are undefined
    back = out[jnp.argsort(order)].reshape(*chosen.shape, -1)
    return jnp.sum(back * gates[..., None].astype(back.dtype), axis=1)


def loads(chosen: Int[Array, "L *rows k"], counted: Bool[Array, "*rows"], count: int) -> Float[Array, "L X"]:
    """Returns how many tokens chose each of the X = `count` experts in each layer.

    Counts only tokens where `counted` is True, for example tokens that are not padding.
    """
    weight = jnp.broadcast_to(counted[..., None], chosen.shape[1:]).astype(jnp.float32).reshape(-1)
    return jax.vmap(lambda layer: jnp.zeros(count).at[layer.reshape(-1)].add(weight))(chosen)


def rebalance(
    bias: Float[Array, "*layers X"], load: Float[Array, "*layers X"], rate: float
) -> Float[Array, "*layers X"]:
    """Returns the routers' biases after a step of size `rate` towards an even load (DeepSeek-V3, section 2.1.2).

    The bias falls for experts with more than the mean load, and rises for experts with less.
    """
    return bias + rate * jnp.sign(load.mean(-1, keepdims=True) - load)


def imbalance(load: Float[Array, "*layers X"]) -> Float[Array, ""]:
    """Returns the load of the busiest expert divided by the mean load, for the layer where this ratio is largest.

    1 means an even load.
    """
    return (load.max(-1) / jnp.maximum(load.mean(-1), 1.0)).max()


def within(cfg: ModelConfig, mesh: Mesh) -> contextlib.AbstractContextManager:
    """Returns a context that makes `mesh` the ambient mesh, on which `visit` runs.

    For a model without experts, the context does nothing.
    """
    return jax.set_mesh(mesh) if cfg.experts else contextlib.nullcontext()
