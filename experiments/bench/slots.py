"""Implements continuous batching with r1jax's layers, as a baseline of benchmark C3 (`tail`).

A slot is a row of the decoding batch. It decodes one completion at a time. In the same decoding step, different slots
may be at different positions of their completions. Between two chunks of steps, each slot whose completion has ended
takes the next completion.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.model.attention import Attend, How
from r1jax.model.cache import Part, Segment, lay_out, mask_filled, mask_readable, read
from r1jax.model.config import ModelConfig
from r1jax.model.transformer import logits, step
from r1jax.sampling import drawing, programs
from r1jax.sampling.programs import Weights


class Slots(NamedTuple):
    """The decoder's state, like `programs.Rows`, but each slot has a clock (number of sampled tokens) of its own."""

    clock: jax.Array
    token: jax.Array
    done: jax.Array
    base: jax.Array
    key: jax.Array
    cache: list[tuple[jax.Array, jax.Array]]


def attend_slots(segment: Segment, k_cache: jax.Array, v_cache: jax.Array, clock: jax.Array) -> Attend:
    """Returns the attention function of a decoding step, like `attend_decode`.

    In `attend_decode`, all rows write their new keys and values at the same position of the cache. Here each row has
    a position of its own.

    Args:
        segment: keys and values of the prompts.
        k_cache, v_cache: keys and values of the sampled tokens.
        clock: [n] position in the cache at which each of the n rows writes.
    """
    write = jax.vmap(lambda cache, new, start: jax.lax.dynamic_update_slice(cache, new, start))
    zero = jnp.zeros_like(clock)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array, how: How) -> tuple[jax.Array, Any]:
        k_new, v_new = lay_out(k, v)
        k_all = write(k_cache, k_new, jnp.stack([zero, zero, clock], 1))
        v_all = write(v_cache, v_new, jnp.stack([zero, clock, zero], 1))
        own = mask_filled(clock + 1, k_all.shape[-1])
        return read(q, [*mask_readable([segment], how), Part(k_all, v_all, own)], how), (k_all, v_all)

    return attend


@functools.partial(jax.jit, static_argnames=("cfg", "steps", "stop_ids"), donate_argnames=("slots",))
def chunk(
    cfg: ModelConfig, weights: Weights, prompts: list[Segment], slots: Slots, *, steps: int, stop_ids: tuple[int, ...]
) -> tuple[Slots, jax.Array]:
    """Decodes `steps` more tokens of each of the n slots. Returns the slots' new state, and the tokens [steps, n].

    Args:
        prompts: for each layer, the keys and values of each slot's prompt.
        stop_ids: tokens that end a completion.
    """

    def one(s: Slots, _: None) -> tuple[Slots, jax.Array]:
        def attend(i: int, cache: tuple, layer: None) -> Attend:  # the layers lie in no stacks
            return attend_slots(prompts[i], *cache, s.clock)

        at = (s.base + s.clock)[:, None]
        hidden, cache, _ = step(cfg, weights.params, weights.layers, s.token[:, None], at, attend, s.cache)
        draw = jax.vmap(lambda row, key, t: drawing.draw(row[None], key[None], t, jnp.float32(1), greedy=False)[0][0])
        token = draw(logits(cfg, weights.params, hidden[:, 0]), s.key, s.clock + 1)
        token = jnp.where(s.done, 0, token)
        done = s.done | jnp.isin(token, jnp.asarray(stop_ids))
        return Slots(s.clock + ~s.done, token, done, s.base, s.key, cache), token

    return jax.lax.scan(one, slots, None, length=steps)


class Size(NamedTuple):
    """Sizes of continuous batching.

    Attributes:
        slots: number of slots.
        steps: decoding steps between two refills.
        room: number of tokens that a slot's cache can hold.
        most: largest number of tokens in a completion.
    """

    slots: int
    steps: int
    room: int
    most: int


def rollout(
    cfg: ModelConfig,
    weights: Weights,
    segment: list[Segment],
    first_logits: jax.Array,
    keys: np.ndarray,
    stop_ids: Sequence[int],
    size: Size,
) -> tuple[np.ndarray, int]:
    """Samples N completions (rows) by continuous batching. Between chunks of steps, a free slot takes the next row.

    Returns the lengths [N], and the number of slots times the number of decoding steps, which is the work done.

    Args:
        segment: for each layer, the keys and values of the prompts.
        first_logits: [prompts, V] logits of each prompt's first completion token; V is the vocabulary size.
        keys: [N, 2] random keys of the rows.
        stop_ids: tokens that end a completion.
    """
    rows, stop_ids = len(keys), tuple(stop_ids)
    slots, steps, room, most = size
    group = rows // first_logits.shape[0]
    wrapped = jax.random.wrap_key_data(jnp.asarray(keys))
    token, _, done = map(np.asarray, programs.first(first_logits, wrapped, 1.0, greedy=False, stop_ids=stop_ids))
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
