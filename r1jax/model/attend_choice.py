"""Which attention runs where, and the kernels behind the seam.

    name      packed rows (training, scoring)              decoding
    xla       einsum in blocks of queries: the oracle      einsum
    exact     the same in float64, forward (CPU)           einsum in float64
    pallas    kernel that knows shared prompts (GPU)       kernel that stops at a row's length
    cudnn     cuDNN's flash attention with a mask (GPU)    einsum
    splash    splash attention with a mask (TPU)           einsum

Prefill is XLA's everywhere. Layers with a window or a soft cap, and latent attention, are XLA's too. On CPUs the Pallas
kernels are interpreted: slow, and equal.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool

from r1jax.model.attention import Attend, How, attend_full
from r1jax.model.cache import ReadOwn, by_key_head, lay_out, sums
from r1jax.model.config import ModelConfig
from r1jax.rollout import PackedRows, visible
from r1jax.sharding import ROWS, compute_dtype

BACKENDS = ("xla", "exact", "pallas", "cudnn", "splash")
PREFERRED = {"gpu": ("pallas", "cudnn"), "tpu": ("splash",)}
WIDTHS = (32, 64, 128, 256)  # of heads, that tiles of kernels can have
CLOSE = 0.03  # of the largest number: bfloat16 rounds to 1/256, the weights and the result each once

log = logging.getLogger(__name__)


@functools.cache  # the check compiles
def attention_backend(mesh: Mesh, cfg: ModelConfig, *, compared: bool = False) -> str:
    """The attention this model gets on this mesh: the platform's first that has its layers and agrees with XLA's here
    and now.

    Args:
        compared: log-probabilities of the sampler will be held against the trainer's. On CPUs both then read in
            float64, and agree to a last rounding.

    Kernels break with versions of drivers and compilers; one that does not compile, or computes something else, is
    passed over with a warning.
    """
    platform = mesh.devices.flat[0].platform
    if compared and platform == "cpu" and compute_dtype(mesh) == jnp.float32:
        return "exact"
    for name in PREFERRED.get(platform, ()):
        if reason := unsuited(cfg) or disagreement(name, cfg):
            log.warning("attention: %s passed over: %s", name, reason)
        else:
            return name
    return "xla"


def unsuited(cfg: ModelConfig) -> str:
    """Why no kernel serves this model; "" if they do."""
    if cfg.latent:
        return "latent attention is XLA's"
    if cfg.attention_cap or any(cfg.windows or ()):
        return "layers with a window or a soft cap are XLA's"
    return "" if cfg.head_width in WIDTHS else f"heads of width {cfg.head_width} are none of {WIDTHS}"


def disagreement(name: str, cfg: ModelConfig, dtype: jnp.dtype = jnp.bfloat16) -> str:
    """What is wrong with a backend on this process's first device: values and gradients of one packed row, sums of
    decoding."""
    rng = np.random.default_rng(0)
    runs = ((1, 0, 40), (1, 1, 70), (1, 2, 35), (2, 0, 20), (2, 1, 61), (0, 0, 30))  # (group, segment, slots): 256
    group, segment = (np.concatenate([np.full(n, run[i], np.int32) for *run, n in runs])[None] for i in (0, 1))
    rows = PackedRows(
        *[jnp.zeros(group.shape, jnp.int32)] * 2,
        jnp.asarray(group),
        jnp.asarray(segment),
        jnp.zeros(group.shape, jnp.int32),
    )
    shapes = [(1, 256, heads, cfg.head_width) for heads in (cfg.heads, cfg.kv_heads, cfg.kv_heads, cfg.heads)]
    q, k, v, pull = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
    how = How(rows.positions, cfg.head_width**-0.5)
    counts = rows.group[..., None, None] > 0

    def both(name: str) -> tuple[Array, ...]:
        def out(q: Array, k: Array, v: Array) -> Array:
            return jnp.where(counts, attend_packed(rows, name)(q, k, v, how)[0], 0).astype(jnp.float32)

        value, back = jax.vjp(out, q, k, v)
        read_own = own_reader(name, None) or own_einsum
        asked = by_key_head(q[:, :1], how.scale, cfg.kv_heads)
        decoded, total, _ = read_own(asked, *lay_out(k, v), jnp.full(1, 150, jnp.int32))
        return value, *back(pull.astype(jnp.float32)), decoded / total

    try:
        got, want = (jax.device_get(jax.jit(both, static_argnums=0)(x)) for x in (name, "xla"))
    except Exception as error:  # whatever a compiler or a driver may raise: attention has an alternative
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    for part, a, b in zip(("values", "dq", "dk", "dv", "decoding"), got, want, strict=True):
        a, b = np.float32(a), np.float32(b)
        if not np.abs(a - b).max() <= CLOSE * np.abs(b).max():
            return f"{part} differ by {np.abs(a - b).max():.3g} of {np.abs(b).max():.3g}"
    return ""


def own_einsum(q: Array, k: Array, v: Array, length: Array) -> tuple[Array, Array, Array]:
    """What `attend_gpu_decode.own_sums` computes, by XLA."""
    mask = jnp.arange(k.shape[-1])[None, None, :] < length[:, None, None]
    flat = q.reshape(q.shape[0], 1, -1, q.shape[-1])
    return sums(flat, [(k, v, mask)], How(jnp.zeros((q.shape[0], 1), jnp.int32), 1.0))


def attend_packed(
    rows: PackedRows, attention: str = "xla", mesh: Mesh | None = None, *, row_shards: int | None = None
) -> Attend:
    """`attend` over packed rows, by the backend of this name.

    Args:
        mesh: what the rows lie on; kernels see one device's part at a time. None: one device.
        row_shards: see `attend_full`.

    Raises:
        ValueError: no backend has this name.
    """
    if attention not in BACKENDS:
        raise ValueError(f"attention={attention} must be one of {', '.join(BACKENDS)}")
    mask = visible(rows)
    full = attend_full(mask, row_shards=row_shards, exact=attention == "exact")
    kernel = {"pallas": by_runs, "cudnn": by_cudnn, "splash": by_splash}.get(attention)
    if kernel is None:
        return full

    def attend(q: Array, k: Array, v: Array, how: How) -> tuple[Array, None]:
        if how.cap or how.window is not None or v.shape[-1] != q.shape[-1]:
            return full(q, k, v, how)
        return kernel(q, k, v, rows, mask, how.scale, mesh), None

    return attend


def by_runs(q: Array, k: Array, v: Array, rows: PackedRows, mask: Array, scale: float, mesh: Mesh | None) -> Array:
    from r1jax.model import attend_gpu

    def attend(q: Array, k: Array, v: Array, group: Array, segment: Array) -> Array:
        more = -q.shape[1] % attend_gpu.FORWARD
        q, k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (q, k, v))
        group, segment = (jnp.pad(x, ((0, 0), (0, more))) for x in (group, segment))
        out = attend_gpu.packed_attention(q, k, v, group, segment, scale)
        return out[:, : out.shape[1] - more]

    return by_device(attend, mesh, q, k, v, rows.group, rows.segment)


def by_splash(q: Array, k: Array, v: Array, rows: PackedRows, mask: Array, scale: float, mesh: Mesh | None) -> Array:
    from r1jax.model import attend_tpu

    def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
        more = -q.shape[1] % attend_tpu.LANES
        q, k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (q, k, v))
        out = attend_tpu.splash(q, k, v, padded_mask(mask, q.shape[1]), scale)
        return out[:, : out.shape[1] - more]

    return by_device(attend, mesh, q, k, v, mask)


def by_cudnn(
    q: Array, k: Array, v: Array, rows: PackedRows, mask: Bool[Array, "R S S"], scale: float, mesh: Mesh | None
) -> Array:
    """The mask goes in as a bias: every block is computed, and S² numbers a row are read for each head. It shards
    itself."""
    implementation = "cudnn" if jax.default_backend() == "gpu" and q.dtype != jnp.float32 else "xla"
    more = q.shape[1] % 2  # its backward pass wants an even length
    if more:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        mask = padded_mask(mask, q.shape[1])
    out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=scale, implementation=implementation)
    return out[:, : out.shape[1] - more]


def padded_mask(mask: Bool[Array, "R S S"], slots: int) -> Bool[Array, "R slots slots"]:
    """The mask of longer rows, whose further slots read themselves: kernels divide by the sum of a row's weights."""
    more = slots - mask.shape[-1]
    wider = jnp.pad(mask, ((0, 0), (0, more), (0, more)))
    return wider | (jnp.eye(slots, dtype=bool) & (jnp.arange(slots) >= mask.shape[-1])[None, :])[None]


def by_device(f: Callable, mesh: Mesh | None, q: Array, k: Array, v: Array, *per_row: Array) -> Array:
    """f on each device's rows and heads: XLA cannot cut a kernel by itself."""
    if mesh is None:
        return f(q, k, v, *per_row)
    tensor = "tensor" if k.shape[2] % mesh.shape["tensor"] == 0 else None
    heads = P(*ROWS, None, tensor, None)
    specs = (heads, heads, heads, *[P(*ROWS, *[None] * (x.ndim - 1)) for x in per_row])
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)(q, k, v, *per_row)


@functools.cache  # jit specialises on the function itself
def own_reader(attention: str, mesh: Mesh | None) -> ReadOwn | None:
    """`read_own` of `attend_decode` for this backend; None is XLA's."""
    if attention != "pallas":
        return None
    from r1jax.model import attend_gpu_decode

    if mesh is None:
        return attend_gpu_decode.own_sums

    def read_own(q: Array, k: Array, v: Array, length: Array) -> tuple[Array, Array, Array]:
        where = P(*ROWS, "tensor" if k.shape[1] % mesh.shape["tensor"] == 0 else None)
        each = jax.shard_map(
            attend_gpu_decode.own_sums,
            mesh=mesh,
            in_specs=(where, where, where, P(*ROWS)),
            out_specs=(where,) * 3,
            check_vma=False,
        )
        return each(q, k, v, length)

    return read_own
