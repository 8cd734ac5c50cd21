"""Low-rank adapters: what is trained is W + A·B with W frozen (LoRA; Hu et al. 2021).

An adapter lies in the parameter tree beside the kernel it changes, as "lora_a" [L, in.., r] and "lora_b" [L, r, out..]; the
network applies it where it finds it. B begins at zero, so the policy begins as the base, and the reference is a second tree
of adapters: the base serves both. The scale alpha/r is folded into the start of A, so that nothing has to carry it along.
"""

from __future__ import annotations

import math
import re
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


def attach(params: dict, rank: int, alpha: float, targets: str, mesh: Mesh, key: Array) -> dict:
    """The parameters with a fresh adapter beside every kernel of the layers whose path `targets` matches.

    Raises:
        ValueError: no kernel matches.
    """
    kernels = {}
    for path, x in jax.tree_util.tree_leaves_with_path(params["layers"]):
        name = f"layers/{name_of(path)}"
        if re.search(targets, name) and name.endswith("kernel"):
            kernels[name] = (path, x.shape)
    if not kernels:
        raise ValueError(f"--lora-targets={targets} matches no kernel of the layers; the default is {TARGETS}")

    def fresh(key: Array) -> dict:
        out = {}
        for i, (name, (_, shape)) in enumerate(kernels.items()):
            n = 1 + inputs(name)
            scale = alpha / rank / math.prod(shape[1:n]) ** 0.5
            a = scale * jax.random.normal(jax.random.fold_in(key, i), (*shape[:n], rank))
            folder = name.removesuffix("kernel")
            out |= {f"{folder}lora_a": a, f"{folder}lora_b": jnp.zeros((shape[0], rank, *shape[n:]))}
        return out

    adapters = jax.jit(fresh, out_shardings=shardings(jax.eval_shape(fresh, key), mesh))(key)
    whole = jax.tree.map(lambda x: x, params)  # new containers around the same arrays
    for name, (path, _) in kernels.items():
        folder = whole["layers"]
        for step in path[:-1]:
            folder = folder[getattr(step, "key", getattr(step, "idx", None))]
        for leaf in ("lora_a", "lora_b"):
            folder[leaf] = adapters[name.removesuffix("kernel") + leaf]
    return whole


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
