"""Writes parameters, one shard after another, into a directory that transformers and vLLM can load."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.typing import DTypeLike

from r1jax.model.config import ModelConfig
from r1jax.weights.config_out import config_to_hf
from r1jax.weights.files import INDEX
from r1jax.weights.names import Leaf, copies, leaves, pick

SHARD_BYTES = 5 * 10**9


def to_hf(cfg: ModelConfig, params: dict, dtype: DTypeLike) -> dict[str, np.ndarray]:
    """Returns {Hugging Face name: tensor} of all parameters. For small models: the host holds all tensors at once."""
    return dict(stream(cfg, params, dtype))


def stream(cfg: ModelConfig, params: dict, dtype: DTypeLike) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (Hugging Face name, tensor) of all parameters: first those outside the layers, then layer by layer.

    Parameters come to the host one at a time; of a stacked parameter, one layer at a time. If a run has several
    processes, all must iterate together.

    Args:
        dtype: dtype of the tensors. The bias of a router stays float32.
    """
    repeated: dict[str, list[str]] = {}
    for copy, original in copies(cfg).items():
        repeated.setdefault(original, []).append(copy)
    every = leaves(cfg)
    for leaf in (leaf for leaf in every if leaf.layers is None):
        for name, tensor in theirs(leaf, cfg, params, None, dtype):
            yield name, tensor
            for copy in repeated.get(name, []):
                yield copy, tensor
    for layer in range(cfg.layers + cfg.mtp_layers):
        for leaf in every:
            if leaf.layers is not None and layer in leaf.layers:
                yield from theirs(leaf, cfg, params, layer, dtype)


def theirs(
    leaf: Leaf, cfg: ModelConfig, params: dict, layer: int | None, dtype: DTypeLike
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (Hugging Face name, tensor) for each tensor of one parameter.

    A parameter of experts has a tensor for each expert. If a parameter is stacked over layers, only the tensors of
    `layer` are yielded.

    Args:
        leaf: the parameter.
        layer: index of the layer, from 0; None for a parameter outside the layers.
        dtype: dtype of the tensors. The bias of a router stays float32.
    """
    array = pick(params, leaf.path)
    if layer is not None:
        array = array[layer - leaf.layers.start]
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    array = np.asarray(array)
    if leaf.path[-2:] != ("router", "bias"):
        array = array.astype(dtype)
    shape = leaf.theirs(cfg)
    names = leaf.keys(cfg, layer)
    for name, one in zip(names, array if "{x}" in leaf.name.theirs else [array], strict=True):
        matrix = one.reshape(shape[::-1]).T if leaf.name.split else one.reshape(shape)
        yield name, np.ascontiguousarray(matrix)


def shards(cfg: ModelConfig, params: dict, dtype: DTypeLike, limit: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the tensors of a checkpoint in parts {name: tensor}, one part for each file.

    Args:
        dtype: dtype of the tensors.
        limit: largest number of bytes in a part. A tensor larger than `limit` gets a part of its own.
    """
    held: dict[str, np.ndarray] = {}
    for name, tensor in stream(cfg, params, dtype):
        if held and sum(x.nbytes for x in held.values()) + tensor.nbytes > limit:
            yield held
            held = {}
        held[name] = tensor
    yield held


def save_shards(directory: Path, parts: Iterable[dict[str, np.ndarray]], *, main: bool = True) -> None:
    """Writes safetensors files, and their index if there are several.

    Args:
        parts: {name: tensor} of each file. A part is emptied once it is written.
        main: whether this process writes the files. Other processes only iterate over the parts.

    Raises:
        ValueError: safetensors is not installed.
    """
    try:
        from safetensors.numpy import save_file
    except ImportError as error:
        raise ValueError('writing safetensors needs the extra "hf": pip install "r1jax[hf]"') from error
    written: list[list[str]] = []
    total = 0
    for held in parts:
        if main:
            save_file(held, directory / f"part-{len(written)}.safetensors", metadata={"format": "pt"})
        written.append(list(held))
        total += sum(x.nbytes for x in held.values())
        held.clear()  # otherwise two shards would be on the host
    if not main:
        return
    count = len(written)
    names = (
        ["model.safetensors"] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    )
    for i, name in enumerate(names):
        (directory / f"part-{i}.safetensors").rename(directory / name)
    if count > 1:
        where = {tensor: names[i] for i, held in enumerate(written) for tensor in held}
        (directory / INDEX).write_text(
            json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=1) + "\n"
        )


def export(
    directory: Path,
    cfg: ModelConfig,
    params: dict,
    dtype: DTypeLike,
    *,
    tokenizer: Any = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes config.json, the safetensors files with their index, and the tokenizer's files.

    Args:
        dtype: dtype of the written weights, and so of the weights when they are loaded again.
        tokenizer: its `save` writes the tokenizer's files, and its special tokens are named in config.json. If None,
            both are left out.
        shard_bytes: largest number of bytes in one file. The host holds about this many bytes plus, at worst, the
            largest parameter (of a parameter that is stacked over layers, the part of one layer).

    Raises:
        ValueError: the directory holds a checkpoint already, or safetensors is not installed.
    """
    directory = Path(directory)
    if any(directory.glob("*.safetensors")):
        raise ValueError(f"{directory} holds a checkpoint already: name a new directory")
    main = jax.process_index() == 0
    if main:
        directory.mkdir(parents=True, exist_ok=True)
    save_shards(directory, shards(cfg, params, dtype, shard_bytes), main=main)
    if not main:
        return
    ids: dict[str, Any] = dict(eos_id=None, pad_id=None)
    if tokenizer is not None:
        ids = dict(eos_id=tokenizer.eos_id, pad_id=tokenizer.pad_id, bos_id=getattr(tokenizer, "bos_id", None))
    config = config_to_hf(cfg, **ids, max_positions=cfg.max_positions, dtype=np.dtype(dtype).name)
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    if tokenizer is not None:
        tokenizer.save(directory)
