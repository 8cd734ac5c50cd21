"""What the stages that sample their own records share: collecting once, who writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from r1jax import launch, records
from r1jax.checkpoint import behind
from r1jax.generate import chat_template
from r1jax.run import RunOptions, load_policy
from r1jax.sharding import make_mesh
from r1jax.waves import WHOLE, Sampling
from r1jax.writer import Endpoint, Writer, by_checkpoint, by_endpoint, thoughtless

NOT_NOTED = frozenset({"review", "zero", "reasoner"})


def collected(
    options: RunOptions, settings: Any, name: str, sampled: str, collect: Callable[[Mesh, Path], list[dict]]
) -> list[dict] | None:
    """The records of a stage, collected once into a folder beside its working directory; None: it stops for a review.

    Args:
        settings: a dataclass of how they are collected, with a field `review`.
        name: of the file.
        sampled: the field of `settings` that names the run that is sampled, besides the base.
        collect: given the mesh and the folder.

    Raises:
        ValueError: what is there was collected with other settings or from other checkpoints, or cannot be read.
    """
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    path = records.beside(options.workdir) / name
    with behind(f"--{sampled}"):
        of = records.identity(getattr(settings, sampled))
    with_ = settings_of(settings) | {
        "sampled": of, "base": records.identity(options.weights) or options.model,
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


def settings_of(settings: Any) -> dict[str, Any]:
    """What the records depend on; the run that was sampled is told by its hash, wherever it lies, and so is a server by
    its model."""
    found = {key: value for key, value in dataclasses.asdict(settings).items() if key not in NOT_NOTED}
    return found | {"endpoint": {key: found["endpoint"][key] for key in ("model", "max_tokens")}}


def writer(
    flag: str, who: str, endpoint: Endpoint, options: RunOptions, mesh: Mesh, max_tokens: int, wave_rows: int,
    base: tuple | None = None,
) -> Writer:
    """The model that answers. What it thinks first is not part of its answer, but for the base's.

    Args:
        flag: which `who` was typed behind, for errors.
        who: "endpoint", "base" (the weights of `options`), or the directory of a checkpoint, which is asked in its chat
            template if it has one.
        base: what `load_policy` gave for the base, if it is there already.

    Raises:
        ValueError: an endpoint without an address, a directory without a checkpoint.
    """  # fmt: skip
    if who == "endpoint":
        return thoughtless(by_endpoint(endpoint))
    weights = options.weights if who == "base" else who
    loaded = base if who == "base" and base is not None else None
    with behind("--weights" if who == "base" else flag):
        policy, params, source = loaded or load_policy(dataclasses.replace(options, weights=weights), mesh, frozen=True)
    sampling = Sampling(samples=1, temperature=0.0, max_tokens=max_tokens, wave_rows=wave_rows)
    asked = WHOLE
    if who != "base" and getattr(policy.tokenizer, "chat_template", ""):
        asked = chat_template(policy.tokenizer)
    model = by_checkpoint(who, policy, params, mesh, source["sha256"], asked, sampling, seed=options.seed)
    return model if who == "base" else thoughtless(model)
