"""Defines the sampler's compiled programs: `prefill`, `first` (the first token), `decode`, `drop_rows` (for `shrink`),
and `grow_layer` (for `grow`, which enlarges caches).

A row is one completion. A wave is the set of rows that are sampled together. The cached keys and values have three
levels: the prefix that all prompts share, the rest of each prompt (stored once for all completions of that prompt), and
the tokens that each row sampled in this wave (the row's own cache). All rows have sampled the same number of tokens
since the wave began. So one scalar, `clock`, counts these tokens for all rows, and a `dynamic_update_slice` writes keys
and values at slot `clock` of every row's own cache. Only the prompts differ in length.

Weights and caches are lists with an entry for each layer; in a model of many layers, with an entry for each stack of
layers (see `config.stack_size`). The arrays of a stack have a leading layer axis.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from r1jax.model.attention import Attend
from r1jax.model.cache import ReadOwn, Segment, Sharing, attend_decode, empty_cache, pad_slots, pick, widen
from r1jax.model.config import ModelConfig
from r1jax.model.prefill import attend_prefill, prompts_at_once
from r1jax.model.transformer import depth, logits, step
from r1jax.sampling import cohorts
from r1jax.sampling.drawing import Cut, draw


class Weights(NamedTuple):
    """Parameters for decoding, made by `sampler.sync`.

    Attributes:
        params: all parameters outside the layers.
        layers: the parameters of each layer or stack of layers, from `transformer.divide_layers`.
    """

    params: dict
    layers: list[dict]


class Rows(NamedTuple):
    """The state of a wave (the rows that are sampled together) between two chunks of tokens.

    `decode` donates the arrays of its `Rows` to XLA, so a `Rows` can be decoded only once.

    Attributes:
        clock: [] number of filled slots in each row's own cache, which holds the tokens that the row sampled in
            this wave.
        token: [N] last sampled token of each row, not yet in the cache.
        done: [N] whether the row sampled a stop token.
        base: [N] number of tokens that the row had before this wave: its prompt and the tokens of earlier waves. So it
            is the position in the sequence of the first token in the row's own cache (slot 0).
        key: [N] the row's random key.
        cache: each new row's own cache; new rows are those that this wave began. For each layer or stack, (keys
            [.., n, K, E, S], values [.., n, K, S, E]) for n new rows, K heads of width E, and S slots. The values are
            None for latent attention.
        begun: [N] number of tokens that the row sampled in earlier waves; None if all rows are new.
        carried: like `cache`, for the rows that an earlier wave began (the second cohort of module `cohorts`); None if
            there are no such rows.
    """

    clock: Int[Array, ""]
    token: Int[Array, N]
    done: Bool[Array, N]
    base: Int[Array, N]
    key: Array
    cache: list[tuple[Array, Array | None]]
    begun: Int[Array, N] | None = None
    carried: list[tuple[Array, Array | None]] | None = None


@functools.partial(jax.jit, static_argnames=("cfg", "dtype", "exact", "shards"))
def prefill(
    cfg: ModelConfig,
    weights: Weights,
    tokens: Int[Array, "P Q"],
    length: Int[Array, P],
    before: list[list[Segment]],
    *,
    dtype: DTypeLike,
    exact: bool = False,
    shards: int = 1,
) -> tuple[list[Segment], Float[Array, "P V"], Int[Array, "P Q L k"] | None]:
    """Runs the network over P prompts, as many at once as `prompts_at_once` allows.

    Args:
        tokens: [P, Q] tokens of the prompts, padded on the right.
        length: [P] number of tokens of each prompt.
        before: cached segments that precede all prompts, such as a shared prefix; each is a list over the layers or
            stacks.
        exact: computes attention in float64.
        shards: number of row shards (see `sharding.row_shards`) that the prompts lie on.

    Returns:
        Keys and values of the prompts, a `Segment` for each layer or stack; logits after each prompt's last token; and
        the experts that each token was routed to, None if the model has no experts.
    """
    lengths = [s[0].length for s in before]  # of a segment that precedes all prompts: one number, in each layer
    start = sum((length[(0,) * length.ndim] for length in lengths), jnp.int32(0))

    def run(tokens: Array, length: Array) -> tuple[list[Segment], Array, Array | None]:
        positions = start + jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

        def attend(i: int, cache: None, layer: Array | None) -> Attend:
            return attend_prefill([s[i] for s in before], length, layer, exact=exact)

        hidden, kept, routes = step(cfg, weights.params, weights.layers, tokens, positions, attend, dtype=dtype)
        last = jnp.take_along_axis(hidden, (length - 1)[:, None, None], axis=1)[:, 0]
        return kept, logits(cfg, weights.params, last), by_token(routes)

    count = tokens.shape[0] // shards
    blocks = -(-count // prompts_at_once(cfg, tokens.shape[1]))
    if blocks == 1:
        return run(tokens, length)
    size = -(-count // blocks)
    prompts = jax.tree.map(lambda x: x.reshape(shards, count, *x.shape[1:]), (tokens, length))
    shapes = jax.eval_shape(run, tokens, length)
    # Axis of the prompts in each result: the segments of a stack have the axis of the layers before it.
    axes = [jax.tree.map(lambda _, s=s: s.k.ndim - 4, s) for s in shapes[0]], *jax.tree.map(lambda _: 0, shapes[1:])

    def block(i: Array, out: Any) -> Any:
        first = jnp.minimum(i * size, count - size)  # the last block may begin inside the one before
        some = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, first, size, axis=1), prompts)
        found = run(*jax.tree.map(lambda x: x.reshape(shards * size, *x.shape[2:]), some))
        return jax.tree.map(
            lambda whole, x, axis: jax.lax.dynamic_update_slice_in_dim(
                whole, x.reshape(*x.shape[:axis], shards, size, *x.shape[axis + 1 :]), first, axis=axis + 1
            ),
            out,
            found,
            axes,
        )

    out = jax.tree.map(
        lambda x, axis: jnp.zeros((*x.shape[:axis], shards, count, *x.shape[axis + 1 :]), x.dtype), shapes, axes
    )
    out = jax.lax.fori_loop(0, blocks, block, out)
    return jax.tree.map(lambda x, axis: x.reshape(*x.shape[:axis], shards * count, *x.shape[axis + 2 :]), out, axes)


def by_token(routes: Int[Array, "L N Q k"] | None) -> Int[Array, "N Q L k"] | None:
    """Returns `routes` (the k experts of each token in each of L layers) as [N, Q, L, k] int16, small enough to send to
    the host. Returns None if `routes` is None.
    """
    return None if routes is None else jnp.moveaxis(routes, 0, 2).astype(jnp.int16)


@functools.partial(jax.jit, static_argnames=("greedy", "cut", "stop_ids", "shards"))
def first(
    logits: Float[Array, "P V"],
    keys: Array,
    temperature: Array,
    begun: Int[Array, N] | None = None,
    *,
    greedy: bool,
    stop_ids: tuple[int, ...],
    cut: Cut | None = None,
    shards: int = 1,
) -> tuple[Array, Array, Array]:
    """Samples the first token of each row in this wave.

    Args:
        logits: logits after the last token of each prompt; each prompt serves N / P rows.
        keys: [N] random keys of the rows.
        temperature, greedy, cut, shards: see `draw`.
        begun: [N] number of tokens that the row sampled in earlier waves, which is the position of the new token in its
            completion; None if all rows are new.
        stop_ids: tokens that end a row.

    Returns:
        [N] tokens, [N] log-probabilities, and [N] whether the token ends the row.
    """
    repeated = jnp.repeat(logits, keys.shape[0] // logits.shape[0], axis=0)
    position = jnp.int32(0) if begun is None else begun
    token, logp = draw(repeated, keys, position, temperature, greedy=greedy, cut=cut, shards=shards)
    return token, logp, jnp.isin(token, jnp.asarray(stop_ids))


def empty_caches(
    cfg: ModelConfig, weights: Weights, rows: int, slots: int, mesh: Mesh, dtype: DTypeLike
) -> list[tuple[Array, Array | None]]:
    """Returns an empty cache for each layer or stack of layers. The arguments are those of `empty_cache`."""
    return [empty_cache(cfg, rows, slots, mesh, dtype, depth(layers)) for layers in weights.layers]


class Decoding(NamedTuple):
    """Static arguments of `decode`. With the model and the array shapes, they determine its compiled program.

    Attributes:
        steps: tokens to sample per row.
        greedy: takes the most likely token instead of drawing a token.
        stop_ids: tokens that end a row.
        pad_id: the token that a finished row emits.
        dtype: dtype of the network.
        cut: which tokens may be drawn; if None, all tokens.
        replay: whether `decode` also returns the experts that its input tokens were routed to.
        read_own: kernel that reads each row's own cache, which holds its sampled tokens (see `attend_decode`); None
            uses XLA.
        exact: computes attention in float64. The rows' own caches are float64 already; the prompts' segments are cast
            to float64 once for all steps.
        least: minimum number of rows that a shard has in a matrix product with weights. If a shard has fewer, spare
            rows are added, and their results are dropped.
        shards: number of row shards (see `sharding.row_shards`); used only if there are carried rows (those that an
            earlier wave began), spare rows or a cut.
    """

    steps: int
    greedy: bool
    stop_ids: tuple[int, ...]
    pad_id: int
    dtype: DTypeLike
    cut: Cut | None = None
    replay: bool = False
    read_own: ReadOwn | None = None
    exact: bool = False
    least: int = 0
    shards: int = 1


@functools.partial(jax.jit, static_argnames=("cfg", "how"), donate_argnames=("rows",))
def decode(
    cfg: ModelConfig,
    weights: Weights,
    segments: list[list[Segment]],
    rows: Rows,
    temperature: Array,
    how: Decoding,
    carried: list[list[Segment]] | None = None,
) -> tuple[Rows, tuple[Array, Array, Array | None]]:
    """Samples `how.steps` more tokens per row.

    Args:
        segments: the cached prompts of the new rows, as consecutive segments. A segment is a list with one entry for
            each layer or stack of layers.
        rows: state of the wave. Its arrays are donated to XLA, so they cannot be used again.
        carried: cached prompts of the rows in `rows.carried`, in the form of `segments`; None if there is no such row.

    Returns:
        The new state, and (tokens, log-probabilities, experts) of the steps. Tokens and log-probabilities are [steps,
        N]; a finished row gets `how.pad_id` and 0. The experts, [steps, N, 1, L, k], are those that each step's input
        token was routed to; the input token is the one that the previous step sampled. The experts are None without
        `how.replay`.
    """
    shards = how.shards
    read = [segments] if carried is None else [segments, carried]
    read = list(map(widen, read)) if how.exact else read

    def one(rows: Rows, _: None) -> tuple[Rows, tuple[Array, Array, Array | None]]:
        caches = [rows.cache] if carried is None else [rows.cache, rows.carried]
        sizes = [cache[0][0].shape[-4] for cache in caches]
        spare = max(how.least * shards - sum(sizes), 0)
        every = [*sizes, spare] if spare else sizes
        each = list(zip(read, cohorts.split(rows.done, sizes, shards), strict=True))

        def filled(x: Array) -> Array:
            return cohorts.append_spare_rows(x, spare, shards) if spare else x

        def ours(x: Array) -> Array:
            return cohorts.split(x, [sum(sizes), spare], shards)[0] if spare else x

        def attend(i: int, caches: tuple, layer: Array | None) -> Attend:
            attends = [
                attend_decode([s[i] for s in segments], *cache, rows.clock, done, layer, read_own=how.read_own)
                for (segments, done), cache in zip(each, caches, strict=False)
            ]
            return cohorts.attend_each([*attends, cohorts.attend_nothing][: len(every)], every, shards)

        nothing = [None] * len(rows.cache)  # spare rows have no cache
        of_layers = list(zip(*[*caches, nothing][: len(every)], strict=True))
        positions, tokens = filled(rows.base + rows.clock)[:, None], filled(rows.token)[:, None]
        hidden, kept, routes = step(
            cfg, weights.params, weights.layers, tokens, positions, attend, of_layers, dtype=how.dtype
        )
        drawn = rows.clock + 1 if rows.begun is None else filled(rows.clock + 1 + rows.begun)
        found = logits(cfg, weights.params, hidden[:, 0]), filled(rows.key), drawn, temperature
        token, logp = map(ours, draw(*found, greedy=how.greedy, cut=how.cut, shards=shards))
        token = jnp.where(rows.done, how.pad_id, token)
        logp = jnp.where(rows.done, 0.0, logp)
        done = rows.done | jnp.isin(token, jnp.asarray(how.stop_ids))
        cache, *more = map(list, zip(*(found[: len(sizes)] for found in kept), strict=True))
        rows = rows._replace(
            clock=rows.clock + 1, token=token, done=done, cache=cache, carried=more[0] if more else None
        )
        return rows, (token, logp, ours(by_token(routes)) if how.replay else None)

    return jax.lax.scan(one, rows, None, length=how.steps)


class Kept(NamedTuple):
    """Says which new rows `shrink` keeps. It always keeps all carried rows (those that an earlier wave began).

    Attributes:
        rows: [shards, n] new rows to keep, in order. Rows are numbered from 0 in each shard.
        entries: [shards, n] the number of the cached prompt that each kept row reads. Cached prompts are numbered from
            0 in each shard. Used only if `sharing` is None.
        sharing: says which kept row reads which cached prompt. If None, every kept row gets a copy of its prompt.
    """

    rows: Int[Array, "shards n"]
    entries: Int[Array, "shards n"]
    sharing: Sharing | None = None


def shrink(rows: Rows, segments: list[list[Segment]], kept: Kept) -> tuple[Rows, list[list[Segment]]]:
    """Drops rows that began in this wave, except those that `kept` names.

    Returns the state and the cached prompts of the remaining rows.

    The arguments cannot be used again: the caches are copied layer by layer (or stack by stack), and the old cache of a
    layer is freed before the next layer is copied. So this function needs memory for the old caches and one new layer.

    Args:
        segments: cached prompts of the rows that began in this wave. A segment with a single entry for all rows stays
            as it is.
        kept: the rows to keep.
    """
    state = small = rows._replace(cache=[], carried=None)
    apart = [s for s in segments if s[0].entries > 1]
    for i in range(len(rows.cache)):
        copied = [s[i][:3] for s in apart] if kept.sharing is None else []
        small, rows.cache[i], found = drop_rows(state, rows.cache[i], copied, kept.rows, kept.entries)
        for j, s in enumerate(apart):
            s[i] = s[i]._replace(sharing=kept.sharing) if kept.sharing is not None else Segment(*found[j])
        del copied, found
    return small._replace(cache=rows.cache, carried=rows.carried), segments


@jax.jit
def drop_rows(
    state: Rows,
    cache: tuple[Array, Array | None],
    prompts: list[tuple],
    keep: Int[Array, "shards n"],
    entries: Int[Array, "shards n"],
) -> tuple[Rows, tuple[Array, Array | None], list[tuple]]:
    """Returns (state, cache, prompts) without the new rows that `keep` does not name.

    Caches are those of one layer or one stack. One program copies them all, so it also returns the state each time,
    which is small.

    Args:
        state: the state, without caches.
        cache: cache of the new rows.
        prompts: (k, v, length) of the segments in which each kept row gets an entry of its own.
        keep, entries: as in `Kept`.
    """
    total, count, shards = state.token.shape[0], cache[0].shape[-4], keep.shape[0]

    def of_both(x: Array) -> Array:
        ours, *others = cohorts.split(x, [count] if total == count else [count, total - count], shards)
        return cohorts.join([pick(ours, keep), *others], shards)

    def of_layers(tree: tuple, index: Array) -> tuple:
        some = functools.partial(pick, index=index)
        return jax.tree.map(some if tree[0].ndim == 4 else jax.vmap(some), tree)

    token, done, base, key, begun = jax.tree.map(of_both, (*state[1:5], state.begun))
    small = Rows(state.clock, token, done, base, key, [], begun)
    return small, of_layers(cache, keep), [of_layers(s, entries) for s in prompts]


def grow(rows: Rows, *, slots: int) -> Rows:
    """Returns the state with every row's cache of sampled tokens enlarged to `slots` slots.

    The argument cannot be used again: the old cache of a layer (or stack) is freed before the next layer is enlarged.
    """
    for cache in (rows.cache, rows.carried or []):
        for i, layer in enumerate(cache):
            cache[i] = grow_layer(*layer, slots=slots)
            del layer
    return rows


@functools.partial(jax.jit, static_argnames=("slots",))
def grow_layer(k: Array, v: Array | None, *, slots: int) -> tuple[Array, Array | None]:
    """Returns the cache of one layer or stack of layers, enlarged to hold `slots` sampled tokens."""
    return pad_slots(k, v, slots)
