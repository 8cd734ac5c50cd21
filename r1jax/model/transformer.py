"""Tokens to hidden states, through groups of equal layers.

Parameters are a plain tree; `layers` is a list of groups of equal layers, each leaf stacked [L, ...]:

    {"embed": {"embedding": [V, D]}, "layers": [{"attention": .., "mlp": .., "attention_norm": .., "mlp_norm": ..}],
     "final_norm": {"scale": [D]}, "unembed": {"kernel": [D, V]}}            # "unembed" is absent when tied

The network returns hidden states and leaves the vocabulary to its callers: training unembeds in chunks, prefill the last
position only, a reward head not at all.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from r1jax.model.attention import Attend, Attention, rope
from r1jax.model.config import ModelConfig
from r1jax.model.feedforward import GatedMLP

REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Block(nn.Module):
    """One layer: attention and MLP, each behind an RMSNorm and inside a residual."""

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array, turn: tuple[Array, Array], attend: Attend) -> tuple[Array, Any]:
        def norm(name: str) -> nn.RMSNorm:
            return nn.RMSNorm(epsilon=self.cfg.norm_eps, dtype=self.dtype, name=name)

        out, kept = Attention(self.cfg, self.dtype, name="attention")(norm("attention_norm")(x), turn, attend)
        x = x + out
        return x + GatedMLP(self.cfg, self.dtype, name="mlp")(norm("mlp_norm")(x)), kept


def init(cfg: ModelConfig, key: Array) -> dict:
    """Random float32 parameters: normal(0, 0.02), output projections scaled by 1/sqrt(2L) (GPT-2), norms at one."""
    embed_key, unembed_key, *layer_keys = jax.random.split(key, 2 + cfg.layers)
    x = jnp.zeros((1, 1, cfg.width))
    turn = rope(jnp.zeros((1, 1), jnp.int32), cfg.head_width, cfg.rope_theta)

    def layer(key: Array) -> dict:
        params = Block(cfg).init(key, x, turn, lambda q, k, v: (q, None))["params"]
        paths = jax.tree_util.tree_leaves_with_path(params)
        keys = dict(zip([p for p, _ in paths], jax.random.split(key, len(paths)), strict=True))

        def leaf(path: tuple, value: Array) -> Array:
            name = jax.tree_util.keystr(path)
            if "kernel" not in name:
                return value  # biases at zero, norm scales at one
            scale = 0.02 / (2 * cfg.layers) ** 0.5 if "'o'" in name or "'down'" in name else 0.02
            return scale * jax.random.normal(keys[path], value.shape)

        return jax.tree_util.tree_map_with_path(leaf, params)

    params = {
        "embed": {"embedding": 0.02 * jax.random.normal(embed_key, (cfg.vocab_size, cfg.width))},
        "layers": [jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(layer, layer_keys))],
        "final_norm": {"scale": jnp.ones(cfg.width)},
    }
    if not cfg.tie_embeddings:
        params["unembed"] = {"kernel": 0.02 * jax.random.normal(unembed_key, (cfg.width, cfg.vocab_size))}
    return params


def forward(
    cfg: ModelConfig, params: dict, tokens: Int[Array, "R S"], positions: Int[Array, "R S"], attend: Attend,
    *, dtype: DTypeLike = jnp.float32, remat: str = "none",
) -> tuple[Float[Array, "R S D"], list[Any]]:
    """Final hidden states, and per group what `attend` kept, stacked over its layers. Layers are scanned."""  # fmt: skip
    x = params["embed"]["embedding"][tokens].astype(dtype)
    turn = rope(positions, cfg.head_width, cfg.rope_theta)

    def layer(x: Array, weights: dict) -> tuple[Array, Any]:
        return Block(cfg, dtype).apply({"params": weights}, x, turn, attend)

    if remat != "none":
        layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
    kept = []
    for group in params["layers"]:
        x, group_kept = jax.lax.scan(layer, x, group)
        kept.append(group_kept)
    return final_norm(cfg, params, x, dtype), kept


def step(
    cfg: ModelConfig, params: dict, layers: list[dict], tokens: Int[Array, "N Q"], positions: Int[Array, "N Q"],
    attends: list[Attend], *, dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "N Q D"], list[Any]]:
    """`forward` with the layers unrolled, one `attend` each: what decoding wants.

    Args:
        layers: the weights of each layer, unstacked once by `unstack` outside the decoding loop.
    """  # fmt: skip
    x = params["embed"]["embedding"][tokens].astype(dtype)
    turn = rope(positions, cfg.head_width, cfg.rope_theta)
    kept = []
    for weights, attend in zip(layers, attends, strict=True):
        x, layer_kept = Block(cfg, dtype).apply({"params": weights}, x, turn, attend)
        kept.append(layer_kept)
    return final_norm(cfg, params, x, dtype), kept


def final_norm(cfg: ModelConfig, params: dict, x: Array, dtype: DTypeLike) -> Array:
    return nn.RMSNorm(epsilon=cfg.norm_eps, dtype=dtype).apply({"params": params["final_norm"]}, x)


def unstack(params: dict) -> list[dict]:
    """The weights of each layer as a list, in order."""
    return [
        jax.tree.map(lambda leaf, i=i: leaf[i], group)
        for group in params["layers"]
        for i in range(jax.tree.leaves(group)[0].shape[0])
    ]


def unembedding(params: dict) -> Float[Array, "D V"]:
    """The matrix from hidden states to logits."""
    return params["unembed"]["kernel"] if "unembed" in params else params["embed"]["embedding"].T
