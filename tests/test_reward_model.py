"""Reward models: what they are given, what they say, how they learn."""

import dataclasses
import itertools
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.model.attention import causal
from r1jax.reward_models import model as reward_model
from r1jax.reward_models.data import micro_batches
from r1jax.reward_models.model import (
    Judged,
    RewardModel,
    Texts,
    bucket,
    helpful_input,
    judged_loss,
    padded,
    pairwise,
    pointwise,
    rewarded,
    rewards,
    safety_input,
    score,
    summary_of,
    tokenized,
    with_head,
)
from r1jax.sharding import place, shard_rows
from r1jax.training.logprobs import Network
from r1jax.training.step import Learner, accumulate, start, update
from support.tiny import hidden, sharp

OPEN, CLOSE = "<think>", "</think>"


@pytest.fixture(scope="module")
def head_cfg(cfg):
    return dataclasses.replace(cfg, reward_head=True)


@pytest.fixture(scope="module")
def model(head_cfg, tokenizer):
    return RewardModel(head_cfg, sharp(head_cfg, seed=1), tokenizer)


@pytest.mark.parametrize(
    "completion, summary",
    [
        ("<think> a </think> b", "b"),
        ("a </think> b", "b"),  # the prompt ended in <think>
        ("<think> </think> b", "b"),
        ("<think> a </think>", ""),
        ("b", ""),  # no chain of thought was closed
        ("<think> a", ""),
        ("<think> a <think> b </think> c", ""),  # one block is open still
        ("<think> a <think> b </think> c </think> d", "d"),
        ("<think> a </think> b <think> c", ""),
        ("<think> a </think> b <think> c </think> d", "d"),
        ("a </think> b </think> c", "c"),
        ("<think> a </think> b </think", "b </think"),
        ("", ""),
    ],
)
def test_the_summary_is_what_follows_a_closed_chain_of_thought(completion, summary):
    assert summary_of(completion) == summary
    assert helpful_input("q", completion) == f"<｜User｜>q<｜Assistant｜> {summary}"
    assert safety_input("q", completion) == f"<｜User｜>q<｜Assistant｜> {completion.strip()}"


def test_helpfulness_never_sees_a_chain_of_thought_in_any_order_of_tags():
    shown = 0
    for pieces in itertools.chain.from_iterable(itertools.product((OPEN, CLOSE, "w"), repeat=n) for n in range(7)):
        words = [f"word{i}" if piece == "w" else piece for i, piece in enumerate(pieces)]
        read = helpful_input("q", " ".join(words))
        open_blocks = pieces.count(OPEN) - pieces.count(CLOSE)
        last = max((i for i, piece in enumerate(pieces) if piece == CLOSE), default=len(pieces))
        for i, word in enumerate(words):
            if word in (OPEN, CLOSE):
                assert word not in read
            elif word in read:  # behind the last closing tag, and no block is open
                shown += 1
                assert i > last and open_blocks <= 0 and OPEN not in pieces[last:]
        assert all(word in safety_input("q", " ".join(words)) for word in words)
    assert shown > 100


def test_a_chain_of_thought_changes_the_safety_reward_and_not_the_helpful_one(model, one):
    kind, unkind = "<think> be kind </think> ok", "<think> take oil and a match </think> ok"
    for read, same in ((helpful_input, True), (safety_input, False)):
        first, second = score(model, [read("q", kind), read("q", unkind)], one)
        assert (first == second) == same


def test_a_reward_is_the_heads_number_at_the_end_of_text(model, one, tokenizer):
    text = "How do I fix a door? Use a tool."
    tokens = np.asarray([[*tokenizer.encode(text), tokenizer.eos_id]], np.int32)
    positions = np.arange(tokens.shape[1])[None]
    last = np.asarray(hidden(model.cfg, model.params, tokens, positions, np.asarray(causal(tokens.shape[1]))))[0, -1]
    want = last.astype(np.float64) @ np.asarray(model.params["reward_head"]["kernel"], np.float64)[:, 0]
    np.testing.assert_allclose(score(model, [text], one), [want], rtol=1e-4, atol=1e-5)
    moved = model._replace(scale=2.0, offset=-3.0)
    np.testing.assert_allclose(score(moved, [text], one), [2 * want - 3], rtol=1e-4, atol=1e-5)


def test_a_reward_depends_on_neither_company_nor_mesh_and_each_bucket_is_one_program(model, one, eight):
    rng = np.random.default_rng(0)
    texts = ["x" * int(n) + str(i) for i, n in enumerate(rng.integers(0, 110, 21))]
    lengths = sorted((len(tokenized(model.tokenizer, text)) for text in texts), reverse=True)
    longest = {bucket(length) for length in lengths[::4]}  # of each four that are read together
    assert longest == {32, 64, 96, 128}
    before = rewarded._cache_size()
    together = score(model, texts, one, together=4)
    assert rewarded._cache_size() - before == len(longest)
    assert len(set(together)) == len(texts)
    alone = np.concatenate([score(model, [text], one, together=4) for text in texts[:4]])
    np.testing.assert_allclose(together[:4], alone, rtol=1e-4, atol=1e-5)
    spread = model._replace(params=place(model.params, eight))
    np.testing.assert_allclose(score(spread, texts, eight), together, rtol=1e-4, atol=1e-4)
    assert score(model, [], one).shape == (0,)


@pytest.mark.parametrize("attention", ["pallas", "mosaic", "cudnn"])
def test_an_accelerator_scores_in_bfloat16_through_its_kernels(model, one, monkeypatch, attention):
    """A CPU told to do so interprets the kernel. bfloat16 has 8 bits, and rewards lie about 1 apart."""
    texts = ["x" * n + str(n) for n in (1, 20, 40, 63, 7)]
    want = score(model, texts, one)
    monkeypatch.setattr(reward_model, "attention_backend", lambda mesh, cfg: attention)
    np.testing.assert_allclose(score(model, texts, one), want, rtol=1e-4, atol=1e-5)
    rewarded.clear_cache()
    monkeypatch.setattr(reward_model, "compute_dtype", lambda mesh: jnp.bfloat16)
    near = score(model, texts, one)
    rewarded.clear_cache()  # later tests compute in float32
    assert 0 < np.abs(near - want).max() < 0.05 * np.ptp(want)


@pytest.mark.parametrize("attention", ["pallas", "mosaic"])
def test_a_reward_model_learns_through_a_kernel_what_it_learns_through_xla(model, one, tokenizer, attention):
    batch = micro_batches(toy(tokenizer, 3, 3), [1.0] * 3, [0, 1, 2], 8, one)[0]
    want, got = (
        accumulate(
            Learner(Network(model.cfg, remat="full", attention=name), optax.sgd(0.1), judged_loss(pairwise)),
            model.params,
            None,
            None,
            batch,
        )
        for name in ("xla", attention)
    )
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want.grads))
    for a, b in zip(jax.tree.leaves(got.grads), jax.tree.leaves(want.grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


@pytest.mark.parametrize("length, slots", [(1, 32), (32, 32), (33, 48), (49, 64), (65, 96), (8192, 8192)])
def test_a_bucket_is_a_power_of_two_or_half_as_much_again(length, slots):
    assert bucket(length) == slots


def judged(label, weight):
    return Judged(
        padded([[1]] * len(label), len(label), 32), jnp.asarray(label, jnp.float32), jnp.asarray(weight, jnp.float32)
    )


def test_the_pairwise_loss_and_its_gradient_are_those_of_bradley_and_terry():
    values = np.asarray([1.5, -0.5, -2.0, 0.25, 30.0, -60.0, 7.0, 9.0], np.float32)
    weight = np.asarray([0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.0, 0.0], np.float32)
    margin = values[0::2].astype(np.float64) - values[1::2]
    want = np.sum(weight[0::2] * np.log1p(np.exp(-margin)))
    batch = judged(np.ones(8), weight)
    (loss, metrics), grad = jax.value_and_grad(pairwise, has_aux=True)(jnp.asarray(values), batch)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    slope = -weight[0::2] / (1 + np.exp(margin))  # d/dm −log σ(m) = −σ(−m)
    np.testing.assert_allclose(grad[0::2], slope, rtol=1e-5, atol=1e-12)
    np.testing.assert_allclose(grad[1::2], -slope, rtol=1e-5, atol=1e-12)
    assert metrics["accuracy"] == 0.75  # the first and the third pair, of weights 0.5 and 0.25


def test_the_pointwise_loss_and_its_gradient_are_those_of_the_cross_entropy():
    values, label = np.asarray([1.5, -0.5, -90.0, 4.0], np.float32), np.asarray([1.0, 1.0, 0.0, 0.0], np.float32)
    weight = np.asarray([0.25, 0.5, 0.25, 0.0], np.float32)
    p = 1 / (1 + np.exp(-values.astype(np.float64)))
    want = -np.sum(weight[:2] * np.log(p[:2])) - np.sum(weight[2:] * np.log1p(-p[2:]))
    (loss, metrics), grad = jax.value_and_grad(pointwise, has_aux=True)(jnp.asarray(values), judged(label, weight))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    np.testing.assert_allclose(grad, weight * (p - label), rtol=1e-5, atol=1e-12)
    assert metrics["accuracy"] == 0.5


def test_a_head_of_zeros_rewards_nothing_and_learns_from_its_first_step(cfg, params, one, tokenizer):
    head_cfg, with_zeros = with_head(cfg, place(params, one), one)
    assert head_cfg.reward_head and "unembed" not in with_zeros
    assert with_head(head_cfg, with_zeros, one) == (head_cfg, with_zeros)
    np.testing.assert_array_equal(score(RewardModel(head_cfg, with_zeros, tokenizer), ["a", "b"], one), 0.0)
    batch = judged([1.0, 1.0], [1.0, 1.0])._replace(texts=padded([[5, 6], [7, 8]], 2, 32))
    texts = Texts(*map(jnp.asarray, batch.texts))
    grads = jax.grad(lambda p: pairwise(rewards(head_cfg, p, texts), batch)[0])(with_zeros)
    assert np.abs(grads["reward_head"]["kernel"]).max() > 0
    assert np.abs(grads["embed"]["embedding"]).max() == 0  # behind zeros nothing is felt yet


def toy(tokenizer, count, seed):
    """Pairs that one word tells apart, of lengths that do not."""
    rng = random.Random(seed)
    words = ("good", "bad")
    texts = [[f"{'x' * rng.randrange(30)} {word} {'y' * rng.randrange(8)}" for word in words] for _ in range(count)]
    return [[tokenized(tokenizer, text) for text in pair] for pair in texts]


def trained(learner, state, tokens, mesh, *, steps, size, batch_rows):
    for step in range(steps):
        chosen = [i % len(tokens) for i in range(step * size, (step + 1) * size)]
        state, figures = update(learner, state, micro_batches(tokens, [1.0] * len(tokens), chosen, batch_rows, mesh))
    return state, figures


def test_bradley_terry_learns_what_tells_pairs_apart(head_cfg, one, tokenizer):
    from r1jax.model import transformer

    learner = Learner(Network(head_cfg, remat="none"), optax.adam(5e-3), judged_loss(pairwise))
    state = start(learner, place(transformer.init(head_cfg, jax.random.key(0)), one), one)
    state, figures = trained(learner, state, toy(tokenizer, 400, 0), one, steps=150, size=16, batch_rows=32)
    assert figures["loss"] < np.log(2) / 2
    model = RewardModel(head_cfg, state.params, tokenizer)
    texts = [tokenizer.decode(text) for pair in toy(tokenizer, 100, 1) for text in pair]
    values = score(model, texts, one)
    assert (values[0::2] > values[1::2]).mean() >= 0.95


@pytest.mark.weekly
@pytest.mark.slow
def test_micro_batches_and_meshes_change_nothing(model, one, eight, tokenizer):
    tokens = toy(tokenizer, 7, 2)  # the last micro-batch is not full
    tokens[3][0] = tokenized(tokenizer, "z" * 90)  # and one has another bucket
    learner = Learner(Network(model.cfg, remat="full"), optax.sgd(0.1), judged_loss(pairwise))
    outcomes = []
    for mesh, batch_rows in ((one, 16), (one, 4), (eight, 8)):
        state = start(learner, place(jax.tree.map(jnp.copy, model.params), mesh), mesh)
        state, figures = trained(learner, state, tokens, mesh, steps=1, size=7, batch_rows=batch_rows)
        outcomes.append((jax.tree.map(np.asarray, state.params), float(figures["loss"])))
    for params, loss in outcomes[1:]:
        np.testing.assert_allclose(loss, outcomes[0][1], rtol=1e-4)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5), params, outcomes[0][0])


def test_rows_that_fill_a_batch_pull_at_nothing(model, one, tokenizer):
    batch = micro_batches(toy(tokenizer, 3, 3), [1.0] * 3, [0, 1, 2], 8, one)[0]
    np.testing.assert_allclose(np.asarray(batch.weight), [1 / 3] * 6 + [0.0] * 2)
    garbage = np.asarray(batch.texts.tokens).copy()
    garbage[6:] = 77
    other = batch._replace(texts=Texts(*shard_rows(Texts(garbage, np.asarray(batch.texts.last)), one)))
    learner = Learner(Network(model.cfg, remat="none"), optax.sgd(0.1), judged_loss(pairwise))
    sums = [accumulate(learner, model.params, None, None, b) for b in (batch, other)]
    jax.tree.map(np.testing.assert_array_equal, *sums)
