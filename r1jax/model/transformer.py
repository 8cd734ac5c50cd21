"""Tokens to hidden states, through groups of equal layers.

Parameters are a plain tree; `layers` is a list of groups of equal layers, each leaf stacked [L, ...]:

    {"embed": {"embedding": [V, D]}, "layers": [{"attention": .., "mlp": .., "attention_norm": .., "mlp_norm": ..}],
     "final_norm": {"scale": [D]}, "unembed": {"kernel": [D, V]}}            # "unembed" is absent when tied

A mixture of experts has a second group where its first layers are dense; a reward model has "reward_head" instead of
"unembed"; "mtp" holds DeepSeek-V3's multi-token-prediction layers, which nothing here runs.

The network returns hidden states and leaves the vocabulary to its callers: training unembeds in chunks, prefill the
last position only, a reward head not at all.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from r1jax.model.attention import Attend, Attention, LatentAttention
from r1jax.model.config import Group, ModelConfig
from r1jax.model.feedforward import GatedMLP, MoE
from r1jax.model.layers import norm, soft_cap
from r1jax.model.rope import Turn, turns

# What attention gives is named "attention": it is small, and costly to make again.
KEPT = jax.checkpoint_policies.save_only_these_names("attention")
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, KEPT
    ),
    "full": KEPT,
}


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind an RMSNorm and inside a residual.

    Attributes:
        cached: keys and values go to a cache: latent attention then reads the latents.
    """

    cfg: ModelConfig
    feed: str = "dense"
    cached: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Array, turn: Turn, positions: Array, attend: Attend, window: Any = None, chosen: Any = None
    ) -> tuple[Array, Any, Array | None]:
        c = self.cfg

        def after(name: str, out: Array) -> Array:
            return norm(c, self.dtype, name)(out) if c.post_norms else out

        if c.latent:
            attention = LatentAttention(c, self.dtype, self.cached, name="attention")
        else:
            attention = Attention(c, self.dtype, name="attention")
        out, kept = attention(norm(c, self.dtype, "attention_norm")(x), turn, positions, attend, window)
        x = x + after("attention_post_norm", out)
        fed = norm(c, self.dtype, "mlp_norm")(x)
        if self.feed == "experts":
            out, chosen = MoE(c, self.dtype, name="mlp")(fed, chosen)
        else:
            out, chosen = GatedMLP(c, self.dtype, name="mlp")(fed), None
        return x + after("mlp_post_norm", out), kept, chosen


def init(cfg: ModelConfig, key: Array) -> dict:
    """Random float32 parameters: normal(0, 0.02), output projections scaled by 1/sqrt(2L) (GPT-2), norms at one.

    Multi-token-prediction layers come last; a reward head starts at zero.
    """
    embed_key, unembed_key, *layer_keys = jax.random.split(key, 2 + cfg.layers)
    at = jnp.zeros((1, 1), jnp.int32)

    def layer(feed: str, key: Array) -> dict:
        block = Block(cfg, feed)
        params = block.init(key, jnp.zeros((1, 1, cfg.width)), turns(cfg, at)[0], at, untouched)["params"]
        paths = jax.tree_util.tree_leaves_with_path(params)
        keys = dict(zip([p for p, _ in paths], jax.random.split(key, len(paths)), strict=True))

        def leaf(path: tuple, value: Array) -> Array:
            name = jax.tree_util.keystr(path)
            if "kernel" not in name:
                return value  # biases at zero, norm scales at one
            scale = 0.02 / (2 * cfg.layers) ** 0.5 if "'o'" in name or "'down'" in name else 0.02
            return scale * jax.random.normal(keys[path], value.shape)

        return jax.tree_util.tree_map_with_path(leaf, params)

    def stacked(group: Group) -> dict:
        return jax.lax.map(functools.partial(layer, group.feed), jnp.stack(layer_keys[group.start : group.stop]))

    scale = jnp.zeros(cfg.width) if cfg.norm_plus_one else jnp.ones(cfg.width)
    params = {
        "embed": {"embedding": 0.02 * jax.random.normal(embed_key, (cfg.vocab_size, cfg.width))},
        "layers": [stacked(group) for group in cfg.groups],
        "final_norm": {"scale": scale},
    }
    if cfg.reward_head:
        params["reward_head"] = {"kernel": jnp.zeros((cfg.width, 1))}
    elif not cfg.tie_embeddings:
        params["unembed"] = {"kernel": 0.02 * jax.random.normal(unembed_key, (cfg.width, cfg.vocab_size))}
    if cfg.mtp_layers:
        mtp_keys = jax.random.split(jax.random.fold_in(key, 1), cfg.mtp_layers)
        block = jax.lax.map(functools.partial(layer, cfg.groups[-1].feed), mtp_keys)
        norms = {
            name: {"scale": jnp.stack([scale] * cfg.mtp_layers)} for name in ("embed_norm", "hidden_norm", "final_norm")
        }
        project = {"kernel": jnp.zeros((cfg.mtp_layers, 2 * cfg.width, cfg.width))}
        params["mtp"] = {"block": block, "project": project, **norms}
    return params


def shapes(cfg: ModelConfig) -> dict:
    """The parameters of a model without values."""
    return jax.eval_shape(lambda: init(cfg, jax.random.key(0)))


def untouched(q: Array, k: Array, v: Array | None, how: Any) -> tuple[Array, None]:
    """An `attend` of the right shape, for counting parameters."""
    return jnp.zeros((*q.shape[:-1], how.values if v is None else v.shape[-1]), q.dtype), None


def embed(cfg: ModelConfig, params: dict, tokens: Int[Array, "R S"], dtype: DTypeLike) -> Float[Array, "R S D"]:
    x = params["embed"]["embedding"][tokens].astype(dtype)
    return x * jnp.asarray(cfg.embed_scale, dtype) if cfg.embed_scale != 1.0 else x


def forward(
    cfg: ModelConfig,
    params: dict,
    tokens: Int[Array, "R S"],
    positions: Int[Array, "R S"],
    attend: Attend,
    *,
    chosen: Int[Array, "L R S k"] | None = None,
    dtype: DTypeLike = jnp.float32,
    remat: str = "none",
) -> tuple[Float[Array, "R S D"], list[Any], Int[Array, "L R S k"] | None]:
    """Final hidden states; per group what `attend` kept, stacked; and the experts that each layer of experts chose.

    Args:
        chosen: the experts of each token in the layers that have experts, to be visited again. Layers are scanned.
    """  # fmt: skip
    x = embed(cfg, params, tokens, dtype)
    far, near = turns(cfg, positions)
    kept, routes = [], None
    for group, weights in zip(cfg.groups, params["layers"], strict=True):
        block = Block(cfg, group.feed, dtype=dtype)
        windows = cfg.windows[group.start : group.stop]

        def layer(x: Array, parts: tuple[dict, Array | None, Array | None], block: Block = block) -> tuple[Array, Any]:
            weights, window, chosen = parts
            turn = far
            if window is not None and cfg.local_rope_theta:
                turn = jax.tree.map(lambda a, b: jnp.where(window > 0, b, a), far, near)
            x, *out = block.apply({"params": weights}, x, turn, positions, attend, window, chosen)
            return x, tuple(out)

        if remat != "none":
            layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
        parts = (weights, jnp.asarray(windows) if any(windows) else None, chosen if group.feed == "experts" else None)
        x, (group_kept, visited) = jax.lax.scan(layer, x, parts)
        kept.append(group_kept)
        routes = visited if group.feed == "experts" else routes
    return final_norm(cfg, params, x, dtype), kept, routes


def step(
    cfg: ModelConfig,
    params: dict,
    layers: list[dict],
    tokens: Int[Array, "N Q"],
    positions: Int[Array, "N Q"],
    attends: list[Attend],
    *,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "N Q D"], list[Any], Int[Array, "L N Q k"] | None]:
    """`forward` with the layers unrolled, one `attend` each, latents cached as they are: what decoding wants.

    Args:
        layers: the weights of each layer, unstacked once by `unstack` outside the decoding loop.
    """  # fmt: skip
    x = embed(cfg, params, tokens, dtype)
    far, near = turns(cfg, positions)
    kept, routes = [], []
    for group in cfg.groups:
        block = Block(cfg, group.feed, cached=True, dtype=dtype)
        for i in range(group.start, group.stop):
            window = (cfg.windows[i] or None) if cfg.windows else None
            x, layer_kept, visited = block.apply(
                {"params": layers[i]}, x, near if window else far, positions, attends[i], window
            )
            kept.append(layer_kept)
            routes += [] if visited is None else [visited]
    return final_norm(cfg, params, x, dtype), kept, jnp.stack(routes) if routes else None


def final_norm(cfg: ModelConfig, params: dict, x: Array, dtype: DTypeLike) -> Array:
    return norm(cfg, dtype).apply({"params": params["final_norm"]}, x)


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


def logits(cfg: ModelConfig, params: dict, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
    """float32 logits of hidden states."""
    matrix = unembedding(params).astype(hidden.dtype)
    return soft_cap(jnp.einsum("...d,dv->...v", hidden, matrix, preferred_element_type=jnp.float32), cfg.logit_cap)


def rewards(params: dict, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows"]:
    """A reward model's number for each hidden state, float32; a sequence's is that of its last token."""
    kernel = params["reward_head"]["kernel"].astype(hidden.dtype)
    return jnp.einsum("...d,do->...o", hidden, kernel, preferred_element_type=jnp.float32)[..., 0]
