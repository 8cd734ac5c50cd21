"""Schedules, what is decayed, and Muon: against numbers worked by hand, by the moves that an optimizer makes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.r1_zero import NANO
from r1jax.model import transformer
from r1jax.recipes import Descent
from r1jax.training.optimizers import check, decayed, learning_rate, optimizer


def rates(steps=20, **changed):
    """The learning rate of each step of a run of 20 steps, from 1 to 0.1 after 4 steps of warm-up."""
    numbers = dict(optimizer="adamw", learning_rate=1.0, final_learning_rate=0.1, warmup_steps=4, steps=20)
    rate = learning_rate(Descent(**numbers, weight_decay=0.0, grad_clip=1.0, **changed))
    return np.asarray([rate(step) for step in range(steps)])


def test_every_schedule_by_hand():
    warm = [0, 0.25, 0.5, 0.75]
    np.testing.assert_allclose(rates(schedule="constant"), [*warm, *[1] * 16])
    line = 1 - 0.9 * np.arange(16) / 16
    np.testing.assert_allclose(rates(schedule="linear"), [*warm, *line], rtol=1e-6)
    curve = 0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(16) / 16))
    np.testing.assert_allclose(rates(schedule="cosine"), [*warm, *curve], rtol=1e-6)
    fall = 1 - 0.9 * np.arange(5) / 5
    np.testing.assert_allclose(rates(schedule="wsd", decay_steps=5), [*warm, *[1] * 11, *fall], rtol=1e-6)
    np.testing.assert_allclose(rates(schedule="wsd"), [*warm, *[1] * 14, 1, 0.55], rtol=1e-6)  # a tenth: 2 steps
    assert rates(40, schedule="wsd")[-1] == pytest.approx(0.1)
    # Decay right after the warm-up, and no warm-up at all.
    np.testing.assert_allclose(rates(schedule="wsd", decay_steps=16), rates(schedule="linear"), rtol=1e-6)
    no = Descent("adamw", 1.0, 0.0, 0, 4, 0.0, 1.0, "linear")
    np.testing.assert_allclose([learning_rate(no)(step) for step in range(5)], [1, 0.75, 0.5, 0.25, 0], rtol=1e-6)


def test_the_default_of_rl_is_the_constant_rate_that_it_always_was():
    recipe = dataclasses.replace(NANO, warmup_steps=3, learning_rate=0.1, steps=7)
    before = optax.chain(
        optax.clip_by_global_norm(recipe.grad_clip),
        optax.adamw(optax.linear_schedule(0.0, 0.1, 3), recipe.adam_b1, recipe.adam_b2, weight_decay=0.0),
    )
    params = {"w": jnp.linspace(-1, 1, 5)}
    found = []
    for inner in (before, optimizer(recipe.descent)):
        state, here = inner.init(params), params
        for step in range(7):
            change, state = inner.update({"w": jnp.sin(step + here["w"])}, state, here)
            here = optax.apply_updates(here, change)
        found.append((here, jax.tree.structure(state)))
    np.testing.assert_array_equal(found[0][0]["w"], found[1][0]["w"])
    assert found[0][1] == found[1][1]
    # The number of steps is no part of a constant rate, so longer runs share its compiled programs.
    assert optimizer(recipe.descent) is optimizer(dataclasses.replace(recipe, steps=9).descent)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_decay_of_matrices_leaves_norms_and_biases_alone(cfg, name):
    params = jax.tree.map(lambda x: jnp.ones(x.shape), transformer.shapes(cfg))
    recipe = dataclasses.replace(NANO, weight_decay=0.5, decay="matrices", learning_rate=0.1, optimizer=name)
    inner = optimizer(dataclasses.replace(recipe, warmup_steps=0).descent)
    still = jax.tree.map(jnp.zeros_like, params)
    change, _ = inner.update(still, inner.init(params), params)
    moved = {}
    for path, x in jax.tree_util.tree_leaves_with_path(change):
        moved[jax.tree_util.keystr(path, simple=True, separator="/")] = bool(np.any(np.asarray(x) != 0))
    assert not any(moved[path] for path in moved if path.endswith(("scale", "bias")))
    kernels = [path for path in moved if path.startswith("layers") and path.endswith("kernel")]
    assert kernels and all(moved[path] for path in kernels)
    assert any(path.endswith("scale") for path in moved)
    whole = optimizer(dataclasses.replace(recipe, decay="all", warmup_steps=0, optimizer="adamw").descent)
    change, _ = whole.update(still, whole.init(params), params)
    assert all(np.any(np.asarray(x) != 0) for x in jax.tree.leaves(change))
    assert jax.tree.leaves(decayed(params)).count(True) == sum(not p.endswith(("scale", "bias")) for p in moved)


def test_muon_moves_a_matrix_along_its_orthogonal_factor():
    # Jordan et al. 2024: the update of a matrix of gradient U S V' is near U V', whatever S.
    rng = np.random.default_rng(0)
    grads = {"layers": {"mlp": {"kernel": np.float32(rng.standard_normal((1, 6, 6)))}}}
    params = jax.tree.map(jnp.zeros_like, grads)
    inner = optimizer(dataclasses.replace(NANO, optimizer="muon", warmup_steps=0, grad_clip=1e9).descent)
    change, _ = inner.update(grads, inner.init(params), params)
    step = -np.asarray(change["layers"]["mlp"]["kernel"][0])
    left, _, right = np.linalg.svd(grads["layers"]["mlp"]["kernel"][0])
    cosine = (step * (left @ right)).sum() / np.linalg.norm(step) / np.linalg.norm(left @ right)
    assert cosine > 0.95
    assert np.linalg.svd(step)[1].max() / np.linalg.svd(step)[1].min() < 3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"optimizer": "sgd"}, "--optimizer=sgd is unknown: use adamw or muon"),
        ({"schedule": "exp"}, "--schedule=exp must be one of constant, cosine, linear, wsd"),
        ({"decay": "none"}, "--decay=none must be all or matrices"),
        ({"decay": "matrices"}, "--decay=matrices does nothing with --weight-decay=0.0"),
        ({"decay_steps": 5}, "--decay-steps=5 must be 0, .*; --schedule is constant"),
        ({"schedule": "wsd", "decay_steps": 60}, "--decay-steps=60 must be 0, .* at most 59, the number of steps"),
        ({"schedule": "linear", "warmup_steps": 64}, "--warmup-steps=64 leaves nothing of 64 steps"),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_flag(changed, words):
    check(NANO.descent)
    with pytest.raises(ValueError, match=words):
        check(dataclasses.replace(NANO, **changed).descent)
