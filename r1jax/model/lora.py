"""Adds low-rank adapters to a model: A and B of W + A·B are trained, and W is frozen (LoRA; Hu et al. 2021).

An adapter of rank r lies in the parameter tree beside its kernel: A as "lora_a" [L, in.., r] and B as "lora_b"
[L, r, out..], for L layers. The network applies every adapter it finds. B starts at zero, so the policy starts as the
base model. The reference policy is a second tree of adapters on the same base. The scale alpha/r is folded into the
initial A, so no other code needs it.
"""

from __future__ import annotations

import math
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array

from r1jax.sharding import name_of, shardings

FRESH = 0xADA7  # folded into the seed: the key of fresh adapters
TARGETS = r"attention/(q|k|v|o|q_down|q_up|kv_down)/kernel|(mlp|shared)/(gate|up|down)/kernel"


def inputs(name: str) -> int:
    """Returns the number of input axes of the kernel at the path `name`. The input axes follow the layer axis."""
    return 2 if name.endswith("attention/o/kernel") else 1


def shapes(params: dict, rank: int, targets: str) -> dict:
    """Returns `params` with an adapter, as shapes, added beside every layer kernel whose path matches `targets`.

    Each of the adapter's two arrays is a `jax.ShapeDtypeStruct` of dtype float32, without values.

    Args:
        params: the parameters, as arrays or as shapes.
        rank: r, rank of the adapters.
        targets: a regular expression.

    Raises:
        ValueError: no kernel matches.
    """
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params["layers"]):
        name = name_of(path)
        if name.endswith("/kernel") and re.search(targets, name):
            n = 1 + inputs(name)
            found[name.removesuffix("kernel")] = ((*x.shape[:n], rank), (x.shape[0], rank, *x.shape[n:]))
    if not found:
        raise ValueError(f"--lora-targets={targets} matches no kernel of the layers; the default is {TARGETS}")

    def beside(tree: Any, folder: str) -> Any:
        if isinstance(tree, list):
            return [beside(x, f"{i}/") for i, x in enumerate(tree)]
        if not isinstance(tree, dict):
            return tree
        out = {name: beside(x, f"{folder}{name}/") for name, x in tree.items()}
        if folder in found:
            out["lora_a"], out["lora_b"] = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in found[folder])
        return out

    return params | {"layers": beside(params["layers"], "")}


def attach(params: dict, rank: int, alpha: float, targets: str, mesh: Mesh, key: Array) -> dict:
    """Returns the parameters with a new adapter added beside every layer kernel whose path matches `targets`.

    Args:
        rank: r, rank of the adapters.
        alpha: the adapters are scaled by alpha/r.
        targets: a regular expression.
        mesh: mesh that the adapters are sharded over.
        key: random key of the initial A.

    Raises:
        ValueError: no kernel matches.
    """
    wanted = shapes(params, rank, targets)

    def fresh(path: tuple, x: Any) -> Any:
        name = name_of(path)
        if "lora_" not in name:
            return None
        if name.endswith("lora_b"):
            return jnp.zeros(x.shape)
        scale = alpha / rank / math.prod(x.shape[1:-1]) ** 0.5
        return scale * jax.random.normal(jax.random.fold_in(key, zlib.crc32(name.encode())), x.shape)

    def all_fresh() -> dict:
        return jax.tree_util.tree_map_with_path(fresh, wanted)

    adapters = jax.jit(all_fresh, out_shardings=shardings(jax.eval_shape(all_fresh), mesh))()
    return jax.tree.map(lambda x, a: x if a is None else a, wanted, adapters, is_leaf=lambda x: x is None)


def prepare(params: dict, rank: int, alpha: float, targets: str, mesh: Mesh, seed: int) -> tuple[dict, dict | None]:
    """Splits the parameters of a new run into (trained, frozen), as `partition` does.

    If `rank` is above 0, first adds new adapters, whose initial A depends on `seed`. The other arguments and the errors
    are those of `attach`.
    """
    if rank:
        params = attach(params, rank, alpha, targets, mesh, jax.random.fold_in(jax.random.key(seed), FRESH))
    return partition(params)


def partition(params: dict) -> tuple[dict, dict | None]:
    """Splits parameters into (trained, frozen). Each of the two trees has None where the other tree has a leaf.

    If there are adapters, only the adapters are trained. Multi-token-prediction layers are never trained, because
    r1jax never runs these layers. Returns (params, None) if everything is trained.
    """
    names = [name_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    adapted = any("lora_" in name for name in names)

    def trained(name: str) -> bool:
        return "lora_" in name if adapted else not name.startswith("mtp/")

    if all(map(trained, names)):
        return params, None

    def part(keep: bool) -> dict:
        return jax.tree_util.tree_map_with_path(lambda path, x: x if trained(name_of(path)) == keep else None, params)

    return part(True), part(False)


def fold_adapters(params: Any, only: DTypeLike | None = None) -> Any:
    """Returns the parameters without adapters: each kernel becomes W + A·B, in the dtype of the kernel W.

    Args:
        only: a dtype. Only adapters of kernels with this dtype are folded; if None, all adapters are folded.
    """
    if isinstance(params, list):
        return [fold_adapters(x, only) for x in params]
    if not isinstance(params, dict):
        return params
    if "lora_a" not in params or (only is not None and params["kernel"].dtype != only):
        return {name: fold_adapters(x, only) for name, x in params.items()}
    a, b = params["lora_a"], params["lora_b"]
    change = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(a, b)
    kept = {name: x for name, x in params.items() if not name.startswith("lora_")}
    return kept | {"kernel": (params["kernel"].astype(change.dtype) + change).astype(params["kernel"].dtype)}


def merge(params: dict, frozen: dict | None) -> dict:
    """Returns the whole parameter tree of a model from its trained and its frozen part: the inverse of `partition`."""
    if frozen is None:
        return params
    return jax.tree.map(lambda a, b: b if a is None else a, params, frozen, is_leaf=lambda x: x is None)
