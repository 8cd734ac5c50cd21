"""Where arrays lie: the mesh, a table for parameters, and rows.

A mesh has the axes `data`, `fsdp`, `tensor`, `expert`. Parameters follow PARAM_RULES; optimizer
moments follow the parameter whose path theirs ends with. Rows (sequences) lie over `data` and
`fsdp` together.
"""

from __future__ import annotations

import functools
import logging
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from r1jax.model.config import ModelConfig

AXES = ("data", "fsdp", "tensor", "expert")
ROWS = P(("data", "fsdp"))

Rules = Sequence[tuple[str, P]]
# Heads, F and V over `tensor`, D over `fsdp`, experts over `expert`; layers are never sharded.
PARAM_RULES: Rules = (
    (r"embed/embedding$", P("tensor", "fsdp")),
    (r"unembed/kernel$", P("fsdp", "tensor")),
    (r"attention/([qkv]|q_up|kv_up)/kernel$", P(None, "fsdp", "tensor")),
    (r"attention/(q|kv)_down/kernel$", P(None, "fsdp")),
    (r"attention/[qkv]/bias$", P(None, "tensor")),
    (r"attention/o/kernel$", P(None, "tensor", None, "fsdp")),
    (r"experts/(gate|up)/kernel$", P(None, "expert", "fsdp", "tensor")),
    (r"experts/down/kernel$", P(None, "expert", "tensor", "fsdp")),
    (r"(mlp|shared)/(gate|up)/kernel$", P(None, "fsdp", "tensor")),
    (r"(mlp|shared)/down/kernel$", P(None, "tensor", "fsdp")),
    (r"router/(kernel|bias)$", P()),
    (r"mtp/project/kernel$", P(None, "fsdp", "tensor")),
    (r"reward_head/kernel$", P("fsdp")),
    (r"norm/scale$", P()),
    (r"lora_[ab]$", P()),
    (r"^waiting/", P()),  # rows carried over, on the host but for checkpoints
    (r"ns_coeffs$", P()),  # of Muon: three numbers
)

log = logging.getLogger(__name__)


def make_mesh(spec: str = "auto", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that `--mesh=spec` names.

    Args:
        spec: "auto" (all devices on fsdp; CPUs, which share one memory, on data), "AxB" (fsdp=A, tensor=B), or the long
            form "data:2,fsdp:2,tensor:2,expert:1", where an axis left out is 1.
        devices: all of them by default. One process may use fewer, and is told so; several must
            use all.

    Raises:
        ValueError: the spec cannot be read, or there are too few devices; it says what to type.
    """
    devices = list(jax.devices() if devices is None else devices)
    if spec == "auto":
        spec = f"{'data' if devices[0].platform == 'cpu' else 'fsdp'}:{len(devices)}"
    sizes = mesh_sizes(spec)
    needed = math.prod(sizes)
    processes = len({d.process_index for d in devices})
    if needed > len(devices) or (needed < len(devices) and processes > 1):
        sees = "this process sees" if processes == 1 else f"the {processes} processes hold"
        rule = "" if needed > len(devices) else ", and each of them must take part"
        raise ValueError(
            f"--mesh={spec} needs {needed} device{'s' * (needed > 1)}; "
            f"{sees} {len(devices)} ({devices[0].platform}){rule}. {way_out(needed, devices)}"
        )
    if needed < len(devices):
        log.warning("--mesh=%s uses the first %d of %d devices", spec, needed, len(devices))
    # jax.make_mesh alone gives Explicit axes, on which with_sharding_constraint does not reshard.
    return jax.make_mesh(
        sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:needed]
    )


def mesh_sizes(spec: str) -> tuple[int, ...]:
    """Sizes of the four axes."""
    if short := re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", spec, re.ASCII):
        return (1, int(short[1]), int(short[2]), 1)
    parts = [part.partition(":") for part in spec.split(",")]
    sizes = {name: size for name, _, size in parts}
    readable = all(re.fullmatch(r"[1-9]\d*", size, re.ASCII) for size in sizes.values())
    if not readable or not sizes.keys() <= set(AXES) or len(sizes) < len(parts):
        raise ValueError(
            f"--mesh={spec} is not a mesh. Type --mesh=AxB for A devices on fsdp and B on tensor, "
            f"such as --mesh=8x8, or axes by name, each at most once, such as "
            f"--mesh=data:1,fsdp:4,tensor:2,expert:1, or --mesh=auto"
        )
    return tuple(int(sizes.get(axis, "1")) for axis in AXES)


def way_out(needed: int, devices: Sequence[jax.Device]) -> str:
    """What to type instead of a mesh of `needed` devices."""
    count = len(devices)
    fits = f"On {'one device' if count == 1 else f'these {count}'} use --mesh={count}x1"
    if devices[0].platform != "cpu" or len({d.process_index for d in devices}) > 1:
        return fits
    return f"{fits}, or on CPU set XLA_FLAGS=--xla_force_host_platform_device_count={needed}"


def param_specs(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """The PartitionSpec of each array, as a tree.

    The first rule counts whose regex is found in the '/'-joined path. Scalars are replicated. An
    axis that does not divide a dimension leaves it whole, with one line of notice.

    Raises:
        ValueError: no rule matches, or the rule has more axes than the array.
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, x: fit(rule_for(path, x, rules), x.shape, mesh), tree
    )


def shardings(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """`param_specs` on the mesh, as `out_shardings` want them."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), param_specs(tree, mesh, rules))


def place(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """The same arrays on the mesh. One that lies there already is returned itself, not a copy."""
    return jax.device_put(tree, shardings(tree, mesh, rules))


def abstract(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """Shapes, dtypes and places without values: what `checkpoint.restore` fills.

    Args:
        tree: arrays, or their shapes from `jax.eval_shape`.
    """
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh, rules),
    )


def decode_specs(weights: Any, mesh: Mesh) -> Any:
    """Shardings of weights with unstacked layers, whole over the row axes: decoding gathers none.

    Args:
        weights: parameters, where each leaf below a `layers` has lost its layer axis.
    """

    def leaf(path: tuple, x: Any) -> NamedSharding:
        spec = rule_for(path, x, PARAM_RULES)
        axes = [axis if axis in ("tensor", "expert") else None for axis in spec]
        unstacked = axes[1:] if "layers" in name_of(path).split("/") else axes
        return NamedSharding(mesh, fit(P(*unstacked), x.shape, mesh))

    return jax.tree_util.tree_map_with_path(leaf, weights)


def rule_for(path: tuple, x: Any, rules: Rules) -> P:
    name = name_of(path)
    if x.ndim == 0:
        return P()
    for pattern, spec in rules:
        if re.search(pattern, name):
            return spec
    raise ValueError(
        f"no sharding rule matches {name} {list(x.shape)}: add one to PARAM_RULES of r1jax.sharding"
    )


def name_of(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def fit(spec: P, shape: Sequence[int], mesh: Mesh) -> P:
    """The spec without the axes that do not divide their dimension of `shape`."""
    if len(spec) > len(shape):
        raise ValueError(f"{spec} has more axes than an array of shape {list(shape)}")
    kept = []
    for axis, dimension in zip(spec, shape, strict=False):
        names = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
        size = math.prod(mesh.shape[name] for name in names)
        if dimension % size:
            notice("*".join(names), size, dimension)
            axis = None
        kept.append(axis)
    return P(*kept)


@functools.cache  # each pair is worth one line in a run
def notice(axis: str, size: int, dimension: int) -> None:
    log.warning(
        "--mesh: %s=%d does not divide a dimension of %d, which stays whole", axis, size, dimension
    )


def row_shards(mesh: Mesh) -> int:
    """Shards that rows are cut into; a multiple of it can be sharded."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def rows_in_turn(mesh: Mesh) -> int | None:
    """`row_shards` for `attend_full`: on CPUs rows go one after the other, on accelerators all at once."""
    return row_shards(mesh) if mesh.devices.flat[0].platform == "cpu" else None


def compute_dtype(mesh: Mesh) -> DTypeLike:
    """What networks compute in: bfloat16 on accelerators, float32 on CPUs, which have no units for less."""
    return jnp.float32 if mesh.devices.flat[0].platform == "cpu" else jnp.bfloat16


def local_shards(mesh: Mesh) -> int:
    """Row shards that this process holds; others hold them too where `tensor` spans processes."""
    me = jax.process_index()
    mine = [index for index, device in np.ndenumerate(mesh.devices) if device.process_index == me]
    return len({(data, fsdp) for data, fsdp, _, _ in mine})


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Host arrays as global ones, rows over the mesh; each process passes its own, equally many."""
    sharding = NamedSharding(mesh, ROWS)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree
    )


def local_rows(array: jax.Array, axis: int = 0) -> np.ndarray:
    """This process's rows of a global array, in order: the inverse of `shard_rows`."""
    shards = {shard.index[axis].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)], axis=axis)


def empty_cache(
    cfg: ModelConfig, rows: int, slots: int, mesh: Mesh, dtype: DTypeLike
) -> tuple[jax.Array, jax.Array | None]:
    """Zero keys [N, K, E, S] and values [N, K, S, E] of one layer, K over `tensor`; latents [N, 1, E, S] and None.

    Args:
        rows: of this process; N is that of all.
    """
    total = rows // local_shards(mesh) * row_shards(mesh)
    heads, width = (1, cfg.cache_width) if cfg.latent else (cfg.kv_heads, cfg.head_width)
    where = NamedSharding(mesh, fit(P(*ROWS, None if cfg.latent else "tensor"), (total, heads), mesh))
    with jax.enable_x64(dtype == jnp.float64):
        k = jnp.zeros((total, heads, width, slots), dtype, device=where)
        return k, None if cfg.latent else jnp.zeros((total, heads, slots, width), dtype, device=where)
