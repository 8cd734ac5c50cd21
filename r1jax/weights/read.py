"""Reads safetensors files into parameters on the mesh, in bounded memory.

Orbax reads the tensors straight onto the mesh. Each process reads only the bytes that its own devices need. One layer
is read at a time, in the layout of the files. The layer is then transposed, cast and written into the arrays that stack
all layers. These arrays are donated, so the peak of memory is the model plus one layer.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from r1jax.distributed import beat
from r1jax.model.config import ModelConfig
from r1jax.sharding import fit, param_specs
from r1jax.weights.config_in import read_config
from r1jax.weights.files import SCALE, Tensor, check, tensors
from r1jax.weights.names import Leaf, empty_tree, leaves, pick, put

BLOCK = (128, 128)  # the block shape of DeepSeek's fp8
IN_FLIGHT = 256 << 20  # bytes that Orbax may hold besides the arrays it fills
DTYPES = {
    "F64": jnp.float64,
    "F32": jnp.float32,
    "F16": jnp.float16,
    "BF16": jnp.bfloat16,
    "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
}


def from_hf(
    directory: Path, mesh: Mesh, dtype: DTypeLike = jnp.float32, *, reward_head: bool = False, flag: str = "--weights"
) -> tuple[ModelConfig, dict]:
    """Reads the config and parameters of a Hugging Face directory onto the mesh.

    Args:
        dtype: dtype of the parameters. The bias of a router is float32 in any case.
        reward_head: whether to make a reward model. If the checkpoint holds a head, as a ForSequenceClassification
            does, this head is read. Otherwise the head is zero.
        flag: the flag that named the directory, for errors.

    Raises:
        ValueError: a file cannot be read, or a tensor is missing or has another shape than config.json says. Names and
            shapes are checked before anything is allocated.
    """
    directory = Path(directory)
    cfg = read_config(directory, reward_head=reward_head, flag=flag)
    found = tensors(directory, flag)
    if f"model.layers.{cfg.layers}.eh_proj.weight" not in found:
        cfg = dataclasses.replace(cfg, mtp_layers=0)  # config.json often counts an MTP layer that the files lack
    check(cfg, found, directory, flag)
    block = fp8_block(directory, found, flag)
    placed = {}
    shapes = empty_tree(cfg)
    for leaf in leaves(cfg):
        exact = leaf.path[-2:] == ("router", "bias")
        put(shapes, leaf.path, jax.ShapeDtypeStruct(leaf.shape(cfg), jnp.float32 if exact else dtype))
    specs = param_specs(shapes, mesh)
    for leaf in leaves(cfg):
        abstract, spec = pick(shapes, leaf.path), pick(specs, leaf.path)
        placed[leaf.path] = jnp.zeros(abstract.shape, abstract.dtype, device=NamedSharding(mesh, spec))
    for layer, members in by_layer(cfg, found):
        beat("loading weights")
        abstract = {
            name: make_abstract(found[name], leaf, pick(specs, leaf.path), mesh)
            for leaf in members
            for name in list_tensors(leaf, cfg, layer, found)
        }
        arrays = load(directory, abstract, found, flag)
        for leaf in members:
            keys = leaf.keys(cfg, layer)
            scales = [arrays[key + SCALE] for key in keys if key + SCALE in arrays]
            at = None if layer is None else layer - leaf.layers.start
            placed[leaf.path] = fill(
                placed[leaf.path],
                at,
                [arrays[key] for key in keys],
                scales,
                leaf.ours(cfg),
                leaf.name.split,
                block,
                NamedSharding(mesh, pick(specs, leaf.path)),
            )
    params = empty_tree(cfg)
    for path, array in placed.items():
        put(params, path, array)
    return cfg, params


def by_layer(cfg: ModelConfig, found: dict[str, Tensor]) -> list[tuple[int | None, list[Leaf]]]:
    """Returns (layer index, parameters) for each group of parameters that is read together.

    A group is all parameters of one layer, or a single parameter outside the layers. The layer index of a single
    parameter is None.

    Args:
        found: the tensors of the directory. A parameter outside the layers is left out if `found` lacks it.
    """
    all_leaves = leaves(cfg)
    out: list[tuple[int | None, list[Leaf]]] = [
        (None, [leaf]) for leaf in all_leaves if leaf.layers is None and leaf.name.theirs in found
    ]
    for layer in range(cfg.layers + cfg.mtp_layers):
        out.append((layer, [leaf for leaf in all_leaves if leaf.layers is not None and layer in leaf.layers]))
    return out


def list_tensors(leaf: Leaf, cfg: ModelConfig, layer: int | None, found: dict[str, Tensor]) -> list[str]:
    """Returns the Hugging Face names of a parameter's tensors in one layer, and of their fp8 scales if there are any.

    Args:
        leaf: the parameter.
        layer: index of the layer; None for a parameter outside the layers.
        found: the tensors of the directory.
    """
    keys = leaf.keys(cfg, layer)
    return keys + [key + SCALE for key in keys if key + SCALE in found]


def make_abstract(tensor: Tensor, leaf: Leaf, spec: P, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Returns the shape, dtype and sharding with which a Hugging Face tensor is read.

    The sharding matches the sharding of our array, the parameter in r1jax's layout. So the tensor can be transposed
    into our array without moving data between devices.

    Args:
        tensor: the tensor on disk.
        leaf: the parameter that the tensor belongs to.
        spec: the PartitionSpec of our array.
    """
    stacked = (leaf.layers is not None) + ("{x}" in leaf.name.theirs)
    axes = [*list(spec)[stacked:], *[None] * len(leaf.name.axes)]
    theirs = P(axes[leaf.name.split], axes[0]) if leaf.name.split else P(*axes[: len(tensor.shape)])
    return jax.ShapeDtypeStruct(
        tensor.shape, DTYPES[tensor.dtype], sharding=NamedSharding(mesh, fit(theirs, tensor.shape, mesh))
    )


def load(
    directory: Path, abstract: dict[str, jax.ShapeDtypeStruct], found: dict[str, Tensor], flag: str
) -> dict[str, jax.Array]:
    """Reads tensors onto the mesh, file by file. Returns {name: array}.

    Args:
        abstract: {name: shape, dtype and sharding} of the tensors to read.
        found: the tensors of the directory, from `files.tensors`.
        flag: the flag that named the directory, for errors.

    Raises:
        ValueError: a file cannot be read.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.checkpoint_layout = ocp.options.CheckpointLayout.SAFETENSORS
    context.memory.read_concurrent_bytes = IN_FLIGHT
    arrays = {}
    with context:
        for file in sorted({found[name].file for name in abstract}):
            part = {name: x for name, x in abstract.items() if found[name].file == file}
            try:
                arrays |= ocp.load(file, part)
            except Exception as error:
                raise ValueError(
                    f"{flag}={directory}: {next(iter(part))} of {file.name} cannot be read ({error}). "
                    f"Download {file.name} again"
                ) from error
    return arrays


@functools.partial(jax.jit, static_argnames=("ours", "split", "block", "sharding"), donate_argnames=("whole",))
def fill(
    whole: jax.Array,
    at: int | jax.Array | None,
    arrays: list[jax.Array],
    scales: list[jax.Array],
    ours: tuple[int, ...],
    split: int,
    block: tuple[int, int],
    sharding: NamedSharding,
) -> jax.Array:
    """Writes Hugging Face tensors into one layer of our array `whole`, or over the whole array. Returns the result.

    Args:
        whole: our array, a parameter in r1jax's layout, with a layer axis first if the parameter belongs to layers.
            This array is donated.
        at: index of the layer along the first axis; if None, everything is replaced.
        arrays: the Hugging Face tensors: one tensor, or one for each expert.
        scales: the fp8 scales of `arrays`; [] if the checkpoint is not fp8.
        ours: shape of one tensor in our layout, from `Leaf.ours`.
        split: how many of the first axes of `ours` are inputs of the matrix (`Name.split`). If `split` is above 0, the
            tensors are transposed.
        block: block shape of the fp8 scales.
        sharding: the sharding of the result.
    """

    def part(i: int) -> jax.Array:
        matrix = dequantise(arrays[i], scales[i], block) if scales else arrays[i]
        return (matrix.T if split else matrix).reshape(ours).astype(whole.dtype)

    new = part(0) if whole.ndim == len(ours) + (at is not None) else jnp.stack([part(i) for i in range(len(arrays))])
    out = new if at is None else jax.lax.dynamic_update_index_in_dim(whole, new, at, 0)
    return jax.lax.with_sharding_constraint(out, sharding)


def dequantise(matrix: jax.Array, scale: jax.Array, block: tuple[int, int]) -> jax.Array:
    """Returns an fp8 matrix as float32, with each block of the matrix multiplied by the scale of this block.

    Blocks at the edges may be smaller than `block`.

    Args:
        matrix: [rows, columns] fp8.
        scale: [row blocks, column blocks].
        block: rows and columns of a block.
    """
    rows, columns = matrix.shape
    spread = jnp.repeat(jnp.repeat(scale.astype(jnp.float32), block[0], axis=0), block[1], axis=1)
    return matrix.astype(jnp.float32) * spread[:rows, :columns]


def fp8_block(directory: Path, found: dict[str, Tensor], flag: str) -> tuple[int, int]:
    """Checks that all tensors have a readable dtype. Returns (rows, columns) of an fp8 block, by default (128, 128).

    Raises:
        ValueError: the checkpoint has another quantisation than fp8, a dtype that cannot be read, or fp8 without
            scales.
    """
    config = json.loads((directory / "config.json").read_text())
    quantised = config.get("quantization_config") or {}
    if quantised and quantised.get("quant_method") != "fp8":
        raise ValueError(
            f"{flag}={directory}: quantised by {quantised.get('quant_method')!r}; only fp8 in blocks can be "
            "read. Use the unquantised checkpoint"
        )
    for name, tensor in found.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{flag}={directory}: {name} has dtype {tensor.dtype}; use F64, F32, F16, BF16 or fp8 in blocks"
            )
        if tensor.dtype.startswith("F8") and name + SCALE not in found:
            raise ValueError(
                f"{flag}={directory}: {name} is fp8, but its scale {name + SCALE} is missing. Download the checkpoint "
                "again"
            )
    return tuple(quantised.get("weight_block_size") or BLOCK)
