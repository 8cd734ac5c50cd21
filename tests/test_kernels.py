"""The Pallas kernels against NumPy in float64. CPUs interpret them; that they lower for their machines at the shapes of
the plans (docs/plans.md) is tested apart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.model.config import Latent
from r1jax.model.kernels import backends, gpu_decode, gpu_packed, tpu_decode, tpu_packed, tpu_splash
from r1jax.model.kernels.backends import disagreement, find_obstacle
from r1jax.model.packed_rows import PackedRows, visible
from r1jax.model.presets import PRESETS

PACKED = {"gpu": gpu_packed, "tpu": tpu_packed}
DECODE = {"gpu": gpu_decode, "tpu": tpu_decode}
SLOTS = 500  # no multiple of any block
RUNS = (  # (group, segment, slots) in order; group 0 is padding, and a group may lack a prompt
    ((1, 0, 150), (1, 1, 1), (1, 2, 140), (1, 3, 30), (2, 0, 20), (2, 1, 61), (0, 0, 98)),
    ((1, 1, 40), (1, 2, 100), (2, 0, 300), (3, 0, 1), (3, 1, 1), (4, 0, 58)),
    ((1, 0, 500),),
    ((0, 0, 500),),
)


@pytest.fixture(scope="module")
def rows() -> PackedRows:
    group, segment = (
        jnp.asarray([np.concatenate([np.full(run[2], run[i]) for run in row]) for row in RUNS], jnp.int32)
        for i in (0, 1)
    )
    nothing = jnp.zeros_like(group)
    return PackedRows(nothing, nothing, group, segment, nothing)


@pytest.fixture(params=["gpu", "tpu"])
def platform(request, monkeypatch):
    """The machine whose kernels run, with blocks small enough that rows have several."""
    monkeypatch.setattr(tpu_packed, "BLOCK", 128)
    monkeypatch.setattr(tpu_decode, "BLOCKS", (128,))
    return request.param


def attention_in_float64(q, k, v, mask, scale, pull):
    """Returns the output and the gradients of sum(output · pull), from the formulas."""
    q, k, v, pull = (np.asarray(x, np.float64) for x in (q, k, v, pull))
    shared = q.shape[2] // k.shape[2]
    every_k, every_v = (np.repeat(x, shared, axis=2) for x in (k, v))
    scores = np.where(mask[:, None], np.einsum("rqhe,rshe->rhqs", q, every_k) * scale, -np.inf)
    weights = np.exp(scores - np.maximum(scores.max(axis=-1, keepdims=True), -1e300))
    weights /= np.maximum(weights.sum(axis=-1, keepdims=True), 1e-300)
    out = np.einsum("rhqs,rshw->rqhw", weights, every_v)
    dweights = np.einsum("rqhw,rshw->rhqs", pull, every_v)
    dscores = weights * (dweights - (dweights * weights).sum(axis=-1, keepdims=True)) * scale
    dk, dv = np.einsum("rhqs,rqhe->rshe", dscores, q), np.einsum("rhqs,rqhw->rshw", weights, pull)

    def of_key_heads(x):
        return x.reshape(*x.shape[:2], -1, shared, x.shape[3]).sum(axis=3)

    return out, np.einsum("rhqs,rshe->rqhe", dscores, every_k), of_key_heads(dk), of_key_heads(dv)


@pytest.mark.parametrize("key_heads, width, value_width", [(2, 16, 16), (1, 32, 32), (4, 24, 16)])  # the last as latent
def test_packed_attention_and_its_gradients_are_those_of_float64(rows, platform, key_heads, width, value_width):
    rng = np.random.default_rng(width)
    heads = ((4, width), (key_heads, width), (key_heads, value_width), (4, value_width))
    q, k, v, pull = (jnp.asarray(rng.standard_normal((*rows.group.shape, *shape)), jnp.float32) for shape in heads)
    mask = np.asarray(visible(rows) & (rows.group > 0)[:, :, None])
    want = attention_in_float64(q, k, v, mask, 0.3, pull)

    def total(q, k, v):
        out = PACKED[platform].packed_attention(q, k, v, rows.group, rows.segment, 0.3)
        return jnp.sum(out * pull), out

    (_, out), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    for a, b in zip((out, *gradients), want, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(b).max())
    assert not np.asarray(out)[np.asarray(rows.group) == 0].any()


@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("by_keys", [False, True])
def test_steps_visit_every_block_that_is_read_once_and_each_block_in_one_go(rows, block, by_keys):
    group, segment = (jnp.pad(x, ((0, 0), (0, -SLOTS % block))) for x in (rows.group, rows.segment))
    mask = np.asarray(visible(PackedRows(group, group, group, segment, group)) & (group > 0)[:, :, None])
    n = group.shape[1] // block
    some = mask.reshape(len(RUNS), n, block, n, block).any(axis=(2, 4))  # [R, query block, key block]
    make = tpu_packed.key_steps if by_keys else tpu_packed.query_steps
    steps, most = jax.tree.map(np.asarray, make(group, segment, block))
    counts = []
    for mine, other, edge, read in zip(*steps, some.swapaxes(1, 2) if by_keys else some, strict=True):
        busy = edge < tpu_packed.IDLE
        counts.append(busy.sum())
        assert busy[: counts[-1]].all() and (mine[~busy] == n - 1).all()
        assert (other[~busy] == other[busy][-1]).all()  # nothing is fetched in vain
        mine, other, edge = mine[busy], other[busy], edge[busy]
        pairs = list(zip(mine, other, strict=True))
        assert len(set(pairs)) == len(pairs) and set(zip(*np.nonzero(read), strict=True)) <= set(pairs)
        assert (np.diff(mine) >= 0).all() and set(mine) == set(range(n))
        new = np.diff(mine) > 0
        np.testing.assert_array_equal((edge & tpu_packed.FIRST) > 0, [True, *new])
        np.testing.assert_array_equal((edge & tpu_packed.LAST) > 0, [*new, True])
    assert most == max(counts) <= n * (n + 1) // 2
    assert sum(counts) <= 1.5 * some.sum() + n * len(RUNS)  # other completions are skipped


@pytest.mark.parametrize("slots", [64, 384])
def test_decoding_gives_the_sums_of_float64_and_reads_no_block_past_a_rows_length(platform, slots):
    """Row by row no slot, one slot, some and all. What lies in blocks past the length is nan, and would show."""
    rng = np.random.default_rng(slots)
    lengths = np.asarray([0, 1, slots, 0, slots // 2 + 1, slots - 1, 0])
    q = rng.standard_normal((7, 2, 3, 32), np.float32)
    k, v = (rng.standard_normal((7, 2, *shape), np.float32) for shape in ((32, slots), (slots, 32)))
    for i, length in enumerate(lengths):
        far = -(-length // 128) * 128 if platform == "tpu" else -(-length // 64) * 64
        if length:
            k[i, :, :, far:], v[i, :, far:] = np.nan, np.nan
    out, total, top = DECODE[platform].own_sums(*map(jnp.asarray, (q, k, v)), jnp.asarray(lengths, jnp.int32))
    assert out.shape == (7, 2, 3, 32) and total.shape == top.shape == (7, 2, 3, 1)
    for i, length in enumerate(lengths):
        if not length:
            assert not np.asarray(out)[i].any() and not np.asarray(total)[i].any() and (top[i] < -1e29).all()
            continue
        scores = q[i].astype(np.float64) @ k[i, :, :, :length]
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        np.testing.assert_allclose(top[i, ..., 0], scores.max(axis=-1), rtol=1e-5)
        np.testing.assert_allclose(total[i, ..., 0], weights.sum(axis=-1), rtol=1e-5)
        np.testing.assert_allclose(out[i], weights @ v[i, :, :length], atol=1e-4)


@pytest.mark.parametrize("name", backends.OWN)
def test_a_machine_compares_its_kernels_with_xla_also_for_latent_attention(cfg, name):
    wide = dataclasses.replace(cfg, head_width=32)
    assert find_obstacle(wide, name) == disagreement(name, wide) == ""
    latent = dataclasses.replace(cfg, latent=Latent(16, 8, 40, 32))
    assert find_obstacle(latent, name) == disagreement(name, latent) == ""
    assert "no latent attention" in find_obstacle(latent, "cudnn")
    assert "[40, 24]" in find_obstacle(dataclasses.replace(cfg, latent=Latent(16, 8, 32, 24)), name)


# (slots, query heads, key heads, key width, value width) of one device's rows in docs/plans.md, and width 256
PLANS = [(34_816, 12, 2, 128, 128), (18_432, 5, 1, 128, 128), (18_432, 64, 64, 192, 128), (9_216, 4, 2, 256, 256)]


def lowered(f, platform, *args):
    traced = jax.jit(f).trace(*args)
    return traced.lower(lowering_platforms=({"gpu": "cuda"}.get(platform, platform),)).as_text()


@pytest.mark.parametrize("slots, heads, key_heads, width, value_width", PLANS)
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_packed_kernels_lower_for_their_machines(platform, slots, heads, key_heads, width, value_width, monkeypatch):
    """The front ends of Triton and Mosaic take them, forward and backward; what their compilers say is known only
    there. No array has a number for each query and key."""
    monkeypatch.setattr(jax, "default_backend", lambda: "the machine")
    shapes = (heads, width), (key_heads, width), (key_heads, value_width)
    arrays = [jax.ShapeDtypeStruct((1, slots, *shape), jnp.bfloat16) for shape in shapes]
    ids = [jax.ShapeDtypeStruct((1, slots), jnp.int32)] * 2

    def total(*args):
        return PACKED[platform].packed_attention(*args, 0.1).astype(jnp.float32).sum()

    text = lowered(jax.grad(total, (0, 1, 2)), platform, *arrays, *ids)
    for name in ("packed_attention", "packed_attention_dq", "packed_attention_dkv"):
        assert f'"{name}"' in text
    assert f"{slots}x{slots}" not in text


@pytest.mark.parametrize("rows, key_heads, shared, width, slots", [(64, 2, 6, 128, 32_768), (8, 1, 5, 64, 64)])
@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_decode_kernels_lower_for_their_machines(platform, rows, key_heads, shared, width, slots, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "the machine")
    cache = [
        jax.ShapeDtypeStruct((rows, key_heads, *shape), jnp.bfloat16)
        for shape in ((shared, width), (width, slots), (slots, width))
    ]
    text = lowered(DECODE[platform].own_sums, platform, *cache, jax.ShapeDtypeStruct((rows,), jnp.int32))
    assert "decode_attention" in text


def test_splash_attention_lowers_for_tpus(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "the machine")
    q, k = (jax.ShapeDtypeStruct((2, 256, heads, 128), jnp.bfloat16) for heads in (12, 2))

    def total(q, k, v, mask):
        return tpu_splash.splash(q, k, v, mask, 0.1).astype(jnp.float32).sum()

    mask = jax.ShapeDtypeStruct((2, 256, 256), bool)
    assert lowered(jax.grad(total, (0, 1, 2)), "tpu", q, k, k, mask).count("tpu_custom_call") == 3


@pytest.mark.parametrize("width, value_width", [(32, 32), (64, 64), (128, 128), (256, 128), (256, 256)])
def test_blocks_are_the_largest_that_fit_a_gpu(width, value_width, monkeypatch):
    """227 KiB on Hopper, 163 on an A100, 99 on the smallest GPUs that Triton's kernels are meant for."""

    class GPU:
        shared_memory_per_block_optin = 99 * 1024

    def blocks():
        return [gpu_packed.block_of(width, value_width, 2, backward=backward) for backward in (False, True)]

    assert blocks() == [64, 64]  # without a GPU: Hopper
    registers = 64 * (width + value_width + 2 * 64) / (32 * gpu_packed.warps(width))
    assert registers <= 160
    monkeypatch.setattr(jax, "local_devices", lambda: [GPU()])
    for block, backward in zip(blocks(), (False, True), strict=True):
        sizes = [gpu_packed.tile_bytes(b, width, value_width, 2, backward=backward) / 1024 for b in (block, 2 * block)]
        assert sizes[0] <= 99 and (block == 64 or sizes[1] > 99)


def test_deepseeks_widths_are_those_of_the_plans():
    assert backends.key_shape(PRESETS["deepseek-v3"]) == (128, 192, 128)
    assert find_obstacle(PRESETS["deepseek-v3"]) == ""
