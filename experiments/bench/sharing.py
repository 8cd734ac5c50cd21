"""Benchmark C4: time of a decoding step if a group of completions shares one copy of its prompt's keys and values.

The baseline stores a copy for each completion. There are 4 prompts of 128 tokens, with 16 completions of 128 tokens
each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from experiments.bench.measure import Options, line, middle, spread, time_in_turn

SIZES = {"full": dict(prompts=4, group=16, prompt=128, slots=128), "toy": dict(prompts=2, group=4, prompt=16, slots=32)}
STEPS = 16


def measure(options: Options) -> dict[str, Any]:
    """Measures the time of a decoding step with shared prompts (benchmark C4). Returns the benchmark's JSON line.

    `ratio` is the time of a step if each group has one copy of its prompt's cache, divided by the time if each
    completion has a copy of its own. Smaller is better.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from experiments.bench import wave
    from experiments.bench.shapes import MODELS, random_prompts

    size, cfg = SIZES[options.size], MODELS[options.size]
    weights, never = wave.weights_of(cfg), (cfg.vocab_size,)
    prompts = random_prompts(cfg, size["prompts"], size["prompt"])
    repeated = [prompt for prompt in prompts for _ in range(size["group"])]
    segments, logits = wave.prefill_prompts(cfg, weights, prompts)
    copies = jax.tree.map(lambda x: jnp.repeat(x, size["group"], axis=0), segments)
    keys = wave.keys_of(size["prompts"], size["group"])
    sampled: dict[str, np.ndarray] = {}

    def decoding(name: str, segments: list) -> Callable[[], None]:
        held = [wave.begin_rows(cfg, logits, keys, size["prompt"], size["slots"], never)]

        def call() -> None:
            state = held[0]._replace(clock=jnp.int32(0))  # repeats the same steps; the token does not matter
            held[0], (tokens, _, _) = wave.decode_steps(cfg, weights, segments, state, STEPS, never)
            sampled.setdefault(name, np.asarray(tokens))
            jax.block_until_ready(held[0])

        return call

    spent = time_in_turn(
        {
            "shared": decoding("shared", segments),
            "repeated": decoding("repeated", copies),
            "prefill shared": lambda: jax.block_until_ready(wave.prefill_prompts(cfg, weights, prompts)),
            "prefill repeated": lambda: jax.block_until_ready(wave.prefill_prompts(cfg, weights, repeated)),
        },
        options.repeats,
    )
    ms = {name: 1e3 * middle(each) / (1 if name.startswith("prefill") else STEPS) for name, each in spent.items()}

    def size_of(tree: Any) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(tree) if x.ndim == 4)

    own = size_of(wave.begin_rows(cfg, logits, keys, size["prompt"], size["slots"], never).cache)
    share = (own + size_of(segments)) / (own + size_of(copies))
    step, prefill = ms["shared"] / ms["repeated"], ms["prefill repeated"] / ms["prefill shared"]
    same = bool((sampled["shared"] == sampled["repeated"]).all())
    return line(
        "sharing",
        ms["shared"],
        "CPU ms of a decoding step, one thread",
        baseline=ms["repeated"],
        ratio=step,
        spread=spread(spent["shared"]),
        cache_bytes_ratio=share,
        prefill_times=prefill,
        ms=ms,
        tokens_equal=same,
        goals={
            "step <= 0.85 x": step <= 0.85,
            "cache bytes <= 0.55 x": share <= 0.55,
            "prefill >= 12 x": prefill >= 12,
            "tokens equal": same,
        },
    )
