"""Losses of preferences, values and controllers, against float64 NumPy written from the papers."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.losses import (
    adapt_kl,
    cosine,
    dpo_loss,
    explained_variance,
    generalised_advantages,
    group_advantages,
    ipo_loss,
    kto_loss,
    last_tokens,
    linear,
    mismatched_kl,
    orpo_loss,
    policy_loss,
    simpo_loss,
    value_loss,
)

BETA = 0.3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def dpo(w, b, rw, rl):
    return -np.log(sigmoid(BETA * ((w - rw) - (b - rl))))


def ipo(w, b, rw, rl):
    return (w - b - (rw - rl) - 1 / (2 * BETA)) ** 2


def simpo(w, b, rw, rl):
    return -np.log(sigmoid(BETA * w - BETA * b - 0.5))


def orpo(w, b, rw, rl):
    odds = [np.exp(x) / (1 - np.exp(x)) for x in (w, b)]
    return -w - BETA * np.log(sigmoid(np.log(odds[0] / odds[1])))


OURS = {
    dpo: lambda w, b, rw, rl: dpo_loss(w, b, rw, rl, beta=BETA),
    ipo: lambda w, b, rw, rl: ipo_loss(w, b, rw, rl, beta=BETA),
    simpo: lambda w, b, rw, rl: simpo_loss(w, b, beta=BETA, gamma=0.5),
    orpo: lambda w, b, rw, rl: orpo_loss(w, b, beta=BETA),
}


@functools.cache
def compiled(paper):
    return jax.jit(jax.value_and_grad(OURS[paper], argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("paper", OURS)
@given(seed=st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_a_loss_of_pairs_and_its_gradient_are_the_papers_formula(paper, seed):
    four = -0.05 - 3 * np.random.default_rng(seed).random((4, 5))
    (value, figures), slope = compiled(paper)(*np.float32(four))
    np.testing.assert_allclose(value, paper(*four).mean(), rtol=2e-5)
    for which in (0, 1):
        step = np.zeros_like(four)
        step[which] = 1e-6
        want = (paper(*(four + step)) - paper(*(four - step))) / 2e-6 / 5
        np.testing.assert_allclose(slope[which], want, rtol=2e-3, atol=2e-6)
    assert figures["reward/margin"] == pytest.approx(
        float(figures["reward/chosen"] - figures["reward/rejected"]), abs=1e-5
    )


def test_the_gradient_of_dpo_at_the_reference_is_half_beta_of_the_likelihoods():
    # Rafailov et al. 2023, section 4: β σ(r̂_l − r̂_w)(∇ log π_w − ∇ log π_l), and σ(0) is a half.
    both = np.float32([-3.0, -1.0])
    slopes = jax.grad(lambda w, b: dpo_loss(w, b, both, both[::-1], beta=BETA)[0], argnums=(0, 1))(both, both[::-1])
    np.testing.assert_allclose(slopes, np.asarray([[-1, -1], [1, 1]]) * BETA / 2 / 2, rtol=1e-6)


def test_label_smoothing_mixes_both_orders():
    w, b, r = np.float32([-1.0]), np.float32([-2.0]), np.float32([-1.5])
    there, back = (dpo_loss(*pair, r, r, beta=BETA)[0] for pair in ((w, b), (b, w)))
    mixed = dpo_loss(w, b, r, r, beta=BETA, label_smoothing=0.1)[0]
    np.testing.assert_allclose(mixed, 0.9 * there + 0.1 * back, rtol=1e-6)


def test_kto_is_the_papers_formula():
    logp, ref = np.float32([-1.0, -3.0, -2.0]), np.float32([-2.0, -2.0, -2.5])
    good, z = np.asarray([True, False, True]), 0.4
    reward = np.float64(logp) - ref
    value = np.where(good, sigmoid(BETA * (reward - z)), sigmoid(BETA * (z - reward)))
    want = (np.where(good, 1.0, 1.5) * (1 - value)).mean()
    loss, figures = kto_loss(logp, ref, good, z, beta=BETA, weights=(1.0, 1.5))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(figures["reward/chosen"], BETA * reward[[0, 2]].sum() / 3, rtol=1e-5)
    np.testing.assert_allclose(figures["reward/rejected"], BETA * reward[1] / 3, rtol=1e-5)
    assert figures["desirable"] == pytest.approx(2 / 3)
    halves = [
        kto_loss(logp[i], ref[i], good[i], z, beta=BETA, weights=(1.0, 1.5), weight=np.full(len(i), 1 / 3))
        for i in ([0], [1, 2])
    ]
    np.testing.assert_allclose(halves[0][0] + halves[1][0], want, rtol=1e-6)
    assert mismatched_kl(ref, logp) == 0 or mismatched_kl(logp, ref) == 0
    assert not np.any(jax.grad(lambda x: kto_loss(logp, ref, good, mismatched_kl(x, ref), beta=BETA)[0])(logp))


def gae(rewards, values, discount, decay):
    """Schulman et al. 2016, eq. 16, as the double sum that it is."""
    size = len(rewards)
    after = [*values[1:], 0.0]
    errors = [r + discount * v_next - v for r, v_next, v in zip(rewards, after, values, strict=True)]
    return [sum((discount * decay) ** (b - t) * errors[b] for b in range(t, size)) for t in range(size)]


estimated = jax.jit(functools.partial(generalised_advantages, discount=0.9, decay=0.7))


@given(seed=st.integers(0, 999), sizes=st.lists(st.integers(1, 6), min_size=3, max_size=3))
@settings(max_examples=15, deadline=None)
def test_generalised_advantages_are_the_papers_sum(seed, sizes):
    rewards, values = np.random.default_rng(seed).standard_normal((2, 3, 6))
    mask = np.arange(6) < np.asarray(sizes)[:, None]
    padded = [np.float32(np.where(mask, x, np.nan)) for x in (rewards, values)]
    advantages, returns = estimated(*padded, mask)
    for i, n in enumerate(sizes):
        want = gae(rewards[i, :n], values[i, :n], 0.9, 0.7)
        np.testing.assert_allclose(advantages[i, :n], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(returns[i, :n], want + values[i, :n], rtol=1e-4, atol=1e-5)
        assert not advantages[i, n:].any() and not returns[i, n:].any()


@given(seed=st.integers(0, 999), sizes=st.lists(st.integers(1, 4), min_size=3, max_size=3), gap=st.integers(0, 2))
@settings(max_examples=15, deadline=None)
def test_completions_that_share_a_row_are_estimated_as_if_alone(seed, sizes, gap):
    rewards, values = np.random.default_rng(seed).standard_normal((2, 1, 16))
    starts = np.cumsum([gap, *sizes])[:3] + np.asarray([0, 0, gap])  # the first two touch, the third may not
    mask, number = np.zeros((1, 16), bool), np.zeros((1, 16), int)
    for i, (start, size) in enumerate(zip(starts, sizes, strict=True)):
        mask[0, start : start + size], number[0, start:] = True, i
    padded = [np.float32(np.where(mask, x, np.nan)) for x in (rewards, values)]
    advantages, returns = estimated(*padded, mask, sequence=number)
    ends = np.asarray(last_tokens(mask, number))
    for start, size in zip(starts, sizes, strict=True):
        at = slice(start, start + size)
        want = gae(rewards[0, at], values[0, at], 0.9, 0.7)
        np.testing.assert_allclose(advantages[0, at], want, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(returns[0, at], want + values[0, at], rtol=1e-4, atol=1e-5)
        assert ends[0, at].tolist() == [False] * (size - 1) + [True]
    assert not advantages[~mask].any() and not returns[~mask].any() and ends.sum() == 3


def test_the_explained_variance_is_its_definition_and_none_where_nothing_varies():
    rng = np.random.default_rng(0)
    values, returns, weight = rng.standard_normal((3, 50))
    weight = np.abs(weight)
    _, sums = value_loss(*np.float32([values, values, returns, weight]))
    numbers = {name: float(x) for name, x in sums.items()}

    def spread(x):
        return np.average(np.square(x - np.average(x, weights=weight)), weights=weight)

    want = 1 - spread(returns - values) / spread(returns)
    assert want < 0 and explained_variance(numbers, weight.sum()) == pytest.approx(want, rel=1e-5)
    for guess, share in ((returns, 1.0), (0 * returns + 3, 0.0)):
        _, sums = value_loss(*np.float32([guess, guess, returns, weight]))
        assert explained_variance({k: float(x) for k, x in sums.items()}, weight.sum()) == pytest.approx(
            share, abs=1e-5
        )
    _, sums = value_loss(*np.float32([values, values, 0 * returns + 1.1, weight]))
    assert explained_variance({k: float(x) for k, x in sums.items()}, weight.sum()) is None


def test_ppo_with_a_perfect_value_and_a_decay_of_1_is_reinforce_with_that_baseline():
    # The value is the mean reward of the question; every token's advantage is then the reward less that mean, as in
    # Dr. GRPO. So the losses are the same.
    rewards = np.float32([1, 0, 0, 1, 1, 0])
    mask = np.arange(5) < np.asarray([5, 2, 3, 1, 4, 5])[:, None]
    last = np.float32(mask & ~np.pad(mask[:, 1:], ((0, 0), (0, 1))))
    values = np.full(mask.shape, rewards.mean(), np.float32)
    advantages, returns = generalised_advantages(last * rewards[:, None], values, mask, decay=1.0)
    np.testing.assert_allclose(advantages[mask], np.broadcast_to((rewards - 0.5)[:, None], mask.shape)[mask], atol=1e-6)
    np.testing.assert_allclose(returns[mask], np.broadcast_to(rewards[:, None], mask.shape)[mask], atol=1e-6)
    logp = np.float32(-np.random.default_rng(0).random(mask.shape))
    over = np.broadcast_to(np.asarray(group_advantages(rewards[None], scaled=False))[0][:, None], mask.shape)
    how = dict(clip_eps=0.2, kl_coef=0.0)
    slopes = [
        jax.grad(lambda x, a=a: policy_loss(x, logp, logp, a, mask / 30, **how)[0])(logp) for a in (advantages, over)
    ]
    np.testing.assert_allclose(*slopes, atol=1e-7)


def test_the_loss_of_values_is_ppos_with_and_without_a_clip():
    values, old, returns = (
        np.float32([[1.0, 2.0, 5.0, np.nan]]),
        np.float32([[0.9, 1.0, 1.0, 0]]),
        np.float32([[2, 0, 9, 0]]),
    )
    weight = np.float32([[0.5, 0.25, 0.25, 0]])
    plain, _ = value_loss(values, old, returns, weight)
    assert plain == pytest.approx(0.5 * (0.5 * 1 + 0.25 * 4 + 0.25 * 16))
    # Clipped to within 0.2 of the old: 1.0, 1.2 (nearer, so the worse stays), 1.2 (farther: (1.2 − 9)²).
    clipped, figures = value_loss(values, old, returns, weight, clip=0.2)
    assert clipped == pytest.approx(0.5 * (0.5 * 1 + 0.25 * 4 + 0.25 * 7.8**2), rel=1e-5)
    assert figures["value/clip_fraction"] == 0.25
    slope = jax.grad(lambda x: value_loss(x, old, returns, weight, clip=0.2)[0])(values)
    np.testing.assert_allclose(slope, [[-0.5, 0.5, 0, 0]], atol=1e-6)


def test_controllers_and_schedules_by_hand():
    assert adapt_kl(0.1, 0.02, target=0.01, horizon=1000, samples=100) == pytest.approx(0.1 * 1.02)  # clipped at 0.2
    assert adapt_kl(0.1, 0.0105, target=0.01, horizon=1000, samples=100) == pytest.approx(0.1 * 1.005)
    assert adapt_kl(0.1, 0.0, target=0.01, horizon=1000, samples=100) == pytest.approx(0.1 * 0.98)
    kl, coef = 0.05, 0.01
    for _ in range(200):  # a policy whose KL is inverse to β comes to the target
        coef = adapt_kl(coef, kl, target=0.01, horizon=10, samples=1)
        kl = 5e-4 / coef
    assert kl == pytest.approx(0.01, rel=0.05)
    assert [linear(s, 10, 0.2, 0.1) for s in (0, 5, 10, 99)] == pytest.approx([0.2, 0.15, 0.1, 0.1])
    assert [cosine(s, 10, 0.2, 0.1) for s in (0, 5, 10, 99)] == pytest.approx([0.2, 0.15, 0.1, 0.1])
    assert cosine(1, 10, 1.0, 0.0) > linear(1, 10, 1.0, 0.0)
