"""Continuous batching as a baseline: slots with clocks of their own, refilled between chunks. The layers are ours."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax import decode
from r1jax.decode import Weights
from r1jax.model.attention import Attend, How
from r1jax.model.cache import Segment, filled, lay_out, read, readable
from r1jax.model.config import ModelConfig
from r1jax.model.transformer import logits, step


class Slots(NamedTuple):
    """`decode.Rows` with a clock for each slot."""

    clock: jax.Array
    token: jax.Array
    done: jax.Array
    base: jax.Array
    key: jax.Array
    cache: list[tuple[jax.Array, jax.Array]]


def attend_slots(segment: Segment, k_cache: jax.Array, v_cache: jax.Array, clock: jax.Array) -> Attend:
    """`attend_decode` where each row writes at its own clock."""
    write = jax.vmap(lambda cache, new, start: jax.lax.dynamic_update_slice(cache, new, start))
    zero = jnp.zeros_like(clock)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, how: How) -> tuple[jax.Array, Any]:
        k_new, v_new = lay_out(k, v)
        k_all = write(k_cache, k_new, jnp.stack([zero, zero, clock], 1))
        v_all = write(v_cache, v_new, jnp.stack([zero, clock, zero], 1))
        own = filled(clock + 1, k_all.shape[-1])
        return read(q, [*readable([segment], how), (k_all, v_all, own)], how), (k_all, v_all)

    return attend


@functools.partial(jax.jit, static_argnames=("cfg", "steps", "stop_ids"), donate_argnames=("slots",))
def chunk(
    cfg: ModelConfig, weights: Weights, prompts: list[Segment], slots: Slots, *, steps: int, stop_ids: tuple[int, ...]
) -> tuple[Slots, jax.Array]:
    """`steps` more tokens of every slot, [steps, n]."""

    def one(s: Slots, _: None) -> tuple[Slots, jax.Array]:
        attends = [attend_slots(p, k, v, s.clock) for p, (k, v) in zip(prompts, s.cache, strict=True)]
        at = (s.base + s.clock)[:, None]
        hidden, cache, _ = step(cfg, weights.params, weights.layers, s.token[:, None], at, attends)
        draw = jax.vmap(lambda row, key, t: decode.draw(row[None], key[None], t, jnp.float32(1), greedy=False)[0][0])
        token = draw(logits(cfg, weights.params, hidden[:, 0]), s.key, s.clock + 1)
        token = jnp.where(s.done, 0, token)
        done = s.done | jnp.isin(token, jnp.asarray(stop_ids))
        return Slots(s.clock + ~s.done, token, done, s.base, s.key, cache), token

    return jax.lax.scan(one, slots, None, length=steps)


def rollout(
    cfg: ModelConfig,
    weights: Weights,
    segment: list[Segment],
    first_logits: jax.Array,
    keys: np.ndarray,
    *,
    slots: int,
    steps: int,
    room: int,
    stop_ids: Sequence[int],
    most: int,
) -> tuple[np.ndarray, int]:
    """Lengths of all rows, and the row-steps paid. A free slot takes the next row between chunks."""
    rows, stop_ids = len(keys), tuple(stop_ids)
    group = rows // first_logits.shape[0]
    wrapped = jax.random.wrap_key_data(jnp.asarray(keys))
    token, _, done = map(np.asarray, decode.first(first_logits, wrapped, 1.0, greedy=False, stop_ids=stop_ids))
    lengths, finished = np.ones(rows, np.int64), done.copy()
    base = int(segment[0].length[0])
    waiting = [i for i in range(rows) if not finished[i]]
    holds = np.array([waiting.pop(0) if waiting else -1 for _ in range(slots)])

    def shape(*dims: int) -> jax.Array:
        return jnp.zeros((slots, cfg.kv_heads, *dims), jnp.float32)

    cache = [(shape(cfg.head_width, room), shape(room, cfg.head_width)) for _ in range(cfg.layers)]
    clock, last = np.zeros(slots, np.int32), token[holds].astype(np.int32)
    paid, moved = 0, True
    while (holds >= 0).any():
        if moved:
            index = jnp.asarray(np.maximum(holds, 0) // group)
            mine = [Segment(p.k[index], p.v[index], p.length[index]) for p in segment]
            key = wrapped[jnp.asarray(np.maximum(holds, 0))]
        state = Slots(
            jnp.asarray(clock), jnp.asarray(last), jnp.asarray(holds < 0), jnp.full(slots, base, jnp.int32), key, cache
        )
        state, tokens = chunk(cfg, weights, mine, state, steps=steps, stop_ids=stop_ids)
        tokens, cache, key, paid, moved = np.asarray(tokens), state.cache, state.key, paid + slots * steps, False
        clock, last = np.array(state.clock), np.array(state.token)
        for slot, row in enumerate(holds):
            if row < 0:
                continue
            stops = np.flatnonzero(np.isin(tokens[:, slot], stop_ids))
            count = min(stops[0] + 1 if len(stops) else steps, most - lengths[row])
            lengths[row] += count
            if len(stops) or lengths[row] >= most:
                holds[slot] = waiting.pop(0) if waiting else -1
                clock[slot], last[slot], moved = 0, token[max(holds[slot], 0)], True
    return lengths, paid
