"""Makes the device mesh, and places parameters and rows on it.

A mesh has the axes `data`, `fsdp`, `tensor` and `expert`. PARAM_RULES is a list of pairs (regular expression,
PartitionSpec): a parameter whose path matches the expression is sharded by the PartitionSpec. The optimizer's moments
of a parameter are sharded like the parameter, because the path of the moments ends with the path of the parameter. Rows
(sequences) are sharded over `data`, `fsdp` and `expert` together. So the devices along `expert` exchange tokens in the
layers with experts, and compute everything else for their own rows only.
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
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike

from r1jax.distributed.launch import SHARED_UP_TO

AXES = ("data", "fsdp", "tensor", "expert")
ROW_AXES = ("data", "fsdp", "expert")
ROWS = P(ROW_AXES)

EMBEDDING, UNEMBEDDING = P("tensor", "fsdp"), P("fsdp", "tensor")  # [V, D], [D, V]

Rules = Sequence[tuple[str, P]]
# Heads, F and V over `tensor`, D over `fsdp`, experts over `expert`; layers are never sharded.
PARAM_RULES: Rules = (
    (r"embed/embedding$", EMBEDDING),
    (r"unembed/kernel$", UNEMBEDDING),
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
    (r"^waiting/", P()),  # carried-over rows, which are on the mesh only in checkpoints
    (r"ns_coeffs$", P()),  # three coefficients of Muon
)

log = logging.getLogger(__name__)


def make_mesh(spec: str = "auto", devices: Sequence[jax.Device] | None = None, *, size: int = 0) -> Mesh:
    """Makes the mesh that `--mesh=spec` describes.

    Args:
        spec: "auto", "AxB" or sizes by name. "auto" puts all devices on the axis fsdp, or, if they are CPU devices and
            the model is small, on data. "AxB" means fsdp=A, tensor=B. Sizes by name are written as
            "data:2,fsdp:2,tensor:2,expert:1"; an axis that is left out has size 1.
        devices: the devices to choose from; by default all. A run of one process may use only some of them; it then
            logs a warning. A run of several processes must use all devices.
        size: approximate number of parameters of the model. With "auto", CPU devices shard a model of more than
            `SHARED_UP_TO` parameters over `fsdp`, so that it is in memory only once.

    Raises:
        ValueError: the spec cannot be parsed, or does not fit the devices. The message says what to type.
    """
    devices = list(jax.devices() if devices is None else devices)
    if spec == "auto":
        copied = devices[0].platform == "cpu" and size <= SHARED_UP_TO
        spec = f"{'data' if copied else 'fsdp'}:{len(devices)}"
    sizes = mesh_sizes(spec)
    needed = math.prod(sizes)
    processes = len({d.process_index for d in devices})
    if needed > len(devices) or (needed < len(devices) and processes > 1):
        sees = "this process sees" if processes == 1 else f"the {processes} processes hold"
        rule = "" if needed > len(devices) else ", and each of them must take part"
        raise ValueError(
            f"--mesh={spec} needs {needed} device{'s' * (needed > 1)}; "
            f"{sees} {len(devices)} ({devices[0].platform}){rule}. {suggest_mesh(needed, devices)}"
        )
    if needed < len(devices):
        log.warning("--mesh=%s uses the first %d of %d devices", spec, needed, len(devices))
    # jax.make_mesh alone gives Explicit axes, on which with_sharding_constraint does not reshard.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:needed])


def mesh_sizes(spec: str) -> tuple[int, ...]:
    """Returns the sizes of the four axes of a mesh spec (see `make_mesh`). Raises ValueError if it cannot be parsed."""
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


def suggest_mesh(needed: int, devices: Sequence[jax.Device]) -> str:
    """Returns a sentence for an error message that suggests a mesh of all `devices`.

    For a single process on CPU, also suggests the XLA flag that simulates `needed` devices.
    """
    count = len(devices)
    fits = f"On {'one device' if count == 1 else f'these {count}'} use --mesh={count}x1"
    if devices[0].platform != "cpu" or len({d.process_index for d in devices}) > 1:
        return fits
    return f"{fits}, or on CPU set XLA_FLAGS=--xla_force_host_platform_device_count={needed}"


def param_specs(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """Returns the PartitionSpec of each array in `tree`, as a tree of the same structure.

    An array gets the spec of the first rule whose regular expression matches the array's path (its keys, joined by
    '/'). Scalars are replicated. A dimension is not sharded if the size of its mesh axis does not divide the size of
    the dimension. A warning then says so, once.

    Args:
        rules: (regular expression, PartitionSpec) pairs.

    Raises:
        ValueError: no rule matches an array's path, or the rule has more axes than the array.
    """
    return jax.tree_util.tree_map_with_path(lambda path, x: fit(rule_for(path, x, rules), x.shape, mesh), tree)


def shardings(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """Returns the NamedSharding of each array in `tree`, as a tree. Arguments as for `param_specs`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), param_specs(tree, mesh, rules))


def place(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """Moves the arrays of `tree` onto the mesh, sharded by `rules`. Arrays that are there already are not copied."""
    return jax.device_put(tree, shardings(tree, mesh, rules))


def abstract(tree: Any, mesh: Mesh, rules: Rules = PARAM_RULES) -> Any:
    """Returns the shape, dtype and sharding of each array in `tree`, as a tree. `checkpoint.restore` takes such a tree.

    Args:
        tree: arrays, or their shapes from `jax.eval_shape`.
        mesh, rules: as for `param_specs`.
    """
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh, rules),
    )


def decode_specs(weights: Any, mesh: Mesh) -> Any:
    """Returns the NamedSharding of each weight for decoding, as a tree.

    Weights are sharded over `tensor` and `expert` only, so that decoding never gathers them over `data` or `fsdp`.

    Args:
        weights: parameters with their layers divided as by `transformer.divide_layers`. Leaves below `layers` have a
            layer axis if they also lie below `stack`.
    """

    def leaf(path: tuple, x: Any) -> NamedSharding:
        spec = rule_for(path, x, PARAM_RULES)
        axes = [axis if axis in ("tensor", "expert") else None for axis in spec]
        folders = name_of(path).split("/")
        axes = axes[1:] if "layers" in folders and "stack" not in folders else axes
        return NamedSharding(mesh, fit(P(*axes), x.shape, mesh))

    return jax.tree_util.tree_map_with_path(leaf, weights)


def rule_for(path: tuple, x: Any, rules: Rules) -> P:
    """Returns the spec of the first rule that matches the path of array `x`. Raises ValueError if no rule matches."""
    name = name_of(path)
    if x.ndim == 0:
        return P()
    for pattern, spec in rules:
        if re.search(pattern, name):
            return spec
    raise ValueError(f"no sharding rule matches {name} {list(x.shape)}: add one to PARAM_RULES of r1jax.sharding")


def name_of(path: tuple) -> str:
    """Returns the keys of `path`, a key path of jax.tree_util, joined by '/'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def fit(spec: P, shape: Sequence[int], mesh: Mesh) -> P:
    """Returns `spec` for an array of shape `shape`, without mesh axes whose size does not divide the array's dimension.

    Raises:
        ValueError: the spec has more axes than `shape`.
    """
    if len(spec) > len(shape):
        raise ValueError(
            f"{spec} has more axes than an array of shape {list(shape)}: "
            "correct the rule in PARAM_RULES of r1jax.sharding"
        )
    kept = []
    for axis, dimension in zip(spec, shape, strict=False):
        names = () if axis is None else axis if isinstance(axis, tuple) else (axis,)
        size = math.prod(mesh.shape[name] for name in names)
        if dimension % size:
            warn_unsharded("*".join(names), size, dimension)
            axis = None
        kept.append(axis)
    return P(*kept)


def fit_split(spec: P, shape: Sequence[int], mesh: Mesh) -> P:
    """Returns the same as `fit`, but without mesh axes of size 1, over which there is nothing to gather or to sum."""
    return P(*(axis if axis and mesh.shape[axis] > 1 else None for axis in fit(spec, shape, mesh)))


@functools.cache  # warns once for each axis and dimension
def warn_unsharded(axis: str, size: int, dimension: int) -> None:
    """Warns once that the mesh axis `axis` of size `size` does not divide a dimension of size `dimension`."""
    log.warning("--mesh: %s=%d does not divide a dimension of %d, which stays whole", axis, size, dimension)


def row_shards(mesh: Mesh) -> int:
    """Returns the number of shards that the rows of a batch are split into: the product of data, fsdp and expert.

    The number of rows must be a multiple of this number.
    """
    return math.prod(mesh.shape[axis] for axis in ROW_AXES)


def pin_rows(x: jax.Array, mesh: Mesh | None) -> jax.Array:
    """Constrains x [N, ..] to be split along its first axis only, over the row shards of the mesh.

    Without this constraint, XLA may split activations along their width, like the parameters that multiply them. Every
    device then computes a part of the width of every row, and results are summed over devices. Returns x unchanged if
    there is no mesh, or if the number of row shards does not divide N.
    """
    if mesh is None or mesh.size == 1 or x.shape[0] % row_shards(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, ROWS))


def rows_in_turn(mesh: Mesh) -> int | None:
    """Returns the value for `Network.row_shards`, which decides whether attention processes rows one after another.

    On CPUs it is `row_shards(mesh)`: attention processes the rows of a shard one after another. On accelerators it is
    None: attention processes all rows at once.
    """
    return row_shards(mesh) if mesh.devices.flat[0].platform == "cpu" else None


def compute_dtype(mesh: Mesh) -> DTypeLike:
    """Returns the dtype in which networks compute: bfloat16 on accelerators, float32 on CPUs."""
    return jnp.float32 if mesh.devices.flat[0].platform == "cpu" else jnp.bfloat16


def row_holders(mesh: Mesh) -> list[list[int]]:
    """Returns, for each row shard, the sorted indices of the processes that hold it (`jax.process_index`).

    A shard has several holders if the axis `tensor` spans processes. A process may hold several shards.
    """
    return holders_of(np.vectorize(lambda device: device.process_index)(mesh.devices))


def holders_of(processes: np.ndarray) -> list[list[int]]:
    """Returns, for each row shard, the sorted indices of the processes that hold it (see `row_holders`).

    Args:
        processes: array over the mesh axes [data, fsdp, tensor, expert] with the index of each device's process.
    """
    by_shard = np.moveaxis(processes, 2, 3).reshape(-1, processes.shape[2])
    return [sorted(set(shard.tolist())) for shard in by_shard]


def held_shards(mesh: Mesh) -> list[int]:
    """Returns the sorted indices of the row shards that this process holds."""
    return [shard for shard, holders in enumerate(row_holders(mesh)) if jax.process_index() in holders]


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays whose rows are sharded over the mesh.

    Args:
        tree: host arrays [N, ...] of all rows, the same on all processes. N must be a multiple of `row_shards(mesh)`.
    """
    sharding = NamedSharding(mesh, ROWS)

    def one(x: np.ndarray) -> jax.Array:
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(one, tree)


def shard_held_rows(tree: Any, mesh: Mesh) -> Any:
    """Returns arrays whose rows are sharded over the mesh, from the rows that each process holds.

    The inverse of `held_rows`.

    Args:
        tree: host arrays [n, ...] of the rows of this process's shards, in the order of `held_shards`. Every shard has
            equally many rows. Processes that hold the same shard must pass the same rows for it.
    """
    sharding, here = NamedSharding(mesh, ROWS), held_shards(mesh)

    def one(x: np.ndarray) -> jax.Array:
        by_shard = np.asarray(x).reshape(len(here), -1, *x.shape[1:])
        each = by_shard.shape[1]

        def rows(index: tuple[slice, ...]) -> np.ndarray:
            shard = (index[0].start or 0) // each if each else here[0]
            return by_shard[here.index(shard)]

        return jax.make_array_from_callback((each * row_shards(mesh), *x.shape[1:]), sharding, rows)

    return jax.tree.map(one, tree)


def held_rows(array: jax.Array, axis: int = 0) -> np.ndarray:
    """Returns, on the host, the rows of a row-sharded array that this process holds, in the order of `held_shards`.

    Args:
        axis: the row axis.
    """
    shards = {shard.index[axis].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)], axis=axis)


def fetch(array: jax.Array) -> np.ndarray:
    """Returns a whole array on the host of every process. Every process must call this function."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)
