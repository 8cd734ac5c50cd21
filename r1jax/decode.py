"""The compiled programs of the sampler: prefill, first token, decode, shrink, grow.

Three levels of keys and values: the prefix all prompts share, the rest of each prompt (once for its group), and what a row
sampled. All rows have sampled the same number of tokens, so one scalar clock serves them: keys and values are written at the
clock by a `dynamic_update_slice`, and nothing is ragged but the prompts.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.cache import ReadOwn, Segment, attend_decode, attend_prefill, widened
from r1jax.model.config import ModelConfig
from r1jax.model.transformer import logits, step


class Weights(NamedTuple):
    """Parameters as decoding wants them: layers in a list, unstacked once, not in the loop."""

    params: dict
    layers: list[dict]


class Rows(NamedTuple):
    """The wave between two chunks. Donated to each chunk.

    Attributes:
        clock: [] slots of the own cache already written.
        token: [N] last sampled token, not yet in the cache.
        done: [N] rows that sampled a stop token.
        base: [N] prompt length, the position of slot 0.
        key: [N] the row's random key.
        cache: per layer (k [N, K, E, S], v [N, K, S, E] or None).
    """

    clock: Int[Array, ""]
    token: Int[Array, N]
    done: Bool[Array, N]
    base: Int[Array, N]
    key: Array
    cache: list[tuple[Array, Array | None]]


def draw(
    logits: Float[Array, "N V"], keys: Array, position: Array, temperature: Array, *, greedy: bool
) -> tuple[Int[Array, N], Float[Array, N]]:
    """One token a row by two-level inverse CDF, and its log-probability under the full softmax.

    One uniform a row picks a block by the cumulative block sums, then a token inside the block. Greedy takes the most likely
    token and reports its log-probability at temperature 1.
    """
    n, vocab = logits.shape
    if greedy:
        token = jnp.argmax(logits, axis=-1)
        return token, jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=-1)[:, 0]
    logits = logits / temperature
    width = max(8, int(vocab**0.5) // 8 * 8)
    padded = jnp.pad(logits, ((0, 0), (0, -vocab % width)), constant_values=-jnp.inf)
    top = padded.max(-1, keepdims=True)
    mass = jnp.exp(padded - top).reshape(n, -1, width)
    blocks = jnp.cumsum(mass.sum(-1), axis=-1)  # [N, R]
    total = blocks[:, -1]
    u = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, position)))(keys)
    point = u * total
    block = jnp.minimum(jnp.sum(blocks <= point[:, None], axis=-1), blocks.shape[-1] - 1)
    before = jnp.where(block > 0, jnp.take_along_axis(blocks, jnp.maximum(block - 1, 0)[:, None], axis=-1)[:, 0], 0.0)
    inside = jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]  # [N, C]
    within = jnp.cumsum(inside, axis=-1)
    # The last token with any mass bounds the choice: rounding can push the point past the end of its block.
    last = width - 1 - jnp.argmax(inside[:, ::-1] > 0, axis=-1)
    column = jnp.minimum(jnp.sum(within <= (point - before)[:, None], axis=-1), last)
    token = block * width + column
    logp = jnp.take_along_axis(padded, token[:, None], axis=-1)[:, 0] - top[:, 0] - jnp.log(total)
    return token, logp


@functools.partial(jax.jit, static_argnames=("cfg", "dtype"))
def prefill(
    cfg: ModelConfig, weights: Weights, tokens: Int[Array, "P Q"], length: Int[Array, P],
    before: list[list[Segment]], start: Int[Array, ""], *, dtype: DTypeLike,
) -> tuple[list[Segment], Float[Array, "P V"], Int[Array, "P Q L k"] | None]:
    """Keys and values of prompts (right-padded), layer by layer, the logits after each prompt's last token, and the routes."""  # fmt: skip
    positions = start + jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    attends = [attend_prefill([s[i] for s in before], length) for i in range(len(weights.layers))]
    hidden, kept, routes = step(cfg, weights.params, weights.layers, tokens, positions, attends, dtype=dtype)
    last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], axis=1)[:, 0]
    return kept, logits(cfg, weights.params, last), by_token(routes)


def by_token(routes: Int[Array, "L N Q k"] | None) -> Int[Array, "N Q L k"] | None:
    """The experts of each token, small enough to send to the host."""
    return None if routes is None else jnp.moveaxis(routes, 0, 2).astype(jnp.int16)


@functools.partial(jax.jit, static_argnames=("greedy", "stop_ids"))
def first(
    logits: Float[Array, "P V"], keys: Array, temperature: Array, *, greedy: bool, stop_ids: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Token 0 of every row, its log-probability, and whether it already stops the row."""
    repeated = jnp.repeat(logits, keys.shape[0] // logits.shape[0], axis=0)
    token, logp = draw(repeated, keys, jnp.int32(0), temperature, greedy=greedy)
    return token, logp, jnp.isin(token, jnp.asarray(stop_ids))


@functools.partial(jax.jit, static_argnames=("cfg", "dtype", "steps", "greedy", "stop_ids", "pad_id", "replay", "read_own"), donate_argnames=("rows",))
def decode(
    cfg: ModelConfig, weights: Weights, segments: list[list[Segment]], rows: Rows, temperature: Array, *,
    steps: int, greedy: bool, stop_ids: tuple[int, ...], pad_id: int, dtype: DTypeLike, replay: bool = False,
    read_own: ReadOwn | None = None,
) -> tuple[Rows, tuple[Array, Array, Array | None]]:
    """`steps` more tokens a row: the rows, and (tokens, logp) [steps, N]; finished rows emit pad and 0.

    Args:
        replay: also the experts [steps, N, 1, L, k] of the tokens fed, which are those of the step before.
        read_own: see `attend_decode`.
    """  # fmt: skip

    def one(rows: Rows, _: None) -> tuple[Rows, tuple[Array, Array, Array | None]]:
        attends = [
            attend_decode([s[i] for s in segments], k, v, rows.clock, rows.done, read_own=read_own)
            for i, (k, v) in enumerate(rows.cache)
        ]
        hidden, cache, routes = step(
            cfg, weights.params, weights.layers, rows.token[:, None], (rows.base + rows.clock)[:, None], attends, dtype=dtype
        )
        token, logp = draw(logits(cfg, weights.params, hidden[:, 0]), rows.key, rows.clock + 1, temperature, greedy=greedy)
        token = jnp.where(rows.done, pad_id, token)
        logp = jnp.where(rows.done, 0.0, logp)
        done = rows.done | jnp.isin(token, jnp.asarray(stop_ids))
        return rows._replace(clock=rows.clock + 1, token=token, done=done, cache=cache), (token, logp, by_token(routes) if replay else None)

    return jax.lax.scan(one, rows, None, length=steps)


@functools.partial(jax.jit, static_argnames=("shards",))
def shrink(rows: Rows, segments: list[list[Segment]], keep: Int[Array, "shards n"], *, shards: int) -> tuple[Rows, list[list[Segment]]]:
    """The rows `keep` names within each shard, in order; segments of single prompts become one for each row."""
    count = rows.token.shape[0]

    def take(x: Array) -> Array:
        per_row = count // x.shape[0]
        local = x.reshape(shards, -1, *x.shape[1:])
        picked = jax.vmap(lambda a, i: a[i // per_row])(local, keep)
        return picked.reshape(-1, *x.shape[1:])

    kept = Rows(rows.clock, *(jax.tree.map(take, x) for x in rows[1:]))
    return kept, [s if s[0].k.shape[0] == 1 else jax.tree.map(take, s) for s in segments]


@functools.partial(jax.jit, static_argnames=("slots",))
def grow(rows: Rows, *, slots: int) -> Rows:
    """The same rows with room for `slots` sampled tokens."""

    return rows._replace(cache=[widened(k, v, slots) for k, v in rows.cache])
