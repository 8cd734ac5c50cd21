"""Reads and writes LoRA adapters as PEFT directories: adapter_config.json and adapter_model.safetensors.

PEFT stores A as [r, inputs] and B as [outputs, r], and adds scale·B·A to the weight. `r1jax.model.lora` stores A as
[L, in.., r] and B as [L, r, out..] for L layers, with A already multiplied by the scale.

Source: peft 0.21, `LoraConfig` and `tuners/lora`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.model import lora
from r1jax.model.config import ModelConfig
from r1jax.sharding import name_of, shardings
from r1jax.weights.hub import name_of_snapshot
from r1jax.weights.names import Leaf, leaves, pick, put
from r1jax.weights.read import DTYPES

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, WEIGHT = "base_model.model.", ".weight"
# Values of fields that change what an adapter computes. Others are refused, and so is any tensor that is no A or B.
PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "fan_in_fan_out": False,
    "use_dora": False,
    "lora_bias": False,
    "layer_replication": None,
    "alora_invocation_tokens": None,
}

Pair = tuple[np.ndarray, np.ndarray]  # A [r, inputs] times its scale, and B [outputs, r]


def is_peft(directory: Path) -> bool:
    """Returns whether a directory holds a PEFT adapter and does not hold the weights of a whole model."""
    return (directory / CONFIG).exists() and not any(directory.glob("model*.safetensors"))


def read_adapter_config(directory: Path, flag: str = "--weights") -> dict[str, Any]:
    """Returns the content of adapter_config.json.

    Args:
        flag: the flag that named the directory, for errors.

    Raises:
        ValueError: the file cannot be read, names no base model, or asks for a variant of LoRA that is not
            implemented, such as DoRA.
    """
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        base = config.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{flag}={directory}: {CONFIG} cannot be read ({error}). Save the adapter again") from error
    for field, plain in PLAIN.items():
        if (said := config.get(field, plain)) != plain and (said or plain):
            raise ValueError(
                f"{flag}={directory}: {CONFIG} has {field}={said!r}; only {plain!r} can be read. Merge the adapter "
                "into its base with peft (merge_and_unload), save that model, and name its directory"
            )
    if not base:
        raise ValueError(
            f"{flag}={directory}: {CONFIG} names no base model. Set its field base_model_name_or_path to the base "
            "model's directory or name on the Hub"
        )
    return config


def add_adapter(
    directory: Path, config: Mapping[str, Any], cfg: ModelConfig, params: dict, mesh: Mesh, flag: str = "--weights"
) -> dict:
    """Returns the parameters of the base model, with the adapter of a PEFT directory added into its kernels.

    Args:
        config: from `read_adapter_config`.
        cfg, params: config and parameters of the base model.
        mesh: mesh that the parameters lie on.
        flag: the flag that named the directory, for errors.

    Raises:
        ValueError: a tensor cannot be read, does not fit the base model's shapes, or is no adapter of a layer's matrix.
    """
    pairs = read_pairs(directory, config, flag)
    found: dict[tuple, Pair] = {}
    for leaf in adaptable(cfg):
        modules = [leaf.keys(cfg, layer)[0].removesuffix(WEIGHT) for layer in leaf.layers]
        mine = [pairs.pop(module, None) for module in modules]
        if not any(mine):
            continue
        outputs, inputs = leaf.theirs(cfg)
        for module, pair in zip(modules, mine, strict=True):
            if pair and (pair[0].shape[1], pair[1].shape[0]) != (inputs, outputs):
                raise ValueError(
                    f"{flag}={directory}: the adapter of {module} has shape [{pair[1].shape[0]}, {pair[0].shape[1]}], "
                    f"but the base model's matrix has [{outputs}, {inputs}]. Use the adapter's own base model"
                )
        rank = max(pair[0].shape[0] for pair in mine if pair)
        nothing = (np.zeros((0, inputs), np.float32), np.zeros((outputs, 0), np.float32))
        filled = [pair or nothing for pair in mine]  # a layer without an adapter, or of a lower rank, is filled up
        a = np.stack([np.pad(a.T, ((0, 0), (0, rank - len(a)))) for a, _ in filled])
        b = np.stack([np.pad(b.T, ((0, rank - b.shape[1]), (0, 0))) for _, b in filled])
        ours, split = leaf.ours(cfg), leaf.name.split
        found[leaf.path[:-1]] = (a.reshape(-1, *ours[:split], rank), b.reshape(-1, rank, *ours[split:]))
    if pairs:
        raise ValueError(
            f"{flag}={directory}: the base model has no matrix {next(iter(pairs))} that an adapter can change here. "
            "Embeddings and experts cannot be adapted. Use the adapter's own base model, or merge the adapter into "
            "that model with peft (merge_and_unload), save the result, and name its directory"
        )
    whole = jax.tree.map(lambda x: x, params)  # new dictionaries, the same arrays
    for path, (a, b) in found.items():
        beside = {"lora_a": jnp.asarray(a), "lora_b": jnp.asarray(b)}
        for name, x in jax.device_put(beside, shardings(beside, mesh)).items():
            put(whole, (*path, name), x)
    return jax.jit(lora.fold_adapters, out_shardings=shardings(params, mesh))(whole)


def read_pairs(directory: Path, config: Mapping[str, Any], flag: str) -> dict[str, Pair]:
    """Returns {name of a matrix, without ".weight": (A, B)}, in float32 and with A multiplied by the scale.

    Raises:
        ValueError: the file is missing or damaged, or holds a tensor that is neither the A nor the B of a matrix. Also
            if a matrix has only one of A and B, or if the ranks of A and B differ.
    """
    from safetensors import SafetensorError, deserialize

    try:
        read = deserialize((directory / TENSORS).read_bytes())
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{flag}={directory}: {TENSORS} cannot be read ({error}). Save the adapter again, as safetensors"
        ) from error
    halves: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in read:
        part = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight", name)
        if not part:
            raise ValueError(
                f"{flag}={directory}: {TENSORS} holds {name}, which is no LoRA matrix of a layer. Merge the adapter "
                "into its base with peft (merge_and_unload), save that model, and name its directory"
            )
        array = np.frombuffer(tensor["data"], np.dtype(DTYPES[tensor["dtype"]])).reshape(tensor["shape"])
        halves.setdefault(part[1], {})[part[2]] = array.astype(np.float32)
    pairs = {}
    for module, half in halves.items():
        if len(half) < 2 or half["A"].shape[0] != half["B"].shape[1]:
            raise ValueError(
                f"{flag}={directory}: {TENSORS} lacks A or B of the adapter of {module}, or A and B have different "
                "ranks. Save the adapter again"
            )
        pairs[module] = (half["A"] * np.float32(scale_of(module, len(half["A"]), config)), half["B"])
    return pairs


def scale_of(module: str, rank: int, config: Mapping[str, Any]) -> float:
    """Returns the scale by which B·A is multiplied before it is added to a matrix: alpha/r, or alpha/√r with rsLoRA.

    Args:
        module: name of the matrix, without ".weight".
        rank: r, the rank of the adapter.
        config: the content of adapter_config.json.
    """
    patterns = config.get("alpha_pattern") or {}
    special = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
    alpha = config.get("lora_alpha", 8) if special is None else patterns[special]
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def adaptable(cfg: ModelConfig) -> list[Leaf]:
    """Returns the parameters that an adapter can change: matrices of layers, except experts.

    An adapter needs a parameter with one Hugging Face tensor per layer. The matrices of experts have a tensor for each
    expert, so they cannot be adapted.
    """
    return [
        leaf
        for leaf in leaves(cfg)
        if leaf.path[0] == "layers" and leaf.path[-1] == "kernel" and leaf.name.split and "{x}" not in leaf.name.theirs
    ]


def names_of(adapters: dict) -> list[str]:
    """Returns the paths of all adapter arrays (lora_a and lora_b) in a tree of parameters."""
    every = (name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(adapters))
    return [name for name in every if "lora_" in name]


def export_adapter(directory: Path, cfg: ModelConfig, adapters: dict, base: str) -> None:
    """Writes adapters as a PEFT directory, in float32. Every process must call this function; process 0 writes.

    Our A is already multiplied by the scale, so lora_alpha is written as r: PEFT then multiplies by 1.

    Args:
        directory: a new directory.
        adapters: a parameter tree. Only its adapters, "lora_a" and "lora_b" in the layers, are written.
        base: path of the base model's directory, or the model's name on the Hub.

    Raises:
        ValueError: an adapter belongs to the feed-forward of a model with experts. PEFT has no name for such an
            adapter.
    """
    from safetensors.numpy import save_file

    if cfg.experts and (name := next((n for n in names_of(adapters) if "/mlp/" in n), "")):
        raise ValueError(
            f"PEFT has no name for the adapter {name}, which belongs to the feed-forward of a model with experts. Use "
            "the whole model's weights, into which its adapters are merged, instead of an adapter"
        )
    written: dict[str, np.ndarray] = {}
    modules, ranks = [], []
    for leaf in adaptable(cfg):
        held = pick(adapters, leaf.path[:-1])
        if held.get("lora_a") is None:
            continue
        outputs, inputs = leaf.theirs(cfg)
        a, b = (np.asarray(held[name], np.float32) for name in ("lora_a", "lora_b"))
        modules.append(leaf.name.theirs.removesuffix(WEIGHT))
        ranks.append(a.shape[-1])
        for layer in leaf.layers:
            at, name = layer - leaf.layers.start, PREFIX + leaf.keys(cfg, layer)[0].removesuffix(WEIGHT)
            written[f"{name}.lora_A.weight"] = np.ascontiguousarray(a[at].reshape(inputs, -1).T)
            written[f"{name}.lora_B.weight"] = np.ascontiguousarray(b[at].reshape(-1, outputs).T)
    if jax.process_index():
        return
    name, revision = name_of_snapshot(base) or (base, None)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": name,
        "revision": revision,
        "inference_mode": True,
        "r": ranks[0],
        "lora_alpha": ranks[0],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(set(modules)),
    }
    directory.mkdir(parents=True)
    save_file(written, directory / TENSORS, metadata={"format": "pt"})
    (directory / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
