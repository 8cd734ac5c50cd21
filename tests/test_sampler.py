"""Sampling: what a token depends on, what its log-probability is, and where a row ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from r1jax.sampling import drawing, programs, sampler
from r1jax.sampling.keys import row_keys
from r1jax.sampling.sampler import Sizes, sync
from r1jax.sharding import make_mesh
from support.tiny import HEAT, STOPS, dense_logp, draw, in_rows, keys, laid, prompts


def assert_same(got, want, rows=slice(None)):
    """The same completions, token for token; log-probabilities to the rounding of another batch shape."""
    np.testing.assert_array_equal(got.lengths, want.lengths[rows])
    np.testing.assert_array_equal(got.tokens, want.tokens[rows])
    np.testing.assert_array_equal(got.stopped, want.stopped[rows])
    np.testing.assert_allclose(got.logp, want.logp[rows], atol=2e-5)


def test_a_row_ends_with_its_first_stop_token_and_only_padding_follows(rolled):
    off = np.arange(rolled.tokens.shape[1]) >= rolled.lengths[:, None]
    assert not rolled.tokens[off].any()
    assert not rolled.logp[off].any()
    stops = np.isin(rolled.tokens, STOPS) & ~off
    last = rolled.tokens[np.arange(len(off)), rolled.lengths - 1]
    np.testing.assert_array_equal(stops.sum(1), rolled.stopped)
    np.testing.assert_array_equal(np.isin(last, STOPS), rolled.stopped)
    np.testing.assert_array_equal(rolled.lengths[~rolled.stopped], 40)
    # The rollout shows several stop ids, rows of many lengths and rows that were cut.
    assert len(set(last[rolled.stopped])) > 2
    assert len(set(rolled.lengths)) > 5
    assert not rolled.stopped.all()


def test_rows_of_a_group_differ(rolled):
    for group in rolled.tokens.reshape(4, 4, -1):
        assert len({row.tobytes() for row in group}) == 4


def test_a_logp_is_that_of_a_full_forward_at_the_sampling_temperature(cfg, params, rolled):
    table = dense_logp(cfg, params, in_rows(prompts(), rolled, 80), HEAT)
    for i, length in enumerate(rolled.lengths):
        start = len(prompts()[i // 4])
        want = table[i, start - 1 + np.arange(length), rolled.tokens[i, :length]]
        np.testing.assert_allclose(rolled.logp[i, :length], want, atol=2e-5)


def test_a_prompt_alone_gets_the_tokens_it_got_among_others(cfg, params, one, rolled):
    got = draw(cfg, sync(params, one), one, prompts()[2:3], keys(4, (2,)))
    assert_same(got, rolled, slice(8, 12))


def test_neither_the_slot_nor_the_neighbours_matter(cfg, params, one, rolled):
    order = np.asarray([13, 14, 6, 5, 0, 3])  # two samples each of the prompts 3, 1, 0
    got = draw(cfg, sync(params, one), one, [prompts()[i] for i in (3, 1, 0)], keys(4)[order])
    assert_same(got, rolled, order)


def test_neither_chunks_nor_compaction_nor_growth_matter(cfg, params, one, rolled, monkeypatch):
    shrunk, grown = [], []
    shrink, grow = programs.shrink, programs.grow
    monkeypatch.setattr(programs, "shrink", lambda *a, **k: shrunk.append(1) or shrink(*a, **k))
    monkeypatch.setattr(programs, "grow", lambda *a, **k: grown.append(1) or grow(*a, **k))
    sizes = Sizes(chunk=4, least_rows=1, least_slots=8)
    got = draw(cfg, sync(params, one), one, prompts(), keys(4), sizes=sizes)
    assert_same(got, rolled)
    assert shrunk
    assert grown


@pytest.mark.parametrize("chunk", [7, 64])
def test_any_size_of_chunk_without_compaction_gives_the_same_tokens(cfg, params, one, rolled, chunk):
    # 7 divides neither the slots nor the longest completion; 64 is more than a completion may have.
    sizes = Sizes(chunk=chunk, least_rows=1024)
    assert_same(draw(cfg, sync(params, one), one, prompts(), keys(4), sizes=sizes), rolled)


def test_another_round_seed_or_sample_is_other_noise_and_the_same_is_the_same():
    # (run seed, round, prompt id, sample index): each alone changes the key.
    key = {args: row_keys(args[0], args[1], [args[2]], [args[3]])[0].tobytes() for args in np.ndindex(2, 2, 2, 2)}
    assert len(set(key.values())) == 16
    assert row_keys(1, 0, [5, 1], [9, 0])[1].tobytes() == key[1, 0, 1, 0]


def test_a_stop_at_the_first_token_leaves_one_token(cfg, params, one, rolled):
    firsts = tuple(sorted({int(t) for t in rolled.tokens[:, 0]}))
    got = draw(cfg, sync(params, one), one, prompts(), keys(4), stop_ids=firsts)
    np.testing.assert_array_equal(got.lengths, 1)
    assert got.stopped.all()
    np.testing.assert_array_equal(got.tokens[:, 0], rolled.tokens[:, 0])
    assert not got.tokens[:, 1:].any()


def test_a_completion_of_at_most_one_token_is_the_first_token(cfg, params, one, rolled):
    got = draw(cfg, sync(params, one), one, prompts(), keys(4), max_tokens=1)
    np.testing.assert_array_equal(got.tokens, rolled.tokens[:, :1])
    np.testing.assert_array_equal(got.stopped, np.isin(rolled.tokens[:, 0], STOPS))


def test_temperature_zero_takes_the_likeliest_token_and_reports_it_at_temperature_one(cfg, params, one):
    with jax.debug_infs(True), jax.debug_nans(True):  # a division by zero would raise
        got = draw(cfg, sync(params, one), one, prompts(), keys(2), temperature=0.0)
    table = dense_logp(cfg, params, in_rows(prompts(), got, 80))
    for i, length in enumerate(got.lengths):
        slots = len(prompts()[i // 2]) - 1 + np.arange(length)
        np.testing.assert_array_equal(got.tokens[i, :length], table[i, slots].argmax(-1))
        np.testing.assert_allclose(got.logp[i, :length], table[i, slots].max(-1), atol=2e-5)
    np.testing.assert_array_equal(got.tokens[::2], got.tokens[1::2])


@pytest.mark.parametrize("vocab", [8, 50, 260])
def test_the_two_level_draw_has_the_distribution_of_the_softmax(vocab):
    rng = np.random.default_rng(vocab)
    logits = np.float32(2 * rng.standard_normal(vocab))
    logits[[1, -1]] = -np.inf  # impossible tokens, one at the end
    n, tau = 40_000, 0.8
    row_key = jax.random.split(jax.random.key(vocab), n)
    token, logp = jax.jit(drawing.draw, static_argnames="greedy")(
        jnp.broadcast_to(logits, (n, vocab)), row_key, jnp.int32(5), jnp.float32(tau), greedy=False
    )
    p = np.exp(logits.astype(np.float64) / tau)
    p /= p.sum()
    counts = np.bincount(token, minlength=vocab)
    assert len(counts) == vocab
    assert not counts[p == 0].any()
    rare = p * n < 5  # chi-square wants five of each: the rare ones count together
    observed, expected = (np.append(x[~rare], x[rare].sum()) for x in (counts, p * n))
    kept = expected > 0
    assert stats.chisquare(observed[kept], expected[kept]).pvalue > 1e-3
    np.testing.assert_allclose(logp, np.log(p)[np.asarray(token)], atol=1e-5)


def test_rows_are_handed_on_once_each_as_they_end_and_truncated_ones_last(cfg, params, eight, rolled):
    heard = []
    got = draw(cfg, sync(params, eight), eight, prompts()[:3], keys(4)[:12], heard.append, sizes=Sizes(chunk=8))
    assert_same(got, rolled, slice(0, 12))
    rows = [row for batch in heard for row, _ in batch]
    assert sorted(rows) == list(range(12))  # the rows that fill the shards are nobody's
    for row, tokens in (pair for batch in heard for pair in batch):
        np.testing.assert_array_equal(tokens, got.tokens[row, : got.lengths[row]])
    # Each batch holds the rows that ended in one chunk, or at the first token, and they come in order.
    chunks = [{int(-(-(got.lengths[row] - 1) // 8)) for row, _ in batch} for batch in heard]
    assert all(len(chunk) == 1 for chunk in chunks)
    assert len(chunks) > 2
    assert chunks == sorted(chunks, key=min)
    assert not got.stopped[[row for row, _ in heard[-1]]].all()


def test_two_hundred_thousand_draws_have_the_chi_square_of_chance():
    # Per degree of freedom it is 1 ± √(2/511) = 1 ± 0.063.
    logits = np.float32(np.random.default_rng(1).standard_normal(512))
    token, _ = jax.jit(drawing.draw, static_argnames="greedy")(
        jnp.broadcast_to(logits, (200_000, 512)),
        jax.random.split(jax.random.key(1), 200_000),
        jnp.int32(0),
        jnp.float32(1.0),
        greedy=False,
    )
    share = np.exp(logits.astype(np.float64))
    expected = 200_000 * share / share.sum()
    assert 0.8 < np.sum((np.bincount(token, minlength=512) - expected) ** 2 / expected) / 511 < 1.2


def test_a_draw_at_the_very_edge_of_the_mass_is_a_token_that_has_some():
    # All mass on one token in the middle: whatever the uniform, rounding must not push the choice past it.
    logits = np.full((4096, 50), -200.0, np.float32)
    logits[:, 20] = 0.0
    row_key = jax.random.split(jax.random.key(0), 4096)
    token, logp = jax.jit(drawing.draw, static_argnames="greedy")(
        logits, row_key, jnp.int32(0), jnp.float32(1.0), greedy=False
    )
    assert (np.asarray(token) == 20).all()
    np.testing.assert_array_equal(logp, 0.0)


def test_a_mesh_of_eight_samples_the_tokens_of_one_device(cfg, params, eight, rolled, monkeypatch):
    caches = []
    chunk = programs.decode

    def watched(*args, **kwargs):
        rows, out = chunk(*args, **kwargs)
        caches.extend(laid(x) for pair in rows.cache for x in pair)
        return rows, out

    monkeypatch.setattr(programs, "decode", watched)
    got = draw(cfg, sync(params, eight), eight, prompts(), keys(4))
    assert_same(got, rolled)
    # After every chunk: rows over data, fsdp and expert (jit leaves out axes of size 1), the two key heads over tensor.
    assert set(caches) <= {(("data", "fsdp", "expert"), "tensor"), ("fsdp", "tensor")} and caches


def test_two_devices_sample_the_tokens_of_one(cfg, params, rolled):
    pair = make_mesh("auto", jax.devices()[:2])
    assert_same(draw(cfg, sync(params, pair), pair, prompts(), keys(4)), rolled)


def test_prompts_that_do_not_fill_the_shards_are_padded_and_the_padding_is_dropped(cfg, params, eight, rolled):
    got = draw(cfg, sync(params, eight), eight, prompts()[:3], keys(4)[:12])
    assert_same(got, rolled, slice(0, 12))


def test_the_policy_for_decoding_is_whole_over_the_row_axes(cfg, params, eight):
    weights = sync(params, eight)
    assert laid(weights.layers[1]["attention"]["q"]["kernel"]) == (None, "tensor")
    assert laid(weights.layers[0]["attention"]["o"]["kernel"]) == ("tensor",)
    assert laid(weights.params["embed"]["embedding"]) == ("tensor",)
    up = params["layers"][0]["mlp"]["up"]["kernel"]
    np.testing.assert_array_equal(weights.layers[1]["mlp"]["up"]["kernel"], up[1])


def test_a_second_round_compiles_nothing(cfg, params, one, rolled):
    jitted = (sampler.sync, programs.prefill, programs.first, programs.decode)
    draw(cfg, sync(params, one), one, prompts(), keys(4))  # programs of `rolled` may have been given back since
    before = [program._cache_size() for program in jitted]
    again = draw(cfg, sync(params, one), one, prompts(), keys(4))
    assert [program._cache_size() for program in jitted] == before
    np.testing.assert_array_equal(again.logp, rolled.logp)


@pytest.mark.parametrize(
    ("asked", "count", "stops"), [([[1]], 1, ()), ([], 0, (1,)), ([[1], []], 2, (1,)), ([[1], [2]], 3, (1,))]
)
def test_what_cannot_be_sampled_is_an_error(cfg, params, one, asked, count, stops):
    with pytest.raises(
        ValueError, match="Give prompts that are not empty, the same number of keys for each prompt, and at least one"
    ):
        draw(cfg, sync(params, one), one, asked, keys(4)[:count], stop_ids=stops)
