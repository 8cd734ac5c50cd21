"""Runs the decoder: groups of equal layers that turn tokens into hidden states.

Parameters are a plain tree. `layers` is a list of groups of equal layers, with each leaf stacked [L, ...]:

    {"embed": {"embedding": [V, D]}, "layers": [{"attention": .., "mlp": .., "attention_norm": .., "mlp_norm": ..}],
     "final_norm": {"scale": [D]}, "unembed": {"kernel": [D, V]}}            # "unembed" is absent when tied

A mixture of experts has a second group if its first layers are dense. A reward model has "reward_head" instead of
"unembed". "mtp" holds DeepSeek-V3's multi-token-prediction layers, which nothing here runs.

The network returns hidden states, and its callers compute the logits. Training computes them in chunks, prefill at the
last position only. A reward model needs no logits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from r1jax.model.attention import Attend, Attention, LatentAttention
from r1jax.model.config import Group, ModelConfig, stack_size
from r1jax.model.feedforward import GatedMLP, MoE
from r1jax.model.layers import norm, soft_cap
from r1jax.model.rope import Turn, choose_turn, turns
from r1jax.model.spread_heads import lay_out, spread
from r1jax.sharding import EMBEDDING, ROW_AXES, fit_split, pin_rows, row_shards

# The output of attention is named "attention": it is small, and costly to recompute.
KEPT = jax.checkpoint_policies.save_only_these_names("attention")
REMAT = {
    "none": None,
    "dots": jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable, KEPT
    ),
    "full": KEPT,
}


class Pass(NamedTuple):
    """Settings of a call of `forward`. Under `jit` they are a static argument.

    Attributes:
        dtype: dtype of the network.
        remat: a key of `REMAT`, which says what the backward pass recomputes.
        mesh: mesh that the rows lie on; None means one device.
    """

    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    mesh: Mesh | None = None


PLAIN = Pass()


class Block(nn.Module):
    """One layer: attention and feed-forward, each with an RMSNorm before it and a residual connection around it.

    A call takes a function `attend`, which computes attention (see `model.attention`). The call returns (output, kept,
    experts that each token visited). `kept` is the second result of `attend`, such as the layer's keys and values. The
    third result is None for a layer without experts.

    Attributes:
        feed: feed-forward of the layer, "dense" or "experts".
        cached: whether keys and values come from a cache. Latent attention then takes its absorbed form.
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
    """Returns random float32 parameters of a model, a tree of arrays with the shapes that `shapes(cfg)` gives.

    Kernels are normal(0, 0.02), output projections are also multiplied by 1/sqrt(2L) (GPT-2), and norms start at one.
    Multi-token-prediction layers have a random key of their own. A reward head starts at zero.
    """
    embed_key, unembed_key, *layer_keys = jax.random.split(key, 2 + cfg.layers)
    at = jnp.zeros((1, 1), jnp.int32)

    def layer(feed: str, key: Array) -> dict:
        block = Block(cfg, feed)
        params = block.init(key, jnp.zeros((1, 1, cfg.width)), turns(cfg, at)[0], at, attend_shape_only)["params"]
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
    """Returns the parameter tree of a model as shapes and dtypes, without values."""
    return jax.eval_shape(lambda: init(cfg, jax.random.key(0)))


def attend_shape_only(q: Array, k: Array, v: Array | None, how: Any) -> tuple[Array, None]:
    """Returns (zeros with the shape of the attention output, None).

    `init` passes this function to `Block` as `attend`, because initial parameters need only the shape of the output.
    """
    return jnp.zeros((*q.shape[:-1], how.values if v is None else v.shape[-1]), q.dtype), None


def embed(
    cfg: ModelConfig, params: dict, tokens: Int[Array, "R S"], dtype: DTypeLike, mesh: Mesh | None = None
) -> Float[Array, "R S D"]:
    """Returns the embeddings of tokens, multiplied by the model's `embed_scale`.

    Args:
        mesh: mesh over which the rows of `tokens` are sharded. If None, XLA decides which device looks up which token.
    """
    table = params["embed"]["embedding"]
    x = table[tokens] if mesh is None or mesh.size == 1 else look_up(table, tokens, mesh)
    return x.astype(dtype) * jnp.asarray(cfg.embed_scale, dtype) if cfg.embed_scale != 1.0 else x.astype(dtype)


def look_up(table: Float[Array, "V D"], tokens: Int[Array, "R S"], mesh: Mesh) -> Float[Array, "R S D"]:
    """Returns the embedding of each token. The table is split over the mesh, and the tokens over the mesh's row shards.

    The mesh axis `fsdp` splits the columns of the table. A device gathers the tokens of all shards of this axis, looks
    up its own columns for them, and sends each shard the columns for that shard's tokens. If there are fewer tokens
    than rows of the table, this sends fewer bytes than sending the whole table to every device.
    """
    rows = ROW_AXES if tokens.shape[0] % row_shards(mesh) == 0 else ()
    upright, across = fit_split(EMBEDDING, table.shape, mesh)
    moved = across if rows else None

    def each(table: Array, tokens: Array) -> Array:
        if moved:
            tokens = jax.lax.all_gather(tokens, moved, tiled=True)
        local = tokens - jax.lax.axis_index(upright) * table.shape[0] if upright else tokens
        mine = (local >= 0) & (local < table.shape[0])
        x = table[jnp.where(mine, local, 0)]
        if upright:
            x = jax.lax.psum(jnp.where(mine[..., None], x, 0), upright)
        return jax.lax.all_to_all(x, moved, split_axis=0, concat_axis=2, tiled=True) if moved else x

    out = P(rows, None, None if moved else across)
    return jax.shard_map(each, mesh=mesh, in_specs=(P(upright, across), P(rows)), out_specs=out)(table, tokens)


def forward(
    cfg: ModelConfig,
    params: dict,
    tokens: Int[Array, "R S"],
    positions: Int[Array, "R S"],
    attend: Attend,
    *,
    chosen: Int[Array, "L R S k"] | None = None,
    how: Pass = PLAIN,
) -> tuple[Float[Array, "R S D"], list[Any], Int[Array, "L R S k"] | None]:
    """Runs the decoder over tokens, with a scan over layers.

    Args:
        params: all parameters of the model.
        attend: computes attention, the same function in all layers (see `attention`).
        chosen: experts that each token must visit in each layer with experts, -1 where the router chooses; None if the
            router chooses everywhere.
        how: dtype, recomputation and mesh.

    Returns:
        (hidden, kept, visited). `hidden` is the final hidden states. `kept` is a list with an entry for each group of
        layers: the second results of `attend`, such as keys and values, stacked over the layers of the group.
        `visited` is the experts that each token visited in each layer with experts; None for a model without experts.
    """
    dtype, remat, mesh = how
    x = pin_rows(embed(cfg, params, tokens, dtype, mesh), mesh)
    far, near = turns(cfg, positions)
    kept, routes, wide = [], None, spread(cfg, mesh)
    for group, weights in zip(cfg.groups, params["layers"], strict=True):
        block = Block(wide, group.feed, dtype=dtype)
        windows = cfg.windows[group.start : group.stop]

        def layer(x: Array, parts: tuple[dict, Array | None, Array | None], block: Block = block) -> tuple[Array, Any]:
            weights, window, chosen = parts
            turn = choose_turn(window, far, near)
            weights = lay_out(weights, cfg, wide, mesh)
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
    attend: Callable[[int, Any, Array | None], Attend],
    caches: Sequence[Any] | None = None,
    *,
    dtype: DTypeLike = jnp.float32,
) -> tuple[Float[Array, "N Q D"], list[Any], Int[Array, "L N Q k"] | None]:
    """Runs the decoder over new tokens in the sampler: like `forward`, but with cached keys.

    Latent attention takes its absorbed form.

    Args:
        params: the parameters outside the layers.
        layers: parameters of the single layers or the stacks of layers, from `divide_layers`.
        attend: called as `attend(i, cache, layer)`, returns the `attend` of a layer. `i` is the index of the layer (or
            of its stack) in `layers`, `cache` is the entry i of `caches`, and `layer` is the index of the layer in its
            stack; None for a single layer.
        caches: for each entry of `layers`, the arrays that its layers update, such as keys and values. The second
            result of a layer's `attend` takes their place. None if nothing is updated.

    Returns:
        (hidden, kept, visited). `hidden` is the final hidden states. `kept` is a list with an entry for each entry of
        `layers`: the updated caches. Without `caches`, it is the second result of `attend`, stacked over the layers of
        a stack. `visited` is the experts that each token visited in each layer with experts; None for a model without
        experts.
    """
    x = embed(cfg, params, tokens, dtype)
    far, near = turns(cfg, positions)
    kept, routes, first = [], [], 0
    for i, weights in enumerate(layers):
        last = first + max(depth(weights), 1)
        feed = next(group.feed for group in cfg.groups if first < group.stop)
        apply = Block(cfg, feed, cached=True, dtype=dtype).apply

        def layer(
            x: Array, cache: Any, weights: dict, window: Any, index: Any, i: int = i, apply: Callable = apply
        ) -> tuple[Array, Any, Array | None]:
            turn = choose_turn(window, far, near)
            return apply({"params": weights}, x, turn, positions, attend(i, cache, index), window)

        cache = None if caches is None else caches[i]
        x, after, visited = over_layers(layer, x, cache, weights, cfg.windows[first:last])
        kept.append(after)
        routes += [] if visited is None else [visited.reshape(-1, *visited.shape[-3:])]
        first = last
    return final_norm(cfg, params, x, dtype), kept, jnp.concatenate(routes) if routes else None


def over_layers(
    layer: Callable[..., tuple[Array, Any, Array | None]], x: Array, cache: Any, weights: dict, windows: Sequence[int]
) -> tuple[Array, Any, Array | None]:
    """Runs a single layer, or all layers of a stack in a scan.

    The scan carries the cache of the whole stack, in which every layer updates its own part. So XLA can update the
    cache in place.

    Args:
        layer: called as `layer(x, cache, weights, window, index)`, returns (output, kept, experts that each token
            visited). `index` is the index of the layer in its stack; None for a single layer.
        x: input of the first layer.
        cache: arrays that the layers update: what a layer returns as `kept` takes their place. None if there are none.
        weights: an entry of the list that `divide_layers` returns.
        windows: attention window of each layer, 0 = none; empty if no layer of the model has a window.

    Returns:
        (output of the last layer, kept, visited). Without a cache, `kept` is stacked over the layers of a stack, as
        `visited` always is.
    """
    if not depth(weights):
        return layer(x, cache, weights, windows[0] or None if windows else None, None)

    def one(carry: tuple[Array, Any], part: tuple[dict, Array | None, Array]) -> tuple[tuple[Array, Any], Any]:
        x, kept, visited = layer(*carry, *part)
        return ((x, None), (kept, visited)) if cache is None else ((x, kept), (None, visited))

    parts = weights["stack"], jnp.asarray(windows) if any(windows) else None, jnp.arange(depth(weights))
    (x, updated), (found, visited) = jax.lax.scan(one, (x, cache), parts)
    return x, found if cache is None else updated, visited


def final_norm(cfg: ModelConfig, params: dict, x: Array, dtype: DTypeLike) -> Array:
    """Returns the hidden states x after the model's last RMSNorm, in dtype `dtype`."""
    return norm(cfg, dtype).apply({"params": params["final_norm"]}, x)


def divide_layers(params: dict) -> list[dict]:
    """Returns the parameters of the layers as the sampler keeps them: a list of single layers or of stacks of layers.

    `config.stack_size` decides which. A stack is {"stack": parameters}, with leaves [L, ..] as in `params["layers"]`.
    The leaves of a single layer have no layer axis.
    """
    depths = [jax.tree.leaves(group)[0].shape[0] for group in params["layers"]]
    size = stack_size(sum(depths))

    def part(group: dict, i: int) -> dict:
        if size == 1:
            return jax.tree.map(lambda leaf: leaf[i], group)
        return {"stack": jax.tree.map(lambda leaf: leaf[i : i + size], group)}

    return [
        part(group, i) for group, count in zip(params["layers"], depths, strict=True) for i in range(0, count, size)
    ]


def depth(layers: dict) -> int:
    """Returns the number of layers of a stack; 0 for a single layer, whose arrays have no layer axis.

    Args:
        layers: an entry of the list that `divide_layers` returns.
    """
    return jax.tree.leaves(layers["stack"])[0].shape[0] if "stack" in layers else 0


def unembedding(params: dict) -> Float[Array, "D V"]:
    """Returns the matrix from hidden states to logits; with tied embeddings, the transposed embedding matrix."""
    return params["unembed"]["kernel"] if "unembed" in params else params["embed"]["embedding"].T


def logits(cfg: ModelConfig, params: dict, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows V"]:
    """Returns the float32 logits of the next token for hidden states, with the model's soft cap (`logit_cap`)."""
    matrix = unembedding(params).astype(hidden.dtype)
    return soft_cap(jnp.einsum("...d,dv->...v", hidden, matrix, preferred_element_type=jnp.float32), cfg.logit_cap)


def rewards(params: dict, hidden: Float[Array, "*rows D"]) -> Float[Array, "*rows"]:
    """Returns a reward model's float32 reward at each hidden state. A sequence's reward is the reward at its last
    token.
    """
    kernel = params["reward_head"]["kernel"].astype(hidden.dtype)
    return jnp.einsum("...d,do->...o", hidden, kernel, preferred_element_type=jnp.float32)[..., 0]
