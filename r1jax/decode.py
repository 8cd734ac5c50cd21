"""The compiled programs of the sampler: prefill, first token, decode, shrink, grow.

Three levels of keys and values: the prefix all prompts share, the rest of each prompt (once for its group), and what a
row sampled. All rows have sampled the same number of tokens since the wave began, so one scalar clock serves them: keys
and values are written at the clock by a `dynamic_update_slice`, and nothing is ragged but the prompts.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax import cohorts
from r1jax.model.attention import Attend
from r1jax.model.cache import ReadOwn, Segment, attend_decode, attend_prefill, widen, widened
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
        cache: per layer (k [N, K, E, S], v [N, K, S, E] or None), without the rows of `carried`.
        begun: [N] tokens that a row had sampled in earlier waves; None where every row begins with this one.
        carried: the caches of the rows that did not, if there are any: the second of two `cohorts`.
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

    Mass is asked for because XLA adds in pairs: a cumulative sum may move by a rounding where nothing was added, or end
    short of the point.
    """
    slots = jnp.arange(mass.shape[1])
    some = mass > 0
    last = jnp.max(jnp.where(some, slots, 0), axis=-1, keepdims=True)
    return jnp.min(jnp.where(some & (cumulative > point[:, None]), slots, last), axis=-1)


def draw(
    logits: Float[Array, "N V"], keys: Array, position: Array, temperature: Array, *,
    greedy: bool, cut: Cut | None = None,
) -> tuple[Int[Array, N], Float[Array, N]]:
    """One token a row by two-level inverse CDF, and its log-probability under the full softmax, whatever was cut.

    One uniform a row picks a block by the cumulative block sums, then a token inside the block. Greedy takes the most
    likely token and reports its log-probability at temperature 1.

    Args:
        position: [] or [N] of the token in its completion.
    """  # fmt: skip
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
    axes = (0, 0 if jnp.ndim(position) else None)
    u = jax.vmap(lambda key, at: jax.random.uniform(jax.random.fold_in(key, at)), axes)(keys, position)
    point = u * blocks[:, -1]
    block = reached(blocks, sums, point)
    before = jnp.where(block > 0, jnp.take_along_axis(blocks, jnp.maximum(block - 1, 0)[:, None], axis=-1)[:, 0], 0.0)
    inside = jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]  # [N, C]
    column = reached(jnp.cumsum(inside, axis=-1), inside, point - before)
    token = block * width + column
    logp = jnp.take_along_axis(padded, token[:, None], axis=-1)[:, 0] - top[:, 0] - jnp.log(whole)
    return token, logp


@functools.partial(jax.jit, static_argnames=("cfg", "dtype", "exact"))
def prefill(
    cfg: ModelConfig, weights: Weights, tokens: Int[Array, "P Q"], length: Int[Array, P],
    before: list[list[Segment]], start: Int[Array, ""], *, dtype: DTypeLike, exact: bool = False,
) -> tuple[list[Segment], Float[Array, "P V"], Int[Array, "P Q L k"] | None]:
    """Keys and values of prompts (right-padded), layer by layer, the logits after each prompt's last token, the routes.

    Args:
        exact: read keys and values in float64.
    """  # fmt: skip
    positions = start + jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    attends = [attend_prefill([s[i] for s in before], length, exact=exact) for i in range(len(weights.layers))]
    hidden, kept, routes = step(cfg, weights.params, weights.layers, tokens, positions, attends, dtype=dtype)
    last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], axis=1)[:, 0]
    return kept, logits(cfg, weights.params, last), by_token(routes)


def by_token(routes: Int[Array, "L N Q k"] | None) -> Int[Array, "N Q L k"] | None:
    """The experts of each token, small enough to send to the host."""
    return None if routes is None else jnp.moveaxis(routes, 0, 2).astype(jnp.int16)


@functools.partial(jax.jit, static_argnames=("greedy", "cut", "stop_ids"))
def first(
    logits: Float[Array, "P V"], keys: Array, temperature: Array, begun: Int[Array, N] | None = None, *,
    greedy: bool, stop_ids: tuple[int, ...], cut: Cut | None = None,
) -> tuple[Array, Array, Array]:
    """The token after each row's prompt, its log-probability, and whether it already stops the row.

    Args:
        begun: tokens of the prompt that the row itself sampled in earlier waves; none, if left out.
    """  # fmt: skip
    repeated = jnp.repeat(logits, keys.shape[0] // logits.shape[0], axis=0)
    position = jnp.int32(0) if begun is None else begun
    token, logp = draw(repeated, keys, position, temperature, greedy=greedy, cut=cut)
    return token, logp, jnp.isin(token, jnp.asarray(stop_ids))


STATIC = (
    "cfg", "dtype", "steps", "greedy", "cut", "stop_ids", "pad_id", "replay", "read_own", "exact", "least", "shards",
)  # fmt: skip


@functools.partial(jax.jit, static_argnames=STATIC, donate_argnames=("rows",))
def decode(
    cfg: ModelConfig, weights: Weights, segments: list[list[Segment]], rows: Rows, temperature: Array,
    carried: list[list[Segment]] | None = None, *, steps: int, greedy: bool, stop_ids: tuple[int, ...], pad_id: int,
    dtype: DTypeLike, cut: Cut | None = None, replay: bool = False, read_own: ReadOwn | None = None,
    exact: bool = False, least: int = 0, shards: int = 1,
) -> tuple[Rows, tuple[Array, Array, Array | None]]:
    """`steps` more tokens a row: the rows, and (tokens, logp) [steps, N]; finished rows emit pad and 0.

    Args:
        carried: the segments of the rows of `rows.carried`, as `segments` are those of the others.
        replay: also the experts [steps, N, 1, L, k] of the tokens fed, which are those of the step before.
        read_own: see `attend_decode`.
        exact: read keys and values in float64; the rows' own are in it already, the prompts' are widened once for all
            steps.
        least: rows of a shard in a product with weights; where there are fewer, spare ones fill it up.
        shards: of the rows; only asked for where there are two cohorts, or spare rows.
    """  # fmt: skip
    read = [segments] if carried is None else [segments, carried]
    read = list(map(widen, read)) if exact else read

    def one(rows: Rows, _: None) -> tuple[Rows, tuple[Array, Array, Array | None]]:
        caches = [rows.cache] if carried is None else [rows.cache, rows.carried]
        sizes = [cache[0][0].shape[0] for cache in caches]
        spare = max(least * shards - sum(sizes), 0)
        every = [*sizes, spare] if spare else sizes
        each = list(zip(read, caches, cohorts.split(rows.done, sizes, shards), strict=True))

        def filled(x: Array) -> Array:
            return cohorts.spared(x, spare, shards) if spare else x

        def ours(x: Array) -> Array:
            return cohorts.split(x, [sum(sizes), spare], shards)[0] if spare else x

        def attend(layer: int) -> Attend:
            attends = [
                attend_decode([s[layer] for s in segments], *cache[layer], rows.clock, done, read_own=read_own)
                for segments, cache, done in each
            ]
            return cohorts.attend_each([*attends, cohorts.attend_nothing][: len(every)], every, shards)

        attends = [attend(layer) for layer in range(len(weights.layers))]
        positions = filled(rows.base + rows.clock)[:, None]
        hidden, kept, routes = step(
            cfg, weights.params, weights.layers, filled(rows.token)[:, None], positions, attends, dtype=dtype
        )
        drawn = rows.clock + 1 if rows.begun is None else filled(rows.clock + 1 + rows.begun)
        found = logits(cfg, weights.params, hidden[:, 0])
        token, logp = map(ours, draw(found, filled(rows.key), drawn, temperature, greedy=greedy, cut=cut))
        token = jnp.where(rows.done, pad_id, token)
        logp = jnp.where(rows.done, 0.0, logp)
        done = rows.done | jnp.isin(token, jnp.asarray(stop_ids))
        cache, *more = map(list, zip(*(of_layer[: len(sizes)] for of_layer in kept), strict=True))
        rows = rows._replace(
            clock=rows.clock + 1, token=token, done=done, cache=cache, carried=more[0] if more else None
        )
        return rows, (token, logp, ours(by_token(routes)) if replay else None)

    return jax.lax.scan(one, rows, None, length=steps)


@functools.partial(jax.jit, static_argnames=("shards",))
def shrink(
    rows: Rows, segments: list[list[Segment]], keep: Int[Array, "shards n"], *, shards: int
) -> tuple[Rows, list[list[Segment]]]:
    """The rows `keep` names within each shard, in order; segments of single prompts become one for each row.

    Carried rows are not counted, and all stay.
    """
    total, count = rows.token.shape[0], rows.cache[0][0].shape[0]

    def take(x: Array) -> Array:
        per_row = count // x.shape[0]
        local = x.reshape(shards, -1, *x.shape[1:])
        picked = jax.vmap(lambda a, i: a[i // per_row])(local, keep)
        return picked.reshape(-1, *x.shape[1:])

    def of_both(x: Array) -> Array:
        ours, *others = cohorts.split(x, [count] if total == count else [count, total - count], shards)
        return cohorts.join([take(ours), *others], shards)

    token, done, base, key, begun = jax.tree.map(of_both, (*rows[1:5], rows.begun))
    kept = Rows(rows.clock, token, done, base, key, jax.tree.map(take, rows.cache), begun, rows.carried)
    return kept, [s if s[0].k.shape[0] == 1 else jax.tree.map(take, s) for s in segments]


@functools.partial(jax.jit, static_argnames=("slots",))
def grow(rows: Rows, *, slots: int) -> Rows:
    """The same rows with room for `slots` sampled tokens."""

    def wider(cache: list[tuple[Array, Array | None]]) -> list[tuple[Array, Array | None]]:
        return [widened(k, v, slots) for k, v in cache]

    return rows._replace(cache=wider(rows.cache), carried=rows.carried and wider(rows.carried))
