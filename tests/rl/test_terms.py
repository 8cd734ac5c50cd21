"""The terms of a loss in the loop: KL in the reward, normalised parts, masked rows, entropy, corrections by row."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from experiments.r1_zero import NANO
from r1jax.losses import LOSSES, decoupled_advantages, group_advantages
from r1jax.rewards.rule import Scores
from r1jax.rl.advantages import charge_kl, compute_advantages
from r1jax.rl.checks import check, check_terms
from r1jax.rl.minibatches import add_old_logprobs, add_ref_logprobs, pack_minibatches
from r1jax.rl.rounds import Round
from r1jax.train_rl import layout_of, objective_of
from r1jax.training.logprobs import Network, token_logprobs
from r1jax.training.objectives import Terms, grpo_objective
from r1jax.training.step import Learner, accumulate, score
from support.tiny import HEAT, prompts

RECIPE = dataclasses.replace(NANO, group_size=4, max_tokens=40, row_length=96, batch_rows=4, temperature=HEAT)
SGD = optax.sgd(1.0)


def rounded(rolled, rewards, **changed):
    """A round of 16 completions with these rewards."""
    scores = Scores(np.float64(rewards), np.ones(16, bool), {}, [])
    round_ = Round([], rolled._replace(prompts=prompts()), [""] * 16, np.arange(4), scores)
    return round_._replace(advantages=compute_advantages(scores, round_.rollout, LOSSES["grpo"]), **changed)


def test_the_kl_comes_off_the_reward_of_each_completion(cfg, params, one, rolled):
    recipe = dataclasses.replace(RECIPE, kl="k1_reward", kl_coef=0.02)
    other = jax.tree.map(lambda x: 1.02 * x, params)
    network, layout, objective = Network(cfg, HEAT), layout_of(recipe, one), objective_of(recipe)
    rewards = np.random.default_rng(0).choice([0.0, 1.0], 16)
    round_ = rounded(rolled, rewards)
    assert layout.numbered and layout.all_rows
    batches = pack_minibatches(round_, 2, objective, layout, recipe.max_tokens)
    batches = add_old_logprobs(network, params, batches, recipe.old_logp, layout.numbered)
    batches = add_ref_logprobs(lambda rows: score(network, other, rows)[0], batches)
    charged, after = charge_kl(batches, round_, objective, layout, recipe.kl_coef)
    # The same sums by hand: the sampler's log-probabilities are the trainer's to rounding.
    cost = np.zeros(16)
    for part in batches:
        for batch in part:
            gap = np.asarray(batch.old_logp - batch.ref_logp)
            at = np.asarray(batch.weight) != 0
            np.add.at(cost, np.asarray(batch.row)[at].astype(int), gap[at])
    assert np.abs(cost).max() > 0.05
    np.testing.assert_allclose(after.scores.parts["kl_cost"], cost, atol=1e-4)
    want = np.asarray(group_advantages((rewards - 0.02 * cost).reshape(4, 4))).reshape(-1)
    np.testing.assert_allclose(after.advantages, want, atol=2e-3)
    assert np.abs(want - round_.advantages).max() > 1e-3
    for part, before in zip(charged, batches, strict=True):
        for batch, old in zip(part, before, strict=True):
            at = np.asarray(batch.weight) != 0
            rows = np.asarray(old.row)[at].astype(int)
            np.testing.assert_array_equal(np.asarray(batch.advantage)[at], np.float32(after.advantages)[rows])
            assert not np.asarray(batch.advantage)[~at].any() and batch.row is None


def test_the_cost_is_the_same_on_eight_devices(cfg, params, one, eight, rolled):
    recipe = dataclasses.replace(RECIPE, kl="k1_reward", kl_coef=0.02, batch_rows=8)
    found = []
    for mesh in (one, eight):
        network, layout = Network(cfg, HEAT), layout_of(recipe, mesh)
        round_ = rounded(rolled, np.arange(16) % 3)
        batches = pack_minibatches(round_, 1, objective_of(recipe), layout, recipe.max_tokens)
        other = jax.tree.map(lambda x: 1.02 * x, params)
        batches = add_old_logprobs(network, params, batches, "trainer", every=True)
        batches = add_ref_logprobs(lambda rows, n=network, p=other: score(n, p, rows)[0], batches)
        found.append(charge_kl(batches, round_, objective_of(recipe), layout, 0.02)[1].advantages)
    np.testing.assert_allclose(*found, atol=1e-4)


def test_completions_that_were_cut_off_are_left_out_of_the_loss_and_stay_in_their_groups_mean(one, rolled):
    cut = np.arange(16) % 5 == 0
    round_ = rounded(rolled._replace(stopped=~cut), np.arange(16) % 3)
    recipe = dataclasses.replace(RECIPE, mask_truncated=True, kl_coef=0.001, loss="dapo")
    (batches,) = pack_minibatches(round_, 1, objective_of(recipe), layout_of(recipe, one), recipe.max_tokens)
    weight = np.concatenate([np.asarray(b.weight).ravel() for b in batches])
    kept = rolled.lengths[~cut].sum()
    assert (weight > 0).sum() == kept
    np.testing.assert_allclose(weight.sum(), 1, rtol=1e-5)  # the normaliser counts the others alone
    np.testing.assert_allclose(weight[weight > 0], 1 / kept, rtol=1e-6)
    whole = dataclasses.replace(recipe, mask_truncated=False)
    (batches,) = pack_minibatches(round_, 1, objective_of(whole), layout_of(whole, one), recipe.max_tokens)
    assert sum(int((np.asarray(b.weight) > 0).sum()) for b in batches) == rolled.lengths.sum()


def test_parts_are_normalised_by_themselves_and_penalties_are_parts(rolled):
    rng = np.random.default_rng(0)
    parts = {"accuracy": rng.choice([0.0, 1.0], 16), "format": rng.choice([0.0, 1.0], 16), "overlong": -rng.random(16)}
    shares = {"accuracy": 1.0, "format": 1.0, "language": 0.0, "overlong": 0.5, "repetition": 0.0}
    total = parts["accuracy"] + parts["format"] + 0.5 * parts["overlong"]
    rollout = rolled._replace(prompts=prompts())
    got = compute_advantages(Scores(total, np.ones(16, bool), parts, []), rollout, LOSSES["grpo"], shares)
    split = {name: part.reshape(4, 4) for name, part in parts.items()}
    np.testing.assert_array_equal(got, np.asarray(decoupled_advantages(split, shares)).reshape(-1))


def test_the_gradient_of_the_entropy_is_exact_where_asked_for_and_none_elsewhere():
    rng = np.random.default_rng(0)
    hidden, matrix = (jax.numpy.float32(rng.standard_normal(shape)) for shape in ((5, 8), (8, 11)))
    targets = jax.numpy.asarray(rng.integers(0, 11, 5))

    def entropy(h, on):
        return token_logprobs(h, matrix, targets, 0.7, entropy_gradient=on)[1].sum()

    assert not np.any(jax.grad(lambda h: entropy(h, False))(hidden))

    def plain(h):
        p = jax.nn.log_softmax(h @ matrix / 0.7)
        return -(jax.numpy.exp(p) * p).sum()

    np.testing.assert_allclose(jax.grad(lambda h: entropy(h, True))(hidden), jax.grad(plain)(hidden), atol=1e-5)
    np.testing.assert_allclose(entropy(hidden, True), plain(hidden), rtol=1e-6)


def grads(cfg, params, batches, network=None, terms=Terms()):  # noqa: B008 - a tuple of constants
    learner = Learner(network or Network(cfg, HEAT), SGD, grpo_objective(0.2, 0.0, terms=terms))
    sums = None
    for batch in batches:
        sums = accumulate(learner, params, None, sums, batch)
    return sums


def test_an_entropy_bonus_raises_the_entropy(cfg, params, one, rolled):
    recipe = dataclasses.replace(RECIPE, kl_coef=0.0, entropy_coef=0.5)
    layout = layout_of(recipe, one)
    assert layout.all_rows
    (batches,) = pack_minibatches(rounded(rolled, np.zeros(16)), 1, objective_of(recipe), layout, recipe.max_tokens)
    network = Network(cfg, HEAT, entropy_gradient=True)
    sums = grads(cfg, params, batches, network, Terms(entropy_coef=0.5))
    entropy = float(sums.metrics["entropy"])
    assert float(sums.metrics["loss"]) == pytest.approx(-0.5 * entropy, rel=1e-5)
    moved = jax.tree.map(lambda p, g: p - 0.05 * g, params, sums.grads)
    assert float(grads(cfg, moved, batches, network).metrics["entropy"]) > entropy + 1e-3


@pytest.mark.weekly
@pytest.mark.slow
def test_a_correction_by_completion_caps_the_product_of_its_tokens(cfg, params, one, rolled):
    off = rolled._replace(logp=rolled.logp - np.where(np.arange(40) < 1, 0.7, 0.0))  # the first token alone
    recipe = dataclasses.replace(RECIPE, kl_coef=0.0)
    round_ = rounded(off, np.arange(16) % 4)
    (batches,) = pack_minibatches(round_, 1, objective_of(recipe), layout_of(recipe, one), recipe.max_tokens)
    plain, whole, capped = (
        grads(cfg, params, batches, terms=terms)
        for terms in (Terms(), Terms(tis_cap=9.0, tis_by="sequence"), Terms(tis_cap=1.5, tis_by="sequence"))
    )
    # A completion's product is e^0.7 = 2.01 at every token, of which a cap of 1.5 leaves 1.5.
    for a, b, c in zip(*(jax.tree.leaves(x.grads) for x in (plain, whole, capped)), strict=True):
        np.testing.assert_allclose(b, np.exp(0.7) * np.asarray(a), atol=1e-4 * float(abs(b).max()), rtol=0)
        np.testing.assert_allclose(c, 1.5 * np.asarray(a), atol=1e-4 * float(abs(c).max()), rtol=0)


@pytest.mark.weekly
@pytest.mark.slow
def test_mistakes_that_the_policy_has_left_behind_are_masked(cfg, params, one, rolled):
    far = rolled._replace(logp=rolled.logp + 0.5)  # the sampler found every token likelier by half a nat
    recipe = dataclasses.replace(RECIPE, kl_coef=0.0)
    round_ = rounded(far, np.arange(16) % 4)
    (batches,) = pack_minibatches(round_, 1, objective_of(recipe), layout_of(recipe, one), recipe.max_tokens)
    masked = grads(cfg, params, batches, terms=Terms(off_policy_bound=0.4))
    lost = round_.advantages < 0
    assert float(masked.metrics["off_policy"]) == pytest.approx(lost.mean(), rel=1e-3)
    won = round_._replace(advantages=np.where(lost, 0.0, round_.advantages))
    (few,) = pack_minibatches(won, 1, objective_of(recipe), layout_of(recipe, one), recipe.max_tokens)
    for a, b in zip(*(jax.tree.leaves(x.grads) for x in (masked, grads(cfg, params, few))), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(abs(b).max()), rtol=0)
    assert float(grads(cfg, params, batches, terms=Terms(off_policy_bound=0.6)).metrics["off_policy"]) == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"kl": "k1"}, "does not contain the reference"),
        ({"kl": "k9"}, "--kl=k9 must be one of k3, k2, unbiased, k1_reward"),
        ({"kl": "k2", "kl_coef": 0.0}, "--kl=k2 does nothing with --kl-coef=0.0"),
        (
            {"kl": "k1_reward", "kl_coef": 0.01, "mask_truncated": True},
            "--mask-truncated=True and --kl=k1_reward exclude each other",
        ),
        ({"dual_clip": 1.0}, "--dual-clip=1.0 must be above 1"),
        ({"dual_clip": 3.0, "loss": "cispo"}, "here --loss=cispo"),
        ({"off_policy_bound": -1.0}, "--off-policy-bound=-1.0"),
        ({"tis_by": "row"}, "--tis-by=row must be token or sequence"),
        ({"tis_by": "sequence"}, "--tis-by=sequence does nothing with --tis-cap=0.0"),
        ({"refill": -1}, "--refill=-1 must be 0"),
        ({"refill": 3, "carry_over": 2}, "--refill=3 needs whole groups"),
    ],
)
def test_a_term_that_means_nothing_is_refused_by_its_flag(one, changed, words):
    with pytest.raises(ValueError, match=words):
        check(dataclasses.replace(NANO, **changed), one)


def test_parts_of_a_reward_of_ones_own_or_of_another_estimator_are_refused():
    parts = dataclasses.replace(NANO, per_reward=True)
    check_terms(parts, own=False)
    for recipe, own, words in (
        (parts, True, "needs the rule reward"),
        (dataclasses.replace(parts, kl="k1_reward"), False, "exclude each other"),
        (dataclasses.replace(parts, loss="rloo"), False, "so does --loss=rloo"),
    ):
        with pytest.raises(ValueError, match=words):
            check_terms(recipe, own=own)


@pytest.mark.weekly
@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        {"loss": "cispo", "clip_eps_high": 4.0},
        {"loss": "rloo", "kl": "k1_reward", "kl_coef": 0.01},
        {"loss": "reinforce_pp", "kl": "k2", "kl_coef": 0.01},
        {"loss": "reinforce_pp_baseline"},
        {"loss": "sequence_token"},
        {"kl": "unbiased", "kl_coef": 0.01, "off_policy_bound": 0.5, "dual_clip": 3.0},
        {"entropy_coef": 0.01, "mask_truncated": True, "per_reward": True},
        {"tis_cap": 2.0, "tis_by": "sequence", "optimizer": "muon", "schedule": "linear", "warmup_steps": 0},
    ],
    ids=lambda flags: "-".join(map(str, flags.values())),
)
def test_every_flag_reaches_the_loop(walk, tmp_path, flags):
    from support.walk import lines

    numbers = dict(steps=4, minibatches=2, questions_per_round=4, prompts="nano:compare", kl_coef=0.0) | flags
    metrics = lines(walk.here(tmp_path / "run", **numbers), "metrics")
    assert len(metrics) == 4 and all(np.isfinite(line["loss"]) for line in metrics)
    assert sum(line["update/skipped"] for line in metrics) == 0 and any(line["grad_norm"] > 0 for line in metrics)
