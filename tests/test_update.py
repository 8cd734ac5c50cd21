"""One optimizer step: what it follows, and what must not change it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.model.lora import merge
from r1jax.model.packed_rows import PackedRows
from r1jax.sampling.sampler import sync
from r1jax.sharding import param_specs, place, shard_rows
from r1jax.training.logprobs import Network
from r1jax.training.objectives import cross_entropy, grpo_objective, minibatch_loss
from r1jax.training.packing import Minibatch, TokenBatch, pack, spread
from r1jax.training.step import Learner, accumulate, apply, score, start, update
from support.tiny import HEAT, dense_logp, draw, hidden, in_rows, keys, laid, prompts

ROW = 96  # slots
BATCH = 4  # rows of a micro-batch, on 4x2 one for each row shard


@pytest.fixture(scope="module")
def learner(cfg):
    # Adam's ε is large, so that its first step is near proportional to the gradient: with the usual ε it is its sign.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, 0.9, 0.95, eps=1e-2, weight_decay=0.01))
    return Learner(Network(cfg, HEAT), optimizer, grpo_objective(clip_eps=0.2, kl_coef=0.05))


@pytest.fixture(scope="module")
def reference(params):
    return jax.tree.map(lambda x: 1.03 * x, params)


ADVANTAGES = np.float32(np.random.default_rng(5).standard_normal(16))


def laid_out(rollout, packed=True):
    """Packed rows, or one row for each completion, and the places of the completions."""
    members = [(i // rollout.group_size, rollout.tokens[i, :n]) for i, n in enumerate(rollout.lengths)]
    if packed:
        return pack(prompts(), members, ROW)
    alone = [pack(prompts(), [member], ROW) for member in members]
    rows = PackedRows(*(np.concatenate(x) for x in zip(*(rows[:5] for rows, _ in alone), strict=True)))
    return rows, [place._replace(row=i) for i, (_, (place,)) in enumerate(alone)]


def minibatch(learner, params, reference, rollout, mesh, *, packed=True, size=BATCH, old="trainer"):
    """Micro-batches of `size` rows, as the walk makes them."""
    rows, places = laid_out(rollout, packed)
    per_token = {
        "weight": [np.full(n, 1 / (n * len(rollout.lengths))) for n in rollout.lengths],
        "advantage": [np.full(n, a) for n, a in zip(rollout.lengths, ADVANTAGES, strict=True)],
        "rollout_logp": [rollout.logp[i, :n] for i, n in enumerate(rollout.lengths)],
    }
    arrays = {name: spread(values, places, rows.tokens.shape) for name, values in per_token.items()}
    padding = -len(rows.tokens) % size
    rows, arrays = jax.tree.map(lambda x: np.pad(x, ((0, padding), (0, 0))), (rows, arrays))
    batches = []
    for first in range(0, len(rows.tokens), size):
        piece, own = shard_rows(jax.tree.map(lambda x, i=first: x[i : i + size], (rows, arrays)), mesh)
        old_logp = score(learner.network, params, piece)[0] if old == "trainer" else own["rollout_logp"]
        ref_logp = old_logp if reference is None else score(learner.network, reference, piece)[0]
        batches.append(Minibatch(piece, own["weight"], own["advantage"], own["rollout_logp"], old_logp, ref_logp))
    return batches


def summed(learner, params, batches):
    sums = None
    for batch in batches:
        sums = accumulate(learner, params, None, sums, batch)
    return sums


def fresh(learner, params, mesh):
    """A train state that may be donated: a copy of its own."""
    return start(learner, jax.tree.map(jnp.copy, place(params, mesh)), mesh)


@pytest.fixture(scope="module")
def whole(learner, params, reference, rolled, one):
    """Gradient and metrics of the minibatch in packed rows, four rows at a time."""
    return summed(learner, params, minibatch(learner, params, reference, rolled, one))


def assert_same(got, want):
    """Gradients to 1e-5 of the largest entry of their leaf, and the same metrics."""
    for a, b in zip(jax.tree.leaves(got.grads), jax.tree.leaves(want.grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * float(abs(b).max()), rtol=0)
    assert got.metrics.keys() == want.metrics.keys()
    for name, value in want.metrics.items():
        np.testing.assert_allclose(got.metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_the_test_minibatch_is_worth_testing(learner, params, reference, rolled, one, whole):
    batches = minibatch(learner, params, reference, rolled, one)
    assert len(batches) > 1
    assert whole.metrics["kl"] > 1e-3
    np.testing.assert_allclose(whole.metrics["weight"], 1, rtol=1e-5)
    assert all(np.any(g) for g in jax.tree.leaves(whole.grads))


def test_micro_batches_add_up_to_the_whole(learner, params, reference, rolled, one, whole):
    batches = minibatch(learner, params, reference, rolled, one, size=16)
    assert len(batches) == 1
    assert_same(summed(learner, params, batches), whole)


def test_packed_rows_are_rows_of_their_own(learner, params, reference, rolled, one, whole):
    assert len(laid_out(rolled)[0].tokens) < 16
    assert_same(summed(learner, params, minibatch(learner, params, reference, rolled, one, packed=False)), whole)


@pytest.mark.parametrize("remat", ["none", "full"])
def test_what_the_backward_pass_makes_again_changes_nothing(learner, params, reference, rolled, one, whole, remat):
    other = dataclasses.replace(learner, network=dataclasses.replace(learner.network, remat=remat))
    assert_same(summed(other, params, minibatch(learner, params, reference, rolled, one)), whole)


def test_the_first_minibatch_has_the_old_policy_s_logprobs_and_clips_nothing(
    learner, params, reference, rolled, one, whole
):
    assert whole.metrics["log_ratio/max"] <= 1e-5
    assert whole.metrics["clip_fraction"] == 0
    assert whole.metrics["sampler_gap/max"] <= 2e-5
    assert 0 <= whole.metrics["sampler_gap/k3"] <= 1e-9


@pytest.mark.parametrize("off", [1.0, 1.01])
def test_a_sampler_one_percent_too_hot_shows_in_the_ratio_the_clip_and_the_gap(learner, params, one, cfg, off):
    rollout = draw(cfg, sync(params, one), one, prompts(), keys(4), temperature=HEAT * off)
    narrow = jax.jit(functools.partial(minibatch_loss, clip_eps=1e-3, kl_coef=0.0))
    largest = {"log_ratio/max": 0.0, "sampler_gap/max": 0.0, "clip_fraction": 0.0}
    for old in ("trainer", "sampler"):
        for batch in minibatch(learner, params, None, rollout, one, old=old):
            logp, entropy = score(learner.network, params, batch.rows)
            metrics = narrow(logp, entropy, batch)[1]
            # The gap compares the sampler with the trainer's old; the ratio sees the sampler where its word is old.
            names = ["sampler_gap/max"] if old == "trainer" else ["log_ratio/max", "clip_fraction"]
            largest |= {name: max(largest[name], float(metrics[name])) for name in names}
    if off == 1.0:
        assert largest["sampler_gap/max"] <= 2e-5
        assert largest["log_ratio/max"] <= 2e-5
        assert largest["clip_fraction"] == 0
    else:
        assert largest["sampler_gap/max"] > 1e-3
        assert largest["log_ratio/max"] > 1e-3
        assert largest["clip_fraction"] > 0


def test_the_first_gradient_is_the_policy_gradient_of_a_plain_forward(cfg, learner, params, rolled, one):
    # −Σ Â log π/(|o|·N) through one dense forward in rows of their own; where the reference is the policy no KL is.
    rows = in_rows(prompts(), rolled, ROW)
    position = np.broadcast_to(np.arange(ROW), rows.shape)
    target, weight = np.zeros((2, *rows.shape), np.float32)
    for i, n in enumerate(rolled.lengths):
        size = len(prompts()[i // 4])
        target[i, size - 1 : size - 1 + n] = rolled.tokens[i, :n]
        weight[i, size - 1 : size - 1 + n] = ADVANTAGES[i] / n / 16
    mask = np.tril(np.ones((1, ROW, ROW), bool))

    @jax.grad
    def plain(params):
        logits = hidden(cfg, params, rows, position, mask) @ params["embed"]["embedding"].T / HEAT
        logp = jax.nn.log_softmax(logits)
        return -jnp.sum(weight * jnp.take_along_axis(logp, target[..., None].astype(int), -1)[..., 0])

    want = jax.jit(plain)(params)
    got = summed(learner, params, minibatch(learner, params, None, rolled, one)).grads
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * float(abs(b).max()), rtol=0)


def test_a_mesh_of_eight_makes_the_update_of_one_device_and_keeps_every_array_in_its_place(
    learner, params, reference, rolled, one, eight
):
    results = {}
    for mesh in (one, eight):
        policy, ref = place(params, mesh), place(reference, mesh)
        state, metrics = update(learner, fresh(learner, params, mesh), minibatch(learner, policy, ref, rolled, mesh))
        results[mesh] = jax.device_get((state, metrics))
    ended = (jax.tree.leaves(results[mesh][0].params) for mesh in (eight, one))
    for a, b, before in zip(*ended, jax.tree.leaves(params), strict=True):
        assert not np.array_equal(b, before)
        np.testing.assert_allclose(a, b, atol=2e-6)
    for name, value in results[one][1].items():
        np.testing.assert_allclose(results[eight][1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)

    wanted = jax.tree.leaves(param_specs(state, eight), is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec))
    for (path, x), spec in zip(jax.tree_util.tree_leaves_with_path(state), wanted, strict=True):
        spec = tuple(spec)
        while spec and spec[-1] is None:
            spec = spec[:-1]
        assert laid(x) == spec, jax.tree_util.keystr(path)
    # Spelled out for one parameter and its two moments: [L, D, H, E] over fsdp and tensor.
    adam = state.opt_state[1][0]
    for tree in (state.params, adam.mu, adam.nu):
        assert laid(tree["layers"][0]["attention"]["q"]["kernel"]) == (None, "fsdp", "tensor")


@pytest.mark.parametrize("name", ["one", "eight"])
def test_later_steps_compile_nothing(learner, params, reference, rolled, name, request):
    mesh = request.getfixturevalue(name)
    policy, ref = place(params, mesh), place(reference, mesh)
    batches = minibatch(learner, policy, ref, rolled, mesh)
    state, _ = update(learner, fresh(learner, params, mesh), batches)
    programs = (accumulate, apply, score)
    before = [program._cache_size() for program in programs]
    for step in (2, 3):
        batches = minibatch(learner, state.params, ref, rolled, mesh)
        state, _ = update(learner, state, batches)
        assert state.step == step
    assert [program._cache_size() for program in programs] == before


@pytest.mark.parametrize("poison", ["advantage", "old_logp"])
def test_a_step_that_is_not_finite_changes_neither_parameters_nor_moments_and_is_counted(
    learner, params, reference, rolled, one, poison
):
    batches = minibatch(learner, params, reference, rolled, one)
    state, metrics = update(learner, fresh(learner, params, one), batches)
    assert metrics["skipped"] == 0
    before = jax.device_get(state)
    # An advantage of nan, or an old log-probability so low that the ratio is infinite where the advantage is negative.
    array = np.asarray(getattr(batches[1], poison)).copy()
    slot = np.argwhere((np.asarray(batches[1].weight) > 0) & (np.asarray(batches[1].advantage) < 0))[0]
    array[tuple(slot)] = {"advantage": np.nan, "old_logp": -1e9}[poison]
    bad = [batches[0], batches[1]._replace(**{poison: shard_rows(array, one)}), *batches[2:]]
    state, metrics = update(learner, state, bad)
    assert metrics["skipped"] == 1
    assert state.step == before.step + 1
    for kept, was in zip(jax.tree.leaves(state[1:]), jax.tree.leaves(before[1:]), strict=True):
        np.testing.assert_array_equal(kept, was)
    state, metrics = update(learner, state, batches)
    assert metrics["skipped"] == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_frozen_leaves_do_not_change_and_have_no_moments(learner, params, reference, rolled, one, whole):
    def part(trained):
        return jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.copy(x) if ("mlp'" in jax.tree_util.keystr(path)) == trained else None, params
        )

    trained, frozen = part(True), part(False)
    for a, b in zip(jax.tree.leaves(merge(trained, frozen)), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    batches = minibatch(learner, params, reference, rolled, one)
    state = start(learner, trained, one)
    assert len(jax.tree.leaves(state.opt_state[1][0].mu)) == 3  # gate, up, down
    state, metrics = update(learner, state, batches, frozen)
    after = merge(state.params, frozen)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(params), strict=True):
        assert np.array_equal(a, b) == ("mlp'" not in jax.tree_util.keystr(path)), path
    # The gradient of what is trained is that part of the whole gradient.
    mine = jax.tree.leaves(whole.grads["layers"][0]["mlp"])
    norm = np.sqrt(sum(np.square(np.asarray(g, np.float64)).sum() for g in mine))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)


def test_cross_entropy_is_the_weighted_negative_logprob(cfg, learner, params, one):
    rng = np.random.default_rng(0)
    document = rng.integers(3, 250, 30).astype(np.int32)
    rows, places = pack([document[:1].tolist()], [(0, document[1:])], ROW)
    weight = spread([np.full(29, 1 / 29)], places, rows.tokens.shape)
    rows, weight = jax.tree.map(lambda x: np.pad(x, ((0, 3), (0, 0))), (rows, weight))
    sft = Learner(Network(cfg), learner.optimizer, cross_entropy)
    sums = accumulate(sft, params, None, None, TokenBatch(*shard_rows((rows, weight), one)))
    table = dense_logp(cfg, params, document[None])
    np.testing.assert_allclose(sums.metrics["loss"], -table[0, np.arange(29), document[1:]].mean(), rtol=1e-5)
    np.testing.assert_allclose(sums.metrics["weight"], 1, rtol=1e-6)
