"""Collects the records that a stage samples itself, and makes the `Writer`, a model that rewrites or judges them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from r1jax import distributed
from r1jax.recipes import RunOptions, SamplingOptions
from r1jax.runs.policies import load_policy, size_of
from r1jax.runs.templates import chat_template
from r1jax.sft_data import records
from r1jax.sft_data.batch_sampling import WHOLE
from r1jax.sft_data.llm import Endpoint, Writer, by_checkpoint, by_endpoint, without_thought
from r1jax.sharding import make_mesh

NOT_NOTED = frozenset({"review", "zero", "reasoner"})


def collect_once(
    options: RunOptions, settings: Any, name: str, sampled: str, collect: Callable[[Mesh, Path], list[dict]]
) -> list[dict] | None:
    """Returns a stage's records. The first call collects them into a file beside the stage's working directory; later
    calls read this file.

    If `settings.review` is set, every call prints the file's path and returns None in place of the records. The caller
    then ends, so that a person can edit the file.

    Args:
        options: the options of the stage's run.
        settings: a dataclass of the collection's options, with a field `review`.
        name: the name of the records' file.
        sampled: the name of the field of `settings` that holds the directory of the run to sample from.
        collect: `collect(mesh, folder)` makes the records. It is called only if the file does not exist yet.

    Raises:
        ValueError: the existing records were collected with other settings or checkpoints, or cannot be read.
    """
    size = size_of(options)
    distributed.share_cpu(options.mesh, size)
    distributed.start(options.coordinator, options.processes, options.process_id)
    distributed.keep_compilations()
    path = records.beside(options.workdir) / name
    of = records.identity(getattr(settings, sampled), f"--{sampled}")
    with_ = settings_of(settings) | {
        "sampled": of,
        "base": records.identity(options.weights) or options.model,
        "seed": options.seed,
        "prompts": options.prompts,
        "template": options.template,
    }
    if not records.claim_records(path, with_):
        records.write(path, collect(make_mesh(options.mesh, size=size), path.parent))
    found = records.read(path, "the records")
    if settings.review:
        count = len(records.select_kept(found))
        print(f"{path}: {count} of {len(found)} records kept. Edit keep and response, then run again without --review")
        return None
    return found


def settings_of(settings: Any) -> dict[str, Any]:
    """Returns the fields of a collection's options that determine the records, as a dict.

    The paths of the runs that were sampled are left out. A run may move, so `collect_once` identifies it by the hash of
    its newest checkpoint. The URL of a server is left out, too, because the server's model identifies it.
    """
    found = {key: value for key, value in dataclasses.asdict(settings).items() if key not in NOT_NOTED}
    return found | {"endpoint": {key: found["endpoint"][key] for key in ("model", "max_tokens")}}


def make_writer(
    flag: str,
    who: str,
    endpoint: Endpoint,
    options: RunOptions,
    mesh: Mesh,
    max_tokens: int,
    wave_rows: int,
    base: tuple | None = None,
) -> Writer:
    """Returns the `Writer` that `who` names: a model that answers prompts.

    The chain of thought is cut from the answers if `who` is not "base".

    Args:
        flag: the command-line flag whose value is `who`; errors name this flag.
        who: "endpoint", "base" (the weights of `options`), or a checkpoint's directory. If the checkpoint has a chat
            template, the prompts are put into this template.
        endpoint: the server, for `who="endpoint"`.
        max_tokens: largest number of tokens in an answer, for a checkpoint or the base.
        wave_rows: largest number of completions that a process samples at a time.
        base: the result of `load_policy` for the base; if it is None, the base is loaded here when needed.

    Raises:
        ValueError: the endpoint has no address, or the directory holds no checkpoint.
    """
    if who == "endpoint":
        return without_thought(by_endpoint(endpoint))
    loaded = base if who == "base" and base is not None else None
    flag = "--weights" if who == "base" else flag
    asked = options if who == "base" else dataclasses.replace(options, weights=who)
    policy, params, source = loaded or load_policy(asked, mesh, frozen=True, flag=flag)
    sampling = SamplingOptions(samples=1, temperature=0.0, max_tokens=max_tokens, wave_rows=wave_rows)
    asked = WHOLE
    if who != "base" and getattr(policy.tokenizer, "chat_template", ""):
        asked = chat_template(policy.tokenizer)
    model = by_checkpoint(who, policy, params, mesh, source["sha256"], asked, sampling, seed=options.seed)
    return model if who == "base" else without_thought(model)
