"""Adapters: they begin as nothing, are all that is trained, and end up inside the kernels."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import draw, keys, prompts
from walk import lines

from r1jax import lora
from r1jax.model import transformer
from r1jax.rollout import pack, spread
from r1jax.run import RunOptions, load_policy
from r1jax.sharding import make_mesh, shard_rows
from r1jax.update import Learner, TokenBatch, cross_entropy, merge, score, start, update


@pytest.fixture(scope="module")
def adapted(params, one):
    """The tiny model with adapters that do something."""
    whole = lora.attach(params, 3, 6.0, lora.TARGETS, one, jax.random.key(0))
    rng = np.random.default_rng(0)

    def lively(path, x):
        return (
            jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32)
            if "lora_b" in jax.tree_util.keystr(path)
            else x
        )

    return jax.tree_util.tree_map_with_path(lively, whole)


@pytest.fixture(scope="module")
def learner(cfg):
    return Learner(cfg, optax.adam(1e-2), cross_entropy)


@pytest.fixture(scope="module")
def batch(one):
    tokens = np.random.default_rng(2).integers(3, 250, (4, 30)).astype(np.int32)
    rows, places = pack(tokens[:, :1].tolist(), [(i, row[1:]) for i, row in enumerate(tokens)], 32)
    return shard_rows(TokenBatch(rows, spread([np.full(29, 1 / 116, np.float32)] * 4, places, rows.tokens.shape)), one)


def test_a_fresh_adapter_changes_nothing(learner, params, batch, one):
    fresh = lora.attach(params, 4, 8.0, lora.TARGETS, one, jax.random.key(0))
    # The sum with a product of zeros is compiled differently: the last bits may change.
    np.testing.assert_allclose(score(learner, fresh, batch.rows)[0], score(learner, params, batch.rows)[0], atol=2e-5)


def test_every_matrix_of_a_layer_has_an_adapter_of_the_asked_rank(adapted):
    q, o = adapted["layers"][0]["attention"]["q"], adapted["layers"][0]["attention"]["o"]
    # L = 2, D = 32, four heads of 8; o sums over two axes.
    assert (q["lora_a"].shape, q["lora_b"].shape) == ((2, 32, 3), (2, 3, 4, 8))
    assert (o["lora_a"].shape, o["lora_b"].shape) == ((2, 4, 8, 3), (2, 3, 32))
    trained, frozen = lora.partition(adapted)
    assert len(jax.tree.leaves(trained)) == 2 * 7
    assert len(jax.tree.leaves(frozen)) + 14 == len(jax.tree.leaves(adapted))


def test_a_folded_adapter_gives_the_same_numbers(learner, adapted, params, batch):
    apart, folded = (score(learner, p, batch.rows)[0] for p in (adapted, lora.merged(adapted)))
    assert jax.tree.structure(lora.merged(adapted)) == jax.tree.structure(params)
    assert abs(apart - score(learner, params, batch.rows)[0]).max() > 0.1
    np.testing.assert_allclose(folded, apart, atol=5e-5)


def test_only_adapters_move_and_only_they_have_moments(learner, adapted, batch, one):
    trained, frozen = lora.partition(adapted)
    state = start(learner, jax.tree.map(jnp.copy, trained), one)
    assert len(jax.tree.leaves(state.opt_state[0].mu)) == 14
    state, _ = update(learner, state, [batch], frozen)
    for (path, after), before in zip(
        jax.tree_util.tree_leaves_with_path(merge(state.params, frozen)), jax.tree.leaves(adapted), strict=True
    ):
        assert np.array_equal(after, before) == ("lora" not in jax.tree_util.keystr(path)), path


def test_targets_choose_the_matrices(params, one):
    only_q = lora.attach(params, 2, 2.0, r"attention/q/kernel", one, jax.random.key(0))
    assert len(jax.tree.leaves(lora.partition(only_q)[0])) == 2
    with pytest.raises(ValueError, match="--lora-targets=nothing"):
        lora.attach(params, 2, 2.0, "nothing", one, jax.random.key(0))


def test_a_multi_token_prediction_layer_stays_frozen(cfg):
    shapes = transformer.shapes(dataclasses.replace(cfg, mtp_layers=1))
    trained, frozen = lora.partition(shapes)
    assert trained["mtp"]["project"]["kernel"] is None
    assert jax.tree.structure(frozen["mtp"]) == jax.tree.structure(shapes["mtp"])
    assert jax.tree.leaves(frozen | {"mtp": None}) == []


def test_the_sampler_reads_the_adapters_too(cfg, adapted, params, one):
    from r1jax.sampler import sync

    asked, row_keys = prompts(2), keys(2, (0, 1))
    through, folded, bare = (
        draw(cfg, sync(p, one), one, asked, row_keys, max_tokens=12) for p in (adapted, lora.merged(adapted), params)
    )
    np.testing.assert_array_equal(through.tokens, folded.tokens)
    assert not np.array_equal(through.tokens, bare.tokens)


def test_a_run_with_adapters_is_another_runs_weights(walk, tmp_path):
    workdir = walk.here(tmp_path / "run", lora_rank=2, steps=4, eval_every=0, learning_rate=1e-2)
    metrics = lines(workdir, "metrics")
    assert max(line["sampler_gap/max"] for line in metrics) <= 2e-5
    one = make_mesh("1x1")
    policy, after, _ = load_policy(RunOptions(weights=str(workdir)), one)
    _, before, _ = load_policy(RunOptions(weights=str(walk.base)), one)
    assert jax.tree.structure(after) == jax.tree.structure(before)
    np.testing.assert_array_equal(after["embed"]["embedding"], before["embed"]["embedding"])
    assert not np.array_equal(after["layers"][0]["mlp"]["up"]["kernel"], before["layers"][0]["mlp"]["up"]["kernel"])
    assert policy.cfg.vocab_size == before["embed"]["embedding"].shape[0]
