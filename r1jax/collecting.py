"""What the stages that sample their own records share: collecting once, who writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from r1jax import launch, records
from r1jax.run import RunOptions, load_policy
from r1jax.sharding import make_mesh
from r1jax.writer import Endpoint, Writer, by_checkpoint, by_endpoint


def collected(
    options: RunOptions, settings: Any, name: str, sampled: str, collect: Callable[[Mesh, Path], list[dict]]
) -> list[dict] | None:
    """The records of a stage, collected once into a folder beside its working directory; None: it stops for a review.

    Args:
        settings: a dataclass of how they are collected, with a field `review`.
        name: of the file.
        sampled: the run that is sampled, besides the base.
        collect: given the mesh and the folder.

    Raises:
        ValueError: what is there was collected with other settings or from other checkpoints, or cannot be read.
    """
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    path = records.beside(options.workdir) / name
    with_ = {key: value for key, value in dataclasses.asdict(settings).items() if key != "review"} | {
        "sampled": records.identity(sampled), "base": records.identity(options.weights) or options.model,
        "seed": options.seed, "prompts": options.prompts, "template": options.template,
    }  # fmt: skip
    if not records.claim(path, with_):
        records.write(path, collect(make_mesh(options.mesh), path.parent))
    found = records.read(path, "the records")
    if settings.review:
        count = len(records.kept(found))
        print(f"{path}: {count} of {len(found)} records kept. Edit keep and response, then run again without --review")
        return None
    return found


def writer(
    who: str, endpoint: Endpoint, options: RunOptions, mesh: Mesh, max_tokens: int, base: tuple | None = None
) -> Writer:
    """The model that answers.

    Args:
        who: "endpoint", "base" (the weights of `options`), or the directory of a checkpoint.
        base: what `load_policy` gave for the base, if it is there already.

    Raises:
        ValueError: an endpoint without an address, a directory without a checkpoint.
    """
    if who == "endpoint":
        return by_endpoint(endpoint)
    weights = options.weights if who == "base" else who
    loaded = base if who == "base" and base is not None else None
    policy, params, source = loaded or load_policy(dataclasses.replace(options, weights=weights), mesh, frozen=True)
    return by_checkpoint(who, policy, params, mesh, source["sha256"], max_tokens=max_tokens, seed=options.seed)
