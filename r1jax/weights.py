"""Hugging Face safetensors <-> parameters, by one name table, both ways.

Reading goes through Orbax's safetensors layout: each process reads only its own byte ranges, cast on the way, straight onto
the mesh. One leaf (all layers' `q_proj`, say) is in flight at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from r1jax.model.config import ModelConfig
from r1jax.sharding import shardings


class Name(NamedTuple):
    """How one parameter is called over there.

    Attributes:
        path: ours, joined by "/", with the layer group as "layers".
        theirs: with "{i}" for the layer.
        axes: letters of our array, without the layer axis; theirs is the matrix [last group, first group] of the split.
        split: how many of our leading axes are the input of the matrix; 0 for vectors, which are not transposed.
    """

    path: str
    theirs: str
    axes: str
    split: int


LAYER = "model.layers.{i}."
NAMES = (
    Name("embed/embedding", "model.embed_tokens.weight", "VD", 0),
    Name("layers/attention/q/kernel", LAYER + "self_attn.q_proj.weight", "DHE", 1),
    Name("layers/attention/k/kernel", LAYER + "self_attn.k_proj.weight", "DKE", 1),
    Name("layers/attention/v/kernel", LAYER + "self_attn.v_proj.weight", "DKE", 1),
    Name("layers/attention/o/kernel", LAYER + "self_attn.o_proj.weight", "HED", 2),
    Name("layers/attention/q/bias", LAYER + "self_attn.q_proj.bias", "HE", 0),
    Name("layers/attention/k/bias", LAYER + "self_attn.k_proj.bias", "KE", 0),
    Name("layers/attention/v/bias", LAYER + "self_attn.v_proj.bias", "KE", 0),
    Name("layers/attention/q_norm/scale", LAYER + "self_attn.q_norm.weight", "E", 0),
    Name("layers/attention/k_norm/scale", LAYER + "self_attn.k_norm.weight", "E", 0),
    Name("layers/mlp/gate/kernel", LAYER + "mlp.gate_proj.weight", "DF", 1),
    Name("layers/mlp/up/kernel", LAYER + "mlp.up_proj.weight", "DF", 1),
    Name("layers/mlp/down/kernel", LAYER + "mlp.down_proj.weight", "FD", 1),
    Name("layers/attention_norm/scale", LAYER + "input_layernorm.weight", "D", 0),
    Name("layers/mlp_norm/scale", LAYER + "post_attention_layernorm.weight", "D", 0),
    Name("final_norm/scale", "model.norm.weight", "D", 0),
    Name("unembed/kernel", "lm_head.weight", "DV", 1),
)


def names(cfg: ModelConfig) -> list[Name]:
    """The rows of the table that a model of this configuration has."""
    absent = set()
    if not cfg.qkv_bias:
        absent |= {"layers/attention/q/bias", "layers/attention/k/bias", "layers/attention/v/bias"}
    if not cfg.qk_norm:
        absent |= {"layers/attention/q_norm/scale", "layers/attention/k_norm/scale"}
    if cfg.tie_embeddings:
        absent |= {"unembed/kernel"}
    return [name for name in NAMES if name.path not in absent]


def sizes(cfg: ModelConfig) -> dict[str, int]:
    return {
        "V": cfg.vocab_size, "D": cfg.width, "H": cfg.heads, "K": cfg.kv_heads, "E": cfg.head_width, "F": cfg.mlp_width,
    }  # fmt: skip


def shapes(cfg: ModelConfig, name: Name) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Our shape of one layer's array, and theirs."""
    ours = tuple(sizes(cfg)[axis] for axis in name.axes)
    if name.split == 0:
        return ours, ours if name.axes == "VD" else (int(np.prod(ours)),)
    return ours, (int(np.prod(ours[name.split :])), int(np.prod(ours[: name.split])))


def config_from_hf(config: dict) -> ModelConfig:
    """The model of a config.json, v4 or v5 keys.

    Raises:
        ValueError: an architecture this table does not know, or one of its switches that changes the network.
    """
    architecture = (config.get("architectures") or [config.get("model_type", "")])[0]
    family = {"Qwen3ForCausalLM": "qwen3", "Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}.get(architecture)
    if family is None:
        raise ValueError(f"config.json names the architecture {architecture!r}; known are Qwen2, Qwen3, Llama and Mistral ForCausalLM")
    rope = config.get("rope_parameters") or {}
    older = config.get("rope_scaling") or {}
    scaling = rope.get("rope_type") or older.get("rope_type") or older.get("type") or "default"
    window = config.get("sliding_window", 4096) if family == "mistral" else config.get("use_sliding_window")
    act = config.get("hidden_act", "silu")
    for unknown, what in (
        (scaling != "default", f"rope type {scaling!r}"),
        (bool(window), "attention over a sliding window"),
        (family != "qwen2" and config.get("attention_bias"), "attention_bias, which gives o_proj a bias too"),
        (config.get("mlp_bias"), "mlp_bias"),
        (act != "silu", f"hidden_act {act!r}"),
    ):
        if unknown:
            raise ValueError(f"config.json asks for {what}, which is not implemented")
    try:
        heads, width = config["num_attention_heads"], config["hidden_size"]
        return ModelConfig(
            vocab_size=config["vocab_size"], width=width, layers=config["num_hidden_layers"], heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_width=config.get("head_dim") or (128 if family == "qwen3" else width // heads),
            mlp_width=config["intermediate_size"], norm_eps=config["rms_norm_eps"],
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 1e4),
            qkv_bias=family == "qwen2", qk_norm=family == "qwen3",
            tie_embeddings=bool(config.get("tie_word_embeddings")),
        )  # fmt: skip
    except KeyError as error:
        raise ValueError(f"config.json lacks {error}") from error


def config_to_hf(cfg: ModelConfig, eos_id: int, pad_id: int, max_positions: int, dtype: str = "bfloat16") -> dict:
    """A config.json that transformers loads, with old and new keys."""
    kind = "qwen3" if cfg.qk_norm else "qwen2" if cfg.qkv_bias else "llama"
    return {
        "architectures": [{"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}[kind] + "ForCausalLM"], "model_type": kind,
        "vocab_size": cfg.vocab_size, "hidden_size": cfg.width, "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads, "num_key_value_heads": cfg.kv_heads, "head_dim": cfg.head_width,
        "intermediate_size": cfg.mlp_width, "hidden_act": "silu", "rms_norm_eps": cfg.norm_eps,
        "rope_theta": cfg.rope_theta, "rope_parameters": {"rope_theta": cfg.rope_theta, "rope_type": "default"},
        "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": cfg.tie_embeddings,
        "max_position_embeddings": max_positions, "bos_token_id": None, "eos_token_id": eos_id, "pad_token_id": pad_id,
        "torch_dtype": dtype, "dtype": dtype,
    }  # fmt: skip


def read_config(directory: Path) -> ModelConfig:
    """The model of a Hugging Face directory."""
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"--weights={directory}: config.json cannot be read ({error})") from error
    return config_from_hf(config)


def from_hf(directory: Path, mesh: Mesh, dtype: DTypeLike = jnp.float32) -> tuple[ModelConfig, dict]:
    """Configuration and parameters of a Hugging Face directory, placed on the mesh.

    Raises:
        ValueError: unreadable files, a missing tensor or one of another shape; checked before anything is allocated.
    """
    from orbax.checkpoint import v1 as ocp

    cfg = read_config(directory)
    context = ocp.Context()
    context.checkpoint_layout = ocp.options.CheckpointLayout.SAFETENSORS
    with context:
        try:
            found = ocp.metadata(directory).metadata
        except Exception as error:
            raise ValueError(f"--weights={directory}: the safetensors files cannot be read ({error})") from error
        for name in names(cfg):
            for theirs in each(name, cfg):
                want = shapes(cfg, name)[1]
                if theirs not in found:
                    raise ValueError(f"--weights={directory}: tensor {theirs} is missing; is a shard missing?")
                if tuple(found[theirs].shape) != want:
                    raise ValueError(f"--weights={directory}: {theirs} has shape {tuple(found[theirs].shape)}, config.json says {want}")
        known = {theirs for name in NAMES[-1:] + tuple(names(cfg)) for theirs in each(name, cfg)}  # a tied lm_head is a copy
        if strange := sorted(t for t in found if t not in known and not t.endswith("rotary_emb.inv_freq")):
            raise ValueError(f"--weights={directory}: {strange[0]} (of {len(strange)} such) has no place in the model of config.json")
        params = empty_tree(cfg)
        specs = shardings(params, mesh)
        for name in names(cfg):
            keys = list(each(name, cfg))
            whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
            wanted = {k: jax.ShapeDtypeStruct(shapes(cfg, name)[1], dtype, sharding=whole) for k in keys}
            try:
                loaded = ocp.load(directory, wanted)
            except Exception as error:
                raise ValueError(f"--weights={directory}: {keys[0]} cannot be read; is a file cut short? ({error})") from error
            stacked = name.path.startswith("layers/")

            def build(arrays: list, name=name, stacked=stacked):
                ours = [convert(a, name, shapes(cfg, name)[0]) for a in arrays]
                return jnp.stack(ours) if stacked else ours[0]

            parent, leaf = walk(params, name.path)
            sharding = walk(specs, name.path)
            parent[leaf] = jax.jit(build, out_shardings=sharding[0][sharding[1]])([loaded[k] for k in keys])
    return cfg, params


def to_hf(cfg: ModelConfig, params: dict, dtype: DTypeLike) -> dict[str, np.ndarray]:
    """The tensors of a Hugging Face checkpoint by name."""
    out = {}
    for name in names(cfg):
        parent, leaf = walk(params, name.path)
        arrays = np.asarray(parent[leaf]).astype(dtype)
        for theirs, array in zip(each(name, cfg), arrays if name.path.startswith("layers/") else [arrays], strict=True):
            matrix = array if name.split == 0 else array.reshape(*shapes(cfg, name)[1][::-1]).T
            out[theirs] = np.ascontiguousarray(matrix.reshape(shapes(cfg, name)[1]))
    return out


def convert(array: jax.Array, name: Name, ours: tuple[int, ...]) -> jax.Array:
    return (array.T if name.split else array).reshape(ours)


def each(name: Name, cfg: ModelConfig) -> Iterator[str]:
    """Their names of one of our leaves, layer by layer."""
    if "{i}" not in name.theirs:
        yield name.theirs
        return
    for i in range(cfg.layers):
        yield name.theirs.replace("{i}", str(i))


def empty_tree(cfg: ModelConfig) -> dict:
    """The parameter tree of abstract arrays."""
    from r1jax.model.transformer import init

    return jax.eval_shape(lambda: init(cfg, jax.random.key(0)))


def walk(tree: dict, path: str) -> tuple[dict, str]:
    """The dictionary that holds the leaf at `path`, and its key there."""
    *parents, leaf = path.split("/")
    for key in parents:
        tree = tree["layers"][0] if key == "layers" else tree[key]
    return tree, leaf
