"""Benchmark C9: model FLOP/s of an update, compared with the FLOP/s of a large matrix product.

At the size "full", an update trains on 16 rows of 128 tokens with AdamW. `roofline.update_flops` counts the FLOPs: 6·N
for each token, where N is the number of matrix parameters, plus the FLOPs of attention.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from experiments.bench.measure import Options, line, middle, spread, time_in_turn

SIZES = {"full": dict(rows=16, length=128), "toy": dict(rows=2, length=16)}


def stepping(size: str, remat: str, mesh: Any) -> tuple[Callable[[], None], list[int], list[int]]:
    """Returns (call, prompt lengths, completion lengths). The call runs one optimizer step on rows without padding.

    Args:
        size: "full" or "toy".
        remat: a key of `transformer.REMAT`, which selects the activations that the backward pass recomputes.
    """
    import jax

    from experiments.bench import batches
    from experiments.bench.shapes import MODELS, random_params, random_prompts
    from r1jax.sharding import place, rows_in_turn, shard_rows
    from r1jax.training.step import start, update

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
    """Prepares an optimizer step on a mesh of all CPU devices that JAX shows. Returns (repeat, info).

    A call of `repeat` runs one step and returns {"tokens": number of completion tokens in the step}. `info` is
    {"call": the measured expression as text}, for the report.

    Args:
        size: "full" or "toy".
    """
    import jax

    from r1jax import distributed
    from r1jax.sharding import make_mesh

    if len(jax.devices()) > 1:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    distributed.keep_compilations()
    call, _, lengths = stepping(size, "full", make_mesh("auto"))
    call()
    call()
    tokens = sum(lengths)

    def repeat() -> dict[str, Any]:
        call()
        return {"tokens": tokens}

    return repeat, {"call": f"update(learner, state, [batch])  # {len(jax.devices())} devices"}


def measure(options: Options) -> dict[str, Any]:
    """Measures the model FLOP/s of an update (benchmark C9). Returns the benchmark's JSON line.

    The line's "value" is the tokens per CPU second of the fastest setting of remat. Its "fraction" is the model FLOP/s
    of this setting divided by the FLOP/s of a large matrix product.
    """
    import jax

    from experiments.bench.shapes import MODELS
    from r1jax.planning import roofline
    from r1jax.sharding import make_mesh

    cfg, mesh = MODELS[options.size], make_mesh("1x1")
    made = {remat: stepping(options.size, remat, mesh) for remat in ("full", "dots", "none")}
    spent = time_in_turn({remat: call for remat, (call, _, _) in made.items()}, options.repeats)
    core = roofline.measure_device(jax.devices()[:1], (512,), clock=time.process_time)
    _, prompts, lengths = made["full"]
    tokens = sum(prompts) + sum(lengths)
    rates = {remat: tokens / middle(each) for remat, each in spent.items()}
    shares = {remat: roofline.mfu(cfg, core, prompts, lengths, middle(each)) for remat, each in spent.items()}
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
