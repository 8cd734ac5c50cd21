"""C9: the update's share of the ceiling of products: 16 rows of 128 tokens, 6N FLOPs a token, AdamW included."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from experiments.bench.measure import Options, line, middle, spread, turns

SIZES = {"full": dict(rows=16, length=128), "toy": dict(rows=2, length=16)}


def stepping(size: str, remat: str, mesh: Any) -> tuple[Callable[[], None], list[int], list[int]]:
    """An optimizer step on full rows, and the lengths of prompts and completions."""
    import jax

    from experiments.bench import batches
    from experiments.bench.shapes import MODELS, random_params, random_prompts
    from r1jax.sharding import place, rows_in_turn, shard_rows
    from r1jax.update import start, update

    shape, cfg = SIZES[size], MODELS[size]
    prompts, lengths = random_prompts(cfg, shape["rows"], 1), [shape["length"] - 1] * shape["rows"]
    batch = batches.minibatch(prompts, batches.completions(cfg, lengths), shape["length"])
    batch = shard_rows(batch, mesh)
    ours = batches.learner(cfg, remat, rows_in_turn(mesh))
    held = [start(ours, place(random_params(cfg), mesh), mesh)]

    def call() -> None:
        held[0], metrics = update(ours, held[0], [batch])
        jax.block_until_ready((held[0], metrics))

    return call, [1] * len(lengths), lengths


def side(size: str) -> tuple:
    """For a process of its own: the step on a mesh of all CPU devices that JAX shows."""
    import jax

    from r1jax import launch
    from r1jax.sharding import make_mesh

    if len(jax.devices()) > 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    launch.keep_compilations()
    call, _, lengths = stepping(size, "full", make_mesh("auto"))
    call()
    call()
    tokens = sum(lengths)

    def repeat() -> dict[str, Any]:
        call()
        return {"tokens": tokens}

    return repeat, {"call": f"update(learner, state, [batch])  # {len(jax.devices())} devices"}


def measure(options: Options) -> dict[str, Any]:
    """The line of C9."""
    import jax

    from experiments.bench.shapes import MODELS
    from r1jax import limits
    from r1jax.sharding import make_mesh

    cfg, mesh = MODELS[options.size], make_mesh("1x1")
    made = {remat: stepping(options.size, remat, mesh) for remat in ("full", "dots", "none")}
    spent = turns({remat: call for remat, (call, _, _) in made.items()}, options.repeats)
    core = limits.measured(jax.devices()[:1], (512,), clock=time.process_time)
    _, prompts, lengths = made["full"]
    tokens = sum(prompts) + sum(lengths)
    rates = {remat: tokens / middle(each) for remat, each in spent.items()}
    shares = {remat: limits.mfu(cfg, core, prompts, lengths, middle(each)) for remat, each in spent.items()}
    best = max(rates, key=rates.get)
    return line(
        "update",
        rates[best],
        f"tokens per CPU second, one thread, remat {best}",
        limit=rates[best] / shares[best],
        fraction=shares[best],
        spread=spread(spent[best]),
        mfu=shares,
        tokens_per_cpu_s=rates,
        core_gflops=core.flops / 1e9,
        goals={"fraction >= 0.40": shares[best] >= 0.40},
    )
