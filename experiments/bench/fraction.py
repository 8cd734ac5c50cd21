"""C2: how near a decoding step comes to the limit of one core, whose products and bandwidth are measured in the same
process.

The workload of C1: 128 rows, and 32, of 48 + 80 tokens. The limit is `limits.decode_seconds` summed over the steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from experiments.bench.measure import Options, line, middle, spread, turns

SIZES = {
    "full": dict(rows={128: 8, 32: 2}, prompt=48, tokens=81, goals={128: 0.50, 32: 0.65}),
    "toy": dict(rows={8: 2, 4: 1}, prompt=8, tokens=9, goals={8: 0.50, 4: 0.65}),
}
CHUNK = 16


def measure(options: Options) -> dict[str, Any]:
    """The line of C2."""
    import jax
    import numpy as np

    from experiments.bench import wave
    from experiments.bench.shapes import MODELS, random_prompts
    from r1jax import decode, limits

    size, cfg = SIZES[options.size], MODELS[options.size]
    weights, never = wave.weights_of(cfg), (cfg.vocab_size,)
    steps, length = size["tokens"] - 1, size["prompt"]

    def decoding(rows: int, prompts: int) -> Callable[[], None]:
        asked = random_prompts(cfg, prompts, length)
        segments, logits = wave.prefilled(cfg, weights, asked)
        keys = wave.keys_of(prompts, rows // prompts)

        def call() -> None:
            state, capacity = wave.begun(cfg, logits, keys, length, 64, never), 64
            for clock in range(0, steps, min(CHUNK, steps)):
                if clock + CHUNK > capacity:
                    capacity *= 2
                    state = decode.grow(state, slots=capacity)
                state, out = wave.decoded(cfg, weights, segments, state, min(CHUNK, steps), never)
            jax.block_until_ready(out)

        return call

    spent = turns({str(rows): decoding(rows, prompts) for rows, prompts in size["rows"].items()}, options.repeats)
    core = limits.measured(jax.devices()[:1], (8, 32, 64, 128, 512), clock=time.process_time)
    own = np.arange(1, steps + 1)
    per_step, limit = {}, {}
    for rows, prompts in size["rows"].items():
        per_step[rows] = middle(spent[str(rows)]) / steps
        slots = rows * own + prompts * length
        limit[rows] = float(limits.decode_seconds(cfg, core, rows, slots, size=4, cache_size=4).mean())
    reached = {rows: limit[rows] / per_step[rows] for rows in per_step}
    most = max(per_step)
    return line(
        "fraction",
        1e3 * per_step[most],
        f"CPU ms of a step of {most} rows, one thread",
        limit=1e3 * limit[most],
        fraction=reached[most],
        spread=spread(spent[str(most)]),
        fractions={str(k): v for k, v in reached.items()},
        ms={str(k): 1e3 * v for k, v in per_step.items()},
        limits_ms={str(k): 1e3 * v for k, v in limit.items()},
        core={"gflops": {str(m): r / 1e9 for m, r in core.rates}, "gb_per_s": core.bandwidth / 1e9},
        goals={f"fraction >= {goal} at {rows} rows": reached[rows] >= goal for rows, goal in size["goals"].items()},
    )
