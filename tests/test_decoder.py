"""Dropping rows and enlarging caches: the tokens stay, memory is that of one copy, and prompts stay shared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.model.attention import How
from r1jax.model.cache import Part, Segment, Sharing, empty_cache, sums
from r1jax.sampling import programs
from r1jax.sampling.cohorts import share_entries
from r1jax.sampling.programs import Kept, Rows
from r1jax.sampling.sampler import Sizes, sync
from support.marks import WEEKLY
from support.tiny import draw, keys, prompts

SMALL = Sizes(chunk=4, least_rows=1, least_slots=8)
MANY = tuple(range(8, 60))  # stop tokens


@pytest.fixture(scope="module")
def usual(cfg, params, one):
    """A rollout whose rows end early, sampled without a change of size."""
    return draw(cfg, sync(params, one), one, prompts(), keys(4), stop_ids=MANY)


@pytest.mark.parametrize(
    "mesh, attention, ahead",
    [("one", "xla", True), pytest.param("one", "exact", False, marks=WEEKLY), ("eight", "xla", False)],
)
def test_rows_that_share_their_prompts_and_chunks_that_run_ahead_have_the_same_tokens(
    cfg, params, mesh, attention, ahead, usual, request, monkeypatch
):
    mesh, shared, shrink = request.getfixturevalue(mesh), [], programs.shrink

    def watched(rows, segments, kept):
        rows, segments = shrink(rows, segments, kept)
        shared.append((rows.cache[0][0].shape[0], segments[-1][0].k.shape[0]))
        return rows, segments

    monkeypatch.setattr(programs, "shrink", watched)
    sizes, count = SMALL._replace(copied_prompts=0, ahead=ahead), 4 if mesh.size == 1 else 8
    if count == 8:  # two entries of two rows on each of four shards
        asked, row_keys = [p for p in prompts() for _ in range(2)], keys(4)
    else:
        asked, row_keys = prompts(), keys(4)
    got = draw(cfg, sync(params, mesh), mesh, asked, row_keys, stop_ids=MANY, sizes=sizes, attention=attention)
    for name in ("tokens", "lengths", "stopped"):
        np.testing.assert_array_equal(getattr(got, name), getattr(usual, name))
    np.testing.assert_allclose(got.logp, usual.logp, atol=2e-5)
    # (rows, entries): as long as there are more rows than prompts, the prompts stay; then every row has its own.
    assert shared and all(entries == min(rows, count) for rows, entries in shared), shared
    assert mesh.size > 1 or {rows > count for rows, _ in shared} == {False, True}


def test_a_chunk_that_runs_ahead_is_not_dispatched_if_no_row_can_need_it(cfg, params, one, monkeypatch):
    chunks, decode = [], programs.decode
    monkeypatch.setattr(programs, "decode", lambda *a, **k: chunks.append(1) or decode(*a, **k))
    for ahead in (False, True):
        draw(cfg, sync(params, one), one, prompts(), keys(4), max_tokens=9, sizes=SMALL._replace(ahead=ahead))
    assert len(chunks) == 4  # the first token, then two chunks of four, twice


def test_rows_read_the_entries_that_a_loop_over_rows_says():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shards, count, each = rng.integers(1, 4), rng.integers(1, 6), rng.integers(1, 5)
        n = rng.integers(1, count * each + 1)
        every = np.repeat(np.arange(count), each)
        entries = np.stack([rng.permutation(every)[:n] for _ in range(shards)])
        sharing = share_entries(entries, count, each)
        for shard, row in np.ndindex(shards, n):
            place = sharing.place[shard, row]
            assert place // each == entries[shard, row] and sharing.readers[shard, place] == row


@pytest.mark.parametrize("latent", [False, True])
def test_shared_entries_give_the_sums_of_copied_ones(latent):
    rng = np.random.default_rng(1)
    entries = np.asarray([[0, 2, 2, 1], [1, 1, 1, 0]])  # two shards of three entries with three places
    sharing = Sharing(*map(jnp.asarray, share_entries(entries, 3, 3)))
    k = jnp.asarray(rng.standard_normal((6, 2, 8, 5)), jnp.float32)
    v = None if latent else jnp.asarray(rng.standard_normal((6, 2, 5, 8)), jnp.float32)
    q = jnp.asarray(rng.standard_normal((8, 1, 4, 8)), jnp.float32)
    of_row = (entries + np.asarray([[0], [3]])).reshape(-1)
    mask = jnp.asarray(rng.random((8, 1, 5)) < 0.7)
    how = How(jnp.zeros((8, 1), jnp.int32), 0.3, values=6)
    got = sums(q, [Part(k, v, mask, sharing)], how)
    want = sums(q, [Part(k[of_row], None if latent else v[of_row], mask)], how)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def held() -> int:
    return sum(x.nbytes for x in jax.live_arrays())


@pytest.fixture
def state(cfg, one):
    rows, layers = 32, 6
    cache = [empty_cache(cfg, rows, 512, one, jnp.float32) for _ in range(layers)]
    state = Rows(
        jnp.int32(0),
        jnp.zeros(rows, jnp.int32),
        jnp.zeros(rows, bool),
        jnp.zeros(rows, jnp.int32),
        jax.random.split(jax.random.key(0), rows),
        cache,
    )
    k, v = empty_cache(cfg, 4, 512, one, jnp.float32)
    segments = [[Segment(k + i, v + i, jnp.full(4, 9, jnp.int32)) for i in range(layers)]]
    return state, segments


@pytest.mark.parametrize("change", ["shrink", "share", "grow"])
def test_old_and_new_caches_are_never_held_at_once(state, change, monkeypatch):
    rows, segments = state
    del state
    layer = sum(x.nbytes for x in rows.cache[0])
    before, most = held(), []

    def watch(name):
        inner = getattr(programs, name)

        def watched(*args, **options):
            found = inner(*args, **options)
            most.append(held())
            return found

        monkeypatch.setattr(programs, name, watched)

    watch("drop_rows"), watch("grow_layer")
    if change == "grow":
        rows = programs.grow(rows, slots=1024)
        assert max(most) <= before + 6 * layer + layer + 1e4 and held() <= before + 6 * layer + 1e4
        return
    keep = np.arange(16)[None]
    sharing = share_entries(keep // 8, 4, 8) if change == "share" else None
    rows, segments = programs.shrink(rows, segments, Kept(keep, keep // 8, sharing))
    prompts = sum(x.nbytes for s in segments[0] for x in s[:2])
    assert prompts == (6 * layer // 8 if change == "share" else 6 * layer // 2)
    assert max(most) <= before + layer + 1e4, (most, before, layer)
