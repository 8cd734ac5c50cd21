"""C6: a token and its log-probability by the two-level draw, beside `jax.random.categorical` and `log_softmax`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.bench.measure import Options, line, middle, spread, turns

SIZES = {"full": {"B=16 V=32768": (16, 32_768, 20), "B=64 V=512": (64, 512, 200)}, "toy": {"B=4 V=64": (4, 64, 2)}}
GOAL = 8.0


def measure(options: Options) -> dict[str, Any]:
    """The line of C6."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from r1jax.decode import draw

    @jax.jit
    def ours(logits: jax.Array, keys: jax.Array, position: jax.Array) -> tuple:
        return draw(logits, keys, position, jnp.float32(1), greedy=False)

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
        calls[f"{name} categorical"] = lambda run=several: run(plain, jax.random.key(0))
        times[name] = count
    spent = turns(calls, options.repeats)
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
        goals={f"{name}: >= {GOAL:.0f} x": r >= GOAL for name, r in ratio.items()},
    )
