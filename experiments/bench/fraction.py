"""Benchmark C2: the least time that one core needs for a decoding step, as a fraction of the time that the step takes.

The rows (completions) are those of benchmark C1 (`decode`), 128 or 32 at a time. A row has a prompt of 48 tokens and a
completion of 80 tokens. FLOP/s and memory bandwidth of the core are measured in the same process. From them
`roofline.decode_seconds` computes the least time of each step. The mean over all steps is the limit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from experiments.bench.measure import Options, line, middle, spread, time_in_turn

SIZES = {
    "full": dict(rows={128: 8, 32: 2}, prompt=48, tokens=81, goals={128: 0.50, 32: 0.65}),
    "toy": dict(rows={8: 2, 4: 1}, prompt=8, tokens=9, goals={8: 0.50, 4: 0.65}),
}
CHUNK = 16


def measure(options: Options) -> dict[str, Any]:
    """Compares the time of a decoding step with the least possible time (benchmark C2). Returns the JSON line.

    In this line, `value` is the measured time of a step and `limit` is the least possible time, both in CPU
    milliseconds. `fraction` is limit / value; at 1, the step takes the least possible time. All three are for the
    largest number of rows.
    """
    import jax
    import numpy as np

    from experiments.bench import wave
    from experiments.bench.shapes import MODELS, random_prompts
    from r1jax.planning import roofline
    from r1jax.sampling import programs

    size, cfg = SIZES[options.size], MODELS[options.size]
    weights, never = wave.weights_of(cfg), (cfg.vocab_size,)
    steps, length = size["tokens"] - 1, size["prompt"]

    def decoding(rows: int, prompts: int) -> Callable[[], None]:
        asked = random_prompts(cfg, prompts, length)
        segments, logits = wave.prefill_prompts(cfg, weights, asked)
        keys = wave.keys_of(prompts, rows // prompts)

        def call() -> None:
            state, capacity = wave.begin_rows(cfg, logits, keys, length, 64, never), 64
            for clock in range(0, steps, min(CHUNK, steps)):
                if clock + CHUNK > capacity:
                    capacity *= 2
                    state = programs.grow(state, slots=capacity)
                state, out = wave.decode_steps(cfg, weights, segments, state, min(CHUNK, steps), never)
            jax.block_until_ready(out)

        return call

    spent = time_in_turn(
        {str(rows): decoding(rows, prompts) for rows, prompts in size["rows"].items()}, options.repeats
    )
    core = roofline.measure_device(jax.devices()[:1], (8, 32, 64, 128, 512), clock=time.process_time)
    own = np.arange(1, steps + 1)
    per_step, limit = {}, {}
    for rows, prompts in size["rows"].items():
        per_step[rows] = middle(spent[str(rows)]) / steps
        slots = rows * own + prompts * length
        limit[rows] = float(roofline.decode_seconds(cfg, core, rows, slots, size=4, cache_size=4).mean())
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
