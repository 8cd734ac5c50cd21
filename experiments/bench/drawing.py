"""Benchmark C6: time to draw a token and compute its log-probability, compared with `categorical` and `log_softmax`.

The sampler's `draw` uses one random number per row. The number picks a block of the vocabulary, then a token in the
block. `categorical` uses one random number for each token of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.bench.measure import Options, line, middle, spread, time_in_turn

SIZES = {
    "full": {"B=16 V=32768": (16, 32_768, 20), "B=64 V=512": (64, 512, 200), "B=64 V=151936": (64, 151_936, 3)},
    "toy": {"B=4 V=64": (4, 64, 2)},
}
GOAL = 8.0


def measure(options: Options) -> dict[str, Any]:
    """Measures the time to draw one token for every row of logits (benchmark C6). Returns the benchmark's JSON line.

    `ratio` is the time of the baseline (`categorical` and `log_softmax`), divided by the time of the sampler's `draw`.
    Above 1, `draw` is faster. `nucleus` is the time of nucleus sampling (top-p 0.95), divided by the time of a draw
    from all tokens.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from r1jax.sampling.drawing import Cut, draw

    @jax.jit
    def ours(logits: jax.Array, keys: jax.Array, position: jax.Array) -> tuple:
        return draw(logits, keys, position, jnp.float32(1), greedy=False)

    @jax.jit
    def nucleus(logits: jax.Array, keys: jax.Array, position: jax.Array) -> tuple:
        return draw(logits, keys, position, jnp.float32(1), greedy=False, cut=Cut(top_p=0.95))

    @jax.jit
    def plain(logits: jax.Array, key: jax.Array, position: jax.Array) -> tuple:
        token = jax.random.categorical(jax.random.fold_in(key, position), logits)
        return token, jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]

    calls: dict[str, Callable[[], None]] = {}
    times = {}
    for name, (rows, vocab, count) in SIZES[options.size].items():
        logits = jnp.asarray(3 * np.random.default_rng(0).standard_normal((rows, vocab), np.float32))
        keys = jax.random.split(jax.random.key(0), rows)

        def several(function: Callable, key: jax.Array, logits: jax.Array = logits, count: int = count) -> None:
            for position in range(count):
                jax.block_until_ready(function(logits, key, jnp.int32(position)))

        calls[f"{name} draw"] = lambda run=several, keys=keys: run(ours, keys)
        calls[f"{name} nucleus"] = lambda run=several, keys=keys: run(nucleus, keys)
        calls[f"{name} categorical"] = lambda run=several: run(plain, jax.random.key(0))
        times[name] = count
    spent = time_in_turn(calls, options.repeats)
    ms = {name: 1e3 * middle(each) / times[name.rpartition(" ")[0]] for name, each in spent.items()}
    ratio = {name: ms[f"{name} categorical"] / ms[f"{name} draw"] for name in times}
    first = next(iter(times))
    return line(
        "drawing",
        ms[f"{first} draw"],
        f"CPU ms of a step, {first}",
        baseline=ms[f"{first} categorical"],
        ratio=ratio,
        spread=spread(spent[f"{first} draw"]),
        ms=ms,
        nucleus={name: ms[f"{name} nucleus"] / ms[f"{name} draw"] for name in times},
        goals={f"{name}: >= {GOAL:.0f} x": r >= GOAL for name, r in ratio.items()},
    )
