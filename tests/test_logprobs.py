"""Log-probabilities in chunks and in packed rows, against dense float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from r1jax.sharding import UNEMBEDDING, make_mesh, shard_rows
from r1jax.training.logprobs import CHUNK, packed_logprobs, token_logprobs
from r1jax.training.packing import find_wanted, pack
from support.tiny import dense_logp


def dense(hidden, matrix, targets, temperature):
    """log softmax at the targets and its entropy, all logits at once, in float64."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(matrix, np.float64) / temperature
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    return np.take_along_axis(logp, targets[:, None], 1)[:, 0], -(np.exp(logp) * logp).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("count", [5, CHUNK + 77])
def test_chunked_logprobs_and_entropies_are_the_dense_ones(count, temperature):
    rng = np.random.default_rng(count)
    hidden = rng.standard_normal((count, 6)).astype(np.float32)
    matrix = rng.standard_normal((6, 13)).astype(np.float32)
    targets = rng.integers(0, 13, count)
    got = jax.jit(token_logprobs)(hidden, matrix, targets, temperature)
    for ours, theirs in zip(got, dense(hidden, matrix, targets, temperature), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_gradient_through_the_chunks_is_that_of_a_softmax():
    # d/dz of Σ c·log softmax(z/τ)[y] is c·(onehot(y) − p)/τ; from there one matrix product each way.
    rng = np.random.default_rng(0)
    count, tau = CHUNK + 3, 0.7
    hidden, matrix = rng.standard_normal((count, 4)), rng.standard_normal((4, 9))
    targets, c = rng.integers(0, 9, count), rng.standard_normal(count)
    logits = hidden @ matrix / tau
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    slope = c[:, None] * (np.eye(9)[targets] - p) / tau

    def total(h, m):
        logp, entropy = token_logprobs(h, m, jnp.asarray(targets), tau)
        return jnp.sum(jnp.float32(c) * logp) + jnp.sum(entropy)  # the entropy is a metric, without gradient

    got = jax.jit(jax.grad(total, argnums=(0, 1)))(jnp.float32(hidden), jnp.float32(matrix))
    np.testing.assert_allclose(got[0], slope @ matrix.T, atol=1e-5)
    np.testing.assert_allclose(got[1], hidden.T @ slope, atol=2e-4)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_in_a_packed_row_every_completion_has_the_logprobs_it_has_alone(cfg, params, temperature):
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, 250, n).tolist() for n in (5, 3, 9)]
    sizes = ((0, 6), (0, 1), (1, 8), (0, 4), (2, 7), (1, 2))
    completions = [(p, rng.integers(3, 250, n).astype(np.int32)) for p, n in sizes]
    rows, places = pack(prompts, completions, 40)
    assert len(rows.tokens) < len(completions)
    on_device = jax.tree.map(jnp.asarray, rows)
    logp, entropy, _ = jax.jit(packed_logprobs, static_argnums=0)(cfg, params, on_device, temperature)
    alone = np.zeros((len(completions), 20), np.int32)
    for row, (p, tokens) in zip(alone, completions, strict=True):
        row[: len(prompts[p]) + len(tokens)] = [*prompts[p], *tokens]
    table = dense_logp(cfg, params, alone, temperature)
    for i, ((p, tokens), place) in enumerate(zip(completions, places, strict=True)):
        size = len(prompts[p])
        want = table[i, size - 1 : size - 1 + len(tokens)]  # slot s predicts token s + 1
        mine = slice(place.start, place.start + len(tokens))
        np.testing.assert_allclose(logp[place.row, mine], want[np.arange(len(tokens)), tokens], atol=2e-5)
        np.testing.assert_allclose(entropy[place.row, mine], -(np.exp(want) * want).sum(-1), atol=2e-5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("spec", ["8x1", "2x4", "data:2,fsdp:2,expert:2"])
def test_each_device_of_a_mesh_unembeds_its_own_positions(spec, tied):
    rng = np.random.default_rng(0)
    hidden, matrix = rng.standard_normal((48, 16)).astype(np.float32), rng.standard_normal((16, 40)).astype(np.float32)
    targets, c = rng.integers(0, 40, 48), rng.standard_normal(48).astype(np.float32)

    def total(h, m, y, mesh):
        logp, entropy = token_logprobs(h, m, y, 0.7, cap=3.0, mesh=mesh, tied=tied)
        return jnp.sum(jnp.float32(c) * logp), (logp, entropy)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True), static_argnums=3)
    mesh = make_mesh(spec)
    placed, asked = shard_rows((hidden, targets), mesh)
    got = run(placed, jax.device_put(matrix, NamedSharding(mesh, UNEMBEDDING)), asked, mesh)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(run(hidden, matrix, targets, None)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=3e-5)


def test_slots_that_are_not_wanted_are_not_unembedded(cfg, params):
    rng = np.random.default_rng(2)
    prompts = [rng.integers(3, 250, n).tolist() for n in (12, 9)]
    completions = [(i % 2, rng.integers(3, 250, 5 + i).astype(np.int32)) for i in range(4)]
    rows, _ = pack(prompts, completions, 32)
    counted = rows.segment > 0
    some = rows._replace(wanted=find_wanted(counted, 8))
    assert some.wanted.shape[1] == 16 and counted.sum(axis=1).max() <= 16
    score = jax.jit(packed_logprobs, static_argnums=0)
    every, few = (score(cfg, params, jax.tree.map(jnp.asarray, each))[:2] for each in (rows, some))
    for ours, theirs in zip(few, every, strict=True):
        np.testing.assert_array_equal(ours, np.where(counted, theirs, 0))  # to the last bit
    text = score.lower(cfg, params, some).as_text()
    assert f"{len(rows.tokens) * 16}x{cfg.vocab_size}" in text and f"{rows.tokens.size}x{cfg.vocab_size}" not in text


def test_wanted_slots_are_few_sizes():
    counted = np.arange(16)[None, :] < np.asarray([[3], [5]])
    np.testing.assert_array_equal(find_wanted(counted, 8), [[0, 1, 2, 16, 16, 16], [0, 1, 2, 3, 4, 16]])
    assert find_wanted(np.ones((1, 16), bool), 8) is None
    assert find_wanted(np.zeros((0, 16), bool), 4).shape == (0, 4)
