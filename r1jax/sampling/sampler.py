"""Runs the sampler, which prefills each prompt once, then decodes all rows together as one *wave*.

A row is one completion. All rows start together. After every chunk of tokens, the host checks which rows have
finished. `shrink` drops finished rows, and `grow` enlarges the caches. So the cost depends on the lengths of all rows,
not on the longest row alone. A wave may leave its last unfinished rows to the next wave. The noise of a token depends
only on the row's key and the token's position. So tokens do not depend on batch, mesh, chunks, dropped rows or wave.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from r1jax.distributed import beat, gather_numbers, stop_together
from r1jax.distributed.signals import asked
from r1jax.model import lora
from r1jax.model.buckets import half_rung, rung
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend, own_reader
from r1jax.model.transformer import divide_layers
from r1jax.sampling import programs
from r1jax.sampling.cohorts import make_cohorts, rows_of_process
from r1jax.sampling.collector import Collector, Follower
from r1jax.sampling.decoder import Chunk, Decoder, Sizes, choose_sizes
from r1jax.sampling.drawing import Cut
from r1jax.sampling.programs import Decoding, Rows, Weights
from r1jax.sampling.rollout import Rollout
from r1jax.sharding import (
    compute_dtype,
    decode_specs,
    fetch,
    held_rows,
    held_shards,
    name_of,
    row_holders,
    row_shards,
    shard_held_rows,
    shard_rows,
)

PREFIX = 16  # a shared prefix is rounded down to a multiple of this many tokens


class Sampling(NamedTuple):
    """Sampling settings.

    Attributes:
        max_tokens: maximum length of a completion, the stop token included.
        temperature: sampling temperature; 0 takes the most likely token. Log-probabilities are taken from the full
            softmax at this temperature; at temperature 1 if `temperature` is 0.
        top_k, top_p, min_p: restrict the tokens that may be drawn (see `Cut`); for evaluation only. Log-probabilities
            are still taken from the full softmax.
        stop_ids: tokens that end a completion. The stop token is part of the completion.
        pad_id: the token that fills a row after the end of its completion.
        attention: attention backend for decoding; if None, the backend that `attention_backend` chooses.
        dtype: dtype of the network, the same as given to `sync`; if None, the platform's dtype (`compute_dtype`).
        replay: records the experts that each token is routed to, so that the trainer can route it to the same experts.
        sizes: initial sizes of the compiled programs, such as the tokens of a chunk; if None, the sizes that
            `choose_sizes` chooses.
        wave_rows: largest number of rows (completions) sampled at once, over all processes (see `waves`); 0: no limit.
    """

    max_tokens: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop_ids: tuple[int, ...] = ()
    pad_id: int = 0
    attention: str | None = None
    dtype: DTypeLike | None = None
    replay: bool = False
    sizes: Sizes | None = None
    wave_rows: int = 0


class Partial(NamedTuple):
    """Settings of partial rollouts for one call of `sample`, which samples one wave.

    The wave continues unfinished rows (completions) of earlier waves, and may leave some rows unfinished itself.

    Attributes:
        before: rollout of earlier waves; None if there is no earlier wave. It must have the same number of completions
            per prompt and the same `max_tokens` as this wave. Its unfinished rows continue in this wave and keep their
            tokens and log-probabilities. `before` cannot be combined with `Sampling.replay`.
        leave: the wave ends as soon as at most this many rows are unfinished.
    """

    before: Rollout | None = None
    leave: int = 0


WHOLE = Partial()  # continues no row of an earlier wave, and leaves no row to a later wave


@functools.partial(jax.jit, static_argnames=("mesh", "dtype"))
def sync(params: dict, mesh: Mesh, dtype: DTypeLike | None = None) -> Weights:
    """Prepares a policy's parameters for decoding.

    Casts the parameters to `dtype`, and divides the layers into a list of layers or of stacks of layers (see
    `divide_layers`). Shards the weights over the mesh axes `tensor` and `expert`, and gives every shard of rows a copy.
    Routers stay float32, because sampler and trainer differ most in
    log-probabilities where they choose different experts. If `dtype` is float32, low-rank adapters are added into the
    float32 kernels. In all other cases adapters stay separate, as in the trainer: bfloat16 has 8 significant bits, so a
    kernel would lose the small change that an adapter makes.

    Args:
        dtype: dtype of the weights; if None, the platform's dtype (`compute_dtype`).
    """
    dtype = compute_dtype(mesh) if dtype is None else dtype
    if jnp.dtype(dtype) == jnp.float32:
        params = lora.fold_adapters(params, only=jnp.float32)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x if "router" in name_of(path) else x.astype(dtype), params
    )
    weights = Weights({k: v for k, v in params.items() if k not in ("layers", "mtp")}, divide_layers(params))
    return jax.lax.with_sharding_constraint(weights, decode_specs(weights, mesh))


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Returns how many first tokens all prompts share, rounded down to a multiple of `PREFIX`.

    At least one token of every prompt follows the shared prefix.
    """
    limit, lead, same = min(map(len, prompts)) - 1, prompts[0], 0
    while same < limit and all(p[same] == lead[same] for p in prompts):
        same += 1
    return same // PREFIX * PREFIX


def chosen_cut(sampling: Sampling) -> Cut | None:
    """Returns the `Cut` that the settings ask for; None if every token may be drawn.

    Also returns None at temperature 0, because every cut keeps the most likely token.

    Raises:
        ValueError: top_k, top_p or min_p is out of range.
    """
    cut = top_k, top_p, min_p = Cut(sampling.top_k, sampling.top_p, sampling.min_p)
    if top_k < 0 or not 0 < top_p <= 1 or not 0 <= min_p <= 1:
        raise ValueError(
            f"top_k={top_k}, top_p={top_p}, min_p={min_p}: top_k must be at least 0 (0 keeps all tokens), top_p "
            "must lie in (0, 1] (1 keeps all), and min_p must lie in [0, 1] (0 keeps all)"
        )
    return None if sampling.temperature == 0 or cut == Cut() else cut


def sample(
    cfg: ModelConfig,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    keys: np.ndarray,
    mesh: Mesh,
    sampling: Sampling,
    finished: Callable[[list[tuple[int, np.ndarray]]], None] | Follower | None = None,
    partial: Partial = WHOLE,
) -> Rollout:
    """Samples completions, the same number for each prompt.

    Every process must call this function, with the same arguments.

    Rows (completions) are divided among the row shards of the mesh, so the completions of one prompt may lie on several
    processes. Every process gets the whole rollout. `Rollout.mine` names the rows that belong to this process. The
    rows of `partial.before` come first. The rows of `prompts` follow.

    Args:
        weights: parameters from `sync`.
        prompts: token lists.
        keys: [N, 2] random keys from `row_keys`, one per row. The keys of the rows of `partial.before` come first. The
            keys of `prompts` follow, with all keys of one prompt next to each other.
        finished: called between chunks, while the next chunk runs, with a list of (row index, tokens) of this
            process's rows that ended. Each row is passed once. Truncated rows are passed too. A `Follower` may be given
            instead.
        partial: rows that this wave continues, and how many rows it may leave unfinished.

    Raises:
        Stop: Ctrl-C or SIGTERM asked to stop, inside a `with distributed.stop_requests()` block.
        ValueError: `top_k`, `top_p` or `min_p` out of range, no prompt, no stop id, an empty prompt, or a number of
            keys of `prompts` that is not a multiple of the number of prompts.
    """
    (before, leave), stop_ids = partial, sampling.stop_ids
    sizes = sampling.sizes or choose_sizes(weights, sampling.max_tokens)
    count = len(keys) - (0 if before is None else len(before.lengths))
    if not stop_ids or not prompts or not all(prompts) or count % len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts ({sum(not prompt for prompt in prompts)} of them empty), {count} keys and "
            f"stop_ids={stop_ids} were given. Give prompts that are not empty, the same number of keys for each "
            "prompt, and at least one stop id"
        )
    dtype = compute_dtype(mesh) if sampling.dtype is None else sampling.dtype
    attention = sampling.attention or attention_backend(mesh, cfg)
    read_own, exact = own_reader(attention, mesh), attention == "exact"
    options = dict(greedy=sampling.temperature == 0, cut=chosen_cut(sampling), stop_ids=tuple(stop_ids))
    shards, holders, count = row_shards(mesh), row_holders(mesh), len(keys)
    parts = make_cohorts(prompts, count, before, leave, shards)
    held = [part.rows[held_shards(mesh)] for part in parts]  # [shards of this process, n] for each cohort
    waited = np.ones(count + 1, bool)  # rows that were finished before this wave, which no shard holds
    waited[np.concatenate([part.rows.reshape(-1) for part in parts] + [[count]])] = False
    numbers = np.union1d(np.concatenate([rows.reshape(-1) for rows in held]), np.flatnonzero(waited))
    numbers = numbers[numbers < count]
    mine = rows_of_process(parts, count, holders, jax.process_index())
    keys = np.concatenate([keys, keys[-1:]])

    prefix = shared_prefix([p for part in parts for p in part.prompts])
    if exact and prefix < sizes.exact_rows:
        prefix = 0  # a product of so few rows adds in another order, see `Sizes`
    shared, shared_routes = [], None
    if prefix:
        lead = np.asarray([prompts[0][:prefix]], np.int32)
        length = np.asarray([prefix], np.int32)
        kept, _, shared_routes = programs.prefill(cfg, weights, lead, length, [], dtype=dtype, exact=exact)
        shared.append(kept)
    longest = [max(map(len, part.prompts)) - prefix for part in parts]
    room = [half_rung(longest[0], sizes.least_prompt), *(rung(length, sizes.least_carried) for length in longest[1:])]
    out = Collector(numbers, mine, sampling.max_tokens, sampling.pad_id, stop_ids, before)
    begun = np.zeros(count + 1, np.int32)
    if before is not None:
        begun[: len(before.lengths)] = before.lengths
    base, segments, routes = np.zeros(count + 1, np.int32), [], []
    for part, of, slots in zip(parts, held, room, strict=True):
        rest = [p[prefix:] for p in part.prompts]
        tokens = np.full((len(rest), slots), sampling.pad_id, np.int32)
        for row, p in zip(tokens, rest, strict=True):
            row[: len(p)] = p
        lengths = np.asarray([len(p) for p in rest], np.int32)
        batch = shard_rows((tokens, lengths), mesh)
        kept, logits, own_routes = programs.prefill(
            cfg, weights, *batch, shared, dtype=dtype, exact=exact, shards=shards
        )
        segments.append([*shared, kept])
        routes.append(own_routes)
        order = part.rows.reshape(-1)
        base[order] = np.repeat(lengths + prefix, len(order) // len(rest))
        noise = jax.random.wrap_key_data(shard_rows(keys[order], mesh))
        at = (shard_rows(begun[order], mesh),) if len(parts) > 1 else ()
        token, logp, _ = programs.first(logits, noise, sampling.temperature, *at, **options, shards=shards)
        out.add(np.searchsorted(numbers, of.reshape(-1)), held_rows(token)[None], held_rows(logp)[None])
    if sampling.replay:
        out.keep_routes(routes[0].shape[2:])

    order = np.concatenate(held, axis=1).reshape(-1)
    alive = [np.searchsorted(numbers, of) for of in held]  # [shards, n] places in `numbers` of the rows still held
    place = np.concatenate(alive, axis=1).reshape(-1)
    last = out.tokens[place, out.lengths[place] - 1]
    on_mesh = shard_held_rows((last, ~out.live()[place], base[order], keys[order], begun[order]), mesh)
    kind, slots = jnp.float64 if exact else dtype, sizes.least_slots
    caches = [programs.empty_caches(cfg, weights, part.rows.size, slots, mesh, kind) for part in parts]
    rows = Rows(jnp.int32(0), *on_mesh[:3], jax.random.wrap_key_data(on_mesh[3]), caches[0])
    if len(parts) > 1:
        rows = rows._replace(begun=on_mesh[4], carried=caches[1])
    how = Decoding(
        steps=sizes.chunk,
        pad_id=sampling.pad_id,
        dtype=dtype,
        replay=sampling.replay,
        read_own=read_own,
        exact=exact,
        least=sizes.exact_rows if exact else 0,
        shards=shards,
        **options,
    )
    decoder = Decoder(cfg, weights, mesh, segments, rows, alive, sizes)
    ahead = mesh.devices.flat[0].platform != "cpu" if sizes.ahead is None else sizes.ahead
    running: Chunk | None = None  # a chunk that was dispatched and not read
    while True:
        live = out.live()
        # Rows that will be unfinished after the running chunk, as far as one can know.
        needs = live if running is None else live & (out.lengths + sizes.chunk < sampling.max_tokens)
        beat("sampling")
        counts = [live[alive[0]].sum(axis=1).max(), (live & out.own).sum(), (needs & out.own).sum(), asked()]
        counts = gather_numbers(counts)
        most, unfinished, needed = int(counts[:, 0].max()), int(counts[:, 1].sum()), int(counts[:, 2].sum())
        stop_together(int(counts[:, 3].max()))
        if unfinished <= leave:
            break
        chunk = None
        if needed:
            decoder.fit(live, most)
            chunk = decoder.advance(sampling.temperature, how)
        if finished:
            out.tell(finished)  # before waiting for tokens
        if ahead and chunk is not None:
            running, chunk = chunk, running
        else:
            running, chunk = None, chunk or running
        if chunk is not None:
            chunk.collect(out)
    if finished:
        out.tell(finished)
    whole = [*(before.prompts if before else []), *map(list, prompts)]
    everywhere = all(len(holding) == jax.process_count() for holding in holders)
    rollout = Rollout(whole, **(out.rows() if everywhere else out.gather(count, sampling.pad_id)), mine=mine)
    if not sampling.replay:
        return rollout
    parts_of_group = len(parts[0].prompts) // len(prompts)
    read = fetch(routes[0])[:: max(parts_of_group, 1)]
    own = [row[: len(p) - prefix] for row, p in zip(read, prompts, strict=False)]
    both = own if shared_routes is None else [np.concatenate([fetch(shared_routes)[0], row]) for row in own]
    return rollout._replace(prompt_routes=both)
