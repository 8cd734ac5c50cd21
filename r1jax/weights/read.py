"""Files -> parameters on the mesh, in bounded memory.

Orbax reads: each process only the byte ranges that its own devices hold, straight onto the mesh. One layer is in flight
at a time, as it is in the files; it is turned, cast and written into its place in the stacked leaves, which are
donated. So the peak is the model plus a layer.
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

from r1jax.model.config import ModelConfig
from r1jax.sharding import fit, param_specs
from r1jax.weights.config_in import read_config
from r1jax.weights.files import SCALE, Tensor, check, tensors
from r1jax.weights.names import Leaf, empty_tree, leaves, pick, put

BLOCK = (128, 128)  # of DeepSeek's fp8
IN_FLIGHT = 256 << 20  # bytes that Orbax may hold besides the arrays it fills
DTYPES = {
    "F64": jnp.float64, "F32": jnp.float32, "F16": jnp.float16, "BF16": jnp.bfloat16, "F8_E4M3": jnp.float8_e4m3fn,
    "F8_E5M2": jnp.float8_e5m2,
}  # fmt: skip


def from_hf(
    directory: Path, mesh: Mesh, dtype: DTypeLike = jnp.float32, *, reward_head: bool = False
) -> tuple[ModelConfig, dict]:
    """Configuration and parameters of a Hugging Face directory, placed on the mesh.

    Args:
        dtype: what the parameters are cast to; the bias of a router stays float32.
        reward_head: make it a reward model, with the head of a ForSequenceClassification checkpoint or one of zeros.

    Raises:
        ValueError: unreadable files, a missing tensor or one of another shape; checked before anything is allocated.
    """
    directory = Path(directory)
    cfg = read_config(directory, reward_head=reward_head)
    found = tensors(directory)
    if f"model.layers.{cfg.layers}.eh_proj.weight" not in found:
        cfg = dataclasses.replace(cfg, mtp_layers=0)  # config.json often promises the layer to files that lack it
    check(cfg, found, directory)
    block = fp8_block(directory, found)
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
        abstract = {
            name: laid(found[name], leaf, pick(specs, leaf.path), mesh)
            for leaf in members
            for name in wanted(leaf, cfg, layer, found)
        }
        arrays = load(directory, abstract, found)
        for leaf in members:
            keys = leaf.keys(cfg, layer)
            scales = [arrays[key + SCALE] for key in keys if key + SCALE in arrays]
            at = None if layer is None else layer - leaf.layers.start
            placed[leaf.path] = fill(
                placed[leaf.path], at, [arrays[key] for key in keys], scales, leaf.ours(cfg), leaf.name.split, block,
                NamedSharding(mesh, pick(specs, leaf.path)),
            )  # fmt: skip
    params = empty_tree(cfg)
    for path, array in placed.items():
        put(params, path, array)
    return cfg, params


def by_layer(cfg: ModelConfig, found: dict[str, Tensor]) -> list[tuple[int | None, list[Leaf]]]:
    """What is read together: the leaves of one layer; those of no layer one by one."""
    all_leaves = leaves(cfg)
    out: list[tuple[int | None, list[Leaf]]] = [
        (None, [leaf]) for leaf in all_leaves if leaf.layers is None and leaf.name.theirs in found
    ]
    for layer in range(cfg.layers + cfg.mtp_layers):
        out.append((layer, [leaf for leaf in all_leaves if leaf.layers is not None and layer in leaf.layers]))
    return out


def wanted(leaf: Leaf, cfg: ModelConfig, layer: int | None, found: dict[str, Tensor]) -> list[str]:
    keys = leaf.keys(cfg, layer)
    return keys + [key + SCALE for key in keys if key + SCALE in found]


def laid(tensor: Tensor, leaf: Leaf, spec: P, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Their tensor, lying as ours will: then turning it moves nothing between devices."""
    stacked = (leaf.layers is not None) + ("{x}" in leaf.name.theirs)
    axes = [*list(spec)[stacked:], *[None] * len(leaf.name.axes)]
    theirs = P(axes[leaf.name.split], axes[0]) if leaf.name.split else P(*axes[: len(tensor.shape)])
    return jax.ShapeDtypeStruct(
        tensor.shape, DTYPES[tensor.dtype], sharding=NamedSharding(mesh, fit(theirs, tensor.shape, mesh))
    )


def load(directory: Path, abstract: dict[str, jax.ShapeDtypeStruct], found: dict[str, Tensor]) -> dict[str, jax.Array]:
    """The named tensors, file by file."""
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
                    f"--weights={directory}: {next(iter(part))} of {file.name} cannot be read ({error})"
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
    """`whole` with one layer of it (all of it where `at` is None) made of their tensors."""  # fmt: skip

    def part(i: int) -> jax.Array:
        matrix = dequantised(arrays[i], scales[i], block) if scales else arrays[i]
        return (matrix.T if split else matrix).reshape(ours).astype(whole.dtype)

    new = part(0) if whole.ndim == len(ours) + (at is not None) else jnp.stack([part(i) for i in range(len(arrays))])
    out = new if at is None else jax.lax.dynamic_update_index_in_dim(whole, new, at, 0)
    return jax.lax.with_sharding_constraint(out, sharding)


def dequantised(matrix: jax.Array, scale: jax.Array, block: tuple[int, int]) -> jax.Array:
    """fp8 times the scale of its block, float32. Blocks at the edges may be cut."""
    rows, columns = matrix.shape
    spread = jnp.repeat(jnp.repeat(scale.astype(jnp.float32), block[0], axis=0), block[1], axis=1)
    return matrix.astype(jnp.float32) * spread[:rows, :columns]


def fp8_block(directory: Path, found: dict[str, Tensor]) -> tuple[int, int]:
    """The block of an fp8 checkpoint.

    Raises:
        ValueError: weights in a number format without scales, or in another quantisation.
    """
    config = json.loads((directory / "config.json").read_text())
    quantised = config.get("quantization_config") or {}
    if quantised and quantised.get("quant_method") != "fp8":
        raise ValueError(
            f"--weights={directory}: quantised by {quantised.get('quant_method')!r}; only fp8 in blocks is read. "
            "Use the checkpoint before quantisation"
        )
    for name, tensor in found.items():
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"--weights={directory}: {name} holds {tensor.dtype}; weights are F64, F32, F16, BF16 or fp8 in blocks"
            )
        if tensor.dtype.startswith("F8") and name + SCALE not in found:
            raise ValueError(f"--weights={directory}: {name} is fp8 without its scale {name + SCALE}")
    return tuple(quantised.get("weight_block_size") or BLOCK)
