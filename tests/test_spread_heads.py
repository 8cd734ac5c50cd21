"""Attention heads on a tensor axis that does not divide their number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.model.presets import PRESETS
from r1jax.model.spread_heads import spread
from r1jax.sharding import make_mesh, place, shard_rows
from r1jax.training.logprobs import Network
from r1jax.training.packing import pack
from support.tiny import CONFIG, sharp


@pytest.mark.parametrize(
    ("model", "tensor", "heads"),
    [
        ("qwen2.5-1.5b", 8, (16, 8)),  # 12 and 2
        ("qwen2.5-1.5b", 4, (12, 4)),
        ("qwen2.5-7b", 8, (32, 8)),  # 28 and 4
        ("qwen2.5-32b", 8, (40, 8)),
        ("deepseek-v3", 8, (128, 128)),
    ],
)
def test_published_models_get_heads_that_the_axis_divides(model, tensor, heads):
    mesh = jax.sharding.AbstractMesh((1, 1, tensor, 1), ("data", "fsdp", "tensor", "expert"))
    wide = spread(PRESETS[model], mesh)
    assert (wide.heads, wide.kv_heads) == heads
    assert spread(PRESETS[model], None) is PRESETS[model]


@pytest.mark.parametrize("spec", ["2x4", pytest.param("1x8", marks=pytest.mark.slow)])
def test_log_probabilities_and_gradients_are_those_of_one_device(spec):
    cfg = dataclasses.replace(CONFIG, heads=6, kv_heads=2)
    params, rng = sharp(cfg, 0), np.random.default_rng(0)
    prompts = [rng.integers(3, 60, n).tolist() for n in (5, 3, 9, 4)]
    completions = [(i % 4, rng.integers(3, 60, int(rng.integers(2, 9))).astype(np.int32)) for i in range(12)]
    rows, _ = pack(prompts, completions, 24)
    rows = jax.tree.map(lambda x: np.pad(x, ((0, -len(x) % 8), (0, 0))), rows)
    weight = np.float32(rng.standard_normal(rows.tokens.shape)) * (rows.segment > 0)

    def loss(network, params, rows, weight):
        logp = network.logprobs(params, rows)[0]
        return jnp.sum(jnp.where(weight != 0, weight * logp, 0))

    run = jax.jit(jax.value_and_grad(loss, argnums=1), static_argnums=0)
    want = run(Network(cfg), params, jax.tree.map(jnp.asarray, rows), weight)
    mesh = make_mesh(spec)
    got = run(Network(cfg, mesh=mesh), place(params, mesh), *shard_rows((rows, weight), mesh))
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(np.abs(theirs).max()))
