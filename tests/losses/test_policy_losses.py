"""Every policy loss with every term, value and gradient, against the papers' formulas; padded and packed."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from r1jax.losses import (
    KLS,
    LOSSES,
    batch_advantages,
    clipped_surrogate,
    decoupled_advantages,
    dual_clip,
    group_advantages,
    kl_cost,
    kl_of,
    leave_one_out,
    off_policy_mask,
    policy_loss,
    row_weights,
    sequence_sum,
    truncated_importance,
)
from support.published import Case, Settings, advantages, kinks, objective, slopes

B, G, T = 2, 4, 8
SIZES = st.lists(st.integers(1, T), min_size=B * G, max_size=B * G)


def draw(seed: int, sizes: list[int]) -> Case:
    """Random log-probabilities and rewards of completions of these lengths."""
    rng = np.random.default_rng(seed)
    four = [[-1.5 + 0.3 * rng.standard_normal(n) for n in sizes] for _ in range(4)]
    rewards = rng.choice([0.0, 0.5, 1.0, 2.0], (B, G))
    return Case(four[0], four[0], *four[1:], rewards, budget=T + 2)


def lay(values: list[np.ndarray], packed: bool, fill: float) -> np.ndarray:
    """Completions as rows of their own, [N, T], or packed two to a row, [N/2, 2·T]; `fill` where nothing lies."""
    rows = np.full((len(values), T), fill)
    if packed:
        rows = np.full((len(values) // 2, 2 * T), fill)
        for row, (a, b) in zip(rows, zip(values[::2], values[1::2], strict=True), strict=True):
            row[1 : 1 + len(a)] = a  # slot 0 is a prompt's
            row[1 + len(a) : 1 + len(a) + len(b)] = b if len(a) + len(b) < 2 * T else b[: 2 * T - 1 - len(a)]
        return rows
    for row, value in zip(rows, values, strict=True):
        row[: len(value)] = value
    return rows


@functools.cache
def compiled(loss: str, s: Settings):
    """The program of `policy_loss` and its gradient, for padded and for packed shapes."""
    entry = LOSSES[loss]

    def run(logp, old, ref, drawn, advantage, weight, number):
        counted, factor = weight != 0, None
        if s.cap:
            runs = number if s.by == "sequence" else None
            factor = truncated_importance(old, drawn, s.cap, counted=counted, sequence=runs)
        if s.bound:
            kept = off_policy_mask(logp, drawn, advantage, counted, number, s.bound)
            factor = kept if factor is None else factor * kept
        return policy_loss(
            logp,
            old,
            ref,
            advantage,
            weight,
            clip_eps=s.low,
            clip_eps_high=s.high,
            kl_coef=s.beta,
            sequence=number if entry.by_completion else None,
            correction=factor,
            surrogate=dual_clip(s.dual) if s.dual else entry.surrogate,
            kl=KLS[s.kl],
        )

    return jax.jit(jax.value_and_grad(run, has_aux=True))


@functools.cache
def over(loss: str):
    """The program of a loss's advantages."""
    return jax.jit(LOSSES[loss].advantages)


def ours(loss: str, case: Case, s: Settings, packed: bool) -> tuple[float, list[np.ndarray], dict]:
    """Value, slope of each completion and figures of `policy_loss`."""
    sizes = np.asarray([len(x) for x in case.logp])
    lengths, valid = sizes.astype(float), np.ones(len(sizes), bool)
    weight = row_weights(loss, lengths, valid, rows=len(sizes), tokens=int(sizes.sum()), max_tokens=case.budget)
    given_ = over(loss)(case.rewards, np.ones((B, G), bool), sizes.reshape(B, G))
    spread = {
        "weight": [np.full(n, w) for n, w in zip(sizes, weight, strict=True)],
        "advantage": [np.full(n, a) for n, a in zip(sizes, np.asarray(given_).ravel(), strict=True)],
        "number": [np.full(n, 1 + i % 2) for i, n in enumerate(sizes)],
    }
    logp, old, ref, drawn = (np.float32(lay(x, packed, np.nan)) for x in (case.logp, *case[2:5]))
    weight, advantage = (np.float32(lay(spread[k], packed, 0.0)) for k in ("weight", "advantage"))
    number = np.int32(lay(spread["number"], packed, 0.0))
    counted = weight != 0
    (value, figures), slope = compiled(loss, s)(logp, old, ref, drawn, advantage, weight, number)
    assert not np.any(np.asarray(slope)[~counted])
    if packed:
        found = [np.asarray(slope)[i // 2][counted[i // 2] & (number[i // 2] == 1 + i % 2)] for i in range(len(sizes))]
    else:
        found = [np.asarray(slope)[i][counted[i]] for i in range(len(sizes))]
    assert sum(map(len, found)) == sizes.sum()
    return float(value), found, figures


def same(loss: str, case: Case, s: Settings, packed: bool) -> None:
    value, found, _ = ours(loss, case, s, packed)
    np.testing.assert_allclose(value, objective(loss, case, s), rtol=2e-5, atol=2e-6)
    for i in (0, 3, 6):
        np.testing.assert_allclose(found[i], slopes(loss, case, s, i), rtol=2e-3, atol=3e-6)


@pytest.mark.parametrize("loss", LOSSES)
@given(sizes=SIZES, seed=st.integers(0, 999), packed=st.booleans())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_loss_is_its_papers_formula(loss, sizes, seed, packed):
    sizes = [min(n, T - 1) for n in sizes]
    case, s = draw(seed, sizes), Settings()
    assume(not kinks(loss, case, s))
    same(loss, case, s, packed)


TERMS = [
    Settings(kl="k2"),
    Settings(kl="unbiased"),
    Settings(cap=1.2),
    Settings(cap=1.5, by="sequence"),
    Settings(bound=0.05),
    Settings(bound=0.05, cap=1.2, kl="unbiased"),
    Settings(dual=1.4, low=0.2, high=0.28),
]


@pytest.mark.parametrize("s", TERMS, ids=lambda s: "-".join(f"{k}={v}" for k, v in s._asdict().items() if k > "c"))
@given(sizes=SIZES, seed=st.integers(0, 999), packed=st.booleans())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_term_is_its_papers_formula(s, sizes, seed, packed):
    case = draw(seed, [min(n, T - 1) for n in sizes])
    assume(not kinks("grpo", case, s))
    same("grpo", case, s, packed)


def test_the_cases_reach_every_branch():
    case = draw(3, [7] * 8)
    ratio = np.exp(np.concatenate(case.logp) - np.concatenate(case.old))
    gains = np.repeat(advantages("grpo", case.rewards, np.full((B, G), 7)).ravel(), 7)
    assert ((ratio > 1.28) & (gains > 0)).any() and ((ratio < 0.8) & (gains < 0)).any()
    assert ((ratio > 1.4) & (gains < 0)).any()
    behind = np.asarray([np.mean(d - p) for d, p in zip(case.sampler, case.logp, strict=True)])
    lost = advantages("grpo", case.rewards, np.full((B, G), 7)).ravel() < 0
    assert (lost & (behind > 0.05)).any() and (lost & (behind <= 0.05)).any() and (~lost & (behind > 0.05)).any()


# Identities.


def gradients(loss: str, case: Case, s: Settings) -> np.ndarray:
    return np.concatenate(ours(loss, case, s, packed=False)[1])


def test_dr_grpo_times_g_over_g_less_1_is_rloo_but_for_the_budget():
    case = draw(1, [3, 7, 1, 5, 6, 2, 4, 7])
    s = Settings(beta=0.0)
    rloo, dr = (gradients(loss, case, s) for loss in ("rloo", "dr_grpo"))
    np.testing.assert_allclose(rloo, dr * G / (G - 1) * case.budget, rtol=1e-5)


def test_gspo_token_with_equal_advantages_is_gspo():
    case = draw(2, [3, 7, 1, 5, 6, 2, 4, 7])
    s = Settings(low=10.0, high=10.0)
    one, two = (ours(loss, case, s, packed=True) for loss in ("sequence", "sequence_token"))
    assert one[0] == pytest.approx(two[0], rel=1e-6)
    np.testing.assert_allclose(np.concatenate(one[1]), np.concatenate(two[1]), rtol=1e-4, atol=1e-7)


def test_dapo_with_equal_lengths_is_grpo_and_with_others_is_not():
    s = Settings()
    even, uneven = draw(4, [5] * 8), draw(4, [1, 7, 2, 6, 3, 5, 4, 4])
    np.testing.assert_allclose(gradients("dapo", even, s), gradients("grpo", even, s), rtol=1e-5)
    assert np.abs(gradients("dapo", uneven, s) - gradients("grpo", uneven, s)).max() > 1e-3


def test_reinforce_pp_with_baseline_on_one_group_of_equal_lengths_is_grpo_with_a_token_mean():
    rewards = np.asarray([[1.0, 0.0, 0.0, 2.0]])
    lengths = np.full((1, 4), 5)
    np.testing.assert_allclose(
        batch_advantages(rewards, None, lengths, baseline=True), group_advantages(rewards), rtol=1e-5
    )


@pytest.mark.parametrize("kl", KLS)
def test_the_gradient_of_every_kl_in_the_loss_depends_on_the_reference_and_that_of_k1_does_not(kl):
    case, zero = draw(5, [4] * 8), np.zeros((B, G))
    other = case._replace(ref=[x - 0.3 for x in case.ref])
    one, two = (gradients("grpo", c._replace(rewards=zero), Settings(kl=kl, beta=1.0)) for c in (case, other))
    assert np.abs(one - two).max() > 1e-3

    def k1(gap, log_ratio):
        return -gap

    logp = np.float32(case.logp[0])[None]
    args = (np.float32(case.old[0])[None], np.float32(case.ref[0])[None], 0 * logp, np.ones_like(logp))
    slopes_ = [
        jax.grad(lambda x, r=r: policy_loss(x, args[0], r, *args[2:], clip_eps=0.2, kl_coef=1.0, kl=k1)[0])(logp)
        for r in (args[1], args[1] - 0.3)
    ]
    np.testing.assert_array_equal(*slopes_)


def test_k1_in_the_loss_is_refused_with_the_reason_and_the_way_out():
    with pytest.raises(ValueError, match=r"does not contain the reference.*k1_reward"):
        kl_of("k1")
    with pytest.raises(ValueError, match="--kl=k4 must be one of k3, k2, unbiased, k1_reward"):
        kl_of("k4")


def test_the_unbiased_estimate_has_the_gradient_of_the_true_kl_and_k3_has_another():
    # Five tokens in one state, all enumerated: E over π_old of its gradient, against that of KL(π_θ ‖ π_ref).
    rng = np.random.default_rng(0)
    logits, old, ref = rng.standard_normal((3, 5))
    old, ref = (np.float32(x - np.log(np.exp(x).sum())) for x in (old, ref))

    def true(x):
        p = jax.nn.log_softmax(x)
        return (jax.numpy.exp(p) * (p - ref)).sum()

    def expected(x, kl, sampled):
        p = jax.nn.log_softmax(x)
        return (np.exp(sampled) * KLS[kl](ref - p, p - sampled)).sum()

    x = np.float32(logits)
    want = jax.grad(true)(x)
    np.testing.assert_allclose(jax.grad(lambda x: expected(x, "unbiased", old))(x), want, atol=1e-6)
    here = np.asarray(jax.nn.log_softmax(x))
    np.testing.assert_allclose(jax.grad(lambda x: expected(x, "k2", here))(x), want, atol=1e-6)
    assert np.abs(jax.grad(lambda x: expected(x, "k3", here))(x) - want).max() > 1e-2


# Advantages.


@given(seed=st.integers(0, 999), sizes=SIZES)
@settings(max_examples=30, deadline=None)
def test_advantages_are_the_papers_formulas_and_invalid_rows_do_not_count(seed, sizes):
    rng = np.random.default_rng(seed)
    rewards = rng.choice([0.0, 0.25, 1.0], (B, G))
    lengths = np.asarray(sizes).reshape(B, G)
    for loss in LOSSES:
        got = over(loss)(rewards, np.ones((B, G), bool), lengths)
        np.testing.assert_allclose(got, advantages(loss, rewards, lengths), rtol=2e-4, atol=1e-5)
        # A row without a verdict leaves the others what they would be without it.
        more = np.concatenate([rewards, np.full((B, 1), np.nan)], axis=1)
        long = np.concatenate([lengths, np.full((B, 1), 3)], axis=1)
        valid = np.concatenate([np.ones((B, G), bool), np.zeros((B, 1), bool)], axis=1)
        wide = np.asarray(over(loss)(more, valid, long))
        np.testing.assert_allclose(wide[:, :G], got, rtol=1e-5, atol=1e-6)
        assert not wide[:, G].any()


def test_equal_rewards_give_exactly_zero_by_every_estimate():
    rewards = np.full((B, G), 1.1)
    lengths = np.arange(1, 9).reshape(B, G)
    for loss in (loss for loss in LOSSES if not LOSSES[loss].valued):
        assert not np.any(over(loss)(rewards, np.ones((B, G), bool), lengths)), loss
    assert not np.any(leave_one_out([[3.0, np.nan]], [[True, False]]))


def test_gdpo_tells_apart_what_the_sum_of_rewards_does_not():
    # Liu et al. 2026, section 3: rewards (0, 1) and (0, 2) of a pair give the same GRPO advantages.
    parts = {"a": np.float32([[0, 1], [0, 1]]), "b": np.float32([[0, 0], [0, 1]])}
    summed = group_advantages(parts["a"] + parts["b"])
    np.testing.assert_array_equal(summed[0], summed[1])
    apart = np.asarray(decoupled_advantages(parts, {"a": 1.0, "b": 1.0}))
    assert apart[1, 1] > apart[0, 1] > 0
    # By hand: sums of normalised parts are ∓1 and ∓2; over the batch mean 0, std √2.5.
    np.testing.assert_allclose(apart, np.asarray([[-1, 1], [-2, 2]]) / np.sqrt(2.5), rtol=1e-6)
    with pytest.raises(ValueError, match="none of the rewards a, b has a weight"):
        decoupled_advantages(parts, {"c": 1.0})


def test_a_part_that_a_completion_does_not_get_adds_nothing():
    parts = {"a": np.float32([[0, 1, np.nan], [1, 0, 1]])}
    got = np.asarray(decoupled_advantages(parts, {"a": 2.0}))
    assert np.isfinite(got).all() and got[0, 2] != got[0, 1]


# Terms by hand.


def test_the_cost_of_the_kl_is_a_sum_over_the_completion_without_gradient():
    logp, ref = np.float32([[-1, -2, np.nan]]), np.float32([[-2, -2.5, 0]])
    mask = np.asarray([[True, True, False]])
    assert kl_cost(logp, ref, mask).tolist() == [1.5]
    assert not np.any(jax.grad(lambda x: kl_cost(x, ref, mask).sum())(np.float32([[-1, -2, -3]])))


def test_the_ratio_of_a_completion_is_capped_whole():
    gap = np.log(np.float32([[2, 2, 3, 1]]))
    number = np.int32([[1, 1, 2, 2]])
    counted = np.ones((1, 4), bool)
    got = truncated_importance(gap, np.zeros_like(gap), 3.5, counted=counted, sequence=number)
    np.testing.assert_allclose(got, [[3.5, 3.5, 3, 3]], rtol=1e-6)
    np.testing.assert_allclose(truncated_importance(gap, np.zeros_like(gap), 2.5), [[2, 2, 2.5, 1]], rtol=1e-6)
    np.testing.assert_allclose(sequence_sum(gap, counted, number)[0, ::2], np.log([4, 3]), rtol=1e-6)


def test_a_dual_clip_bounds_the_pull_of_a_token_that_became_likelier():
    ratio, advantage = np.float32([5.0, 5.0, 2.0, 0.5]), np.float32([-1, 1, -1, -1])
    value, clipped = dual_clip(3.0)(np.log(ratio), ratio, advantage, 0.8, 1.2)
    np.testing.assert_allclose(value, [-3, 1.2, -2, -0.8], rtol=1e-6)
    assert clipped.tolist() == [True, True, False, True]
    assert dual_clip(3.0) is dual_clip(3.0)
    with pytest.raises(ValueError, match="--dual-clip=1 must be above 1"):
        dual_clip(1)


def test_without_terms_the_surrogate_is_ppos():
    assert [name for name, entry in LOSSES.items() if entry.surrogate is not clipped_surrogate] == [
        "sequence_token",
        "cispo",
    ]
