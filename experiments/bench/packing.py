"""Benchmark C7: time of an update on packed rows, compared with an update on rows padded to the longest completion.

There are 32 completions of lognormal lengths, with mean 44 and maximum 128. In the first measurement each completion
has a prompt of one token, so that only packing matters. In the second, 8 prompts of 48 tokens have 4 completions each,
and a packed row holds each prompt only once. The gradients on packed and on padded rows must agree for every
normalisation of the loss (grpo, dr_grpo, dapo).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.bench.measure import Options, line, middle, spread, time_in_turn

SIZES = {
    "full": dict(count=32, mean=44, most=128, group=4, prompt=48, row=256),
    "toy": dict(count=8, mean=6, most=16, group=4, prompt=8, row=32),
}


def measure(options: Options) -> dict[str, Any]:
    """Measures the time of an update on packed and on padded rows (benchmark C7). Returns the benchmark's JSON line.

    `ratio` is the time with packed rows, divided by the time with padded rows. Smaller is better. `ratio`
    has an entry for each measurement: "alone" for prompts of one token, and "with prompts" for longer prompts.
    """
    import jax
    import numpy as np

    from experiments.bench import batches
    from experiments.bench.shapes import MODELS, long_tailed, random_params, random_prompts
    from r1jax.training.step import accumulate

    size, cfg = SIZES[options.size], MODELS[options.size]
    lengths = long_tailed(size["count"], size["mean"], size["most"])
    params = jax.tree.map(jax.numpy.asarray, random_params(cfg))
    ours = batches.learner(cfg, "full")
    worlds = {
        "alone": (random_prompts(cfg, size["count"], 1), batches.completions(cfg, lengths), 1),
        "with prompts": (
            random_prompts(cfg, size["count"] // size["group"], size["prompt"]),
            batches.completions(cfg, lengths, size["group"]),
            size["prompt"],
        ),
    }

    def gradient(batch: Any) -> Callable[[], Any]:
        return lambda: jax.block_until_ready(accumulate(ours, params, None, None, batch))

    def both(world: str, norm: str) -> dict[str, Any]:
        prompts, done, prompt = worlds[world]
        return {
            "packed": batches.minibatch(prompts, done, size["row"], norm=norm),
            "padded": batches.minibatch(prompts, done, prompt + size["most"], norm=norm, padded=True),
        }

    made = {f"{world} {kind}": batch for world in worlds for kind, batch in both(world, "grpo").items()}
    spent = time_in_turn({name: gradient(batch) for name, batch in made.items()}, options.repeats)
    ms = {name: 1e3 * middle(each) for name, each in spent.items()}
    ratio = {world: ms[f"{world} packed"] / ms[f"{world} padded"] for world in worlds}
    off = {}
    for norm in batches.NORMALISATIONS:
        packed, padded = (gradient(batch)() for batch in both("with prompts", norm).values())
        pairs = list(zip(jax.tree.leaves(packed.grads), jax.tree.leaves(padded.grads), strict=True))
        length = np.sqrt(sum(float((np.asarray(b, np.float64) ** 2).sum()) for _, b in pairs))
        apart = np.sqrt(sum(float(((np.asarray(a, np.float64) - b) ** 2).sum()) for a, b in pairs))
        loss = abs(float(packed.metrics["loss"] - padded.metrics["loss"])) / abs(float(padded.metrics["loss"]))
        off[norm] = {"gradient": float(apart / length), "loss": loss}
    fill = {name: float((batch.rows.group > 0).mean()) for name, batch in made.items()}
    same = max(value for each in off.values() for value in each.values()) <= 1e-5
    return line(
        "packing",
        ms["alone packed"],
        "CPU ms of a gradient, one thread",
        baseline=ms["alone padded"],
        ratio=ratio,
        spread=spread(spent["alone packed"]),
        ms=ms,
        filled=fill,
        relative_difference=off,
        goals={"<= 0.45 x padded": ratio["alone"] <= 0.45, "loss and gradients equal to 1e-5": same},
    )
