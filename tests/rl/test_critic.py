"""PPO's value network: its estimates against loops in float64, its updates, its meshes, and a run that goes on."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from experiments.r1_zero import NANO
from r1jax.model import transformer
from r1jax.model.attention import causal
from r1jax.rewards.rule import Scores
from r1jax.rl.advantages import charge_kl, compute_advantages
from r1jax.rl.checks import check, check_terms
from r1jax.rl.critic import make_critic
from r1jax.rl.metrics import step_metrics
from r1jax.rl.minibatches import add_old_logprobs, add_ref_logprobs, pack_minibatches
from r1jax.rl.rounds import Round
from r1jax.runs import checkpoint
from r1jax.runs.health import Alarms
from r1jax.sampling.rollout import Rollout
from r1jax.sharding import make_mesh, place
from r1jax.train_rl import layout_of, make_learner, objective_of
from r1jax.training.optimizers import hold, optimizer
from r1jax.training.step import score, start, update
from support.crash import crashed
from support.marks import WEEKLY
from support.tiny import hidden, prompts
from support.walk import lines, outcome

SIZES = np.asarray([3, 9, 1, 12, 5, 7, 2, 8])
RECIPE = dataclasses.replace(
    NANO,
    loss="ppo",
    group_size=2,
    max_tokens=12,
    row_length=96,
    batch_rows=4,
    clip_eps=0.2,
    gae_lambda=0.7,
    discount=0.9,
    kl="k1_reward",
    kl_coef=0.05,
    warmup_steps=0,
    learning_rate=1e-3,
)


@pytest.fixture(scope="module")
def played(cfg):
    """A round of four questions with two completions of random tokens each, and their rewards."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(30, 250, (8, 12)).astype(np.int32)
    rollout = Rollout(prompts(), tokens, SIZES, np.full((8, 12), -2.0, np.float32), np.ones(8, bool))
    scores = Scores(rng.choice([0.0, 1.0, 2.0], 8), np.arange(8) != 4, {}, [])  # one without a verdict
    round_ = Round([], rollout, [""] * 8, np.arange(4), scores)
    return round_._replace(advantages=compute_advantages(scores, rollout, objective_of(RECIPE)))


def taught(cfg, params, mesh, recipe=RECIPE):
    """A critic whose head is not zero, so that its values differ."""
    critic = make_critic(recipe, cfg, mesh)
    state = critic.start(place(params, mesh), mesh)
    kernel = np.random.default_rng(1).standard_normal((cfg.width, 1)).astype(np.float32)
    head = place({"reward_head": {"kernel": kernel}}, mesh)
    critic.state = state._replace(params=state.params | head)
    return critic


def estimated(cfg, params, mesh, round_, recipe=RECIPE):
    """The critic, and minibatches and round as the loop makes them."""
    network, layout, objective = make_learner(recipe, cfg, mesh).network, layout_of(recipe, mesh), objective_of(recipe)
    policy, reference = (place(jax.tree.map(lambda x, f=f: f * x, params), mesh) for f in (1.0, 1.02))
    batches = pack_minibatches(round_, 2, objective, layout, recipe.max_tokens)
    batches = add_old_logprobs(network, policy, batches, recipe.old_logp, layout.charged)
    batches = add_ref_logprobs(lambda rows: score(network, reference, rows)[0], batches)
    batches, round_ = charge_kl(batches, round_, objective, layout, recipe.kl_coef)
    critic = taught(cfg, params, mesh, recipe)
    return critic, batches, *critic.estimate(batches, round_)


def tokens_of(batches, name):
    """{slot: value} of a field at the tokens of all micro-batches."""
    found = {}
    for p, part in enumerate(batches):
        for b, batch in enumerate(part):
            at = np.argwhere(np.asarray(batch.weight) != 0)
            values = np.asarray(getattr(batch, name), np.float64)
            found |= {(p, b, *slot): values[tuple(slot)] for slot in at}
    return found


def test_advantages_and_returns_are_the_papers_loop_over_each_completion(cfg, params, one, played):
    critic, before, after, round_ = estimated(cfg, params, one, played)
    kernel = np.asarray(critic.state.params["reward_head"]["kernel"], np.float64)[:, 0]
    row, old, ref = (tokens_of(before, name) for name in ("row", "old_logp", "ref_logp"))
    raw, returns, costs = {}, {}, np.zeros(8)
    for i, (size, tokens) in enumerate(zip(SIZES, played.rollout.tokens, strict=True)):
        slots = sorted(slot for slot in row if row[slot] == i)
        assert len(slots) == (0 if i == 4 else size)
        prompt = played.rollout.prompts[i // 2]
        plain = np.asarray([[*prompt, *tokens[:size]]])
        at, mask = np.arange(plain.shape[1])[None], np.asarray(causal(plain.shape[1]))
        states = np.asarray(hidden(cfg, params, plain, at, mask), np.float64)[0]
        values = [*(states[len(prompt) - 1 : -1] @ kernel), 0.0]
        later = 0.0
        for t in reversed(range(len(slots))):
            cost = old[slots[t]] - ref[slots[t]]
            reward = -0.05 * cost + (played.scores.total[i] if t == size - 1 else 0.0)
            later = reward + 0.9 * values[t + 1] - values[t] + 0.9 * 0.7 * later
            raw[slots[t]], returns[slots[t]], costs[i] = later, later + values[t], costs[i] + cost
    found = tokens_of(after, "returns")
    assert found.keys() == raw.keys()
    np.testing.assert_allclose([found[s] for s in raw], [returns[s] for s in raw], rtol=2e-3, atol=2e-3)
    mean, std = np.mean(list(raw.values())), np.std(list(raw.values()))
    got = tokens_of(after, "advantage")
    np.testing.assert_allclose([got[s] for s in raw], [(raw[s] - mean) / std for s in raw], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(np.mean(list(got.values())), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(list(got.values())), 1, rtol=1e-4)
    # For samples.jsonl: the mean advantage of a completion, and its reward less its KL.
    for i in (0, 3, 7):
        mine = [got[slot] for slot in row if row[slot] == i]
        assert round_.advantages[i] == pytest.approx(np.mean(mine), abs=1e-4)
    np.testing.assert_allclose(round_.scores.parts["kl_cost"], costs, atol=1e-3)
    assert abs(costs).max() > 0.05
    assert all(batch.row is None and batch.weight.shape == batch.old_value.shape for part in after for batch in part)


def test_before_it_has_learnt_its_values_are_zero_and_equal_rewards_move_nothing(cfg, params, one, played):
    recipe = dataclasses.replace(RECIPE, kl="k3", kl_coef=0.0, gae_lambda=1.0, discount=1.0)
    critic = make_critic(recipe, cfg, one)
    critic.state = critic.start(params, one)
    for rewards in (np.full(8, 1.1), np.arange(8.0)):
        scores = played.scores._replace(total=rewards)
        round_ = played._replace(scores=scores, advantages=rewards)
        batches = pack_minibatches(round_, 1, objective_of(recipe), layout_of(recipe, one), recipe.max_tokens)
        ((batch, *_),), _ = critic.estimate(batches, round_)
        at = np.asarray(batch.weight) != 0
        assert not np.asarray(batch.old_value).any()
        np.testing.assert_allclose(np.asarray(batch.returns)[at], np.asarray(batches[0][0].advantage)[at], rtol=1e-6)
        assert bool(np.asarray(batch.advantage).any()) == (rewards[0] != rewards[1])


def test_an_update_of_one_network_leaves_the_other_and_both_learn(cfg, params, one, played):
    critic, _, (minibatch, _), _ = estimated(cfg, params, one, played, dataclasses.replace(RECIPE, value_clip=0.0))
    learner = make_learner(RECIPE, cfg, one)
    state = start(learner, jax.tree.map(lambda x: 1.0 * x, params), one)

    def held(tree):
        return jax.tree.map(np.asarray, tree)

    def moved(old, new):
        return [bool((a != b).any()) for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True)]

    policy, values = held(state.params), held(critic.state.params)
    state, figures = update(learner, state, minibatch)
    assert all(moved(policy, held(state.params))) and not any(moved(values, held(critic.state.params)))
    policy, first = held(state.params), None
    for _ in range(8):
        found = critic.learn(minibatch, figures)
        first = first or float(found["value/loss"])
    assert not any(moved(policy, held(state.params))) and all(moved(values, held(critic.state.params)))
    assert float(found["value/loss"]) < 0.9 * first and int(critic.state.step) == 8
    assert float(found["loss"]) == float(figures["loss"]) and float(found["skipped"]) == 0


def test_an_update_of_the_values_that_is_not_finite_is_skipped_and_counted(cfg, params, one, played):
    critic, _, (minibatch, _), _ = estimated(cfg, params, one, played)
    broken = [batch._replace(returns=batch.returns * np.inf) for batch in minibatch]
    before = np.asarray(critic.state.params["reward_head"]["kernel"])
    found = critic.learn(broken, {"skipped": jax.numpy.int32(0)})
    assert float(found["skipped"]) == 1
    np.testing.assert_array_equal(critic.state.params["reward_head"]["kernel"], before)


@pytest.mark.parametrize("spec", ["fsdp:2", pytest.param("data:2", marks=WEEKLY)])
def test_two_devices_estimate_and_learn_what_one_does(cfg, params, played, spec):
    found = []
    for mesh in (make_mesh("1x1"), make_mesh(spec, jax.devices()[:2])):
        critic, _, batches, round_ = estimated(cfg, params, mesh, played)
        figures = critic.learn(batches[0], {"skipped": jax.numpy.int32(0)})
        slopes = optax.tree_utils.tree_get(critic.state.opt_state, "mu")["layers"][0]["mlp"]["down"]["kernel"]
        numbers = (float(figures["value/loss"]), float(figures["value/grad_norm"]))
        found.append((round_.advantages, *numbers, 1e3 * np.asarray(slopes)))
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_a_policy_is_held_while_its_values_warm_up():
    inner = optimizer(NANO.descent._replace(warmup_steps=0))
    assert hold(inner, 0) is inner and hold(inner, 2) is hold(inner, 2)
    params = {"norm": {"scale": jax.numpy.ones(3)}}
    held, state, moves = hold(inner, 2), None, []
    state = held.init(params)
    for _ in range(3):
        changes, state = held.update(params, state, params)
        moves.append(bool(jax.numpy.any(changes["norm"]["scale"])))
    assert moves == [False, False, True]


def test_the_line_of_a_step_has_how_well_values_predict(cfg):
    rows = {name: np.ones(2) for name in ("total", "valid", "length", "stopped", "one_completion", "language")}
    rows |= {"reflective_words": np.zeros(2), "advantage": np.zeros(2)}
    update = dict.fromkeys(("kl", "clip_fraction", "entropy", "log_ratio/max", "grad_norm", "skipped", "loss"), 0.0)
    update |= {"sampler_gap/k3": 0.0, "sampler_gap/max": 0.0, "weight": 0.5}
    assert "value/loss" not in step_metrics(rows, update, 1)
    # Half of the weight: returns 0 and 2 predicted as 0 and 1: a quarter of their variance is left.
    update |= {"value/loss": 0.25, "value/grad_norm": 3.0, "value/clip_fraction": 0.25}
    update |= {"value/error": 0.25, "value/mean": 0.25, "value/return": 0.5, "value/return_square": 1.0}
    line = step_metrics(rows, update, 1)
    assert line["value/explained_variance"] == pytest.approx(0.75)
    assert (line["value/mean"], line["value/return"], line["value/clip_fraction"]) == (0.5, 1.0, 0.5)
    same = {"group/zero_variance": 1.0}
    assert not any(Alarms(grouped=False).check(same) for _ in range(5))
    grouped = Alarms()
    assert any([grouped.check(same) for _ in range(5)])


@pytest.mark.parametrize(
    "flags, words",
    [
        ({"loss": "grpo", "gae_lambda": 0.9}, "--gae-lambda=0.9 is for --loss=ppo, not grpo: leave it at 1.0"),
        ({"loss": "rloo", "value_warmup_steps": 3}, "--value-warmup-steps=3 is for --loss=ppo, not rloo"),
        ({"gae_lambda": 1.5}, "--gae-lambda=1.5 must lie between 0 and 1"),
        ({"discount": 0.0}, "--discount=0.0 must be above 0"),
        ({"value_clip": -1.0}, "--value-clip=-1.0 must be 0"),
        ({"value_learning_rate": -1.0}, "--value-learning-rate=-1.0 must be 0"),
        ({"value_warmup_steps": 64}, "--value-warmup-steps=64 must be 0 or more and leave some of --steps=64"),
        ({"lora_rank": 8}, "--lora-rank=8 does not go with --loss=ppo"),
        ({"off_policy_bound": 0.5}, "--off-policy-bound=0.5 judges completions by one advantage"),
        ({"group_size": 1, "refill": 3}, "--refill=3 compares the completions of a group, and --group-size=1"),
        ({"loss": "grpo", "group_size": 1}, "--group-size=1 leaves nothing to compare"),
    ],
)
def test_what_goes_with_no_value_network_is_refused_by_its_flag(one, flags, words):
    ppo = dataclasses.replace(NANO, loss="ppo", clip_eps=0.2)
    check(dataclasses.replace(ppo, group_size=1), one)
    with pytest.raises(ValueError, match=words):
        check(dataclasses.replace(ppo, **flags), one)
    with pytest.raises(ValueError, match="--per-reward=True sets the advantages, and so does --loss=ppo"):
        check_terms(dataclasses.replace(ppo, per_reward=True), own=False)


def everything(workdir):
    """All arrays of a run's newest checkpoint by name."""
    found = checkpoint.find(workdir)
    return {n: np.asarray(checkpoint.StoredArray(found, n)) for n in checkpoint.list_arrays(found, "--weights")}


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [{}, pytest.param({"carry_over": 1, "questions_per_round": 3, "group_size": 1}, marks=WEEKLY)],
)
def test_a_run_of_ppo_goes_on_from_its_checkpoint_bit_for_bit(walk, tmp_path, more):
    flags = dict(loss="ppo", gae_lambda=0.9, kl="k1_reward", kl_coef=0.01, prompts="nano:compare", **more)
    flags |= dict(steps=2, save_every=1, eval_every=2)
    whole = walk.here(tmp_path / "whole", **flags)
    workdir = crashed(whole, tmp_path / "run", 1, 2)
    walk.here(workdir, resume=True, **flags)
    assert outcome(workdir) == outcome(whole)
    one, two = everything(whole), everything(workdir)
    assert one.keys() == two.keys() and any(name.startswith("critic/params/reward_head") for name in one)
    assert any(name.startswith("critic/opt_state") for name in one)
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)
    assert one["critic/params/reward_head/kernel"].any()
    line = lines(whole, "metrics")[-1]
    assert np.isfinite(line["value/loss"]) and "value/explained_variance" in line
    assert transformer.shapes(checkpoint.read_model(whole, whole)).keys() & {"reward_head"} == set()  # a policy still
