"""Prefill in blocks: its numbers are those of prefill at once, and its memory does not grow with the prompts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.model import prefill, transformer
from r1jax.model.presets import PRESETS
from r1jax.sampling import programs, sampler


def read(cfg, weights, tokens, lengths, shared, **options):
    programs.prefill.clear_cache()
    return programs.prefill(cfg, weights, tokens, lengths, shared, dtype=jnp.float32, **options)


@pytest.mark.parametrize("shards", [1, 4])
@pytest.mark.parametrize("exact", [False, True])
def test_prompts_in_blocks_have_the_keys_values_and_logits_of_prompts_at_once(
    cfg, params, one, eight, monkeypatch, exact, shards
):
    """With attention in float64, the bits are the same too."""
    mesh = one if shards == 1 else eight
    weights = sampler.sync(params, mesh)
    rng = np.random.default_rng(0)
    shared = [read(cfg, weights, rng.integers(3, 250, (1, 40)), np.asarray([40], np.int32), [], exact=exact)[0]]
    batch = rng.integers(3, 250, (20, 50)).astype(np.int32), rng.integers(1, 51, 20).astype(np.int32)
    batch = sampler.shard_rows(batch, mesh)
    whole, logits, _ = read(cfg, weights, *batch, shared, exact=exact)
    monkeypatch.setattr(prefill, "BLOCK", 16)
    monkeypatch.setattr(prefill, "TOKENS", 100)  # two prompts at once: three blocks of the five on each of four shards
    cut, cut_logits, _ = read(cfg, weights, *batch, shared, exact=exact, shards=shards)
    programs.prefill.clear_cache()
    if shards > 1:  # every block ran on all shards, and its results stayed on them
        assert {x.sharding.spec[0] for x in jax.tree.leaves(cut)} <= {("data", "fsdp"), "fsdp"}
    there = np.arange(50) < np.asarray(batch[1])[:, None]  # padding reads padding
    for a, b in zip(whole, cut, strict=True):
        for x, y in ((a.k.transpose(0, 3, 1, 2), b.k.transpose(0, 3, 1, 2)), (a.v.swapaxes(1, 2), b.v.swapaxes(1, 2))):
            if exact and shards == 1:
                np.testing.assert_array_equal(np.asarray(x)[there], np.asarray(y)[there])
            np.testing.assert_allclose(np.asarray(x)[there], np.asarray(y)[there], atol=2e-5)
        np.testing.assert_array_equal(a.length, b.length)
    np.testing.assert_allclose(cut_logits, logits, atol=5e-5)


@pytest.mark.parametrize("prompts, tokens", [(16, 2048), (2, 8192)])
def test_the_memory_of_prefill_is_that_of_a_block(one, prompts, tokens):
    """Whole, the scores of a layer alone are 805 MB and 1.6 GB in this model; its weights are 11 MB."""
    cfg = dataclasses.replace(PRESETS["qwen2.5-1.5b"], layers=2, width=96, heads=3, kv_heads=1, head_width=32)
    cfg = dataclasses.replace(cfg, mlp_width=192, vocab_size=512)
    weights = jax.eval_shape(lambda: sampler.sync(transformer.init(cfg, jax.random.key(0)), one, jnp.float32))
    shape = jax.ShapeDtypeStruct((prompts, tokens), jnp.int32), jax.ShapeDtypeStruct((prompts,), jnp.int32)
    programs.prefill.clear_cache()
    compiled = programs.prefill.lower(cfg, weights, *shape, [], dtype=jnp.float32).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 300e6
