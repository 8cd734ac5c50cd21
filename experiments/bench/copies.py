"""C11: no hidden copies: what XLA's compiled programs of decoding and of the optimizer step say about memory.

Donated buffers must be reused (alias = donated bytes), temporaries stay within 2 % of cache and logits, and no loop
body may copy as much as one layer's cache.
"""

from __future__ import annotations

import re
from typing import Any

from experiments.bench.measure import Options, line

SIZES = {"full": dict(prompts=8, group=16, prompt=48, slots=128), "toy": dict(prompts=2, group=4, prompt=8, slots=32)}
ITEM = {"f32": 4, "bf16": 2, "s32": 4, "u32": 4, "pred": 1, "s8": 1, "u8": 1}


def copies(text: str) -> list[tuple[str, int]]:
    """The copies in computations that are not the entry: their shape and bytes, the largest first."""
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
    """The line of C11. `value` is the temporaries of a decoding chunk over its cache and logits."""
    import jax
    import jax.numpy as jnp

    from experiments.bench import batches, wave
    from experiments.bench.shapes import MODELS, random_params, random_prompts
    from r1jax import decode, update

    size, cfg = SIZES[options.size], MODELS[options.size]
    weights = wave.weights_of(cfg)
    segments, logits = wave.prefilled(cfg, weights, random_prompts(cfg, size["prompts"], size["prompt"]))
    keys = wave.keys_of(size["prompts"], size["group"])
    rows = wave.begun(cfg, logits, keys, size["prompt"], size["slots"], (cfg.vocab_size,))
    chunk = decode.decode.lower(
        cfg,
        weights,
        segments,
        rows,
        1.0,
        steps=16,
        greedy=False,
        stop_ids=(cfg.vocab_size,),
        pad_id=0,
        dtype=jnp.float32,
    ).compile()
    used = chunk.memory_analysis()
    cache = sum(x.nbytes for x in jax.tree.leaves(rows.cache))
    layer = cache // cfg.layers
    room = cache + 4 * len(keys) * cfg.vocab_size
    donated = cache + sum(
        x.nbytes for x in (rows.clock, rows.token, rows.done, rows.base, jax.random.key_data(rows.key))
    )
    moved = copies(chunk.as_text())

    ours = batches.learner(cfg, "full")
    state = update.start(ours, jax.tree.map(jnp.asarray, random_params(cfg)))
    done = batches.completions(cfg, [12] * 4)
    sums = update.accumulate(ours, state.params, None, None, batches.minibatch(random_prompts(cfg, 4, 1), done, 16))
    step = update.apply.lower(ours, state, sums).compile().memory_analysis()
    given = sum(x.nbytes for x in jax.tree.leaves(state))
    share = used.temp_size_in_bytes / room
    small = [bytes_ for _, bytes_ in moved if bytes_ >= layer // 2]  # k and v of a layer are apart
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
