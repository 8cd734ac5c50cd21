"""Low-rank adapters: what is trained is W + A·B with W frozen (LoRA; Hu et al. 2021).

An adapter lies in the parameter tree beside the kernel it changes, as "lora_a" [L, in.., r] and "lora_b" [L, r, out..];
the network applies it where it finds it. B begins at zero, so the policy begins as the base, and the reference is a
second tree of adapters: the base serves both. The scale alpha/r is folded into the start of A, so that nothing has to
carry it along.
"""

from __future__ import annotations

import math
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array

from r1jax.sharding import name_of, shardings

TARGETS = r"attention/(q|k|v|o|q_down|q_up|kv_down)/kernel|(mlp|shared)/(gate|up|down)/kernel"


def inputs(name: str) -> int:
    """How many axes after the layers are the input of a kernel."""
    return 2 if name.endswith("attention/o/kernel") else 1


def shapes(params: dict, rank: int, targets: str) -> dict:
    """`params` with the shapes of an adapter beside every kernel of the layers whose path `targets` matches.

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
    """The parameters with a fresh adapter beside every kernel that `targets` matches. Raises as `shapes`."""
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


def partition(params: dict) -> tuple[dict, dict | None]:
    """What is trained and what is frozen, each None where the other has a leaf; (params, None) where all is trained.

    With adapters these alone are trained. Multi-token-prediction layers never are: nothing here runs them.
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


def merged(params: Any) -> Any:
    """The same network without adapters: each folded into its kernel, in the kernel's number format."""
    if isinstance(params, list):
        return [merged(x) for x in params]
    if not isinstance(params, dict):
        return params
    if "lora_a" not in params:
        return {name: merged(x) for name, x in params.items()}
    a, b = params["lora_a"], params["lora_b"]
    change = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(a, b)
    kept = {name: x for name, x in params.items() if not name.startswith("lora_")}
    return kept | {"kernel": (params["kernel"].astype(change.dtype) + change).astype(params["kernel"].dtype)}
