"""Feed-forward kinds: the gated MLP, and a mixture of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.config import Experts, ModelConfig
from r1jax.model.layers import ACTIVATIONS, Kernel, Linear


class GatedMLP(nn.Module):
    """down(act(gate x) * up x), without biases (Shazeer 2020)."""

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32
    width: int = 0  # 0 = the model's

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        def dense(name: str, width: int) -> Linear:
            return Linear(width, dtype=self.dtype, name=name)

        width = self.width or self.cfg.mlp_width
        # One axis of tokens: with two, XLA's CPU backend transposes copies for every weight gradient, twice as slow.
        flat = x.reshape(-1, x.shape[-1])
        hidden = ACTIVATIONS[self.cfg.activation](dense("gate", width)(flat)) * dense("up", width)(flat)
        return dense("down", self.cfg.width)(hidden).reshape(x.shape)


class ExpertKernels(nn.Module):
    """The matrices of all experts, [X, D, F] twice and [X, F, D]."""

    cfg: ModelConfig

    @nn.compact
    def __call__(self) -> tuple[Array, Array, Array]:
        x, width = self.cfg.experts, self.cfg.width
        up = (x.count, width, x.width)
        return Kernel(up, name="gate")(), Kernel(up, name="up")(), Kernel((x.count, x.width, width), name="down")()


class Router(nn.Module):
    """float32 scores of the experts, and the bias that corrects the choice but not the scores (Wang et al. 2024)."""

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
    """Σ gate · expert(x) over the experts each token chooses, plus the shared ones; and that choice. None is dropped.

    Args of the call: chosen: [.., k] replays the choice of an earlier pass, where it is not negative; the gates are
    this pass's scores of those experts.
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
    """The experts of each token: its best `per_token`, within its best groups.

    A group counts by its best score (DeepSeek-V2), or by the sum of its two best (V3, whose scores are sigmoids).
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
    """Every token through its experts, weighted by its gates, on the ambient mesh (`jax.set_mesh`) if there is one.

    Each shard of rows sorts its own tokens; each shard of experts takes those that are its own and the shares are added
    up. So the weights of an expert stay where they are, and nothing is dropped however uneven the choice.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return visit_here(x, chosen, gates, kernels, activation)
    rows = ("data", "fsdp") if x.shape[0] % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else None
    count, _, width = kernels[0].shape
    expert = "expert" if count % mesh.shape["expert"] == 0 else None
    tensor = "tensor" if width % mesh.shape["tensor"] == 0 else None
    summed = tuple(axis for axis in (expert, tensor) if axis)

    def share(x: Array, chosen: Array, gates: Array, *kernels: Array) -> Array:
        held = kernels[0].shape[0]
        first = jax.lax.axis_index("expert") * held if expert else 0
        mine = (chosen >= first) & (chosen < first + held)
        out = visit_here(x, jnp.where(mine, chosen - first, held), jnp.where(mine, gates, 0.0), kernels, activation)
        return jax.lax.psum(out, summed) if summed else out

    return jax.shard_map(
        share, mesh=mesh, out_specs=P(rows), check_vma=False,
        in_specs=(P(rows), P(rows), P(rows), P(expert, None, tensor), P(expert, None, tensor), P(expert, tensor)),
    )(x, chosen, gates, *kernels)  # fmt: skip


def visit_here(x: Array, chosen: Array, gates: Array, kernels: Sequence[Array], activation: str) -> Array:
    """`visit` on one device: tokens sorted by expert, one ragged product a matrix. Any beyond the last are nobody's."""
    gate, up, down = kernels
    order = jnp.argsort(chosen.reshape(-1), stable=True)
    sizes = jnp.bincount(chosen.reshape(-1), length=gate.shape[0]).astype(jnp.int32)
    rows = x[order // chosen.shape[1]]
    hidden = ACTIVATIONS[activation](jax.lax.ragged_dot(rows, gate, sizes)) * jax.lax.ragged_dot(rows, up, sizes)
    out = jax.lax.ragged_dot(hidden, down, sizes)
    out = jnp.where(
        jnp.arange(len(order))[:, None] < sizes.sum(), out, 0
    )  # what lies behind the last group is undefined
    back = out[jnp.argsort(order)].reshape(*chosen.shape, -1)
    return jnp.sum(back * gates[..., None].astype(back.dtype), axis=1)


def loads(chosen: Int[Array, "L *rows k"], counted: Bool[Array, "*rows"], count: int) -> Float[Array, "L X"]:
    """How many of the counted tokens chose each expert of each layer."""
    weight = jnp.broadcast_to(counted[..., None], chosen.shape[1:]).astype(jnp.float32).reshape(-1)
    return jax.vmap(lambda layer: jnp.zeros(count).at[layer.reshape(-1)].add(weight))(chosen)


def rebalanced(
    bias: Float[Array, "*layers X"], load: Float[Array, "*layers X"], rate: float
) -> Float[Array, "*layers X"]:
    """The router's bias after a step: busy experts are chosen a little less, idle ones more (DeepSeek-V3, 2.1.2)."""
    return bias + rate * jnp.sign(load.mean(-1, keepdims=True) - load)


def imbalance(load: Float[Array, "*layers X"]) -> Float[Array, ""]:
    """Tokens of the busiest expert over the mean, in the worst layer: 1 is even."""
    return (load.max(-1) / jnp.maximum(load.mean(-1), 1.0)).max()
