"""The compiled programs of the sampler: prefill, first token, decode, shrink, grow.

Three levels of keys and values: the prefix all prompts share, the rest of each prompt (once for its group), and what a row
sampled. All rows have sampled the same number of tokens, so one scalar clock serves them: keys and values are written at the
clock by a `dynamic_update_slice`, and nothing is ragged but the prompts.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax import cohorts
from r1jax.model.attention import Attend
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
        begun: [N] tokens a row had sampled in earlier waves; None is none.
        carried: caches of the rows that had, where `cache` holds those of the others: see `cohorts`.
    """

    clock: Int[Array, ""]
    token: Int[Array, N]
    done: Bool[Array, N]
    base: Int[Array, N]
    key: Array
    cache: list[tuple[Array, Array | None]]
    begun: Int[Array, N] | None = None
    carried: list[tuple[Array, Array | None]] | None = None


class Cut(NamedTuple):
    """Which tokens may be drawn, in evaluation alone: training on what was cut would bias the ratio.

    Attributes:
        top_k: the k likeliest; 0 for all.
        top_p: of those, the fewest likeliest that hold this share of their mass; 1 for all.
        min_p: of those, the ones at least this share as likely as the likeliest; 0 for all.
    """

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def allowed(logits: Float[Array, "N V"], cut: Cut) -> Bool[Array, "N V"]:
    """The tokens a cut leaves, at the temperature the logits have; what is as likely as the last one kept is kept too.

    Source: the order and the renormalisation between top-k and top-p are those of Hugging Face's logits warpers.
    """
    least = logits.max(-1, keepdims=True) + (math.log(cut.min_p) if cut.min_p else -jnp.inf)
    if cut.top_k or cut.top_p < 1:
        descending, _ = jax.lax.top_k(logits, min(cut.top_k or logits.shape[-1], logits.shape[-1]))
        lowest = descending[:, -1:]
        if cut.top_p < 1:
            mass = jax.nn.softmax(descending)
            count = jnp.sum(jnp.cumsum(mass, axis=-1) - mass < cut.top_p, axis=-1, keepdims=True)
            lowest = jnp.take_along_axis(descending, count - 1, axis=-1)
        least = jnp.maximum(least, lowest)
    return logits >= least


def reached(cumulative: Float[Array, "N C"], mass: Float[Array, "N C"], point: Float[Array, N]) -> Int[Array, N]:
    """The first place with mass whose cumulative mass passes the point, else the last place with mass.

    Mass is asked for because XLA adds in pairs: a cumulative sum may move by a rounding where nothing was added, or end short
    of the point.
    """
    slots = jnp.arange(mass.shape[1])
    some = mass > 0
    last = jnp.max(jnp.where(some, slots, 0), axis=-1, keepdims=True)
    return jnp.min(jnp.where(some & (cumulative > point[:, None]), slots, last), axis=-1)


def draw(
    logits: Float[Array, "N V"], keys: Array, position: Array, temperature: Array, *, greedy: bool, cut: Cut | None = None
) -> tuple[Int[Array, N], Float[Array, N]]:
    """One token a row by two-level inverse CDF, and its log-probability under the full softmax, whatever was cut.

    One uniform a row picks a block by the cumulative block sums, then a token inside the block. Greedy takes the most likely
    token and reports its log-probability at temperature 1.

    Args:
        position: of the token in its completion, [] or [N].
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
    sums = mass.sum(-1)  # [N, R]
    blocks = jnp.cumsum(sums, axis=-1)
    whole = blocks[:, -1]
    if cut is not None:
        mass = jnp.where(allowed(padded, cut).reshape(mass.shape), mass, 0.0)
        sums = mass.sum(-1)
        blocks = jnp.cumsum(sums, axis=-1)
    u = jax.vmap(lambda key, at: jax.random.uniform(jax.random.fold_in(key, at)))(keys, jnp.broadcast_to(position, n))
    point = u * blocks[:, -1]
    block = reached(blocks, sums, point)
    before = jnp.where(block > 0, jnp.take_along_axis(blocks, jnp.maximum(block - 1, 0)[:, None], axis=-1)[:, 0], 0.0)
    inside = jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]  # [N, C]
    column = reached(jnp.cumsum(inside, axis=-1), inside, point - before)
    token = block * width + column
    logp = jnp.take_along_axis(padded, token[:, None], axis=-1)[:, 0] - top[:, 0] - jnp.log(whole)
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


@functools.partial(jax.jit, static_argnames=("greedy", "cut", "stop_ids"))
def first(
    logits: Float[Array, "P V"], keys: Array, temperature: Array, begun: Int[Array, N] | None = None,
    *, greedy: bool, stop_ids: tuple[int, ...], cut: Cut | None = None,
) -> tuple[Array, Array, Array]:
    """The next token of every row, its first unless some were `begun`, its log-probability, and whether it stops the row."""
    repeated = jnp.repeat(logits, keys.shape[0] // logits.shape[0], axis=0)
    position = jnp.int32(0) if begun is None else begun
    token, logp = draw(repeated, keys, position, temperature, greedy=greedy, cut=cut)
    return token, logp, jnp.isin(token, jnp.asarray(stop_ids))


@functools.partial(
    jax.jit,
    static_argnames=("cfg", "dtype", "steps", "greedy", "cut", "stop_ids", "pad_id", "replay", "read_own", "shards"),
    donate_argnames=("rows",),
)
def decode(
    cfg: ModelConfig, weights: Weights, segments: list[list[Segment]], rows: Rows, temperature: Array,
    carried: list[list[Segment]] | None = None, *, steps: int, greedy: bool, stop_ids: tuple[int, ...], pad_id: int, dtype: DTypeLike, cut: Cut | None = None, replay: bool = False,
    read_own: ReadOwn | None = None, shards: int = 1,
) -> tuple[Rows, tuple[Array, Array, Array | None]]:
    """`steps` more tokens a row: the rows, and (tokens, logp) [steps, N]; finished rows emit pad and 0.

    Args:
        replay: also the experts [steps, N, 1, L, k] of the tokens fed, which are those of the step before.
        read_own: see `attend_decode`.
        carried: the segments of carried rows.
        shards: of the rows; asked for where some are carried.
    """  # fmt: skip

    def reader(segments: list[list[Segment]], layer: int, cache: tuple[Array, Array | None], rows: Rows, done: Array) -> Attend:
        return attend_decode([s[layer] for s in segments], *cache, rows.clock, done, read_own=read_own)

    def one(rows: Rows, _: None) -> tuple[Rows, tuple[Array, Array, Array | None]]:
        if carried is None:
            attends = [reader(segments, i, cache, rows, rows.done) for i, cache in enumerate(rows.cache)]
        else:
            sizes = [rows.cache[0][0].shape[0], rows.carried[0][0].shape[0]]
            new, old = cohorts.split(rows.done, sizes, shards)
            attends = [
                cohorts.attend_each(
                    [reader(segments, i, here, rows, new), reader(carried, i, there, rows, old)], sizes, shards
                )
                for i, (here, there) in enumerate(zip(rows.cache, rows.carried, strict=True))
            ]
        hidden, kept, routes = step(
            cfg, weights.params, weights.layers, rows.token[:, None], (rows.base + rows.clock)[:, None], attends, dtype=dtype
        )
        cache, others = (kept, None) if carried is None else map(list, zip(*kept, strict=True))
        position = rows.clock + 1 if rows.begun is None else rows.clock + 1 + rows.begun
        token, logp = draw(logits(cfg, weights.params, hidden[:, 0]), rows.key, position, temperature, greedy=greedy, cut=cut)
        token = jnp.where(rows.done, pad_id, token)
        logp = jnp.where(rows.done, 0.0, logp)
        done = rows.done | jnp.isin(token, jnp.asarray(stop_ids))
        rows = rows._replace(clock=rows.clock + 1, token=token, done=done, cache=cache, carried=others)
        return rows, (token, logp, by_token(routes) if replay else None)

    return jax.lax.scan(one, rows, None, length=steps)


@functools.partial(jax.jit, static_argnames=("shards",))
def shrink(
    rows: Rows, segments: list[list[Segment]], keep: Int[Array, "shards n"],
    carried: list[list[Segment]] | None = None, keep_carried: Int[Array, "shards m"] | None = None, *, shards: int,
) -> tuple[Rows, list[list[Segment]], list[list[Segment]] | None]:
    """The rows that are kept of each shard and cohort, in order; segments of single prompts become one for each row.

    Args:
        keep: their numbers among the rows of `rows.cache` in their shard.
        carried, keep_carried: the segments and numbers of carried rows, if there are any.
    """  # fmt: skip

    def taken(tree: Any, keep: Array, count: int) -> Any:
        def take(x: Array) -> Array:
            per_row = count // x.shape[0]
            local = x.reshape(shards, -1, *x.shape[1:])
            picked = jax.vmap(lambda a, i: a[i // per_row])(local, keep)
            return picked.reshape(-1, *x.shape[1:])

        return jax.tree.map(take, tree)

    def cut(segments: list[list[Segment]], keep: Array, count: int) -> list[list[Segment]]:
        return [s if s[0].k.shape[0] == 1 else taken(s, keep, count) for s in segments]

    total, count = rows.token.shape[0], rows.cache[0][0].shape[0]
    both, others = keep, None
    if carried is not None:
        both = jnp.concatenate([keep, count // shards + keep_carried], axis=1)
        others = taken(rows.carried, keep_carried, total - count)
        carried = cut(carried, keep_carried, total - count)
    each = taken((rows.token, rows.done, rows.base, rows.key), both, total)
    kept = Rows(rows.clock, *each, taken(rows.cache, keep, count), taken(rows.begun, both, total), others)
    return kept, cut(segments, keep, count), carried


@functools.partial(jax.jit, static_argnames=("slots",))
def grow(rows: Rows, *, slots: int) -> Rows:
    """The same rows with room for `slots` sampled tokens."""
    wide = [None if cache is None else [widened(k, v, slots) for k, v in cache] for cache in (rows.cache, rows.carried)]
    return rows._replace(cache=wide[0], carried=wide[1])
