"""Spreads attention heads over a `tensor` axis that does not divide their number.

For example, eight devices cannot share two key heads and twelve query heads. So every key head is repeated until the
axis divides the number of key heads. The query heads of a key head are divided among its copies. Query heads of zeros
are added until all copies have equally many: in the example, eight key heads with two query heads each. The output
projection has zeros for the added heads. Without this module, every device would compute all heads. The
parameters are stored unchanged; a layer's weights are laid out anew whenever the layer runs.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from r1jax.model.config import ModelConfig
from r1jax.sharding import name_of

# Which axis of a layer's array counts heads, by the end of its path, and whether they are query heads.
HEAD_AXES = {
    "q/kernel": (1, True),
    "q/bias": (0, True),
    "q/lora_b": (1, True),
    "k/kernel": (1, False),
    "k/bias": (0, False),
    "k/lora_b": (1, False),
    "v/kernel": (1, False),
    "v/bias": (0, False),
    "v/lora_b": (1, False),
    "o/kernel": (0, True),
    "o/lora_a": (0, True),
}


def spread(cfg: ModelConfig, mesh: Mesh | AbstractMesh | None) -> ModelConfig:
    """Returns `cfg` with more query and key heads, so that the mesh axis `tensor` divides both numbers.

    `lay_out` makes the weights of these heads. Returns `cfg` itself if the axis divides the number of key heads
    already, or if attention is latent.
    """
    tensor = 1 if mesh is None else mesh.shape["tensor"]
    if cfg.latent or cfg.kv_heads % tensor == 0:
        return cfg
    copies = tensor // math.gcd(cfg.kv_heads, tensor)
    queries = -(-(cfg.heads // cfg.kv_heads) // copies)
    return dataclasses.replace(cfg, heads=cfg.kv_heads * copies * queries, kv_heads=cfg.kv_heads * copies)


def lay_out(weights: dict, cfg: ModelConfig, wide: ModelConfig, mesh: Mesh | None) -> dict:
    """Returns the weights of one layer for the heads of `wide`, which is `spread(cfg, mesh)`.

    Key and value heads are repeated. Added query heads have weights of zero.
    """
    if wide is cfg:
        return weights
    copies = wide.kv_heads // cfg.kv_heads

    def leaf(path: tuple, x: Array) -> Array:
        name = name_of(path).removeprefix("attention/")
        if name not in HEAD_AXES:
            return x
        axis, queries = HEAD_AXES[name]
        if queries:
            grouped = x.reshape(*x.shape[:axis], cfg.kv_heads, -1, *x.shape[axis + 1 :])
            more = wide.heads // cfg.kv_heads - grouped.shape[axis + 1]
            padded = jnp.pad(grouped, [(0, more if i == axis + 1 else 0) for i in range(grouped.ndim)])
            x = padded.reshape(*x.shape[:axis], wide.heads, *x.shape[axis + 1 :])
        else:
            x = jnp.repeat(x, copies, axis=axis)
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*[None] * axis, "tensor")))

    return jax.tree_util.tree_map_with_path(leaf, weights)
