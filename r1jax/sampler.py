"""The sampler: prefill once per prompt, then decode all rows as one *wave*.

All rows start together. At chunk boundaries the host looks who is finished: finished rows are dropped (`shrink`) and
the time axis grows (`grow`), so the cost follows the text that lives, not the longest row. A wave may leave its last
rows to the next one. The noise of a token is keyed by its row's key and its position alone: tokens do not depend on
batch, mesh, chunks, compaction or the wave.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.typing import DTypeLike

from r1jax import decode, lora
from r1jax.collector import Collector
from r1jax.decode import Cut, Rows, Weights
from r1jax.model.attend_choice import attention_backend, own_reader
from r1jax.model.config import ModelConfig
from r1jax.model.transformer import unstack
from r1jax.rollout import Rollout
from r1jax.sharding import compute_dtype, decode_specs, empty_cache, local_rows, local_shards, name_of, shard_rows

CHUNK = 16  # tokens between two looks at who is finished
LADDER = 2  # rows and time axis change by this factor
LEAST_ROWS = 4  # rows a shard keeps at least: fewer gain little, and every size is a program to compile
EXACT_ROWS = 64  # of a product: below 49 XLA's CPU backend adds in another order than for the trainer's many
LEAST_SLOTS = 64  # room for sampled tokens at the start, for the same reason
LEAST_PROMPT = 64  # room for the rest of a prompt, for the same reason; and as many rows of a product as EXACT_ROWS
LEAST_CARRIED = 128  # room for the prompt and the earlier tokens of a carried row, for the same reason
PREFIX = 16  # a shared prefix is cut to a multiple of this many tokens


def row_keys(
    seed: int, round_: int | np.ndarray, prompts: Sequence[int] | np.ndarray, samples: Sequence[int] | np.ndarray
) -> np.ndarray:
    """[N, 2] key data, one for each (run seed, round, prompt id, sample): any logged sample can be drawn again."""
    base = jax.random.key(seed)

    def fold(*numbers: jax.Array) -> jax.Array:
        return jax.random.key_data(functools.reduce(jax.random.fold_in, numbers, base))

    rounds = np.broadcast_to(round_, len(prompts))
    return np.asarray(jax.vmap(fold)(*(jnp.asarray(x, jnp.uint32) for x in (rounds, prompts, samples))))


@functools.partial(jax.jit, static_argnames=("mesh", "dtype"))
def sync(params: dict, mesh: Mesh, dtype: DTypeLike | None = None) -> Weights:
    """The policy as decoding wants it: adapters folded in, cast, whole over the row axes, sharded over `tensor`, layers
    in a list.

    The dtype is the platform's (`compute_dtype`), if none is given.

    Routers stay float32: a choice of experts that differs from the trainer's is the largest gap there can be.
    """
    dtype = compute_dtype(mesh) if dtype is None else dtype
    params = lora.merged(params)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x if "router" in name_of(path) else x.astype(dtype), params
    )
    weights = Weights({k: v for k, v in params.items() if k not in ("layers", "mtp")}, unstack(params))
    return jax.lax.with_sharding_constraint(weights, decode_specs(weights, mesh))


def agreed(value: int, reduce=max) -> int:
    """One value for all processes."""
    if jax.process_count() == 1:
        return value
    return int(reduce(multihost_utils.process_allgather(np.asarray(value)).reshape(-1).tolist()))


def shared_prefix(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the prefix all prompts of all processes share, a multiple of `PREFIX`, leaving each prompt a token."""
    limit = min(map(len, prompts)) - 1
    lead = np.resize(np.asarray(prompts[0], np.int64), 4096)
    if jax.process_count() > 1:
        lead = multihost_utils.broadcast_one_to_all(lead)
    same = 0
    while same < min(limit, len(lead)) and all(p[same] == lead[same] for p in prompts):
        same += 1
    return agreed(same, min) // PREFIX * PREFIX


def rung(value: int, least: int) -> int:
    """The smallest `least`·LADDERⁱ that holds value."""
    while least < value:
        least *= LADDER
    return least


def half_rung(value: int, least: int) -> int:
    """The smallest of `least`·(1, 3/2, 2, 3, 4, 6 ..) that holds value: few sizes, and of none a third in vain.

    Args:
        least: a power of two.
    """
    while least < value:
        least += least // 3 if least % 3 == 0 else least // 2
    return least


def chosen_cut(temperature: float, top_k: int, top_p: float, min_p: float) -> Cut | None:
    """The cut of a draw; None where nothing is cut, and for greedy, whose token every cut keeps."""
    if top_k < 0 or not 0 < top_p <= 1 or not 0 <= min_p <= 1:
        raise ValueError(
            f"top_k={top_k}, top_p={top_p}, min_p={min_p}: top_k is at least 0 (0: all), top_p in (0, 1] (1: all), "
            "min_p in [0, 1] (0: all)"
        )
    cut = Cut(top_k, top_p, min_p)
    return None if temperature == 0 or cut == Cut() else cut


class Cohort(NamedTuple):
    """Rows that begin alike, filled up so that every shard has as many.

    Attributes:
        prompts: what is read before the first new token, each for as many rows.
        rows: their numbers in the rollout, and for those that only fill up the number after the last.
    """

    prompts: list[list[int]]
    rows: np.ndarray


def cohorts_of(
    prompts: Sequence[Sequence[int]], rows: int, before: Rollout | None, leave: int, shards: int
) -> list[Cohort]:
    """The rows that begin with the wave, and where rows are carried over those that go on in it.

    Args:
        rows: of both.
        leave: room for so many in the second cohort, even if there are fewer: every size is a program to compile.
    """

    def filled(prompts: Sequence[Sequence[int]], numbers: np.ndarray, count: int, each: int) -> Cohort:
        count = -(-count // shards) * shards
        whole = [*map(list, prompts), *[list(prompts[-1])] * (count - len(prompts))]
        return Cohort(whole, np.concatenate([numbers, np.full(count * each - len(numbers), rows)]))

    old = 0 if before is None else len(before.lengths)
    group_size = (rows - old) // len(prompts)
    found = [filled(prompts, np.arange(old, rows), len(prompts), group_size)]
    begun = np.arange(0) if before is None else np.flatnonzero(before.unfinished)
    if room := max(leave, len(begun)):
        read = [[*before.prompts[i // group_size], *before.tokens[i, : before.lengths[i]].tolist()] for i in begun]
        found.append(filled(read or prompts[-1:], begun, room, 1))
    return found


def sample(
    cfg: ModelConfig,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    keys: np.ndarray,
    mesh: Mesh,
    *,
    max_tokens: int,
    temperature: float,
    stop_ids: tuple[int, ...],
    pad_id: int,
    dtype: DTypeLike | None = None,
    replay: bool = False,
    attention: str | None = None,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    finished: Callable[[list[tuple[int, np.ndarray]]], None] | None = None,
    before: Rollout | None = None,
    leave: int = 0,
) -> Rollout:
    """Completions of this process's prompts, as many of each; behind the groups of `before`, if there are any.

    Args:
        weights: from `sync`.
        prompts: token lists; every process passes the same number.
        keys: [N, 2] from `row_keys`, question-major; first those of `before`.
        max_tokens: a completion is cut here, the stop token included.
        temperature: 0 is greedy. Log-probabilities are of the full softmax at this temperature (greedy: at 1).
        stop_ids: tokens that end a completion; they belong to it.
        dtype: as given to `sync`.
        replay: keep the experts that each token visits, so that the trainer can send it there again.
        attention: the backend that decodes; the mesh's own (`attention_backend`), if none is given.
        top_k, top_p, min_p: see `Cut`; for evaluation. Log-probabilities stay those of the full softmax.
        finished: called between chunks, while the next one is under way, with (row, its tokens) of the rows that ended;
            each row comes once, the truncated ones last.
        before: groups of as many rows and the same `max_tokens`, whose unfinished rows go on in this wave. Tokens they
            have stay, with their log-probabilities. In one process, and without `replay`.
        leave: the wave ends as soon as at most so many rows are unfinished; in one process.

    Raises:
        ValueError: a cut that leaves no token, no stop id, an empty prompt, or keys that do not divide by the prompts.
    """
    count = len(keys) - (0 if before is None else len(before.lengths))
    if not stop_ids or not prompts or not all(prompts) or count % len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts, {count} keys, stop_ids={stop_ids}: "
            "sampling needs stop ids and whole groups of non-empty prompts"
        )
    dtype = compute_dtype(mesh) if dtype is None else dtype
    attention = attention or attention_backend(mesh, cfg)
    read_own, exact = own_reader(attention, mesh), attention == "exact"
    options = dict(greedy=temperature == 0, cut=chosen_cut(temperature, top_k, top_p, min_p), stop_ids=tuple(stop_ids))
    shards = local_shards(mesh)
    parts = cohorts_of(prompts, len(keys), before, leave, shards)
    count, keys = len(keys), np.concatenate([keys, keys[-1:]])

    prefix = shared_prefix([p for part in parts for p in part.prompts])
    if exact and prefix < EXACT_ROWS:
        prefix = 0  # its one row would be too short a product
    shared, shared_routes = [], None
    if prefix:
        lead = np.asarray([prompts[0][:prefix]], np.int32)
        length = np.asarray([prefix], np.int32)
        kept, _, shared_routes = decode.prefill(cfg, weights, lead, length, [], 0, dtype=dtype, exact=exact)
        shared.append(kept)
    longest = [agreed(max(map(len, part.prompts))) - prefix for part in parts]
    room = [half_rung(longest[0], LEAST_PROMPT), *(rung(length, LEAST_CARRIED) for length in longest[1:])]
    out = Collector(count, max_tokens, pad_id, stop_ids, before)
    begun, base, segments, routes = out.lengths.copy(), np.zeros(count + 1, np.int32), [], []
    for part, slots in zip(parts, room, strict=True):
        rest = [p[prefix:] for p in part.prompts]
        tokens = np.full((len(rest), slots), pad_id, np.int32)
        for row, p in zip(tokens, rest, strict=True):
            row[: len(p)] = p
        lengths = np.asarray([len(p) for p in rest], np.int32)
        batch = shard_rows((tokens, lengths), mesh)
        kept, logits, own_routes = decode.prefill(cfg, weights, *batch, shared, prefix, dtype=dtype, exact=exact)
        segments.append([*shared, kept])
        routes.append(own_routes)
        base[part.rows] = np.repeat(lengths + prefix, len(part.rows) // len(rest))
        noise = jax.random.wrap_key_data(shard_rows(keys[part.rows], mesh))
        at = (shard_rows(begun[part.rows], mesh),) if len(parts) > 1 else ()
        token, logp, _ = decode.first(logits, noise, temperature, *at, **options)
        out.add(part.rows, local_rows(token)[None], local_rows(logp)[None])
    if replay:
        out.keep_routes(routes[0].shape[2:])

    alive = [part.rows.reshape(shards, -1) for part in parts]  # [shards, n] the rows each shard still holds
    order = np.concatenate(alive, axis=1).reshape(-1)
    last = out.tokens[order, out.lengths[order] - 1]
    on_mesh = shard_rows((last, ~out.live()[order], base[order], keys[order], begun[order]), mesh)
    capacity, clock, every = LEAST_SLOTS, 0, shards * jax.process_count()
    caches = [
        [empty_cache(cfg, len(part.rows), capacity, mesh, jnp.float64 if exact else dtype) for _ in weights.layers]
        for part in parts
    ]
    rows = Rows(jnp.int32(0), *on_mesh[:3], jax.random.wrap_key_data(on_mesh[3]), caches[0])
    if len(parts) > 1:
        rows = rows._replace(begun=on_mesh[4], carried=caches[1])
        options |= dict(carried=segments[1])
    segments = segments[0]
    while True:
        live = out.live()
        most = agreed(int(live[alive[0]].sum(axis=1).max()))
        if (leave or most == 0) and live.sum() <= leave:
            break
        fits = rung(most, LEAST_ROWS)
        if fits <= alive[0].shape[1] // LADDER:
            keep = np.argsort(~live[alive[0]], axis=1, kind="stable")[:, :fits]
            rows, segments = decode.shrink(rows, segments, shard_rows(keep.astype(np.int32), mesh), shards=every)
            alive[0] = np.take_along_axis(alive[0], keep, axis=1)
        if clock + CHUNK > capacity:
            capacity = rung(clock + CHUNK, capacity)
            rows = decode.grow(rows, slots=capacity)
        rows, (tokens, logps, fed) = decode.decode(
            cfg, weights, segments, rows, temperature, steps=CHUNK, pad_id=pad_id, dtype=dtype, replay=replay,
            read_own=read_own, exact=exact, least=EXACT_ROWS if exact else 0, shards=every, **options,
        )  # fmt: skip
        if finished:
            out.tell(finished)  # before the chunk's tokens are waited for
        order = np.concatenate(alive, axis=1).reshape(-1)
        fed = local_rows(fed, 1)[:, :, 0] if replay else None
        out.add(order, local_rows(tokens, 1), local_rows(logps, 1), fed)
        clock += CHUNK
    if finished:
        out.tell(finished)
    asked = [*(before.prompts if before else []), *map(list, prompts)]
    rollout = Rollout(asked, *(x[:count] for x in (out.tokens, out.lengths, out.logp, out.finished)))
    if not replay:
        return rollout
    own = [row[: len(p) - prefix] for row, p in zip(local_rows(routes[0]), prompts, strict=False)]
    both = own if shared_routes is None else [np.concatenate([local_rows(shared_routes)[0], row]) for row in own]
    return rollout._replace(routes=out.routes[:count], prompt_routes=both)
