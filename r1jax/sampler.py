"""The sampler: prefill once per prompt, then decode all rows as one *wave*.

All rows start together. At chunk boundaries the host looks who is finished: finished rows are dropped (`shrink`) and the time
axis grows (`grow`), so the cost follows the text that lives, not the longest row. The noise of a token is keyed by its row's
key and its position alone: tokens do not depend on batch, mesh, chunks or compaction.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.typing import DTypeLike

from r1jax import decode, lora
from r1jax.decode import Cut, Rows, Weights
from r1jax.model.attend_choice import attention_backend, own_reader
from r1jax.model.config import ModelConfig
from r1jax.model.transformer import unstack
from r1jax.rollout import Rollout
from r1jax.sharding import compute_dtype, decode_specs, empty_cache, local_rows, local_shards, name_of, shard_rows

CHUNK = 16  # tokens between two looks at who is finished
LADDER = 2  # rows and time axis change by this factor
LEAST_ROWS = 16  # rows a shard keeps at least: fewer cost as much, and every size is a program to compile
EXACT_ROWS = 64  # below 49 rows XLA's CPU products add in another order than they do for the trainer's many
LEAST_SLOTS = 64  # room for sampled tokens at the start, for the same reason
PREFIX = 16  # a shared prefix is cut to a multiple of this many tokens, and prompts are padded to one


def row_keys(seed: int, round_: int, prompts: Sequence[int] | np.ndarray, samples: Sequence[int] | np.ndarray) -> np.ndarray:
    """[N, 2] key data, one for each (run seed, round, prompt id, sample index): any logged sample can be drawn again."""
    base = jax.random.fold_in(jax.random.key(seed), round_)
    fold = jax.vmap(lambda p, s: jax.random.key_data(jax.random.fold_in(jax.random.fold_in(base, p), s)))
    return np.asarray(fold(jnp.asarray(prompts, jnp.uint32), jnp.asarray(samples, jnp.uint32)))


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
) -> Rollout:
    """Completions of this process's prompts, N / len(prompts) of each.

    Args:
        weights: from `sync`.
        prompts: token lists; every process passes the same number.
        keys: [N, 2] from `row_keys`, question-major.
        max_tokens: a completion is cut here, the stop token included.
        temperature: 0 is greedy. Log-probabilities are of the full softmax at this temperature (greedy: at 1).
        stop_ids: tokens that end a completion; they belong to it.
        dtype: as given to `sync`.
        replay: keep the experts that each token visits, so that the trainer can send it there again.
        attention: the backend that decodes; the mesh's own (`attention_backend`), if none is given.
        top_k, top_p, min_p: see `Cut`; for evaluation. Log-probabilities stay those of the full softmax.
        finished: called between chunks, while the next one is under way, with (row, its tokens) of the rows that ended; each
            row comes once, the truncated ones last.

    Raises:
        ValueError: a cut that leaves no token, no stop id, an empty prompt, or keys that do not divide by the prompts.
    """
    if not stop_ids or not prompts or not all(prompts) or len(keys) % len(prompts):
        raise ValueError(f"{len(prompts)} prompts, {len(keys)} keys, stop_ids={stop_ids}: sampling needs stop ids and whole groups of non-empty prompts")
    dtype = compute_dtype(mesh) if dtype is None else dtype
    attention = attention or attention_backend(mesh, cfg)
    read_own, exact = own_reader(attention, mesh), attention == "exact"
    cut = chosen_cut(temperature, top_k, top_p, min_p)
    real, shards = len(prompts), local_shards(mesh)
    group_size = len(keys) // real
    padding = -real % shards  # dummy prompts so that every shard has as many; their rows begin finished
    prompts = [list(p) for p in prompts] + [list(prompts[-1])] * padding
    keys = np.concatenate([keys, np.repeat(keys[-1:], padding * group_size, axis=0)])
    rows_total = len(keys)

    prefix = shared_prefix(prompts)
    rest = [p[prefix:] for p in prompts]
    slots = -(-agreed(max(map(len, rest))) // PREFIX) * PREFIX
    segments, shared_routes = [], None
    if prefix:
        shared = np.asarray([prompts[0][:prefix]], np.int32)
        kept, _, shared_routes = decode.prefill(cfg, weights, shared, np.asarray([prefix], np.int32), [], 0, dtype=dtype, exact=exact)
        segments.append(kept)
    tokens = np.full((len(rest), slots), pad_id, np.int32)
    for row, p in zip(tokens, rest, strict=True):
        row[: len(p)] = p
    lengths = np.asarray([len(p) for p in rest], np.int32)
    kept, logits, own_routes = decode.prefill(cfg, weights, *shard_rows((tokens, lengths), mesh), segments, prefix, dtype=dtype, exact=exact)
    segments.append(kept)

    options = dict(greedy=temperature == 0, cut=cut, stop_ids=tuple(stop_ids))
    keys_on_mesh = jax.random.wrap_key_data(shard_rows(keys, mesh))
    token, logp, done = decode.first(logits, keys_on_mesh, temperature, **options)
    out = Collector(rows_total, max_tokens, pad_id, stop_ids, own_routes.shape[2:] if replay else None)
    alive = np.arange(rows_total).reshape(shards, -1)  # [shards, n] the rows each shard still holds
    dummy = np.arange(rows_total) >= real * group_size
    out.add(alive.reshape(-1), local_rows(token)[None], local_rows(logp)[None], dummy)

    capacity = LEAST_SLOTS
    base = np.repeat(lengths + prefix, group_size)
    rows = Rows(
        jnp.int32(0), token, shard_rows(out.finished | dummy, mesh), shard_rows(base.astype(np.int32), mesh), keys_on_mesh,
        [empty_cache(cfg, rows_total, capacity, mesh, jnp.float64 if exact else dtype) for _ in weights.layers],
    )  # fmt: skip
    clock = 0
    while clock + 1 < max_tokens:
        live = ~(out.finished | dummy)[alive]
        most = agreed(int(live.sum(axis=1).max()))
        if most == 0:
            break
        fits = rung(most, EXACT_ROWS if exact else LEAST_ROWS)
        if fits <= alive.shape[1] // LADDER:
            order = np.argsort(~live, axis=1, kind="stable")[:, :fits]
            rows, segments = decode.shrink(rows, segments, shard_rows(order.astype(np.int32), mesh), shards=shards * jax.process_count())
            alive = np.take_along_axis(alive, order, axis=1)
        if clock + CHUNK > capacity:
            capacity = rung(clock + CHUNK, capacity)
            rows = decode.grow(rows, slots=capacity)
        rows, (tokens, logps, routes) = decode.decode(
            cfg, weights, segments, rows, temperature, steps=CHUNK, pad_id=pad_id, dtype=dtype, replay=replay, read_own=read_own, exact=exact, **options
        )
        if finished:
            out.tell(finished, real * group_size)  # before the chunk's tokens are waited for
        fed = local_rows(routes, 1)[:, :, 0] if replay else None
        out.add(alive.reshape(-1), local_rows(tokens, 1), local_rows(logps, 1), dummy, fed)
        clock += CHUNK
    if finished:
        out.tell(finished, real * group_size)
    n = real * group_size
    rollout = Rollout(prompts[:real], out.tokens[:n], out.lengths[:n], out.logp[:n], out.finished[:n])
    if not replay:
        return rollout
    own = [row[:length] for row, length in zip(local_rows(own_routes), lengths, strict=True)][:real]
    both = own if shared_routes is None else [np.concatenate([local_rows(shared_routes)[0], row]) for row in own]
    return rollout._replace(routes=out.routes[:n], prompt_routes=both)


class Collector:
    """Sampled tokens of all rows on the host, filled chunk by chunk."""

    def __init__(
        self, rows: int, max_tokens: int, pad_id: int, stop_ids: Sequence[int], routes: tuple[int, ...] | None = None
    ):
        """
        Args:
            routes: (L, k) where routes are kept.
        """
        self.routes = None if routes is None else np.full((rows, max_tokens, *routes), -1, np.int16)
        self.tokens = np.full((rows, max_tokens), pad_id, np.int32)
        self.logp = np.zeros((rows, max_tokens), np.float32)
        self.lengths = np.zeros(rows, np.int32)
        self.finished = np.zeros(rows, bool)
        self._stop_ids = np.asarray(stop_ids)
        self._told = np.zeros(rows, bool)

    def add(
        self, alive: np.ndarray, tokens: np.ndarray, logp: np.ndarray, ignored: np.ndarray, routes: np.ndarray | None = None
    ) -> None:
        """A chunk [steps, n] of the rows `alive`, up to and with each row's first stop token.

        Args:
            routes: [steps, n, L, k] of the tokens that were fed: each the one before the token sampled in that step.
        """
        for column, row in enumerate(alive):
            if self.finished[row] or ignored[row]:
                continue
            start = self.lengths[row]
            stops = np.flatnonzero(np.isin(tokens[:, column], self._stop_ids))
            count = min(len(tokens) if not len(stops) else stops[0] + 1, self.tokens.shape[1] - start)
            self.tokens[row, start : start + count] = tokens[:count, column]
            self.logp[row, start : start + count] = logp[:count, column]
            if routes is not None:
                self.routes[row, start - 1 : start - 1 + count] = routes[:count, column]
            self.lengths[row] += count
            self.finished[row] = bool(len(stops)) and count == stops[0] + 1

    def tell(self, hear: Callable[[list[tuple[int, np.ndarray]]], None], count: int) -> None:
        """Hands on those of the first `count` rows that ended since the last time."""
        ended = self.finished | (self.lengths == self.tokens.shape[1])
        new = np.flatnonzero((ended & ~self._told)[:count])
        self._told[new] = True
        if len(new):
            hear([(int(row), self.tokens[row, : self.lengths[row]]) for row in new])
