"""The network: what reads what, and that its three ways of attending give the same numbers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.model import prefill, transformer
from r1jax.model.attention import QUERY_BLOCK, How, attend_full
from r1jax.model.cache import attend_decode
from r1jax.model.config import Experts, Latent, ModelConfig, RopeScaling
from r1jax.model.rope import rope, rotate
from r1jax.sampling import programs
from r1jax.sampling.sampler import sync
from support.tiny import dense_logp, hidden, prompts, sharp


def attention(q, k, v, mask):
    """Grouped-query attention as written in the papers: float64, head by head, query by query."""
    out = np.zeros(q.shape)
    share = q.shape[2] // k.shape[2]
    for r, s, h in np.ndindex(*q.shape[:3]):
        scores = k[r, :, h // share].astype(np.float64) @ q[r, s, h] / q.shape[-1] ** 0.5
        scores = np.where(mask[r % len(mask), s], scores, -np.inf)
        weights = np.exp(scores - scores.max())
        out[r, s, h] = weights @ v[r, :, h // share] / weights.sum()
    return out


@pytest.mark.parametrize("length", [1, QUERY_BLOCK - 1, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 1])
def test_attention_in_query_blocks_is_attention(length):
    rng = np.random.default_rng(length)
    q = rng.standard_normal((2, length, 4, 6)).astype(np.float32)
    k, v = rng.standard_normal((2, 2, length, 2, 6)).astype(np.float32)
    mask = np.tril(rng.random((2, length, length)) < 0.7) | np.eye(length, dtype=bool)
    how = How(jnp.broadcast_to(jnp.arange(length), (2, length)), 6**-0.5)
    out, kept = jax.jit(lambda q, k, v, mask: attend_full(mask)(q, k, v, how))(q, k, v, mask)
    assert kept is None
    np.testing.assert_allclose(out, attention(q, k, v, mask), atol=1e-5)


def test_a_query_that_may_read_nothing_gets_a_number_and_harms_no_gradient():
    q = jnp.ones((1, 3, 2, 4))
    nothing = jnp.zeros((1, 3, 3), bool)
    how = How(jnp.arange(3)[None], 0.5)
    out, grad = jax.value_and_grad(lambda k: attend_full(nothing)(q, k, k, how)[0].sum())(jnp.ones((1, 3, 1, 4)))
    assert np.isfinite(out)
    assert np.isfinite(grad).all()


def test_rotated_products_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 1, 8)).astype(np.float32)

    def product(i, j):
        turned = [rotate(jnp.asarray(x), rope(jnp.asarray([[p]]), 8, 1e4)) for x, p in ((q, i), (k, j))]
        return float((turned[0] * turned[1]).sum())

    assert product(3, 1) == pytest.approx(product(1003, 1001), abs=1e-3)
    assert abs(product(3, 1) - product(1, 3)) > 0.1
    # Position p turns the first pair by p radians: (1, 0) becomes (cos p, sin p), in the slots 0 and E/2.
    turned = rotate(jnp.eye(1, 8).reshape(1, 1, 1, 8), rope(jnp.asarray([[2]]), 8, 1e4))
    np.testing.assert_allclose(turned[0, 0, 0], [np.cos(2), 0, 0, 0, np.sin(2), 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize("change", [{"heads": 5}, {"head_width": 7}])
def test_heads_that_do_not_fit_are_an_error_that_names_them(cfg, change):
    with pytest.raises(ValueError, match=next(iter(change))):
        dataclasses.replace(cfg, **change)


def hidden_of(cfg, params, tokens, positions=None, mask=None):
    length = tokens.shape[1]
    positions = np.broadcast_to(np.arange(length), tokens.shape) if positions is None else positions
    mask = np.tril(np.ones((1, length, length), bool)) if mask is None else mask
    return np.asarray(hidden(cfg, params, tokens, positions, mask))


def test_later_tokens_cannot_reach_earlier_states(cfg, params):
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 250, (1, 20))
    changed = tokens.copy()
    changed[0, 12] += 1
    before, after = hidden_of(cfg, params, tokens), hidden_of(cfg, params, changed)
    np.testing.assert_array_equal(before[:, :12], after[:, :12])
    assert np.all(abs(before[:, 12:] - after[:, 12:]).max(-1) > 1e-3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_nothing(cfg, params, side):
    rng = np.random.default_rng(2)
    tokens = rng.integers(3, 250, (1, 12))
    alone = hidden_of(cfg, params, tokens)
    pad = 5
    padded = np.zeros((1, 12 + pad), int)
    mine = slice(pad, None) if side == "left" else slice(0, 12)
    padded[:, mine] = tokens
    positions = np.zeros_like(padded)
    positions[:, mine] = np.arange(12)
    real = np.zeros(12 + pad, bool)
    real[mine] = True
    mask = np.tril(np.ones((12 + pad, 12 + pad), bool)) & real[None, :]
    got = hidden_of(cfg, params, padded, positions, mask[None])
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[:, mine], alone, atol=1e-5)


VARIANTS = {
    "qwen3": {},
    "qwen2": dict(qk_norm=False, qkv_bias=True, tie_embeddings=False),
    "one key head, llama": dict(qk_norm=False, kv_heads=1),
    "gemma": dict(
        windows=(5, 0),
        local_rope_theta=1e2,
        rope_scaling=RopeScaling("linear", 2.0),
        attention_cap=3.0,
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
        rope_scaling=RopeScaling("yarn", 4.0, 16, mscale=1.0, mscale_all_dim=0.7),
        experts=Experts(
            8,
            3,
            16,
            shared=1,
            dense_layers=1,
            scores="sigmoid",
            normalise=True,
            scale=2.5,
            groups=4,
            groups_kept=2,
        ),
    ),
}


@pytest.fixture
def cut(request, monkeypatch):
    """Prefill as it is, or with prompts and keys cut into blocks that fit neither their number nor their lengths."""
    if request.param:
        monkeypatch.setattr(prefill, "BLOCK", 12)
        monkeypatch.setattr(prefill, "TOKENS", 64)
        programs.prefill.clear_cache()
    yield
    if request.param:
        programs.prefill.clear_cache()


@pytest.mark.parametrize("cut", [False, True], indirect=True, ids=["whole", "in blocks"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_decoding_with_the_cache_gives_the_logprobs_of_one_full_forward(cfg, one, variant, cut):
    """Shared prefix, ragged prompts, two rows a prompt, then tokens one by one: every level of the cache at once.

    The full forward expands DeepSeek's latents, the cached ones absorb them.
    """
    cfg = dataclasses.replace(cfg, **VARIANTS[variant])
    params = sharp(cfg, seed=3)
    rng = np.random.default_rng(3)
    asked = prompts(3)
    prefix, group, steps = 16, 2, 6
    forced = rng.integers(3, 250, (len(asked) * group, steps))
    weights = sync(params, one)

    shared = programs.prefill(
        cfg, weights, jnp.asarray([asked[0][:prefix]]), jnp.asarray([prefix]), [], dtype=jnp.float32
    )[0]
    rest = [p[prefix:] for p in asked]
    padded = np.zeros((len(rest), 32), np.int32)
    for row, tokens in zip(padded, rest, strict=True):
        row[: len(tokens)] = tokens
    lengths = np.asarray([len(p) for p in rest], np.int32)
    own, logits, _ = programs.prefill(cfg, weights, padded, lengths, [shared], dtype=jnp.float32)

    @jax.jit
    def feed(caches, clock, tokens):
        def attend(i, cache, layer):
            return attend_decode([shared[i], own[i]], *cache, clock, layer=layer)

        positions = jnp.repeat(jnp.asarray(lengths) + prefix, group)[:, None] + clock
        fed = tokens[:, None]
        hidden, caches, _ = transformer.step(cfg, weights.params, weights.layers, fed, positions, attend, caches)
        return caches, transformer.logits(cfg, weights.params, hidden[:, 0])

    n = len(forced)
    cache = programs.empty_caches(cfg, weights, n, 8, one, jnp.float32)
    table = [np.repeat(np.asarray(logits), group, axis=0)]
    for t in range(steps):
        cache, logits = feed(cache, jnp.int32(t), jnp.asarray(forced[:, t]))
        table.append(np.asarray(logits))
    got = np.stack(table, axis=1)  # [N, 1 + steps, V]
    got = got - np.logaddexp.reduce(got, axis=-1, keepdims=True)

    whole = np.zeros((n, 48), np.int32)
    for i, row in enumerate(whole):
        tokens = [*asked[i // group], *forced[i]]
        row[: len(tokens)] = tokens
    want = dense_logp(cfg, params, whole)
    for i in range(n):
        size = len(asked[i // group])
        np.testing.assert_allclose(got[i], want[i, size - 1 : size + steps], atol=3e-5)


def test_fresh_parameters_are_a_function_of_the_key_and_have_the_written_spread(cfg):
    init = jax.jit(lambda key: transformer.init(cfg, key))
    first, again, other = (init(jax.random.key(k)) for k in (0, 0, 1))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    layers = first["layers"][0]
    # Standard deviation 0.02; output projections over √(2L) = 2. Layers and runs differ.
    assert np.std(layers["mlp"]["up"]["kernel"]) == pytest.approx(0.02, rel=0.05)
    assert np.std(layers["mlp"]["down"]["kernel"]) == pytest.approx(0.01, rel=0.05)
    assert np.std(layers["attention"]["o"]["kernel"]) == pytest.approx(0.01, rel=0.05)
    assert not np.allclose(layers["mlp"]["up"]["kernel"][0], layers["mlp"]["up"]["kernel"][1])
    assert not np.allclose(first["embed"]["embedding"], other["embed"]["embedding"])


def test_the_matrix_parameters_are_counted_by_hand():
    # D = 8; two query heads and one key head of 4; F = 5, three times; 10 words.
    cfg = ModelConfig(vocab_size=10, width=8, layers=3, heads=2, kv_heads=1, head_width=4, mlp_width=5)
    q, k, v, o = 8 * 8, 8 * 4, 8 * 4, 8 * 8
    assert cfg.matmul_params == 3 * (q + k + v + o + 3 * 8 * 5) + 10 * 8
