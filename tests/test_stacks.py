"""Layers in stacks: the tokens of layers one by one, programs whose size does not grow with depth, and few of them."""

import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from r1jax.model import config, lora, prefill, transformer
from r1jax.model.config import Experts, Latent, ModelConfig, RopeScaling, stack_size
from r1jax.model.feedforward import within
from r1jax.model.presets import PRESETS
from r1jax.sampling import programs, sampler
from r1jax.sampling.decoder import Sizes, choose_sizes
from r1jax.sampling.programs import Decoding, Rows
from r1jax.sampling.sampler import Partial
from r1jax.sharding import make_mesh, place
from support.marks import WEEKLY
from support.tiny import draw, keys, laid, prompts, sharp

SMALL = Sizes(chunk=4, least_rows=1, least_slots=8)  # rows are dropped, and caches grow
MODELS = {
    "qwen2": dict(qk_norm=False, qkv_bias=True, tie_embeddings=False),
    "gemma3": dict(
        windows=(5, 5, 0, 7, 0, 0),
        local_rope_theta=1e2,
        rope_scaling=RopeScaling("linear", 2.0),
        logit_cap=9.0,
        norm_plus_one=True,
        post_norms=True,
        embed_scale=32**0.5,
        query_scale=0.4,
        activation="gelu_tanh",
    ),
    "deepseek": dict(
        qk_norm=False,
        kv_heads=4,
        head_width=14,
        tie_embeddings=False,
        latent=Latent(12, 6, 8, 10, q_rank=20),
        experts=Experts(8, 3, 16, shared=1, dense_layers=2, scores="sigmoid", normalise=True, groups=4, groups_kept=2),
    ),
}


def divided(params, mesh, dtype, stacks):
    """The sampler's copy of parameters, with the layers in about `stacks` stacks; one by one if 0."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "UNROLLED", 0 if stacks else 10**6)
        patch.setattr(config, "STACKS", stacks)
        sampler.sync.clear_cache()
        try:
            return sampler.sync(params, mesh, dtype)
        finally:
            sampler.sync.clear_cache()


def depths(weights):
    return [transformer.depth(layers) for layers in weights.layers]


def both(cfg, params, mesh, dtype, stacks, **how):
    """Rollouts of the same rows with the layers in stacks and one by one."""
    around = within(cfg, mesh) if mesh.size > 1 else contextlib.nullcontext()
    how = {"dtype": dtype, "sizes": SMALL} | how
    with around:
        return [draw(cfg, divided(params, mesh, dtype, n), mesh, prompts(), keys(4), **how) for n in (stacks, 0)]


def assert_same(got, want, atol):
    for name in ("tokens", "lengths", "stopped"):
        np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
    np.testing.assert_allclose(got.logp, want.logp, atol=atol)


@pytest.mark.parametrize("mesh", ["1x1", pytest.param("2x2", marks=WEEKLY)])
@pytest.mark.parametrize("model", MODELS)
def test_stacks_sample_the_tokens_of_layers_one_by_one(cfg, model, mesh):
    cfg = dataclasses.replace(cfg, layers=6, **MODELS[model])
    params = sharp(cfg, seed=1)
    mesh = make_mesh(mesh, jax.devices()[: 1 if mesh == "1x1" else 4])
    sizes = depths(divided(params, mesh, jnp.float32, 2))
    assert sizes == ([2, 3, 1] if model == "deepseek" else [3, 3])
    got, want = both(cfg, params, mesh, jnp.float32, 2, replay=model == "deepseek")
    assert_same(got, want, 1e-6)
    assert len(set(want.lengths)) > 5
    if model == "deepseek":
        np.testing.assert_array_equal(got.routes, want.routes)
        for ours, theirs in zip(got.prompt_routes, want.prompt_routes, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def adapted(cfg, mesh):
    """Parameters with adapters that matter."""
    params = lora.attach(place(sharp(cfg, seed=2), mesh), 4, 8.0, lora.TARGETS, mesh, jax.random.key(0))
    rng = np.random.default_rng(0)

    def leaf(path, x):
        ours = "lora_b" in jax.tree_util.keystr(path)
        return jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32) if ours else x

    return jax.tree_util.tree_map_with_path(leaf, params)


@pytest.mark.parametrize("mesh", ["1x1", pytest.param("2x2", marks=WEEKLY)])
def test_adapters_in_bfloat16_stay_beside_the_kernels_of_a_stack(cfg, mesh):
    cfg = dataclasses.replace(cfg, layers=6)
    mesh = make_mesh(mesh, jax.devices()[: 1 if mesh == "1x1" else 4])
    params = adapted(cfg, mesh)
    weights = divided(params, mesh, jnp.bfloat16, 2)
    assert weights.layers[0]["stack"]["attention"]["q"]["lora_a"].shape == (3, 32, 4)
    got, want = both(cfg, params, mesh, jnp.bfloat16, 2)
    assert_same(got, want, 1e-6)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"attention": "exact", "sizes": SMALL._replace(exact_rows=16)}, id="exact"),
        pytest.param({"sizes": SMALL._replace(copied_prompts=0)}, id="shared prompts"),
        pytest.param({"sizes": SMALL._replace(drop_when_full=True)}, id="dropped when full"),
        pytest.param({"attention": "pallas"}, id="pallas", marks=WEEKLY),
    ],
)
def test_stacks_are_dropped_shared_and_read_like_layers(cfg, change):
    cfg = dataclasses.replace(cfg, layers=4, head_width=32)
    got, want = both(cfg, sharp(cfg, seed=3), make_mesh("1x1"), jnp.float32, 1, **change)
    assert_same(got, want, 1e-6)


def test_rows_of_an_earlier_wave_go_on_in_stacks(cfg, params, one, rolled):
    weights, sizes = divided(params, one, jnp.float32, 1), SMALL._replace(least_carried=8)
    first = draw(cfg, weights, one, prompts()[:2], keys(4)[:8], partial=Partial(leave=3), sizes=sizes)
    assert first.unfinished.any()
    second = draw(cfg, weights, one, prompts()[2:], keys(4), partial=Partial(first), sizes=sizes)
    assert_same(second, rolled, 2e-5)


def test_prompts_in_blocks_have_the_segments_of_a_stack(cfg, params, one, monkeypatch):
    weights = divided(params, one, jnp.float32, 1)
    rng = np.random.default_rng(0)
    batch = rng.integers(3, 250, (5, 30)).astype(np.int32), rng.integers(1, 31, 5).astype(np.int32)
    found = []
    for tokens in (prefill.TOKENS, 60):
        monkeypatch.setattr(prefill, "TOKENS", tokens)
        programs.prefill.clear_cache()
        found.append(programs.prefill(cfg, weights, *batch, [], dtype=jnp.float32))
    programs.prefill.clear_cache()
    (whole,), (cut,) = (kept for kept, _, _ in found)
    assert whole.k.shape == (2, 5, 2, 8, 30) and whole.length.shape == (2, 5)
    there = np.arange(30) < batch[1][:, None]
    for a, b in ((whole.k.transpose(1, 4, 0, 2, 3), cut.k.transpose(1, 4, 0, 2, 3)), (whole.v, cut.v)):
        if a is whole.v:
            a, b = (x.transpose(1, 3, 0, 2, 4) for x in (a, b))
        np.testing.assert_allclose(np.asarray(a)[there], np.asarray(b)[there], atol=2e-5)
    np.testing.assert_array_equal(whole.length, cut.length)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=5e-5)


@pytest.mark.parametrize("family", PRESETS)
def test_every_published_model_lies_in_a_few_stacks_of_at_most_a_quarter_of_its_layers(family):
    layers = PRESETS[family].layers
    assert stack_size(layers) == -(-layers // 4) and stack_size(4) == stack_size(12) == 1


def test_stacks_lie_on_the_mesh_like_layers(cfg, params, eight):
    weights = divided(params, eight, jnp.float32, 1)
    stack = weights.layers[0]["stack"]
    assert laid(stack["attention"]["q"]["kernel"]) == (None, None, "tensor")
    assert laid(stack["attention"]["o"]["kernel"]) == (None, "tensor")
    np.testing.assert_array_equal(stack["mlp"]["up"]["kernel"], params["layers"][0]["mlp"]["up"]["kernel"])
    k, v = programs.empty_caches(cfg, weights, 8, 4, eight, jnp.float32)[0]
    assert k.shape == (2, 8, 2, 8, 4) and laid(k) == laid(v) == (None, ("data", "fsdp", "expert"), "tensor")


DEEP = ModelConfig(
    vocab_size=256, width=16, layers=28, heads=2, kv_heads=1, head_width=8, mlp_width=32, rope_theta=1e4, qk_norm=True
)


def lowered(cfg, rows=16, slots=256):
    """The decoding program of a model for one prompt of eight tokens; nothing is allocated."""
    mesh = make_mesh("1x1")
    params = transformer.shapes(cfg)
    sampler.sync.clear_cache()
    weights = jax.eval_shape(lambda p: sampler.sync(p, mesh, jnp.float32), params)
    caches = jax.eval_shape(lambda: programs.empty_caches(cfg, weights, rows, slots, mesh, jnp.float32))
    tokens, length = jax.ShapeDtypeStruct((1, 8), jnp.int32), jax.ShapeDtypeStruct((1,), jnp.int32)
    segments, *_ = jax.eval_shape(lambda *a: programs.prefill(cfg, *a, [], dtype=jnp.float32), weights, tokens, length)
    number = jax.ShapeDtypeStruct((rows,), jnp.int32)
    key = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
    done = jax.ShapeDtypeStruct((rows,), bool)
    state = Rows(jax.ShapeDtypeStruct((), jnp.int32), number, done, number, key, caches)
    how = Decoding(16, False, (1,), 0, jnp.float32)
    return programs.decode.trace(cfg, weights, [segments], state, 1.0, how), caches


def scans(jaxpr):
    """How many scans a program has, those inside others included."""
    count = 0
    for equation in jaxpr.eqns:
        count += equation.primitive.name == "scan"
        for inner in jaxprs_in_params(equation.params):
            count += scans(inner)
    return count


def test_the_size_of_a_decoding_program_does_not_grow_with_the_layers():
    eight = dataclasses.replace(DEEP, layers=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(config, "UNROLLED", 7)
        found = [lowered(cfg)[0].lower().compile().as_text() for cfg in (eight, DEEP)]
    ops = [sum(" = " in line for line in text.splitlines()) for text in found]
    assert ops[0] == ops[1]


def test_a_small_model_decodes_layer_by_layer_and_a_deep_one_scans_its_stacks():
    traced, caches = lowered(dataclasses.replace(DEEP, layers=4))
    assert scans(traced.jaxpr.jaxpr) == 1 and [k.shape for k, _ in caches] == [(16, 1, 8, 256)] * 4
    traced, caches = lowered(DEEP)
    assert scans(traced.jaxpr.jaxpr) == 5 and [k.shape for k, _ in caches] == [(7, 16, 1, 8, 256)] * 4


def test_a_chunk_updates_the_caches_of_stacks_in_place():
    """Its temporaries are smaller than the cache of a stack, so none of the four is copied."""
    traced, caches = lowered(DEEP, rows=64, slots=1024)
    used = traced.lower().compile().memory_analysis()
    stack = sum(x.size * 4 for x in caches[0])
    assert used.alias_size_in_bytes >= 4 * stack
    assert used.temp_size_in_bytes < 0.5 * stack


@pytest.mark.slow
def test_a_wave_of_a_deep_model_compiles_at_most_a_dozen_programs():
    """28 layers, 64 completions with a mean of some 250 tokens, of which the longest reach 1,024."""
    jitted = {
        name: getattr(where, name)
        for where, names in (
            (sampler, ["sync"]),
            (programs, ["prefill", "first", "decode", "drop_rows", "grow_layer"]),
        )
        for name in names
    }
    for program in jitted.values():
        program.clear_cache()
    one = make_mesh("1x1")
    params = transformer.init(DEEP, jax.random.key(0))
    weights = sampler.sync(params, one)
    assert choose_sizes(weights, 1024) == Sizes(least_slots=256, drop_when_full=True)
    sampling = sampler.Sampling(1024, stop_ids=(5,))
    rollout = sampler.sample(DEEP, weights, prompts(8), keys(8, tuple(range(8))), one, sampling)
    assert 150 < rollout.lengths.mean() < 350 and rollout.lengths.max() > 512
    counts = {name: program._cache_size() for name, program in jitted.items()}
    assert sum(counts.values()) <= 12, counts


def test_sizes_are_few_for_stacks_only(cfg, params, one):
    assert choose_sizes(divided(params, one, jnp.float32, 0), 1024) == Sizes()
    stacks = divided(params, one, jnp.float32, 1)
    assert [choose_sizes(stacks, most).least_slots for most in (10, 100, 1024)] == [64, 128, 256]
