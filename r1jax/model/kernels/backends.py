"""Chooses an attention backend (a kernel or XLA), and wraps the kernels of each backend as functions `attend`.

    name      packed rows (training, scoring)              decoding
    xla       einsum in blocks of queries: the reference   einsum
    exact     the same, forward pass in float64 (CPU)      einsum in float64
    pallas    kernel for shared prompts (GPU)              kernel that stops at a row's length
    mosaic    kernel for shared prompts (TPU)              kernel that stops at a row's length
    cudnn     cuDNN's flash attention with a mask (GPU)    einsum
    splash    splash attention with a mask (TPU)           einsum

Prefill always uses XLA. So do layers with a window or a soft cap, and decoding with latent attention. cuDNN and splash
attention have no latent attention at all. CPUs interpret the Pallas kernels: slow, with the same results.
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

from r1jax.distributed import gather_json
from r1jax.model.attention import Attend, How, attend_full
from r1jax.model.cache import Part, ReadOwn, by_key_head, lay_out, sums
from r1jax.model.config import ModelConfig
from r1jax.model.packed_rows import PackedRows, visible
from r1jax.sharding import ROWS, compute_dtype

BACKENDS = ("xla", "exact", "pallas", "mosaic", "cudnn", "splash")
PREFERRED = {"gpu": ("pallas", "cudnn"), "tpu": ("mosaic", "splash")}
OWN = ("pallas", "mosaic")  # backends with the kernels of this package, where keys and values may differ in width
WIDTHS = (32, 64, 128, 256)  # head widths that the kernels support; latent attention may have any between these
EXACT_UP_TO = 16_000_000  # numbers that a token is multiplied by: a larger model computes in float64 only if asked to
CLOSE = 0.03  # tolerance of `disagreement`, relative to the largest number: bfloat16 rounds twice, to 1/256

log = logging.getLogger(__name__)


@functools.cache  # the check compiles
def attention_backend(mesh: Mesh, cfg: ModelConfig, *, compared: bool = False, exact: bool | None = None) -> str:
    """Returns the name of the fastest attention backend that works for this model on this machine.

    Tries the kernels of the mesh's platform in the order `PREFERRED`. New versions of drivers and compilers can break a
    kernel. So a kernel that does not support the model, does not compile, or gives other results than XLA is skipped
    with a warning. Returns "xla" if no kernel works. Also returns "xla" if the processes of the run would choose
    different kernels: processes with different programs would wait for each other for ever. Every process must call
    this function.

    Args:
        compared: whether the sampler's log-probabilities will be compared with the trainer's. If so, the result
            is "exact" on CPUs with float32, provided that the argument `exact` allows it. With "exact", sampler and
            trainer compute attention in float64, and agree to the last rounding.
        exact: the value of --exact. If None, "exact" is allowed for models of up to `EXACT_UP_TO` matrix parameters (16
            million), where float64 costs little.
    """
    platform = mesh.devices.flat[0].platform
    allowed = cfg.matmul_params <= EXACT_UP_TO if exact is None else exact
    if compared and allowed and platform == "cpu" and compute_dtype(mesh) == jnp.float32:
        return "exact"
    chosen = "xla"
    for name in PREFERRED.get(platform, ()):
        if reason := find_obstacle(cfg, name) or disagreement(name, cfg):
            log.warning("attention: %s is skipped: %s", name, reason)
        else:
            chosen = name
            break
    if len(names := sorted(set(gather_json(chosen)))) > 1:
        log.warning("attention: every process uses xla, because the processes would choose %s", " and ".join(names))
        return "xla"
    return chosen


def find_obstacle(cfg: ModelConfig, name: str = OWN[0]) -> str:
    """Returns the reason why the backend `name` does not support this model; "" if there is no such reason."""
    if cfg.attention_cap or any(cfg.windows or ()):
        return "only XLA has layers with a window or a soft cap"
    if not cfg.latent:
        return "" if cfg.head_width in WIDTHS else f"head width {cfg.head_width} is not one of {WIDTHS}"
    if name not in OWN:
        return f"{name} has no latent attention"
    _, *widths = key_shape(cfg)
    fits = all(WIDTHS[0] <= width <= WIDTHS[-1] for width in widths)
    return "" if fits else f"the widths {widths} of keys and values are not all between {WIDTHS[0]} and {WIDTHS[-1]}"


def key_shape(cfg: ModelConfig) -> tuple[int, int, int]:
    """Returns the number of key heads, the width of a key and the width of a value, over packed rows."""
    if m := cfg.latent:
        return cfg.heads, m.nope_width + m.rope_width, m.value_width
    return cfg.kv_heads, cfg.head_width, cfg.head_width


def disagreement(name: str, cfg: ModelConfig, dtype: jnp.dtype = jnp.bfloat16) -> str:
    """Compares the backend `name` with XLA on random numbers, on this process's first device.

    Compares outputs and gradients for one packed row, and the result of decoding (not with latent attention, which
    decodes with XLA). Returns what differs, or which error occurred. Returns "" if the backend agrees with XLA.
    """
    rng = np.random.default_rng(0)
    runs = ((1, 0, 40), (1, 1, 70), (1, 2, 35), (2, 0, 20), (2, 1, 61), (0, 0, 30))  # (group, segment, slots): 256
    group, segment = (np.concatenate([np.full(n, run[i], np.int32) for *run, n in runs])[None] for i in (0, 1))
    rows = PackedRows(
        *[jnp.zeros(group.shape, jnp.int32)] * 2,
        jnp.asarray(group),
        jnp.asarray(segment),
        jnp.zeros(group.shape, jnp.int32),
    )
    kv_heads, width, value_width = key_shape(cfg)
    shapes = (cfg.heads, width), (kv_heads, width), (kv_heads, value_width), (cfg.heads, value_width)
    q, k, v, pull = (jnp.asarray(rng.standard_normal((1, 256, *shape)), dtype) for shape in shapes)
    how = How(rows.positions, width**-0.5)
    counts = rows.group[..., None, None] > 0

    def both(name: str) -> tuple[Array, ...]:
        def out(q: Array, k: Array, v: Array) -> Array:
            return jnp.where(counts, attend_packed(rows, name)(q, k, v, how)[0], 0).astype(jnp.float32)

        value, back = jax.vjp(out, q, k, v)
        packed = value, *back(pull.astype(jnp.float32))
        if cfg.latent:
            return packed
        read_own = own_reader(name, None) or own_einsum
        asked = by_key_head(q[:, :1], how.scale, kv_heads)
        decoded, total, _ = read_own(asked, *lay_out(k, v), jnp.full(1, 150, jnp.int32))
        return *packed, decoded / total

    try:
        got, want = (jax.device_get(jax.jit(both, static_argnums=0)(x)) for x in (name, "xla"))
    except Exception as error:  # a compiler or a driver may raise anything, and XLA can take over
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300]
    for part, a, b in zip(("values", "dq", "dk", "dv", "decoding"), got, want, strict=False):  # no latent decoding
        a, b = np.float32(a), np.float32(b)
        if not np.abs(a - b).max() <= CLOSE * np.abs(b).max():
            return f"{part} differ by {np.abs(a - b).max():.3g} from XLA, whose largest number is {np.abs(b).max():.3g}"
    return ""


def own_einsum(q: Array, k: Array, v: Array, length: Array) -> tuple[Array, Array, Array]:
    """Returns the softmax sums (Σ eˢ⁻ᵗ v, Σ eˢ⁻ᵗ, t) of each query over its row's own cache, computed by XLA.

    s is the score of a cache slot, and t is the query's largest score. Arguments and result are the same as for the
    kernels `gpu_decode.own_sums` and `tpu_decode.own_sums`.
    """
    mask = jnp.arange(k.shape[-1])[None, None, :] < length[:, None, None]
    flat = q.reshape(q.shape[0], 1, -1, q.shape[-1])
    return sums(flat, [Part(k, v, mask)], How(jnp.zeros((q.shape[0], 1), jnp.int32), 1.0))


def attend_packed(
    rows: PackedRows, attention: str = "xla", mesh: Mesh | None = None, *, row_shards: int | None = None
) -> Attend:
    """Returns a function `attend` (see `attention`) over packed rows. A token reads what `packed_rows.visible` allows.

    The returned `attend` stores nothing: its second result, `kept`, is None.

    Args:
        attention: name of the backend, one of `BACKENDS`.
        mesh: mesh over which the rows are sharded; each device runs the kernel on its own part. None means one device.
        row_shards: number of shards over which the rows are divided, for the backends "xla" and "exact"; see
            `attend_full`.

    Raises:
        ValueError: no backend has this name.
    """
    if attention not in BACKENDS:
        raise ValueError(f"attention={attention} must be one of {', '.join(BACKENDS)}")
    mask = visible(rows)
    full = attend_full(mask, row_shards=row_shards, exact=attention == "exact")
    kernel = {"pallas": by_runs, "mosaic": by_steps, "cudnn": by_cudnn, "splash": by_splash}.get(attention)
    if kernel is None:
        return full

    def attend(q: Array, k: Array, v: Array, how: How) -> tuple[Array, None]:
        if how.cap or how.window is not None or (attention not in OWN and v.shape[-1] != q.shape[-1]):
            return full(q, k, v, how)
        return kernel(q, k, v, rows, mask, how.scale, mesh), None

    return attend


def by_runs(q: Array, k: Array, v: Array, rows: PackedRows, mask: Array, scale: float, mesh: Mesh | None) -> Array:
    """Returns the attention output of `gpu_packed.packed_attention`.

    Ignores `mask`, because `rows.group` and `rows.segment` determine what a token reads.
    """
    from r1jax.model.kernels.gpu_packed import packed_attention

    return by_device(functools.partial(packed_attention, scale=scale), mesh, q, k, v, rows.group, rows.segment)


def by_steps(q: Array, k: Array, v: Array, rows: PackedRows, mask: Array, scale: float, mesh: Mesh | None) -> Array:
    """Returns the attention output of `tpu_packed.packed_attention`. Ignores `mask`, as `by_runs` does."""
    from r1jax.model.kernels.tpu_packed import packed_attention

    return by_device(functools.partial(packed_attention, scale=scale), mesh, q, k, v, rows.group, rows.segment)


def by_splash(q: Array, k: Array, v: Array, rows: PackedRows, mask: Array, scale: float, mesh: Mesh | None) -> Array:
    """Returns the attention output of `tpu_splash.splash`. Ignores `rows`, because `mask` says what a token reads.

    Pads the rows to whole blocks for the kernel, and cuts the padding off the output.
    """
    from r1jax.model.kernels import tpu_splash

    def attend(q: Array, k: Array, v: Array, mask: Array) -> Array:
        more = -q.shape[1] % tpu_splash.LANES
        q, k, v = (jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))) for x in (q, k, v))
        out = tpu_splash.splash(q, k, v, padded_mask(mask, q.shape[1]), scale)
        return out[:, : out.shape[1] - more]

    return by_device(attend, mesh, q, k, v, mask)


def by_cudnn(
    q: Array, k: Array, v: Array, rows: PackedRows, mask: Bool[Array, "R S S"], scale: float, mesh: Mesh | None
) -> Array:
    """Returns the attention output of cuDNN's flash attention with the mask as a bias. Ignores `rows` and `mesh`.

    cuDNN computes every block of scores, also where the mask is False, and reads S² numbers of the mask per row for
    each head. JAX shards this operation itself, so `by_device` is not needed.
    """
    implementation = "cudnn" if jax.default_backend() == "gpu" and q.dtype != jnp.float32 else "xla"
    more = q.shape[1] % 2  # cuDNN's backward pass needs an even length
    if more:
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        mask = padded_mask(mask, q.shape[1])
    out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None], scale=scale, implementation=implementation)
    return out[:, : out.shape[1] - more]


def padded_mask(mask: Bool[Array, "R S S"], slots: int) -> Bool[Array, "R slots slots"]:
    """Returns the mask for rows padded to `slots` slots. Each added slot reads only itself.

    An added slot must read something, because kernels divide by the sum of a query's attention weights.
    """
    more = slots - mask.shape[-1]
    wider = jnp.pad(mask, ((0, 0), (0, more), (0, more)))
    return wider | (jnp.eye(slots, dtype=bool) & (jnp.arange(slots) >= mask.shape[-1])[None, :])[None]


def by_device(f: Callable, mesh: Mesh | None, q: Array, k: Array, v: Array, *per_row: Array) -> Array:
    """Returns f(q, k, v, *per_row), where each device runs f on its own rows and heads.

    XLA cannot partition a kernel itself. `per_row` are further arrays with a leading axis of rows. Without a mesh, f is
    called once on everything.
    """
    if mesh is None:
        return f(q, k, v, *per_row)
    tensor = "tensor" if k.shape[2] % mesh.shape["tensor"] == 0 else None
    heads = P(*ROWS, None, tensor, None)
    specs = (heads, heads, heads, *[P(*ROWS, *[None] * (x.ndim - 1)) for x in per_row])
    return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)(q, k, v, *per_row)


@functools.cache  # jit specialises on the function itself
def own_reader(attention: str, mesh: Mesh | None) -> ReadOwn | None:
    """Returns the backend's kernel for reading a row's own cache, for the argument `read_own` of `attend_decode`.

    Returns None, which means XLA, for all backends but "pallas" and "mosaic".
    """
    if attention not in OWN:
        return None
    from r1jax.model.kernels import gpu_decode, tpu_decode

    own_sums = {"pallas": gpu_decode.own_sums, "mosaic": tpu_decode.own_sums}[attention]
    if mesh is None:
        return own_sums

    def read_own(q: Array, k: Array, v: Array, length: Array) -> tuple[Array, Array, Array]:
        where = P(*ROWS, "tensor" if k.shape[1] % mesh.shape["tensor"] == 0 else None)
        each = jax.shard_map(
            own_sums,
            mesh=mesh,
            in_specs=(where, where, where, P(*ROWS)),
            out_specs=(where,) * 3,
            check_vma=False,
        )
        return each(q, k, v, length)

    return read_own
