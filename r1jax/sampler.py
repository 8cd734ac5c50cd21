"""The sampler: prefill once per prompt, then decode all rows as one *wave*.

All rows start together. At chunk boundaries the host looks who is finished: finished rows are dropped (`shrink`) and the time
axis grows (`grow`), so the cost follows the text that lives, not the longest row. The noise of a token is keyed by its row's
key and its position alone: tokens do not depend on batch, mesh, chunks or compaction. A wave may leave its last rows
unfinished, and another take them up.
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
from r1jax.rollout import Begun, Rollout
from r1jax.sharding import compute_dtype, decode_specs, empty_cache, local_rows, local_shards, name_of, shard_rows

CHUNK = 16  # tokens between two looks at who is finished
LADDER = 2  # rows and time axis change by this factor
LEAST_ROWS = 16  # rows a shard keeps at least: fewer cost as much, and every size is a program to compile
LEAST_SLOTS = 64  # room for sampled tokens at the start, for the same reason
LEAST_CARRIED = 4  # rows of an earlier wave that a shard has room for
PREFIX = 16  # a shared prefix is cut to a multiple of this many tokens, and prompts are padded to one


def row_keys(
    seed: int, round_: int | np.ndarray, prompts: Sequence[int] | np.ndarray, samples: Sequence[int] | np.ndarray
) -> np.ndarray:
    """[N, 2] key data, one for each (run seed, round, prompt id, sample index): any logged sample can be drawn again."""
    base = jax.random.key(seed)

    def fold(*numbers: jax.Array) -> jax.Array:
        return jax.random.key_data(functools.reduce(jax.random.fold_in, numbers, base))

    rounds = np.broadcast_to(round_, len(prompts))
    return np.asarray(jax.vmap(fold)(*(jnp.asarray(x, jnp.uint32) for x in (rounds, prompts, samples))))


@functools.partial(jax.jit, static_argnames=("mesh", "dtype"))
def sync(params: dict, mesh: Mesh, dtype: DTypeLike | None = None) -> Weights:
    """The policy as decoding wants it: adapters folded in, cast, whole over the row axes, sharded over `tensor`, layers in a list.

    The dtype is the platform's (`compute_dtype`), if none is given.

    Routers stay float32: a choice of experts that differs from the trainer's is the largest gap there can be.
    """
    dtype = compute_dtype(mesh) if dtype is None else dtype
    params = lora.merged(params)
    params = jax.tree_util.tree_map_with_path(lambda path, x: x if "router" in name_of(path) else x.astype(dtype), params)
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


def chosen_cut(temperature: float, top_k: int, top_p: float, min_p: float) -> Cut | None:
    """The cut of a draw; None where nothing is cut, and for greedy, whose token every cut keeps."""
    if top_k < 0 or not 0 < top_p <= 1 or not 0 <= min_p <= 1:
        raise ValueError(f"top_k={top_k}, top_p={top_p}, min_p={min_p}: top_k is at least 0 (0: all), top_p in (0, 1] (1: all), min_p in [0, 1] (0: all)")
    cut = Cut(top_k, top_p, min_p)
    return None if temperature == 0 or cut == Cut() else cut


class Cohort(NamedTuple):
    """Rows that begin alike, filled up with dummies, which begin finished, so that every shard has as many.

    Attributes:
        prompts: token lists, of what is read before the first new token.
        keys: [N, 2], the same number for each prompt.
        real: rows that are no dummies; they come first.
        slots: that the longest prompt takes behind the shared prefix.
    """

    prompts: list[list[int]]
    keys: np.ndarray
    real: int
    slots: int

    @property
    def group_size(self) -> int:
        return len(self.keys) // len(self.prompts)


def filled(prompts: Sequence[Sequence[int]], keys: np.ndarray, count: int) -> Cohort:
    """A cohort of `count` prompts; the dummies are the last one again."""
    more, group_size = count - len(prompts), len(keys) // len(prompts)
    padded = [list(p) for p in prompts] + [list(prompts[-1])] * more
    return Cohort(padded, np.concatenate([keys, np.repeat(keys[-1:], more * group_size, axis=0)]), len(keys), 0)


def cohorts_of(prompts: Sequence[Sequence[int]], keys: np.ndarray, begun: Begun | None, shards: int) -> tuple[int, list[Cohort]]:
    """The length of the prefix that all prompts share, and the rows that begin with the wave and those that go on in it.

    The sizes of the latter lie on ladders: there are other rows in every wave, and every shape is a program to compile.
    """
    found = [filled(prompts, keys, len(prompts) + -len(prompts) % shards)]
    if begun:
        count = rung(-(-len(begun.keys) // shards), LEAST_CARRIED) * shards
        found.append(filled([[*p, *tokens.tolist()] for p, tokens in zip(begun.prompts, begun.tokens, strict=True)], begun.keys, count))
    prefix = shared_prefix([p for cohort in found for p in cohort.prompts])
    longest = [agreed(max(map(len, cohort.prompts))) - prefix for cohort in found]
    slots = [-(-longest[0] // PREFIX) * PREFIX, *(rung(n, LEAST_SLOTS) for n in longest[1:])]
    return prefix, [cohort._replace(slots=n) for cohort, n in zip(found, slots, strict=True)]


def sample(
    cfg: ModelConfig, weights: Weights, prompts: Sequence[Sequence[int]], keys: np.ndarray, mesh: Mesh, **options
) -> Rollout:
    """Completions of this process's prompts, N / len(prompts) of each: those of a `wave` that ends when every row has ended."""
    return wave(cfg, weights, prompts, keys, mesh, **options)[0]


def wave(
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
    begun: Begun | None = None,
    leave: int = 0,
) -> tuple[Rollout, Rollout | None]:
    """Completions of this process's prompts, N / len(prompts) of each, and what became of the rows that had begun.

    Args:
        weights: from `sync`.
        prompts: token lists; every process passes the same number.
        keys: [N, 2] from `row_keys`, question-major.
        max_tokens: a completion is cut here, the stop token included.
        temperature: 0 is greedy. Log-probabilities are of the full softmax at this temperature (greedy: at 1).
        stop_ids: tokens that end a completion; they belong to it.
        dtype: as given to `sync`.
        replay: keep the experts that each token visits, so that the trainer can send it there again; not of rows that had begun.
        attention: the backend that decodes; the mesh's own (`attention_backend`), if none is given.
        top_k, top_p, min_p: see `Cut`; for evaluation. Log-probabilities stay those of the full softmax.
        finished: called between chunks, while the next one is under way, with (row, its tokens) of the rows that ended; each
            row comes once, the truncated ones last. Rows that had begun are N, N + 1, ...
        begun: rows of an earlier wave to go on with, in one process; each a prompt of its own in the second rollout, which
            has the tokens of before, but 0 for their log-probabilities.
        leave: the wave ends when at most so many rows are unfinished: neither stopped nor `max_tokens` long.

    Raises:
        ValueError: a cut that leaves no token, no stop id, an empty prompt, or keys that do not divide by the prompts.
    """
    if not stop_ids or not prompts or not all(prompts) or len(keys) % len(prompts):
        raise ValueError(f"{len(prompts)} prompts, {len(keys)} keys, stop_ids={stop_ids}: sampling needs stop ids and whole groups of non-empty prompts")
    dtype = compute_dtype(mesh) if dtype is None else dtype
    read_own = own_reader(attention or attention_backend(mesh, cfg), mesh)
    options = dict(greedy=temperature == 0, cut=chosen_cut(temperature, top_k, top_p, min_p), stop_ids=tuple(stop_ids))
    real, shards = len(prompts), local_shards(mesh)
    prefix, parts = cohorts_of(prompts, keys, begun, shards)

    shared, shared_routes = [], None
    if prefix:
        lead = np.asarray([parts[0].prompts[0][:prefix]], np.int32)
        kept, _, shared_routes = decode.prefill(cfg, weights, lead, np.asarray([prefix], np.int32), [], 0, dtype=dtype)
        shared.append(kept)
    segments, firsts, own_routes = [], [], []
    sizes = [len(part.keys) for part in parts]
    drawn = np.zeros(sum(sizes), np.int32)  # tokens of earlier waves
    if begun:
        drawn[sizes[0] :][: len(begun.tokens)] = [len(tokens) for tokens in begun.tokens]
    for part, before in zip(parts, np.split(drawn, [sizes[0]]), strict=False):
        tokens = np.full((len(part.prompts), part.slots), pad_id, np.int32)
        for row, p in zip(tokens, part.prompts, strict=True):
            row[: len(p) - prefix] = p[prefix:]
        lengths = np.asarray([len(p) - prefix for p in part.prompts], np.int32)
        kept, logits, routes = decode.prefill(cfg, weights, *shard_rows((tokens, lengths), mesh), shared, prefix, dtype=dtype)
        segments.append([*shared, kept])
        own_routes.append(routes)
        part_keys = jax.random.wrap_key_data(shard_rows(part.keys, mesh))
        firsts.append(decode.first(logits, part_keys, temperature, shard_rows(before, mesh) if begun else None, **options))

    dummy = np.concatenate([np.arange(size) >= part.real for part, size in zip(parts, sizes, strict=True)])
    out = Collector(dummy, max_tokens, pad_id, stop_ids, own_routes[0].shape[2:] if replay else None)
    if begun:
        out.resume(sizes[0], begun.tokens)
    # [shards, n] the rows each shard still holds, for each cohort
    alive = [np.arange(size).reshape(shards, -1) + start for size, start in zip(sizes, (0, sizes[0]), strict=False)]
    order = np.concatenate(alive, axis=1).reshape(-1)
    token, logp = (np.concatenate([local_rows(part[i]) for part in firsts]) for i in (0, 1))
    out.add(order, token[order][None], logp[order][None])

    capacity = LEAST_SLOTS
    base = np.concatenate([np.repeat([len(p) for p in part.prompts], part.group_size) for part in parts]).astype(np.int32)
    all_keys = np.concatenate([part.keys for part in parts])
    caches = [[empty_cache(cfg, size, capacity, mesh, dtype) for _ in weights.layers] for size in sizes]
    on_mesh = shard_rows((token[order], ~out.live()[order], base[order], all_keys[order], drawn[order]), mesh)
    rows = Rows(
        jnp.int32(0), *on_mesh[:3], jax.random.wrap_key_data(on_mesh[3]), caches[0],
        *((on_mesh[4], caches[1]) if begun else ()),
    )  # fmt: skip
    every = shards * jax.process_count()
    clock = 0
    while True:
        live = out.live()
        most = [agreed(int(live[part].sum(axis=1).max())) for part in alive]
        if max(most) == 0 or leave and agreed(int(live.sum()), sum) <= leave:
            break
        fits = [rung(n, LEAST_ROWS) for n in most]
        fits = [n if n <= part.shape[1] // LADDER else part.shape[1] for n, part in zip(fits, alive, strict=True)]
        if fits != [part.shape[1] for part in alive]:
            keep = [np.argsort(~live[part], axis=1, kind="stable")[:, :n] for part, n in zip(alive, fits, strict=True)]
            where = shard_rows([k.astype(np.int32) for k in keep], mesh)
            rows, segments[0], *others = decode.shrink(rows, segments[0], where[0], *segments[1:], *where[1:], shards=every)
            segments[1:] = others[: len(segments) - 1]
            alive = [np.take_along_axis(part, k, axis=1) for part, k in zip(alive, keep, strict=True)]
        if clock + CHUNK > capacity:
            capacity = rung(clock + CHUNK, capacity)
            rows = decode.grow(rows, slots=capacity)
        rows, (tokens, logps, routes) = decode.decode(
            cfg, weights, segments[0], rows, temperature, *segments[1:],
            steps=CHUNK, pad_id=pad_id, dtype=dtype, replay=replay, read_own=read_own, **options, **({"shards": every} if begun else {}),
        )  # fmt: skip
        if finished:
            out.tell(finished)  # before the chunk's tokens are waited for
        fed = local_rows(routes, 1)[:, :, 0] if replay else None
        order = np.concatenate(alive, axis=1).reshape(-1)
        out.add(order, local_rows(tokens, 1), local_rows(logps, 1), fed)
        clock += CHUNK
    if finished:
        out.tell(finished)
    n = len(keys)
    rollout = Rollout([list(p) for p in prompts], *out.taken(slice(0, n)))
    went_on = begun and Rollout([list(p) for p in begun.prompts], *out.taken(slice(sizes[0], sizes[0] + len(begun.tokens))))
    if not replay:
        return rollout, went_on
    own = [row[: len(p) - prefix] for row, p in zip(local_rows(own_routes[0]), prompts, strict=False)][:real]
    both = own if shared_routes is None else [np.concatenate([local_rows(shared_routes)[0], row]) for row in own]
    return rollout._replace(routes=out.routes[:n], prompt_routes=both), went_on
