"""Counts the memory that a pass over packed rows takes on one device, from shapes alone.

The memory of parameters follows from the sharding rules that place them. Gathered weights, activations and logits exist
only for a moment. Their estimate is the peak, which occurs in one layer or in the unembedding.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.model import transformer
from r1jax.model.attention import QUERY_BLOCK
from r1jax.model.config import Group, ModelConfig
from r1jax.model.feedforward import EXCHANGED
from r1jax.model.spread_heads import spread
from r1jax.sharding import AXES, PARAM_RULES, fit, row_shards, rule_for
from r1jax.training.logprobs import CHUNK

AnyMesh = Mesh | AbstractMesh
GATHERED = "unembedding, gathered"


class Shape(NamedTuple):
    """The arrays of one pass over packed rows.

    Attributes:
        rows: R, number of packed rows in a micro-batch, over all devices.
        row_length: S, number of token slots in a row.
        unembedded: U, number of slots in a row whose logits are computed.
        remat: none, dots or full, which selects what the backward pass recomputes; None for a pass without gradients.
        size: bytes of a number in the dtype of the network.
        scores: whether XLA computes attention, and so stores scores and a mask. False if a kernel computes it.
        frozen: whether the weight matrices have no gradients, as with adapters.
    """

    rows: int
    row_length: int
    unembedded: int
    remat: str | None = None
    size: int = 2
    scores: bool = True
    frozen: bool = False

    def tokens(self, mesh: AnyMesh) -> int:
        """Returns the number of token slots in the packed rows that one device holds."""
        return max(1, -(-self.rows // row_shards(mesh))) * self.row_length


def count(tree: Any) -> int:
    """Returns the total number of elements of all arrays in a tree."""
    return sum(x.size for x in jax.tree.leaves(tree))


def count_placed(tree: Any, mesh: AnyMesh, axes: tuple[str, ...] = AXES) -> int:
    """Returns how many elements of a tree's arrays one device holds.

    Args:
        axes: mesh axes that shard the arrays. The arrays are replicated over all other axes.
    """
    total = 0
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        spec = fit(P(*(axis if axis in axes else None for axis in rule_for(path, x, PARAM_RULES))), x.shape, mesh)
        total += math.prod(NamedSharding(mesh, spec).shard_shape(x.shape))
    return total


def whole(dimension: int, mesh: AnyMesh, axis: str) -> int:
    """Returns the number of parts into which the mesh axis `axis` splits a dimension of size `dimension`.

    Returns 1 if the size of the axis does not divide `dimension`, because the dimension then stays whole.
    """
    return mesh.shape[axis] if dimension % mesh.shape[axis] == 0 else 1


def pass_bytes(cfg: ModelConfig, mesh: AnyMesh, shape: Shape) -> dict[str, float]:
    """Returns {description: bytes on one device} of a pass over packed rows, without parameters and gradient sums.

    `held_bytes` also counts parameters and gradient sums.
    """
    found = {"rows": 6.0 * 4 * shape.tokens(mesh)}
    if shape.remat is not None:
        found["activations kept"] = kept_bytes(cfg, mesh, shape)
    layers = max(
        (layer_bytes(cfg, mesh, shape, group, i) for i, group in enumerate(cfg.groups)), key=lambda x: sum(x.values())
    )
    head = {} if cfg.reward_head else head_bytes(cfg, mesh, shape)
    if shape.remat is None and head:  # XLA may gather the unembedding before the layers run
        found[GATHERED] = head.pop(GATHERED)
    return found | max(layers, head, key=lambda x: sum(x.values()))


def head_bytes(cfg: ModelConfig, mesh: AnyMesh, shape: Shape) -> dict[str, float]:
    """Returns {description: bytes on one device} of the arrays that exist while a chunk of logits is computed."""
    columns = cfg.vocab_size / whole(cfg.vocab_size, mesh, "tensor")
    chunk = min(CHUNK, shape.tokens(mesh) * shape.unembedded // shape.row_length)
    turned = shape.remat is not None and cfg.tie_embeddings
    copied = mesh.shape["fsdp"] > 1 or shape.size != 4 or turned
    copy = cfg.width * columns * shape.size * copied
    if shape.remat is None:
        return {GATHERED: copy, "logits, float32": chunk * columns * 4.0}
    return {
        GATHERED: copy,
        "its gradient, float32": 0.0 if shape.frozen else cfg.width * columns * 4.0,
        "logits, float32": chunk * columns * 4.0,
    }


def layer_bytes(cfg: ModelConfig, mesh: AnyMesh, shape: Shape, group: Group, index: int) -> dict[str, float]:
    """Returns {description: bytes on one device} of the arrays that exist while one layer runs, forward or backward.

    Args:
        group, index: the layer's group, and the index of this group in `cfg.groups`.
    """
    layers = transformer.shapes(cfg)["layers"][index]
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), layers)
    weights = count_placed(one, mesh, ("tensor", "expert")) * float(shape.size)
    forward = layer_activations(cfg, mesh, shape, group)
    if shape.remat is None:
        return {"weights of a layer, gathered": weights, "activations of a layer": forward}
    return {
        "weights of a layer, gathered": weights,
        "their gradients": 0.0 if shape.frozen else weights,
        "activations of a layer": 2.0 * forward,
    }


def layer_activations(cfg: ModelConfig, mesh: AnyMesh, shape: Shape, group: Group) -> float:
    """Returns the most bytes that one layer's activations take at one moment of a forward pass, on one device."""
    cfg = spread(cfg, mesh)
    tokens, tensor = shape.tokens(mesh), whole(cfg.heads, mesh, "tensor")
    rows = tokens // shape.row_length
    m = cfg.latent
    width = m.nope_width + m.rope_width if m else cfg.head_width
    keys = cfg.heads if m else cfg.kv_heads
    heads = 2 * (cfg.heads / tensor + keys / whole(keys, mesh, "tensor")) * width
    block = min(QUERY_BLOCK, shape.row_length) * shape.row_length
    scores = rows * (2 * cfg.heads / tensor * block * 4 + shape.row_length**2) if shape.scores else 0.0
    attention = tokens * (2 * cfg.width + heads) * shape.size + scores
    if group.feed == "dense":
        feed = 2 * cfg.width + 2 * cfg.mlp_width / whole(cfg.mlp_width, mesh, "tensor")
        return max(attention, tokens * feed * shape.size)
    x = cfg.experts
    shards = whole(x.count, mesh, "expert")
    together = min(tokens * shards, max(EXCHANGED, shards)) if shards > 1 else tokens
    visit = 2 * cfg.width + 2 * x.width / whole(x.width, mesh, "tensor")
    feed = together * (x.per_token * visit + 2 * cfg.width * (shards > 1)) + 2 * tokens * cfg.width
    return max(attention, feed * shape.size)


def kept_bytes(cfg: ModelConfig, mesh: AnyMesh, shape: Shape) -> float:
    """Returns the bytes on one device of the activations that all layers keep for the backward pass.

    With remat "full", these activations are the inputs of the layers and the results of attention. With "dots", they
    are the results of all matrix products. With "none", they take about three times as many bytes as with "dots".
    """
    tokens, x, tensor = shape.tokens(mesh), cfg.experts, whole(cfg.heads, mesh, "tensor")
    out = cfg.heads * (cfg.latent.value_width if cfg.latent else cfg.head_width) / tensor
    mlp = (x.per_token + x.shared) * x.width if x else cfg.mlp_width
    products = 2 * out + (2 * cfg.kv_heads * cfg.head_width + 3 * mlp) / tensor + 3 * cfg.width
    kept = {"full": cfg.width + out, "dots": products, "none": 3 * products}[shape.remat]
    return cfg.layers * tokens * kept * shape.size


def held_bytes(cfg: ModelConfig, mesh: AnyMesh, shape: Shape) -> dict[str, float]:
    """Returns {description: bytes on one device} of everything that a pass over packed rows holds.

    This is the result of `pass_bytes` and, in addition, the parameters. A pass with gradients also holds each
    parameter's gradient sum and the gradient that is being added to it.
    """
    placed = count_placed(transformer.shapes(cfg), mesh) * 4.0
    held = {"parameters, float32": placed}
    if shape.remat is not None:
        held |= {"gradients, float32": placed, "gradients being added, float32": placed}
    return held | pass_bytes(cfg, mesh, shape)
