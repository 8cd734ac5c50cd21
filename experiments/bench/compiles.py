"""C12: programs that a rollout of 128 rows x 256 tokens compiles, cold and again in a new process with JAX's cache on
disk."""

from __future__ import annotations

import statistics
import sys
import tempfile
from typing import Any

from experiments.bench.measure import Options, line
from experiments.bench.worker import Side

SIZES = {
    "full": dict(prompts=8, group=16, prompt=48, mean=64, most=256),
    "toy": dict(prompts=2, group=4, prompt=8, mean=6, most=24),
}


def side(size: str, cache: str) -> tuple:
    """One rollout in a process of its own, with what its compilation took."""
    import jax

    seconds = []
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    from experiments.bench import wave
    from experiments.bench.shapes import MODELS, long_tailed, random_prompts
    from r1jax import decode, sampler
    from r1jax.sharding import make_mesh

    shape = SIZES[size]
    cfg, weights, stop_ids = wave.forced(MODELS[size])
    lengths = long_tailed(shape["prompts"] * shape["group"], shape["mean"], shape["most"])
    keys = wave.forcing_keys(cfg, lengths, shape["most"])
    prompts = random_prompts(cfg, shape["prompts"], shape["prompt"])
    jax.block_until_ready(weights)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: seconds.append(duration) if event.endswith("backend_compile_duration") else None
    )

    def repeat() -> dict[str, Any]:
        seconds.clear()
        sampler.sample(
            cfg,
            weights,
            prompts,
            keys,
            make_mesh("1x1"),
            max_tokens=shape["most"],
            temperature=1.0,
            stop_ids=stop_ids,
            pad_id=0,
        )
        programs = {
            f.__name__: f._cache_size()
            for f in (decode.prefill, decode.first, decode.decode, decode.shrink, decode.grow)
        }
        return {"compile_s": sum(seconds), "compiled": len(seconds), "programs": programs}

    return repeat, {}


def measure(options: Options) -> dict[str, Any]:
    """The line of C12. `ratio` is warm over cold: smaller is better."""
    found: dict[str, list[dict]] = {"cold": [], "warm": []}
    for _ in range(max(1, options.repeats // 2)):
        with tempfile.TemporaryDirectory() as cache:
            for runs in found.values():
                with Side(sys.executable, "experiments.bench.compiles:side", size=options.size, cache=cache) as process:
                    runs.append(process.repeat())
    cold, warm = (statistics.median(run["compile_s"] for run in runs) for runs in found.values())
    whole = {name: statistics.median(run["cpu"] for run in runs) for name, runs in found.items()}
    programs = found["cold"][0]["programs"]
    count = sum(programs.values())
    return line(
        "compiles",
        warm,
        "seconds to have all programs, warm",
        baseline=cold,
        ratio=warm / cold,
        first_rollout_cpu_s=whole,
        programs=programs,
        all_compiled=found["cold"][0]["compiled"],
        goals={"warm <= 0.15 x cold": warm <= 0.15 * cold, "at most 9 programs": count <= 9},
    )
