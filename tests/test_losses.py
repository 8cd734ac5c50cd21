"""The relatives of GRPO: their normalisers, ratios and corrections, against the published formulas in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.r1_zero import NANO
from r1jax.losses import LOSSES, group_advantages, policy_loss, row_weights, truncated_importance
from r1jax.model.packed_rows import number_runs
from r1jax.rewards.rule import Scores
from r1jax.rl.checks import check
from r1jax.rl.minibatches import pack_minibatches
from r1jax.rl.rounds import Round
from r1jax.train_rl import layout_of
from r1jax.training.logprobs import Network
from r1jax.training.objectives import Terms, grpo_objective
from r1jax.training.packing import pack
from r1jax.training.step import Learner, accumulate
from support.marks import WEEKLY
from support.tiny import HEAT, prompts

SGD = optax.sgd(1.0)  # one for all: learners of equal parts share their programs


def test_weights_worked_by_hand():
    # Completions of 1 and 3 tokens beside one without a verdict: N = 2, Σ|o| = 4, budget 8.
    lengths, valid = np.float64([1, 3, 5]), np.bool_([1, 1, 0])
    weights = {loss: row_weights(loss, lengths, valid, rows=2, tokens=4, max_tokens=8).tolist() for loss in LOSSES}
    assert weights == {
        "grpo": [1 / 2, 1 / 6, 0],
        "sequence": [1 / 2, 1 / 6, 0],
        "sequence_token": [1 / 2, 1 / 6, 0],
        "rloo": [1 / 2, 1 / 2, 0],
        "cispo": [1 / 4, 1 / 4, 0],
        "reinforce_pp": [1 / 4, 1 / 4, 0],
        "reinforce_pp_baseline": [1 / 4, 1 / 4, 0],
        "dr_grpo": [1 / 16, 1 / 16, 0],
        "dapo": [1 / 4, 1 / 4, 0],
        "ppo": [1 / 4, 1 / 4, 0],
    }
    with pytest.raises(ValueError, match="--loss=trpo must be one of grpo, dr_grpo, dapo, sequence"):
        row_weights("trpo", lengths, valid, rows=2, tokens=4, max_tokens=8)


def test_an_advantage_without_std_is_that_over_the_others_up_to_a_factor():
    rewards = np.float32([[1, 0, 0, 1], [5, 1, 1, 1]])
    got = group_advantages(rewards, scaled=False)
    np.testing.assert_allclose(got, [[0.5, -0.5, -0.5, 0.5], [3, -1, -1, -1]], rtol=1e-6)
    # Dr. GRPO appendix A: times G/(G−1) it is the reward over the mean of the others.
    others = (rewards.sum(-1, keepdims=True) - rewards) / 3
    np.testing.assert_allclose(got * 4 / 3, rewards - others, rtol=1e-6)
    assert not np.any(group_advantages(np.full((1, 3), 1.1), scaled=False))


def test_a_clip_from_above_of_its_own_worked_by_hand():
    # ρ = 1.25 with Â = 1: over 1 + 0.2, under 1 + 0.28. ρ = 0.75 with Â = −1 stays held by ε alone, at 0.8.
    logp = np.log(np.float32([1.25, 0.75]))
    args = (np.zeros(2, np.float32), logp, np.float32([1, -1]), np.ones(2, np.float32))
    assert policy_loss(logp, *args, clip_eps=0.2, kl_coef=0.0)[0] == pytest.approx(-(1.2 - 0.8), rel=1e-6)
    loss, metrics = policy_loss(logp, *args, clip_eps=0.2, kl_coef=0.0, clip_eps_high=0.28)
    assert loss == pytest.approx(-(1.25 - 0.8), rel=1e-6)
    assert metrics["clip_fraction"] == 1


def test_the_ratio_of_a_completion_worked_by_hand():
    # Tokens with ρ of 2 and 8: the completion's is √16 = 4, beside one of ρ = 3. Its slope is s·Â/|o| at each token.
    logp = np.log(np.float32([[2, 8, 3, 100]]))
    weight = np.float32([[0.5, 0.5, 1, 0]])
    args = (np.zeros_like(logp), logp, np.ones_like(logp), weight)
    options = dict(clip_eps=10.0, kl_coef=0.0, sequence=np.int32([[2, 2, 0, 0]]))
    loss, metrics = policy_loss(logp, *args, **options)
    assert loss == pytest.approx(-(4 + 3), rel=1e-6)
    assert metrics["log_ratio/max"] == pytest.approx(np.log(4), rel=1e-6)
    slope = jax.grad(lambda x: policy_loss(x, *args, **options)[0])(logp)
    np.testing.assert_allclose(slope, [[-2, -2, -3, 0]], rtol=1e-6)


def test_truncated_importance_worked_by_hand():
    # π_old/π_sampler of 4 and 1/2 under a cap of 2 weigh 2 and 1/2.
    weighed = truncated_importance(np.log(np.float32([0.8, 0.1])), np.log(np.float32([0.2, 0.2])), 2.0)
    np.testing.assert_allclose(weighed, [2, 0.5], rtol=1e-6)


def test_completions_of_a_packed_row_are_numbered_from_the_left():
    rows, _ = pack(
        [[1, 2, 3, 4], [5, 6, 7]], [(0, np.arange(10, 17)), (0, np.arange(20, 27)), (1, np.arange(30, 36))], 28
    )
    got = np.asarray(number_runs(jax.tree.map(jnp.asarray, rows)))
    assert got[0].tolist() == [0] * 4 + [1] * 7 + [2] * 7 + [3] * 3 + [4] * 6 + [5]


RECIPE = dataclasses.replace(
    NANO, group_size=4, max_tokens=40, row_length=96, batch_rows=4, temperature=HEAT, kl_coef=0.0
)


def rounded(rollout, advantages, valid=None):
    """A round that earned these advantages."""
    valid = np.ones(16, bool) if valid is None else valid
    return Round(
        [],
        rollout._replace(prompts=prompts()),
        [""] * 16,
        np.arange(4),
        Scores(np.zeros(16), valid, {}, []),
        np.float32(advantages),
    )


def packed(round_, mesh, **changed):
    """The micro-batches of the one optimizer step of a round."""
    recipe = dataclasses.replace(RECIPE, **changed)
    objective, layout = LOSSES[recipe.loss], layout_of(recipe, mesh)
    return pack_minibatches(round_, 1, objective, layout, recipe.max_tokens)[0]


def gradient(cfg, params, batches, **objective):
    learner = Learner(Network(cfg, HEAT), SGD, grpo_objective(0.2, 0.0, **objective))
    sums = None
    for batch in batches:
        sums = accumulate(learner, params, None, sums, batch)
    return sums


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(loss, marks=() if loss in ("grpo", "sequence", "dapo") else WEEKLY)
        for loss in LOSSES
        if not LOSSES[loss].valued
    ],
)
def test_rows_of_zero_advantage_are_left_out_of_the_update_and_stay_in_the_normaliser(cfg, params, one, rolled, loss):
    advantages = np.random.default_rng(1).standard_normal(16)
    advantages[[0, 1, 2, 3, 9]] = 0.0  # a whole group, a single row, and one without a verdict
    valid = np.arange(16) != 9
    round_ = rounded(rolled, advantages, valid)
    few = packed(round_, one, loss=loss)
    # A balanced load counts every token, so that all rows stay: an all but zero rate is the same loss on all rows.
    many = packed(round_, one, loss=loss, balance_rate=1e-9)

    def slots(batches):
        return sum(int((np.asarray(b.rows.segment) > 0).sum()) for b in batches)

    assert slots(many) == rolled.lengths.sum()
    assert slots(few) == rolled.lengths[advantages != 0].sum()
    got, want = (gradient(cfg, params, batches, objective=LOSSES[loss]).grads for batches in (few, many))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(abs(b).max()), rtol=0)


@pytest.mark.parametrize("why", [{"kl_coef": 0.001}, {"balance_rate": 0.001}])
def test_no_row_is_left_out_where_it_could_move_the_policy(one, rolled, why):
    batches = packed(rounded(rolled, np.zeros(16)), one, **why)
    whole = sum(int((np.asarray(b.weight) > 0).sum()) for b in batches)
    assert whole == rolled.lengths.sum()


def test_a_minibatch_whose_advantages_are_all_zero_is_one_batch_of_padding_and_no_gradient(cfg, params, one, rolled):
    (batch,) = packed(rounded(rolled, np.zeros(16)), one)
    assert not np.any(batch.weight)
    sums = gradient(cfg, params, [batch])
    assert all(not np.any(g) for g in jax.tree.leaves(sums.grads))
    assert sums.metrics["loss"] == 0


def test_truncated_importance_weighs_the_update_by_what_the_sampler_got_wrong(cfg, params, one, rolled):
    # A sampler that says each token was e^−0.5 as likely: π_old/π_sampler = 1.65 everywhere, or 1.2 where that is the
    # cap.
    off = rolled._replace(logp=rolled.logp - 0.5)
    batches = packed(rounded(off, np.linspace(-1, 1, 16)), one)
    plain, loose, tight = (gradient(cfg, params, batches, terms=Terms(tis_cap=cap)) for cap in (0.0, 2.0, 1.2))
    for a, b, c in zip(*(jax.tree.leaves(x.grads) for x in (plain, loose, tight)), strict=True):
        np.testing.assert_allclose(b, np.exp(0.5) * np.asarray(a), atol=2e-5 * float(abs(b).max()), rtol=0)
        np.testing.assert_allclose(c, 1.2 * np.asarray(a), atol=2e-5 * float(abs(c).max()), rtol=0)
    assert loose.metrics["sampler_gap/truncated"] == 0
    np.testing.assert_allclose(tight.metrics["sampler_gap/truncated"], tight.metrics["weight"], rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"loss": "trpo"}, "--loss=trpo must be one of grpo, dr_grpo, dapo, sequence"),
        ({"clip_eps_high": -1.0}, "--clip-eps-high=-1.0 must be 0"),
        ({"tis_cap": -2.0}, "--tis-cap=-2.0 needs"),
        ({"tis_cap": 2.0, "old_logp": "sampler"}, "--tis-cap=2.0 needs --old-logp=trainer"),
    ],
)
def test_a_loss_that_means_nothing_is_refused_by_its_flag(one, flags, words):
    check(NANO, one)
    with pytest.raises(ValueError, match=words):
        check(dataclasses.replace(NANO, **flags), one)


def test_a_recipe_has_no_way_to_cut_what_it_trains_on():
    assert not {"top_k", "top_p", "min_p"} & {field.name for field in dataclasses.fields(NANO)}
