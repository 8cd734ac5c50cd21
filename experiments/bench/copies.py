"""Benchmark C11: whether XLA adds hidden copies of arrays to the decoding program and to the optimizer step.

The benchmark reads XLA's memory analysis of both compiled programs. Each program must reuse every donated buffer for a
result. The decoding program's temporaries may take at most 2 % of the bytes that the cache and the logits take. The
benchmark also reads the decoding program's HLO text, in which no loop body may copy a layer's keys or values.
"""

from __future__ import annotations

import re
from typing import Any

from experiments.bench.measure import Options, line

SIZES = {"full": dict(prompts=8, group=16, prompt=48, slots=128), "toy": dict(prompts=2, group=4, prompt=8, slots=32)}
ITEM = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1}


def copies(text: str) -> list[tuple[str, int]]:
    """Returns (shape, bytes) of each copy instruction in a compiled program, the largest first.

    Copies in the entry computation are left out, because they run only once.

    Args:
        text: the program as HLO text.
    """
    found, entry = [], False
    for row in text.splitlines():
        if row.endswith("{"):
            entry = row.startswith("ENTRY")
        shape = re.search(r"= (\w+)\[([\d,]*)\]\S* copy(?:-start)?\(", row)
        if shape and not entry and shape[1] in ITEM:
            count = ITEM[shape[1]]
            for n in filter(None, shape[2].split(",")):
                count *= int(n)
            found.append((f"{shape[1]}[{shape[2]}]", count))
    return sorted(found, key=lambda each: -each[1])


def measure(options: Options) -> dict[str, Any]:
    """Measures the memory and the copies of compiled programs (benchmark C11). Returns the benchmark's JSON line.

    `value` is a quotient. The numerator is the bytes of temporaries in the program that decodes a chunk of steps. The
    denominator is the bytes of the cache and the logits.
    """
    import jax
    import jax.numpy as jnp

    from experiments.bench import batches, wave
    from experiments.bench.shapes import MODELS, random_params, random_prompts
    from r1jax.sampling import programs
    from r1jax.training.step import accumulate, apply, start

    size, cfg = SIZES[options.size], MODELS[options.size]
    weights = wave.weights_of(cfg)
    segments, logits = wave.prefill_prompts(cfg, weights, random_prompts(cfg, size["prompts"], size["prompt"]))
    keys = wave.keys_of(size["prompts"], size["group"])
    rows = wave.begin_rows(cfg, logits, keys, size["prompt"], size["slots"], (cfg.vocab_size,))
    how = programs.Decoding(16, greedy=False, stop_ids=(cfg.vocab_size,), pad_id=0, dtype=jnp.float32)
    chunk = programs.decode.lower(cfg, weights, segments, rows, 1.0, how).compile()
    used = chunk.memory_analysis()
    cache = sum(x.nbytes for x in jax.tree.leaves(rows.cache))
    layer = cache // cfg.layers
    room = cache + 4 * len(keys) * cfg.vocab_size
    donated = cache + sum(
        x.nbytes for x in (rows.clock, rows.token, rows.done, rows.base, jax.random.key_data(rows.key))
    )
    moved = copies(chunk.as_text())

    ours = batches.learner(cfg, "full")
    state = start(ours, jax.tree.map(jnp.asarray, random_params(cfg)))
    done = batches.completions(cfg, [12] * 4)
    sums = accumulate(ours, state.params, None, None, batches.minibatch(random_prompts(cfg, 4, 1), done, 16))
    step = apply.lower(ours, state, sums).compile().memory_analysis()
    given = sum(x.nbytes for x in jax.tree.leaves(state))
    share = used.temp_size_in_bytes / room
    small = [bytes_ for _, bytes_ in moved if bytes_ >= layer // 2]  # a layer's keys and values are separate arrays
    return line(
        "copies",
        share,
        "temporaries of a decoding chunk over cache and logits",
        decode={
            "alias": used.alias_size_in_bytes,
            "donated": donated,
            "temporary": used.temp_size_in_bytes,
            "cache": cache,
        },
        apply={"alias": step.alias_size_in_bytes, "donated": given, "temporary": step.temp_size_in_bytes},
        largest_copies=[list(each) for each in moved[:3]],
        layer_bytes=layer,
        goals={
            "decode reuses what it is given": used.alias_size_in_bytes >= donated,
            "temporaries <= 2 % of cache and logits": share <= 0.02,
            "no copy of a layer's keys or values in the loop": not small,
            "apply reuses what it is given": step.alias_size_in_bytes >= given,
        },
    )
