"""Benchmark C12: which programs a rollout of 128 rows x 256 tokens compiles, and how long the compilation takes.

The rollout runs with an empty JAX compilation cache on disk. It then runs in a new process, with the filled cache.
"""

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
    """Prepares a rollout. Returns (repeat, info). Each call of `repeat()` samples the rollout once; `info` is empty.

    `repeat` returns a dict. "compile_s" is the seconds of compilation, and "compiled" is the number of compilations.
    "programs" holds the number of compiled programs of each jitted function of the sampler: prefill, first, decode,
    drop_rows and grow_layer.

    Args:
        size: "full" or "toy".
        cache: directory of JAX's compilation cache.
    """
    import jax

    seconds = []
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    from experiments.bench import wave
    from experiments.bench.shapes import MODELS, long_tailed, random_prompts
    from r1jax.sampling import sampler
    from r1jax.sampling.programs import decode, drop_rows, first, grow_layer, prefill
    from r1jax.sharding import make_mesh

    shape = SIZES[size]
    cfg, weights, stop_ids = wave.make_forced(MODELS[size])
    lengths = long_tailed(shape["prompts"] * shape["group"], shape["mean"], shape["most"])
    keys = wave.forcing_keys(cfg, lengths, shape["most"])
    prompts = random_prompts(cfg, shape["prompts"], shape["prompt"])
    jax.block_until_ready(weights)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration, **_: seconds.append(duration) if event.endswith("backend_compile_duration") else None
    )

    def repeat() -> dict[str, Any]:
        seconds.clear()
        sampling = sampler.Sampling(shape["most"], stop_ids=stop_ids)
        sampler.sample(cfg, weights, prompts, keys, make_mesh("1x1"), sampling)
        programs = {f.__name__: f._cache_size() for f in (prefill, first, decode, drop_rows, grow_layer)}
        return {"compile_s": sum(seconds), "compiled": len(seconds), "programs": programs}

    return repeat, {}


def measure(options: Options) -> dict[str, Any]:
    """Measures the time that a rollout spends on compilation (benchmark C12). Returns the benchmark's JSON line.

    `ratio` is the compilation time with a filled cache, divided by the compilation time with an empty cache. Smaller is
    better.
    """
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
