"""Advantages and losses, against formulas worked by hand and in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.losses import group_advantages, grpo_loss, policy_loss

EQUAL = (0.1, 0.3, 0.7, 1.1)


def test_equal_rewards_give_exactly_zero_advantage():
    # Groups of 3..64 as the valid part of rows of 64: one shape, so one compile.
    sizes = np.repeat(np.arange(3, 65), len(EQUAL))
    rewards = np.repeat(np.tile(np.float32(EQUAL), 62)[:, None], 64, axis=1)
    assert not np.any(group_advantages(rewards, np.arange(64) < sizes[:, None]))


@pytest.mark.parametrize("group_size", [3, 11, 16, 64])
def test_equal_rewards_give_zero_where_an_epsilon_in_the_denominator_does_not(group_size):
    rewards = jnp.full((1, group_size), 1.1, jnp.float32)
    # In float32 the mean of equal numbers is another number, and their standard deviation as small as the difference.
    assert abs((rewards - rewards.mean()) / (rewards.std() + 1e-8)).max() > 0.5
    assert not np.any(group_advantages(rewards))


def test_advantages_are_the_rewards_in_standard_deviations_from_their_mean():
    # [1, 0, 0, 1]: mean 1/2, std 1/2. [2, 0, 0, 0]: mean 1/2, std √(3/4), so 1.5/√0.75 = √3 and −0.5/√0.75 = −1/√3.
    got = group_advantages(np.float32([[1, 0, 0, 1], [2, 0, 0, 0]]))
    np.testing.assert_allclose(got, [[1, -1, -1, 1], [3**0.5, *3 * [-(3**-0.5)]]], rtol=1e-6)


@pytest.mark.parametrize(
    ("rewards", "valid", "advantages"),
    [
        ([1, 0, np.nan, 5], [1, 1, 0, 0], [1, -1, 0, 0]),  # the pair alone: mean 1/2, std 1/2
        ([1, 0, np.inf, 0], [1, 1, 0, 0], [1, -1, 0, 0]),
        ([1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]),  # the valid ones are equal
        ([1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]),  # nothing to compare with
        ([1, 0, 2, 3], [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_rows_without_a_verdict_get_zero_and_stay_out_of_mean_and_std(rewards, valid, advantages):
    got = group_advantages(np.float32([rewards]), np.bool_([valid]))
    np.testing.assert_allclose(got, [advantages], rtol=1e-6)


def test_a_nan_reward_that_counts_is_not_hidden():
    assert np.isnan(group_advantages(np.float32([[1, np.nan, 0]]))).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1.0, 100.0]))
def test_advantages_agree_with_float64_and_ignore_scale_and_offset(seed, offset):
    rng = np.random.default_rng(seed)
    rewards = rng.choice([0.0, 0.5, 1.0, 2.0], (4, 8))
    valid = rng.random((4, 8)) < 0.8
    want = np.zeros((4, 8))
    for row, keep, out in zip(rewards, valid, want, strict=True):
        kept = row[keep]
        if kept.size and kept.std() > 0:
            out[keep] = (kept - kept.mean()) / kept.std()
    # 0.5 · 2⁻²² · 100 is the rounding of the offset rewards, over a standard deviation of at least 0.16.
    np.testing.assert_allclose(group_advantages(3.0 * rewards + offset, valid), want, atol=1e-4)


def oracle(logp, old, ref, advantages, mask, eps, beta):
    """The paper's eq. 1-2 in DeepSeekMath's token form, completion by completion and token by token, in float64."""
    total, kls, clipped = 0.0, 0.0, 0.0
    for i in range(len(advantages)):
        slots = np.flatnonzero(mask[i])
        for t in slots:
            rho = np.exp(logp[i, t] - old[i, t])
            surrogate = min(rho * advantages[i], min(max(rho, 1 - eps), 1 + eps) * advantages[i])
            r = np.exp(ref[i, t] - logp[i, t])
            kl = r - np.log(r) - 1
            total += (surrogate - beta * kl) / len(slots) / len(advantages)
            kls += kl / len(slots) / len(advantages)
            clipped += (surrogate != rho * advantages[i]) / len(slots) / len(advantages)
    return -total, kls, clipped


def batch(seed=0, n=6, t=9, spread=0.4):
    """Log-probabilities of three policies, advantages and a mask of completions of every length."""
    rng = np.random.default_rng(seed)
    logp, old, ref = (-2.0 + spread * rng.standard_normal((3, n, t))).astype(np.float32)
    mask = np.arange(t) < rng.integers(1, t + 1, n)[:, None]
    return logp, old, ref, rng.standard_normal(n).astype(np.float32), mask


@pytest.mark.parametrize("eps", [0.2, 10.0])
@pytest.mark.parametrize("beta", [0.0, 0.05])
def test_the_loss_is_the_published_formula(eps, beta):
    args = batch()
    loss, metrics = grpo_loss(*args, clip_eps=eps, kl_coef=beta)
    want, kl, clipped = oracle(*(a.astype(np.float64) for a in args[:4]), args[4], eps, beta)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(metrics["clip_fraction"], clipped, rtol=1e-5)
    assert (clipped > 0) == (eps < 1)  # the batch clips at 0.2 and nowhere at 10


def test_one_token_worked_by_hand():
    # π = 1/2, π_old = π_ref = 1/4, Â = 1, ε = 0.2: ρ = 2 is clipped to 1.2; KL = 1/2 − ln 1/2 − 1 = ln 2 − 1/2.
    half, quarter = np.log([[0.5]], dtype=np.float32), np.log([[0.25]], dtype=np.float32)
    loss, metrics = grpo_loss(half, quarter, quarter, np.float32([1]), np.bool_([[1]]), clip_eps=0.2, kl_coef=0.5)
    np.testing.assert_allclose(loss, -(1.2 - 0.5 * (np.log(2) - 0.5)), rtol=1e-6)
    assert metrics["clip_fraction"] == 1
    np.testing.assert_allclose(metrics["log_ratio/max"], np.log(2), rtol=1e-6)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "bnpo"])
def test_the_weights_give_the_losses_that_trl_publishes(kind):
    # TRL's GRPOTrainer._compute_loss (Apache-2.0), loss_type by loss_type; "bnpo" normalises as DAPO does.
    logp, old, ref, advantages, mask = batch(1)
    n, t = mask.shape
    eps, beta = 0.2, 0.04
    coef_1 = np.exp(logp - old)
    coef_2 = np.clip(coef_1, 1 - eps, 1 + eps)
    per_token = -np.minimum(coef_1 * advantages[:, None], coef_2 * advantages[:, None])
    per_token = per_token + beta * (np.exp(ref - logp) - (ref - logp) - 1)
    want, weight = {
        "grpo": (((per_token * mask).sum(-1) / mask.sum(-1)).mean(), mask / mask.sum(-1, keepdims=True) / n),
        "dr_grpo": ((per_token * mask).sum() / (n * t), mask / (n * t)),
        "bnpo": ((per_token * mask).sum() / mask.sum(), mask / mask.sum()),
    }[kind]
    spread = np.broadcast_to(advantages[:, None], mask.shape)
    loss, _ = policy_loss(logp, old, ref, spread, weight.astype(np.float32), clip_eps=eps, kl_coef=beta)
    np.testing.assert_allclose(loss, want, rtol=1e-5)


def gradient(logp, *rest, clip_eps=0.2, kl_coef=0.05):
    return np.asarray(jax.grad(lambda x: grpo_loss(x, *rest, clip_eps=clip_eps, kl_coef=kl_coef)[0])(jnp.asarray(logp)))


@pytest.mark.parametrize("poison", [-np.inf, np.inf, np.nan])
def test_what_lies_off_the_mask_gives_neither_loss_nor_gradient(poison):
    logp, old, ref, advantages, mask = batch(2)
    clean = gradient(logp, old, ref, advantages, mask)
    dirty = [np.where(mask, x, np.float32(poison)) for x in (logp, old, ref)]
    np.testing.assert_array_equal(gradient(*dirty, advantages, mask), clean)
    assert not clean[~mask].any() and (~mask).any()
    loss = grpo_loss(*dirty, advantages, mask, clip_eps=0.2, kl_coef=0.05)[0]
    assert loss == grpo_loss(logp, old, ref, advantages, mask, clip_eps=0.2, kl_coef=0.05)[0]


def test_the_last_token_the_stop_token_gets_gradient():
    logp, _, ref, advantages, mask = batch(3)
    last = mask.sum(-1) - 1
    assert np.all(gradient(logp, logp, ref, advantages, mask)[np.arange(len(last)), last] != 0)


def test_no_gradient_flows_into_the_old_the_reference_or_the_advantage():
    logp, old, ref, advantages, mask = batch(4)
    grads = jax.grad(lambda args: grpo_loss(logp, *args, mask, clip_eps=0.2, kl_coef=0.1)[0])((old, ref, advantages))
    assert not any(np.any(g) for g in grads)


def test_the_first_minibatch_follows_the_policy_gradient():
    # ρ = 1 and π = π_ref: of the whole objective −Â/(|o|·N) is left for each token.
    logp, _, _, advantages, mask = batch(5)
    want = np.where(mask, -advantages[:, None] / mask.sum(-1, keepdims=True) / len(mask), 0.0)
    np.testing.assert_allclose(gradient(logp, logp, logp, advantages, mask), want, rtol=1e-5, atol=1e-8)


def test_the_reference_changes_the_gradient():
    logp, _, ref, advantages, mask = batch(6)
    without = gradient(logp, logp, logp, advantages, mask, kl_coef=0.1)
    against = gradient(logp, logp, ref, advantages, mask, kl_coef=0.1)
    # d/dlogπ of β·k3 is β·(1 − π_ref/π), weighted like the rest.
    weight = mask / mask.sum(-1, keepdims=True) / len(mask)
    np.testing.assert_allclose(against - without, 0.1 * weight * (1 - np.exp(ref - logp)), atol=1e-6)
    assert abs(against - without).max() > 1e-3


def kl_of(gap):
    """The k3 estimate of tokens whose log π_ref − log π is `gap`."""
    zero, weight = np.zeros_like(gap), np.ones_like(gap)

    def kl(g, z, w):
        return policy_loss(z, z, g, z, w, clip_eps=0.2, kl_coef=1.0)[1]["kl"]

    return np.asarray(jax.vmap(kl)(gap, zero, weight))


def test_the_kl_is_never_negative_and_zero_only_between_equals():
    # Down to gaps of 1e-6, where e^x − x − 1 written out in float32 is noise of either sign around 5e-13.
    size = np.float32(np.geomspace(1e-6, 5, 4000))
    gap = np.concatenate([-size, size])
    kl = kl_of(gap)
    assert np.all(kl > 0)
    exact = np.expm1(gap.astype(np.float64)) - gap
    np.testing.assert_allclose(kl[size.size :][size > 1e-2], exact[size.size :][size > 1e-2], rtol=1e-4)
    assert kl_of(np.zeros(1, np.float32)) == 0


@pytest.mark.parametrize(
    ("ratio", "advantage", "slope"),
    [
        # Slope of the loss in log π is −ρÂ, or 0 where the clip holds. 1 − ε = −9 bounds nothing; 1 + ε = 11.
        (1.0, 1.0, -1.0),
        (10.9, 1.0, -10.9),
        (11.5, 1.0, 0.0),
        (11.5, -1.0, 11.5),  # the minimum takes the unclipped branch
        (0.001, 1.0, -0.001),
        (0.001, -1.0, 0.001),  # an ordinary ε would clip here
        (100.0, -1.0, 100.0),
    ],
)
def test_a_clip_of_ten_holds_only_ratios_above_eleven(ratio, advantage, slope):
    logp = np.log(np.float32([[ratio]])) - 5
    old = np.full((1, 1), -5, np.float32)
    args = (old, logp, np.float32([advantage]), np.bool_([[1]]))
    np.testing.assert_allclose(gradient(logp, *args, clip_eps=10.0, kl_coef=0.0), [[slope]], rtol=1e-4)
    metrics = grpo_loss(logp, *args, clip_eps=10.0, kl_coef=0.0)[1]
    assert metrics["clip_fraction"] == (slope == 0)


def test_an_ordinary_clip_holds_ratios_that_went_the_way_of_their_advantage():
    # Of four corners (ρ above / below, Â + / −) the clip holds (above, +) and (below, −).
    logp = np.log(np.float32([[1.5], [1.5], [0.5], [0.5]]))
    args = (np.zeros((4, 1), np.float32), logp, np.float32([1, -1, 1, -1]), np.ones((4, 1), bool))
    slopes = gradient(logp, *args, clip_eps=0.2, kl_coef=0.0)[:, 0]
    np.testing.assert_allclose(slopes, np.float32([0, 1.5, -0.5, 0]) / 4, rtol=1e-6)
    assert grpo_loss(logp, *args, clip_eps=0.2, kl_coef=0.0)[1]["clip_fraction"] == 0.5


def test_sums_over_parts_of_a_minibatch_add_up_to_the_whole():
    logp, old, ref, advantages, mask = batch(7)
    weight = (mask / mask.sum(-1, keepdims=True) / len(mask)).astype(np.float32)
    spread = np.broadcast_to(advantages[:, None], mask.shape)
    arrays = (logp, old, ref, spread, weight)
    whole = policy_loss(*arrays, clip_eps=0.2, kl_coef=0.05)
    parts = [policy_loss(*(x[rows] for x in arrays), clip_eps=0.2, kl_coef=0.05) for rows in (slice(0, 2), slice(2, 6))]
    np.testing.assert_allclose(sum(loss for loss, _ in parts), whole[0], rtol=1e-6)
    for name in ("kl", "clip_fraction", "log_ratio", "weight"):
        np.testing.assert_allclose(sum(m[name] for _, m in parts), whole[1][name], rtol=1e-5, atol=1e-7)
    assert max(m["log_ratio/max"] for _, m in parts) == whole[1]["log_ratio/max"]
