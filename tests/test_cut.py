"""Top-k, top-p and min-p: which tokens may be drawn, how often each is, and what log-probability is reported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from r1jax.sampling import drawing, programs
from r1jax.sampling.drawing import Cut
from r1jax.sampling.sampler import sync
from support.tiny import HEAT, dense_logp, draw, in_rows, keys, prompts

CUTS = [
    Cut(top_k=1),
    Cut(top_k=5),
    Cut(top_k=10_000),
    Cut(top_p=0.7),
    Cut(top_p=1e-6),
    Cut(min_p=0.1),
    Cut(min_p=1.0),
    Cut(top_k=9, top_p=0.6),
    Cut(top_k=12, top_p=0.9, min_p=0.2),
]


def left(logits, cut):
    """Which tokens remain, one row in float64, by the definitions; and how far the nearest one lies from the edge of
    top-p."""
    order = np.argsort(-logits, kind="stable")
    p = np.exp(logits[order] - logits.max())
    count, margin = len(p), 1.0
    if cut.top_k:
        count = min(count, cut.top_k)
    if cut.top_p < 1:
        share = np.cumsum(p[:count]) / p[:count].sum()
        margin = np.abs(share - cut.top_p).min()
        count = int(np.flatnonzero(share >= cut.top_p)[0]) + 1
    kept = np.zeros(len(p), bool)
    kept[order[:count]] = True
    return kept & (np.exp(logits - logits.max()) >= cut.min_p), margin


def kept_of(logits, cut, shards=1):
    """Which tokens a cut keeps, in blocks of two."""
    mass = jnp.exp(jnp.asarray(logits) - jnp.asarray(logits).max(-1, keepdims=True))
    floors = jax.jit(drawing.find_floors, static_argnums=(1, 2))(mass.reshape(len(mass), -1, 2), cut, shards)
    return np.asarray(mass >= floors[:, None])


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("vocab", [8, 50, 260])
def test_a_cut_leaves_the_tokens_of_the_definition(vocab, cut, backend, monkeypatch):
    """With rows searched one after another, as on CPUs, and all at once, as elsewhere."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    logits = np.float32(2 * np.random.default_rng(vocab).standard_normal((64, vocab)))
    got = kept_of(logits, cut, shards=4)
    judged = [left(row.astype(np.float64), cut) for row in logits]
    clear = np.asarray([margin > 1e-5 for _, margin in judged])  # float32 sums may fall on either side of a nearer edge
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[clear], np.stack([kept for kept, _ in judged])[clear])


@pytest.mark.parametrize(
    ("cut", "kept"),
    [
        # Probabilities 0.4, 0.3, 0.2, 0.1, the 0.3 first.
        (Cut(top_k=2), [1, 1, 0, 0]),
        (Cut(top_p=0.65), [1, 1, 0, 0]),  # 0.4 alone is less, with 0.3 it is 0.7
        (Cut(top_p=0.75), [1, 1, 1, 0]),
        (Cut(top_k=2, top_p=0.55), [0, 1, 0, 0]),  # of the two left the first has 0.4/0.7 = 0.571
        (Cut(top_p=0.55), [1, 1, 0, 0]),
        (Cut(min_p=0.6), [1, 1, 0, 0]),  # 0.3/0.4 = 0.75, 0.2/0.4 = 0.5
        (Cut(top_k=1, min_p=0.1), [0, 1, 0, 0]),
    ],
)
def test_four_tokens_worked_by_hand(cut, kept):
    logits = np.log(np.float32([[0.3, 0.4, 0.2, 0.1]]))
    np.testing.assert_array_equal(kept_of(logits, cut), np.bool_([kept]))


def test_tokens_as_likely_as_the_last_one_kept_are_kept():
    logits = np.float32([[1, 3, 1, 0, 1, 0]])
    for cut in (Cut(top_k=2), Cut(top_p=0.8)):  # 3 has a share of 0.64, each 1 of 0.09
        np.testing.assert_array_equal(kept_of(logits, cut), np.bool_([[1, 1, 1, 0, 1, 0]]))


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.95, 0.999, 1 - 1e-7])
@pytest.mark.parametrize("form", ["peaked", "wide", "equal", "of two values", "one"])
def test_the_nucleus_of_a_large_vocabulary_is_that_of_a_sort_in_float64(form, top_p):
    vocab, rng = 20_000, np.random.default_rng(0)
    noise = rng.standard_normal(vocab)
    logits = {
        "peaked": -2 * np.log1p(rng.permutation(vocab)) + 0.5 * noise,
        "wide": 1.7 * noise,
        "equal": np.zeros(vocab),
        "of two values": np.where(noise > 1.5, 3.0, 0.0),
        "one": np.where(np.arange(vocab) == 7, 0.0, -200.0),
    }[form].astype(np.float32)
    mass = np.exp(logits - logits.max())  # the same float32 numbers for both
    found = jax.jit(lambda x: drawing.find_floors(x.reshape(1, -1, 100), Cut(top_p=top_p)))(mass)[0]
    falling = -np.sort(-mass.astype(np.float64))
    before = np.cumsum(falling) - falling
    near = np.abs(before - top_p * falling.sum()) < 2e-6 * falling.sum()  # float32 sums may fall on either side
    last = np.flatnonzero(before < top_p * falling.sum())[-1]
    allowed = {falling[last], *falling[near], *falling[np.flatnonzero(near) - 1]}
    least = mass[mass >= found].min()
    assert any(np.float32(x) == least for x in allowed), (least, falling[last])


@pytest.mark.parametrize("cut", [Cut(top_k=6), Cut(top_p=0.8), Cut(min_p=0.01), Cut(top_k=20, top_p=0.85, min_p=0.05)])
def test_what_is_left_is_drawn_as_often_as_its_share_and_reported_under_the_full_softmax(cut):
    n, vocab, tau = 40_000, 260, 0.8
    logits = np.float32(2 * np.random.default_rng(3).standard_normal(vocab))
    token, logp = jax.jit(drawing.draw, static_argnames=("greedy", "cut"))(
        jnp.broadcast_to(logits, (n, vocab)),
        jax.random.split(jax.random.key(9), n),
        jnp.int32(5),
        jnp.float32(tau),
        greedy=False,
        cut=cut,
    )
    scaled = logits.astype(np.float64) / tau
    p = np.exp(scaled - np.logaddexp.reduce(scaled))
    kept, margin = left(scaled, cut)
    assert margin > 1e-5
    assert 1 < kept.sum() < vocab
    counts = np.bincount(token, minlength=vocab)
    assert not counts[~kept].any()
    # The rarest that is left has a share above 5/n, as chi-square wants.
    share = p[kept] / p[kept].sum()
    assert share.min() * n > 5
    assert stats.chisquare(counts[kept], share * n).pvalue > 1e-3
    np.testing.assert_allclose(logp, np.log(p)[np.asarray(token)], atol=1e-5)


def test_a_draw_never_falls_on_a_token_without_mass_between_tokens_that_have_some():
    # Nearly every block and place is empty: a cumulative sum that moves by a rounding there must not be taken for a
    # token.
    rng = np.random.default_rng(0)
    logits = np.full((4096, 260), -200.0, np.float32)
    some = rng.random(logits.shape) < 0.05
    some[:, 100] = True
    logits[some] = rng.standard_normal(some.sum())
    token, logp = jax.jit(drawing.draw, static_argnames="greedy")(
        logits, jax.random.split(jax.random.key(0), 4096), jnp.int32(0), jnp.float32(1.0), greedy=False
    )
    assert some[np.arange(4096), np.asarray(token)].all()
    assert np.isfinite(logp).all()


@pytest.mark.parametrize("where", ["first place", "last place", "past the end"])
def test_the_place_a_point_reaches_has_mass(where):
    # Cumulative sums as XLA may give them, a rounding off: they move where no mass is, and end short of the point.
    mass = jnp.float32([[0, 0.5, 0, 0.5, 0]])
    cumulative = jnp.float32([[0, 0.5, 0.5 + 2**-24, 1 - 2**-24, 1 - 2**-24]])
    point, want = {"first place": (0.0, 1), "last place": (0.5, 3), "past the end": (1.0, 3)}[where]
    assert drawing.invert_cdf(cumulative, mass, jnp.float32([point]))[0] == want


def test_the_likeliest_token_alone_is_greedy_with_the_log_probability_at_the_temperature(cfg, params, one):
    weights = sync(params, one)
    got = draw(cfg, weights, one, prompts(), keys(1), top_k=1)
    want = draw(cfg, weights, one, prompts(), keys(1), temperature=0.0)
    np.testing.assert_array_equal(got.tokens, want.tokens)
    table = dense_logp(cfg, params, in_rows(prompts(), got, 80), HEAT)
    for i, length in enumerate(got.lengths):
        slots = len(prompts()[i]) - 1 + np.arange(length)
        np.testing.assert_allclose(got.logp[i, :length], table[i, slots].max(-1), atol=2e-5)
    # To greedy a cut is nothing: no program of its own.
    size = programs.decode._cache_size()
    draw(cfg, weights, one, prompts(), keys(1), temperature=0.0, top_p=0.5)
    assert programs.decode._cache_size() == size


@pytest.mark.weekly
@pytest.mark.slow
def test_a_cut_holds_at_every_token_and_on_a_mesh_of_eight(cfg, params, one, eight):
    cut = Cut(top_k=8, top_p=0.9, min_p=0.02)
    got = draw(cfg, sync(params, one), one, prompts(), keys(4), **cut._asdict())
    table = dense_logp(cfg, params, in_rows(prompts(), got, 80), HEAT)
    for i, length in enumerate(got.lengths):
        for t in range(length):
            row = table[i, len(prompts()[i // 4]) - 1 + t]
            kept, margin = left(row, cut)
            assert kept[got.tokens[i, t]] or margin < 1e-4
    spread = draw(cfg, sync(params, eight), eight, prompts(), keys(4), **cut._asdict())
    np.testing.assert_array_equal(spread.tokens, got.tokens)


@pytest.mark.parametrize("wrong", [{"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"min_p": -0.1}, {"min_p": 1.5}])
def test_a_cut_that_means_nothing_is_an_error_that_names_it(cfg, params, one, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        draw(cfg, sync(params, one), one, prompts(), keys(1), **wrong)
