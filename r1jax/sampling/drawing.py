"""Draws one token per row from logits, and restricts which tokens may be drawn."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Cut(NamedTuple):
    """Restricts which tokens may be drawn. A cut is for evaluation only, because in training it would bias the
    importance ratio.

    Attributes:
        top_k: keeps the k most likely tokens; 0 keeps all.
        top_p: first renormalises the probabilities of the tokens that top_k keeps, so that they sum to 1. Then keeps
            the smallest set of most likely tokens whose probabilities sum to at least top_p. 1 keeps all.
        min_p: among the tokens that top_p keeps, keeps every token whose probability is at least this fraction of the
            largest probability. 0 keeps all.
    """

    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0


def find_floors(mass: Float[Array, "N A B"], cut: Cut, shards: int = 1) -> Float[Array, N]:
    """Returns the threshold of a cut for each row. A token may be drawn if its mass is at least the threshold.

    For top-p without top-k, `find_floor` searches each row for the threshold. On CPUs, it searches the rows of a shard
    one after another, because a row then stays in the core's cache. Elsewhere it searches all rows at once.

    Args:
        mass: unnormalised probabilities of a vocabulary of A·B tokens. The largest in each row is 1.
        cut: `Cut`, the restriction by top-k, top-p and min-p.
        shards: number of row shards.

    Source: Hugging Face's logits warpers, for the order and for the renormalisation between top-k and top-p.
    """
    n, rows, width = mass.shape
    floor = jnp.full(n, cut.min_p)
    if cut.top_k:
        descending, _ = jax.lax.top_k(mass.reshape(n, -1), min(cut.top_k, rows * width))
        lowest = descending[:, -1]
        if cut.top_p < 1:
            before = jnp.cumsum(descending, axis=-1) - descending
            count = jnp.sum(before < cut.top_p * descending.sum(-1, keepdims=True), axis=-1, keepdims=True)
            lowest = jnp.take_along_axis(descending, count - 1, axis=-1)[:, 0]
        floor = jnp.maximum(floor, lowest)
    elif cut.top_p < 1:
        one = functools.partial(find_floor, top_p=cut.top_p)
        each = functools.partial(jax.lax.map, one) if jax.default_backend() == "cpu" else jax.vmap(one)
        floor = jnp.maximum(floor, jax.vmap(each)(mass.reshape(shards, -1, rows, width)).reshape(n))
    return floor


def find_floor(mass: Float[Array, "A B"], top_p: float) -> Float[Array, ""]:
    """Returns the threshold of top-p. A token may be drawn if its mass is at least this threshold.

    The tokens that may be drawn are the smallest set of most likely tokens whose masses sum to at least the fraction
    `top_p` of all mass.

    The threshold is found by bisection between two bounds. The total mass of the tokens above a bound falls as the
    bound rises. The tokens above the lower bound hold at least the fraction `top_p`, and the tokens above the upper
    bound hold less. The midpoint is computed from the bounds' bits as integers, because these integers have the order
    of the floats.

    The search ends when the tokens between the bounds have a total mass below 1.5 times the lower bound. Each token
    there has more mass than the lower bound, so two tokens would have more than twice the lower bound. At most one
    token is left, even if the sum is rounded. If tokens have equal masses, the search ends when the bounds are
    neighbouring floats.
    """

    def above(x: Array) -> Array:
        return jnp.where(mass > x, mass, 0.0).sum(-1).sum()  # of short sums, which round less

    def floats(x: Array) -> Array:
        return jax.lax.bitcast_convert_type(x, jnp.float32)

    whole = mass.sum(-1).sum()
    wanted = top_p * whole
    # All tokens below half of (1 - top_p)/V have less mass than may be left out, unless rounding is coarser.
    low = (1 - top_p) * whole / (2 * mass.size)
    more = above(low)
    low, more = jnp.where(more >= wanted, low, 0.0), jnp.where(more >= wanted, more, whole)
    bounds = jax.lax.bitcast_convert_type(jnp.stack([low, jnp.ones_like(low)]), jnp.int32)

    def open_(state: tuple[Array, ...]) -> Array:
        low, high, more, less = state
        return (high - low > 1) & (more - less >= 1.5 * floats(low))

    def halve(state: tuple[Array, ...]) -> tuple[Array, ...]:
        low, high, more, less = state
        middle = low + (high - low) // 2
        found = above(floats(middle))
        up = found >= wanted
        return (
            jnp.where(up, middle, low),
            jnp.where(up, high, middle),
            jnp.where(up, found, more),
            jnp.where(up, less, found),
        )

    start = bounds[0], bounds[1], more, jnp.zeros_like(whole)
    return floats(jax.lax.while_loop(open_, halve, start)[0] + 1)  # the next float


def invert_cdf(cumulative: Float[Array, "N C"], mass: Float[Array, "N C"], point: Float[Array, N]) -> Int[Array, N]:
    """Returns, for each row, the index that a cumulative distribution assigns to `point`.

    It is the first index whose mass is positive and whose cumulative mass exceeds the point. If there is none, it is
    the last index whose mass is positive. The check of the mass guards against rounding: XLA adds in pairs, so a
    cumulative sum may change where nothing was added, or end below the point.

    Args:
        cumulative: cumulative sums of `mass` along a row.
        mass: unnormalised probabilities.
        point: a number between 0 and the row's total mass.
    """
    slots = jnp.arange(mass.shape[1])
    some = mass > 0
    last = jnp.max(jnp.where(some, slots, 0), axis=-1, keepdims=True)
    return jnp.min(jnp.where(some & (cumulative > point[:, None]), slots, last), axis=-1)


def draw(
    logits: Float[Array, "N V"],
    keys: Array,
    position: Array,
    temperature: Array,
    *,
    greedy: bool,
    cut: Cut | None = None,
    shards: int = 1,
) -> tuple[Int[Array, N], Float[Array, N]]:
    """Draws one token per row by two-level inverse CDF. Returns the tokens and their log-probabilities.

    One uniform random number per row picks a block of the vocabulary by the cumulative sums of the blocks, then a token
    inside the block. The log-probabilities are taken from the full softmax, even where a cut applies.

    Args:
        keys: [N] random keys of the rows.
        position: [] or [N] position of the token in its completion, which is folded into the key.
        temperature: sampling temperature; ignored if `greedy`.
        greedy: takes the most likely token instead, and returns its log-probability at temperature 1.
        cut: which tokens may be drawn; if None, all tokens.
        shards: number of row shards; used only with a cut.
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
        floor = find_floors(mass, cut, shards)
        sums = jnp.where(mass >= floor[:, None, None], mass, 0.0).sum(-1)
        blocks = jnp.cumsum(sums, axis=-1)
    axes = (0, 0 if jnp.ndim(position) else None)
    u = jax.vmap(lambda key, at: jax.random.uniform(jax.random.fold_in(key, at)), axes)(keys, position)
    point = u * blocks[:, -1]
    block = invert_cdf(blocks, sums, point)
    before = jnp.where(block > 0, jnp.take_along_axis(blocks, jnp.maximum(block - 1, 0)[:, None], axis=-1)[:, 0], 0.0)
    inside = jnp.take_along_axis(mass, block[:, None, None], axis=1)[:, 0]  # [N, C]
    if cut is not None:
        inside = jnp.where(inside >= floor[:, None], inside, 0.0)
    column = invert_cdf(jnp.cumsum(inside, axis=-1), inside, point - before)
    token = block * width + column
    logp = jnp.take_along_axis(padded, token[:, None], axis=-1)[:, 0] - top[:, 0] - jnp.log(whole)
    return token, logp
