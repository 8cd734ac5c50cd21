"""Maps each parameter of a model to the Hugging Face tensors that hold it.

The tuples of `Name` in this module form one table, with a row for each kind of parameter. `block` and `leaves` choose
the rows that a model has. "Ours" means r1jax's parameter tree, and "theirs" means the Hugging Face checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from r1jax.model.config import ModelConfig


class Name(NamedTuple):
    """A kind of parameter: its path in our tree of parameters, and the name of its tensor in a Hugging Face checkpoint.

    Attributes:
        path: keys of the parameter in our tree, joined by "/"; for a parameter of a layer, only the keys below the
            layer.
        theirs: the Hugging Face name; for a parameter of a layer, only the part after the layer's index. "{x}" stands
            for the index of an expert. The checkpoint has a separate tensor for each expert. Our array has an axis for
            the experts.
        axes: a letter for each axis of our array, except the axes for layers and experts. `sizes` maps each letter to
            its size.
        split: how many of the first `axes` are inputs of the matrix. The other axes are outputs. The Hugging Face
            matrix is transposed: [outputs, inputs], each flattened into one axis. 0 for vectors and the embedding,
            which are not transposed.
    """

    path: str
    theirs: str
    axes: str
    split: int = 0


EMBED = Name("embed/embedding", "model.embed_tokens.weight", "VD")
FINAL_NORM = Name("final_norm/scale", "model.norm.weight", "D")
UNEMBED = Name("unembed/kernel", "lm_head.weight", "DV", 1)
REWARD = Name("reward_head/kernel", "score.weight", "DO", 1)

QUERIES = (
    Name("attention/q/kernel", "self_attn.q_proj.weight", "DHE", 1),
    Name("attention/k/kernel", "self_attn.k_proj.weight", "DKE", 1),
    Name("attention/v/kernel", "self_attn.v_proj.weight", "DKE", 1),
    Name("attention/o/kernel", "self_attn.o_proj.weight", "HED", 2),
)
BIASES = (
    Name("attention/q/bias", "self_attn.q_proj.bias", "HE"),
    Name("attention/k/bias", "self_attn.k_proj.bias", "KE"),
    Name("attention/v/bias", "self_attn.v_proj.bias", "KE"),
)
HEAD_NORMS = (
    Name("attention/q_norm/scale", "self_attn.q_norm.weight", "E"),
    Name("attention/k_norm/scale", "self_attn.k_norm.weight", "E"),
)
LATENT = (
    Name("attention/kv_down/kernel", "self_attn.kv_a_proj_with_mqa.weight", "Dc", 1),
    Name("attention/kv_norm/scale", "self_attn.kv_a_layernorm.weight", "r"),
    Name("attention/kv_up/kernel", "self_attn.kv_b_proj.weight", "rHu", 1),
    Name("attention/o/kernel", "self_attn.o_proj.weight", "HvD", 2),
)
LATENT_QUERY = (Name("attention/q/kernel", "self_attn.q_proj.weight", "DHe", 1),)
LATENT_BOTTLENECK = (
    Name("attention/q_down/kernel", "self_attn.q_a_proj.weight", "Dq", 1),
    Name("attention/q_norm/scale", "self_attn.q_a_layernorm.weight", "q"),
    Name("attention/q_up/kernel", "self_attn.q_b_proj.weight", "qHe", 1),
)
DENSE = (
    Name("mlp/gate/kernel", "mlp.gate_proj.weight", "DF", 1),
    Name("mlp/up/kernel", "mlp.up_proj.weight", "DF", 1),
    Name("mlp/down/kernel", "mlp.down_proj.weight", "FD", 1),
)
EXPERTS = (
    Name("mlp/router/kernel", "mlp.gate.weight", "DX", 1),
    Name("mlp/experts/gate/kernel", "mlp.experts.{x}.gate_proj.weight", "DM", 1),
    Name("mlp/experts/up/kernel", "mlp.experts.{x}.up_proj.weight", "DM", 1),
    Name("mlp/experts/down/kernel", "mlp.experts.{x}.down_proj.weight", "MD", 1),
)
ROUTER_BIAS = (Name("mlp/router/bias", "mlp.gate.e_score_correction_bias", "X"),)
SHARED = (
    Name("mlp/shared/gate/kernel", "mlp.shared_experts.gate_proj.weight", "DS", 1),
    Name("mlp/shared/up/kernel", "mlp.shared_experts.up_proj.weight", "DS", 1),
    Name("mlp/shared/down/kernel", "mlp.shared_experts.down_proj.weight", "SD", 1),
)
NORMS = (
    Name("attention_norm/scale", "input_layernorm.weight", "D"),
    Name("mlp_norm/scale", "post_attention_layernorm.weight", "D"),
)
SANDWICH = (  # Gemma 2 and 3 call the norm *after* attention what others call the one before the MLP
    Name("attention_norm/scale", "input_layernorm.weight", "D"),
    Name("attention_post_norm/scale", "post_attention_layernorm.weight", "D"),
    Name("mlp_norm/scale", "pre_feedforward_layernorm.weight", "D"),
    Name("mlp_post_norm/scale", "post_feedforward_layernorm.weight", "D"),
)
MTP = (
    Name("embed_norm/scale", "enorm.weight", "D"),
    Name("hidden_norm/scale", "hnorm.weight", "D"),
    Name("project/kernel", "eh_proj.weight", "TD", 1),
    Name("final_norm/scale", "shared_head.norm.weight", "D"),
)
MTP_COPIES = {
    "embed_tokens.weight": EMBED,
    "shared_head.head.weight": UNEMBED,
}  # copies of the model's own embedding and unembedding, according to DeepSeek's README


def block(cfg: ModelConfig, feed: str) -> tuple[Name, ...]:
    """Returns a `Name` for each parameter of one layer.

    Args:
        feed: the layer's feed-forward part, "dense" or "experts".
    """
    if cfg.latent:
        attention = LATENT + (LATENT_BOTTLENECK if cfg.latent.q_rank else LATENT_QUERY)
    else:
        attention = QUERIES + (BIASES if cfg.qkv_bias else ()) + (HEAD_NORMS if cfg.qk_norm else ())
    if feed == "dense":
        mlp = DENSE
    else:
        x = cfg.experts
        mlp = EXPERTS + (ROUTER_BIAS if x.scores == "sigmoid" else ()) + (SHARED if x.shared else ())
    return attention + mlp + (SANDWICH if cfg.post_norms else NORMS)


def sizes(cfg: ModelConfig) -> dict[str, int]:
    """Returns {letter: size} of the axis letters in `Name.axes`."""
    out = {
        "V": cfg.vocab_size,
        "D": cfg.width,
        "H": cfg.heads,
        "K": cfg.kv_heads,
        "E": cfg.head_width,
        "F": cfg.mlp_width,
        "O": 1,
        "T": 2 * cfg.width,
    }
    if m := cfg.latent:
        out |= {"r": m.kv_rank, "c": m.kv_rank + m.rope_width, "q": m.q_rank, "e": m.nope_width + m.rope_width}
        out |= {"u": m.nope_width + m.value_width, "v": m.value_width}
    if x := cfg.experts:
        out |= {"X": x.count, "M": x.width, "S": x.shared * x.width}
    return out


class Leaf(NamedTuple):
    """A parameter of a model: an array in our tree, and the Hugging Face tensors that hold the same numbers.

    Attributes:
        path: keys of the array in our tree.
        name: the parameter's `Name`, which is the same in all of `layers`.
        layers: indices of the layers that are stacked along the first axis of our array; None for a parameter outside
            the layers.
        prefix: beginning of the Hugging Face names, before `name.theirs`. "{i}" stands for the index of the layer.
    """

    path: tuple[str | int, ...]
    name: Name
    layers: range | None = None
    prefix: str = ""

    def keys(self, cfg: ModelConfig, layer: int | None = None) -> list[str]:
        """Returns the Hugging Face names of this parameter's tensors in one layer: one name, or one for each expert.

        Args:
            layer: index of the layer; None for a parameter outside the layers.
        """
        theirs = self.prefix.replace("{i}", str(layer)) + self.name.theirs
        return [theirs.replace("{x}", str(x)) for x in range(cfg.experts.count)] if "{x}" in theirs else [theirs]

    def all_keys(self, cfg: ModelConfig) -> Iterator[str]:
        """Yields the Hugging Face names of all tensors of this parameter, layer after layer."""
        for layer in [None] if self.layers is None else self.layers:
            yield from self.keys(cfg, layer)

    def ours(self, cfg: ModelConfig) -> tuple[int, ...]:
        """Returns the shape that a single Hugging Face tensor has in our layout.

        This is the shape of our array without its layer axis and its expert axis.
        """
        return tuple(sizes(cfg)[axis] for axis in self.name.axes)

    def theirs(self, cfg: ModelConfig) -> tuple[int, ...]:
        """Returns the shape of a single Hugging Face tensor of this parameter.

        Each layer, or each expert of a layer, has a tensor of its own.
        """
        ours, split = self.ours(cfg), self.name.split
        if not split:
            return ours if self.name.axes == "VD" else (int(np.prod(ours)),)
        return int(np.prod(ours[split:])), int(np.prod(ours[:split]))

    def shape(self, cfg: ModelConfig) -> tuple[int, ...]:
        """Returns the shape of our whole array: [layers, experts, ..]. Axes that the parameter lacks are left out."""
        layers = () if self.layers is None else (len(self.layers),)
        return (*layers, *((cfg.experts.count,) if "{x}" in self.name.theirs else ()), *self.ours(cfg))


def leaves(cfg: ModelConfig) -> list[Leaf]:
    """Returns a `Leaf` for each parameter of a model."""

    def below(root: tuple[str | int, ...], rows: Sequence[Name], layers: range) -> list[Leaf]:
        return [Leaf((*root, *row.path.split("/")), row, layers, "model.layers.{i}.") for row in rows]

    top = [EMBED, FINAL_NORM]
    if cfg.reward_head:
        top.append(REWARD)
    elif not cfg.tie_embeddings:
        top.append(UNEMBED)
    out = [Leaf(tuple(row.path.split("/")), row) for row in top]
    for g, group in enumerate(cfg.groups):
        out += below(("layers", g), block(cfg, group.feed), range(group.start, group.stop))
    if cfg.mtp_layers:
        extra = range(cfg.layers, cfg.layers + cfg.mtp_layers)
        out += below(("mtp", "block"), block(cfg, cfg.groups[-1].feed), extra) + below(("mtp",), MTP, extra)
    return out


def copies(cfg: ModelConfig) -> dict[str, str]:
    """Returns {name of a copy: name of its original} for the Hugging Face tensors that repeat another tensor.

    An export writes these copies. Loading does not read them.
    """
    out = {}
    for i in range(cfg.layers, cfg.layers + cfg.mtp_layers):
        for theirs, row in MTP_COPIES.items():
            out[f"model.layers.{i}.{theirs}"] = (EMBED if cfg.tie_embeddings else row).theirs
    return out


def empty_tree(cfg: ModelConfig) -> dict:
    """Returns our tree of parameters with None in place of each array."""
    tree: dict = {"layers": [{} for _ in cfg.groups]}
    for leaf in leaves(cfg):
        put(tree, leaf.path, None)
    return tree


def put(tree: dict, path: Sequence[str | int], value: object) -> None:
    """Sets the value at `path`, a sequence of keys, in a tree of dictionaries and lists."""
    *parents, last = path
    for key in parents:
        tree = tree[key] if isinstance(tree, list) else tree.setdefault(key, {})
    tree[last] = value


def pick(tree: dict, path: Sequence[str | int]) -> object:
    """Returns the value at `path`, a sequence of keys, in a tree of dictionaries and lists."""
    for key in path:
        tree = tree[key]
    return tree
