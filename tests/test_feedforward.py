"""The mixture of experts: who is chosen, what the chosen compute, and what replay and balance do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.model.config import Experts, ModelConfig
from r1jax.model.feedforward import MoE, choose, imbalance, loads, rebalance

EXPERTS = Experts(6, 2, 5, scores="sigmoid", normalise=True, scale=1.5)
CFG = ModelConfig(vocab_size=9, width=8, layers=1, heads=2, kv_heads=1, head_width=4, mlp_width=7, experts=EXPERTS)


@pytest.fixture(scope="module")
def moe():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, 4, 8)), jnp.float32)
    params = MoE(CFG).init(jax.random.key(0), x)["params"]
    return jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape), jnp.float32), params), x


def by_hand(params, x, chosen):
    """Token by token, expert by expert, float64."""
    p = jax.tree.map(lambda a: np.asarray(a, np.float64), params)
    out = np.zeros(x.shape)
    for at in np.ndindex(x.shape[:-1]):
        scores = 1 / (1 + np.exp(-np.asarray(x[at], np.float64) @ p["router"]["kernel"]))
        gates = scores[chosen[at]] / scores[chosen[at]].sum() * 1.5
        for gate, e in zip(gates, chosen[at], strict=True):
            hidden = np.asarray(x[at], np.float64) @ p["experts"]["gate"]["kernel"][e]
            hidden = hidden / (1 + np.exp(-hidden)) * (x[at] @ p["experts"]["up"]["kernel"][e])
            out[at] += gate * (hidden @ p["experts"]["down"]["kernel"][e])
    return out


def test_each_token_gets_the_gated_sum_of_its_experts(moe):
    params, x = moe
    out, chosen = MoE(CFG).apply({"params": params}, x)
    np.testing.assert_allclose(out, by_hand(params, x, np.asarray(chosen)), atol=1e-4)
    assert chosen.shape == (3, 4, 2)


def test_a_replayed_choice_is_obeyed_with_the_scores_of_now(moe):
    params, x = moe
    chosen = np.random.default_rng(1).permuted(np.tile(np.arange(6), (3, 4, 1)), axis=-1)[..., :2]
    out, obeyed = MoE(CFG).apply({"params": params}, x, jnp.asarray(chosen))
    np.testing.assert_array_equal(obeyed, chosen)
    np.testing.assert_allclose(out, by_hand(params, x, chosen), atol=1e-4)


def test_where_no_choice_is_known_the_router_chooses_anew(moe):
    params, x = moe
    out, own = MoE(CFG).apply({"params": params}, x)
    known = jnp.asarray(own).at[1, 2].set(-1)
    again, chosen = MoE(CFG).apply({"params": params}, x, known)
    np.testing.assert_array_equal(chosen, own)
    np.testing.assert_array_equal(again, out)


def test_a_choice_of_one_expert_by_all_drops_nobody(moe):
    params, x = moe
    chosen = np.broadcast_to([4, 0], (3, 4, 2))
    out, _ = MoE(CFG).apply({"params": params}, x, jnp.asarray(chosen))
    np.testing.assert_allclose(out, by_hand(params, x, chosen), atol=1e-4)
    counted = jnp.ones((3, 4), bool).at[0].set(False)
    load = loads(jnp.asarray(chosen)[None], counted, 6)
    np.testing.assert_array_equal(load, [[8, 0, 0, 0, 8, 0]])
    assert float(imbalance(load)) == 3.0  # 8 tokens against a mean of 16/6


def test_the_bias_corrects_the_choice_but_not_the_gates_and_has_no_gradient(moe):
    params, x = moe
    bias = jnp.zeros(6).at[3].set(10.0)
    grads = jax.grad(lambda p: MoE(CFG).apply({"params": p}, x)[0].sum())(params)
    assert np.all(grads["router"]["bias"] == 0)
    assert np.any(grads["router"]["kernel"] != 0)
    params = params | {"router": params["router"] | {"bias": bias}}
    out, chosen = MoE(CFG).apply({"params": params}, x)
    assert (chosen == 3).any(-1).all()
    np.testing.assert_allclose(out, by_hand(params, x, np.asarray(chosen)), atol=1e-4)


@pytest.mark.parametrize(
    ("scores", "kept", "chosen"),
    [
        # Groups are pairs. Best single scores: 0.9, 0.6, 0.8; sums of two: 1.0, 1.15, 0.95.
        ("softmax", 1, {0, 1}),
        ("softmax", 2, {0, 4}),
        ("sigmoid", 1, {2, 3}),
        ("sigmoid", 2, {0, 2}),
    ],
)
def test_experts_outside_the_best_groups_are_not_chosen(scores, kept, chosen):
    row = jnp.asarray([[0.9, 0.1, 0.6, 0.55, 0.8, 0.15]])
    experts = Experts(6, 2, 5, scores=scores, groups=3, groups_kept=kept)
    assert set(np.asarray(choose(row, experts))[0].tolist()) == chosen


def test_balancing_lowers_the_bias_of_busy_experts_and_evens_the_load(moe):
    params, x = moe
    np.testing.assert_allclose(rebalance(jnp.zeros(3), jnp.asarray([5.0, 1.0, 3.0]), 0.01), [-0.01, 0.01, 0.0])
    x = jax.random.normal(jax.random.key(1), (1, 600, 8))

    @jax.jit
    def load(bias):
        chosen = MoE(CFG).apply({"params": params | {"router": params["router"] | {"bias": bias}}}, x)[1]
        return loads(chosen[None], jnp.ones(x.shape[:-1], bool), 6)[0]

    bias = jnp.linspace(-0.3, 0.3, 6)
    before = float(imbalance(load(bias)))
    for _ in range(100):
        bias = rebalance(bias, load(bias), 0.02)
    assert before > 1.5
    assert float(imbalance(load(bias))) < 1.1
