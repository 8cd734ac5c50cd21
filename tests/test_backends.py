"""Attention kernels against XLA's attention. Here they are interpreted; that they lower for their machines is tested
apart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.model.attention import How
from r1jax.model.kernels import backends, gpu_decode, gpu_packed
from r1jax.model.kernels.backends import attend_packed, attention_backend, disagreement, own_einsum
from r1jax.model.packed_rows import PackedRows, visible
from r1jax.sampling.sampler import sync
from r1jax.sharding import compute_dtype, make_mesh
from r1jax.training.logprobs import Network, Reading, packed_logprobs
from r1jax.training.objectives import cross_entropy
from r1jax.training.packing import TokenBatch, pack
from r1jax.training.step import Learner, accumulate
from support.tiny import draw, keys, prompts, sharp

KERNELS = ("pallas", "mosaic", "splash", "cudnn")  # the last by XLA's implementation of the same call
SLOTS = 150  # no multiple of any block


@pytest.fixture(scope="module")
def rows() -> PackedRows:
    """Prompts shared by none to three completions, runs that begin and end inside blocks, padding, and a row of
    nothing."""
    asked = [list(range(n)) for n in (20, 7, 40)]
    completions = [(p, np.arange(n)) for p, n in ((0, 40), (0, 30), (0, 25), (1, 9), (2, 64), (1, 1), (1, 12), (2, 40))]
    packed, _ = pack(asked, completions, SLOTS)
    assert (packed.group.max(axis=1) > 1).any() and (packed.segment.max(axis=1) > 2).any() and (packed.group == 0).any()
    return jax.tree.map(lambda x: jnp.pad(jnp.asarray(x), ((0, 2 - len(x) % 2), (0, 0))), packed)


def drawn(rows: PackedRows, heads: int, width: int) -> list:
    """Queries, keys, values, and a weight for every number of the result: none on padding, which nobody looks at."""
    rng = np.random.default_rng(heads)
    shapes = [(*rows.tokens.shape, n, width) for n in (heads, heads // 2, heads // 2, heads)]
    q, k, v, pull = (jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes)
    return [q, k, v, pull * (rows.group > 0)[..., None, None]]


def value_and_gradients(rows, attention, mesh, q, k, v, pull):
    how = How(rows.positions, q.shape[-1] ** -0.5)

    def total(q, k, v):
        out = attend_packed(rows, attention, mesh)(q, k, v, how)[0]
        return jnp.sum(out * pull), out * (pull != 0)

    (_, out), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradients


@pytest.mark.parametrize("attention", (*KERNELS, "exact"))
def test_a_kernel_over_packed_rows_gives_the_values_and_gradients_of_xla(rows, attention):
    arrays = drawn(rows, 4, 16)
    got, want = (value_and_gradients(rows, name, None, *arrays) for name in (attention, "xla"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_on_a_mesh_each_device_runs_the_kernel_on_its_rows_and_heads(rows):
    arrays, mesh = drawn(rows, 4, 16), make_mesh("2x2", jax.devices()[:4])
    got, want = (value_and_gradients(rows, name, mesh, *arrays) for name in ("pallas", "xla"))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("block", [16, 32, 64])
def test_the_ranges_of_blocks_hold_every_readable_pair_and_skip_other_completions(block):
    rng = np.random.default_rng(block)
    asked = [list(range(n)) for n in rng.integers(1, 60, 12)]
    completions = [
        (int(p), np.arange(n)) for p, n in zip(rng.integers(0, 12, 60), rng.integers(1, 150, 60), strict=True)
    ]
    packed, _ = pack(asked, completions, 512)
    mask = np.asarray(visible(packed)) & (packed.group > 0)[:, :, None]
    some = mask.reshape(len(mask), 512 // block, block, 512 // block, block).any(
        axis=(2, 4)
    )  # [R, query block, key block]
    at = np.arange(512 // block)
    first, end, own, last = (
        x[..., None]
        for x in np.moveaxis(
            np.asarray(gpu_packed.key_ranges(*map(jnp.asarray, (packed.group, packed.segment)), block)), -1, 0
        )
    )
    loaded = (at >= first) & (at < end) | (at >= own) & (at < last)
    assert not ((at >= first) & (at < end) & (at >= own) & (at < last)).any()  # no block counts twice
    assert (loaded >= some).all()
    # A block of keys is loaded in vain only where a range ends inside the prompt of another group's first slot: never,
    # by runs.
    assert loaded.sum() <= 1.1 * some.sum()
    begin, stop = (
        x[:, None, :]
        for x in np.moveaxis(
            np.asarray(gpu_packed.query_ranges(*map(jnp.asarray, (packed.group, packed.segment)), block)), -1, 0
        )
    )
    asked_by = (at[None, :, None] >= begin) & (at[None, :, None] < stop)
    assert (asked_by >= some).all() and asked_by.sum() <= 1.5 * some.sum()


def test_padding_reads_nothing_and_gets_nothing(rows):
    q, k, v, _ = drawn(rows, 4, 16)
    how = How(rows.positions, 0.25)
    out = jax.jit(lambda q, k, v: attend_packed(rows, "pallas")(q, k, v, how)[0])(q, k, v)
    assert not np.asarray(out)[np.asarray(rows.group) == 0].any()


@pytest.mark.parametrize("length", [[0, 1, 64], [65, 127, 512]])
def test_the_decode_kernel_stops_at_each_rows_length(length):
    """What lies past the length is nan, and would show. 512 slots are split among programs; length 0 is a finished
    row."""
    rng = np.random.default_rng(0)
    slots = 512
    q = rng.standard_normal((3, 2, 3, 16), np.float32)
    k, v = rng.standard_normal((3, 2, 16, slots), np.float32), rng.standard_normal((3, 2, slots, 16), np.float32)
    want = own_einsum(*map(jnp.asarray, (q, k, v)), jnp.asarray(length))
    beyond = np.arange(slots) >= np.asarray(length)[:, None]
    far = -(-(np.asarray(length)) // gpu_decode.SLOTS) * gpu_decode.SLOTS  # blocks that hold no slot of the row
    k, v = k.copy(), v.copy()
    for i, start in enumerate(far):
        k[i, :, :, start:], v[i, :, start:] = np.nan, np.nan
    out, total, top = gpu_decode.own_sums(*map(jnp.asarray, (q, k, v)), jnp.asarray(length))
    some = np.asarray(length) > 0
    assert beyond.any() or max(length) == slots
    np.testing.assert_allclose((out / total)[some], (want[0] / want[1])[some], atol=1e-5)
    np.testing.assert_allclose(np.exp(top[some]) * total[some], np.exp(want[2][some]) * want[1][some], rtol=1e-5)
    assert not np.asarray(out)[~some].any() and not np.asarray(total)[~some].any()


@pytest.mark.parametrize("attention", ["pallas", "mosaic"])
def test_a_wave_with_the_decode_kernel_samples_the_same_tokens(cfg, one, attention):
    """Prefix, prompts and finished rows included: noise is keyed by row and position, and logits of this model are nats
    apart."""
    params = sharp(cfg, seed=0)
    want, got = (draw(cfg, sync(params, one), one, prompts(), keys(2), attention=name) for name in ("xla", attention))
    np.testing.assert_array_equal(got.tokens, want.tokens)
    np.testing.assert_allclose(got.logp, want.logp, atol=2e-5)


def test_an_update_through_a_kernel_has_the_gradient_of_one_through_xla(cfg, rows):
    params = sharp(cfg, seed=1)
    tokens = jnp.asarray(np.random.default_rng(2).integers(3, 250, rows.tokens.shape))
    batch = TokenBatch(rows._replace(tokens=tokens), (rows.segment > 0).astype(jnp.float32))
    want, got = (
        accumulate(
            Learner(Network(cfg, attention=name, remat="dots"), optax.sgd(1.0), cross_entropy),
            params,
            None,
            None,
            batch,
        )
        for name in ("xla", "pallas")
    )
    np.testing.assert_allclose(got.metrics["loss"], want.metrics["loss"], rtol=1e-5)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want.grads))
    for a, b in zip(jax.tree.leaves(got.grads), jax.tree.leaves(want.grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * scale)


def test_windows_and_caps_are_xlas_though_a_kernel_is_asked_for(rows):
    q, k, v, _ = drawn(rows, 4, 16)
    for how in (How(rows.positions, 0.25, cap=5.0), How(rows.positions, 0.25, window=4)):
        got, want = (
            jax.jit(lambda q, k, v, n=name, how=how: attend_packed(rows, n)(q, k, v, how)[0])(q, k, v)
            for name in ("pallas", "xla")
        )
        np.testing.assert_array_equal(got, want)


def test_cpus_get_xla_in_float32(cfg, one):
    assert attention_backend(one, cfg) == "xla"
    assert compute_dtype(one) == jnp.float32


def test_an_accelerators_first_choice_that_agrees_is_taken(cfg, one, monkeypatch, caplog):
    """A CPU told to prefer a kernel takes it for layers it has, and tells why not for others."""
    wide = dataclasses.replace(cfg, head_width=32)
    monkeypatch.setitem(backends.PREFERRED, "cpu", ("pallas",))
    attention_backend.cache_clear()
    assert attention_backend(one, wide) == "pallas"
    assert attention_backend(one, cfg) == "xla" and "width 8" in caplog.text
    assert attention_backend(one, dataclasses.replace(wide, attention_cap=30.0)) == "xla"
    attention_backend.cache_clear()
    monkeypatch.setattr(backends, "gather_json", lambda name: [name, "cudnn"])
    assert attention_backend(one, wide) == "xla" and "would choose cudnn and pallas" in caplog.text
    attention_backend.cache_clear()


def test_a_kernel_that_computes_something_else_is_found_out(cfg, monkeypatch):
    wide = dataclasses.replace(cfg, head_width=32)
    whole = gpu_packed.readable
    monkeypatch.setattr(gpu_packed, "readable", lambda *a: whole(*a) & (a[4][:, None] != a[5][None, :]))  # not itself
    assert disagreement("pallas", wide).startswith("values differ")
    monkeypatch.setattr(gpu_packed, "readable", lambda *a: 1 / 0)
    assert disagreement("pallas", wide).startswith("ZeroDivisionError")


def test_bfloat16_computes_with_float32_masters(cfg, one, rows):
    """Gradients come back float32, log-probabilities are float32 and near; the sampler's copy is bfloat16."""
    params = sharp(cfg, seed=1)
    tokens = jnp.asarray(np.random.default_rng(2).integers(3, 250, rows.tokens.shape))
    batch = TokenBatch(rows._replace(tokens=tokens), (rows.segment > 0).astype(jnp.float32))
    exact, rounded = (
        jax.jit(lambda p, dtype=dtype: packed_logprobs(cfg, p, batch.rows, 1.0, Reading(dtype))[0])(params)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    counts = np.asarray(batch.weight) > 0
    assert rounded.dtype == jnp.float32
    gap = np.abs(np.asarray(rounded - exact))[counts]
    # 8 bits of mantissa: each of some ten roundings on the way to a logit of a few nats errs by 2^-9 of it.
    assert 0 < gap.mean() < 0.1
    sums = accumulate(
        Learner(Network(cfg, dtype=jnp.bfloat16), optax.sgd(1.0), cross_entropy), params, None, None, batch
    )
    assert {x.dtype for x in jax.tree.leaves(sums.grads)} == {jnp.dtype("float32")}
    weights = sync(params, one, jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(weights)} == {jnp.dtype("bfloat16")}
