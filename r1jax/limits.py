"""What the hardware's own speed allows: rooflines of decoding, prefill and updates.

Time is a lower bound: memory is read once, products run at the machine's best, everything else is free. `mfu` and
`decode_fraction` say how much of it a run reached. Sequences are given by their lengths; a prompt counts once for its
group, in prefill, in the update and in what decoding reads.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.model.config import ModelConfig

ADAM_BYTES = 30  # of memory traffic a parameter in one AdamW step, float32 moments: all four trees are read or written


class Device(NamedTuple):
    """Memory in bytes, bandwidth in bytes/s, products in FLOP/s.

    Attributes:
        rates: (rows of a product, FLOP/s) in rising order, where few rows are slow for another reason than reading the
            weights; () takes `flops` for any number.
    """

    memory: float
    bandwidth: float
    flops: float
    rates: tuple[tuple[int, float], ...] = ()

    def rate(self, rows: np.ndarray | float) -> np.ndarray | float:
        """FLOP/s of products of this many rows."""
        if not self.rates:
            return self.flops
        known, speeds = zip(*self.rates, strict=True)
        return np.interp(np.log2(np.maximum(rows, 1)), np.log2(known), speeds)


DEVICES = {
    "h200": Device(141e9, 4.3e12, 7.9e14),  # measured on one; the others are data sheets
    "h100": Device(80e9, 3.35e12, 9.9e14),
    "a100": Device(80e9, 2.0e12, 3.12e14),
    "v5e": Device(16e9, 0.82e12, 1.97e14),
    "v5p": Device(95e9, 2.77e12, 4.59e14),
    "v6e": Device(32e9, 1.64e12, 9.18e14),
}  # products in bfloat16
KINDS = {"H200": "h200", "H100": "h100", "A100": "a100", "v5 ?(lite|e)": "v5e", "v5p?$": "v5p", "v6 ?(lite|e)": "v6e"}


def critical_rows(device: Device, size: float = 2) -> float:
    """Rows below which a product waits for its weights of `size` bytes: 2·rows FLOPs for each number read."""
    return device.flops * size / (2 * device.bandwidth)


def read_params(cfg: ModelConfig, rows: float) -> float:
    """Matrix parameters that a step of `rows` tokens reads: of the experts those hit if each token chose at random."""
    x = cfg.experts
    if not x:
        return cfg.matmul_params
    layers = sum(group.stop - group.start for group in cfg.groups if group.feed == "experts")
    hit = x.count * (1 - (1 - x.per_token / x.count) ** rows)
    return cfg.matmul_params + layers * 3 * cfg.width * x.width * (hit - x.per_token)


def pair_flops(cfg: ModelConfig, *, cached: bool = False) -> float:
    """FLOPs of one query that reads one key and its value, in all layers: 4·L·H·E.

    Args:
        cached: latent attention reads the latents themselves, which are wider.
    """
    m = cfg.latent
    width = cfg.head_width
    if m:
        width = (2 * m.kv_rank + m.rope_width) / 2 if cached else (m.nope_width + m.rope_width + m.value_width) / 2
    return 4 * cfg.layers * cfg.heads * width


def forward_flops(cfg: ModelConfig, tokens: float, pairs: float, unembedded: float | None = None) -> float:
    """FLOPs of a forward pass.

    Args:
        pairs: (query, key) pairs that are read; the causal half of a sequence of T has T²/2.
        unembedded: tokens whose logits are made; all by default.
    """
    head = cfg.vocab_size * cfg.width
    body = cfg.matmul_params - head
    return 2 * (body * tokens + head * (tokens if unembedded is None else unembedded)) + pair_flops(cfg) * pairs


def decode_seconds(
    cfg: ModelConfig,
    device: Device,
    rows: np.ndarray | float,
    slots: np.ndarray | float,
    *,
    size: float = 2,
    cache_size: float = 2,
) -> np.ndarray | float:
    """Limit of one decoding step: a token more for each of `rows` rows.

        max(weight bytes / bandwidth, products / FLOP/s) + cache bytes / bandwidth

    since products and reading of the cache do not overlap inside a layer.

    Args:
        slots: cache slots read, over all rows, a prompt counted once for its group.
        size, cache_size: bytes of a weight and of a number in the cache.
    """  # fmt: skip
    weights = size * read_params(cfg, rows) / device.bandwidth
    products = 2 * cfg.matmul_params * rows / device.rate(rows)
    return np.maximum(weights, products) + cache_size * cfg.layers * cfg.cache_width * slots / device.bandwidth


def expected_decode_seconds(
    cfg: ModelConfig,
    device: Device,
    rows: float,
    slots: float,
    *,
    overhead: float = 5e-4,
    size: float = 2,
    cache_size: float = 2,
) -> float:
    """What a good step takes: 0.75 of the bandwidth for weights, 0.80 for the cache, 0.70 of the products; launches."""
    weights = size * read_params(cfg, rows) / (0.75 * device.bandwidth)
    products = 2 * cfg.matmul_params * rows / (0.70 * device.rate(rows))
    cache = cache_size * cfg.layers * cfg.cache_width * slots / (0.80 * device.bandwidth)
    return max(weights, products) + cache + overhead


def prefill_seconds(cfg: ModelConfig, device: Device, prompts: Sequence[int] | np.ndarray) -> float:
    """Limit of reading prompts, logits of the last token only.

    Args:
        prompts: their lengths, each once whatever its number of completions.
    """
    p = np.asarray(prompts, np.float64)
    return float(forward_flops(cfg, p.sum(), (p**2).sum() / 2, len(p)) / device.rate(p.sum()))


def rollout_seconds(
    cfg: ModelConfig,
    device: Device,
    prompts: Sequence[int] | np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    *,
    devices: int = 1,
    size: float = 2,
    cache_size: float = 2,
) -> float:
    """Limit of a rollout in which every row starts at once and a finished one costs nothing.

    Args:
        prompts: [B] lengths; lengths: [B·G] sampled tokens of each completion, question-major.
        devices: that share the rows; each holds all weights.
    """  # fmt: skip
    p, n = np.asarray(prompts, np.float64), np.asarray(lengths, np.int64)
    longest = n.reshape(len(p), -1).max(axis=1)
    clock = np.arange(
        1, max(n.max(initial=0), 1)
    )  # token 0 comes from prefill; step t feeds token t - 1 and reads t slots
    live = (n[:, None] > clock).sum(axis=0)
    shared = (p[:, None] * (longest[:, None] > clock)).sum(axis=0)
    steps = decode_seconds(
        cfg, device, live / devices, (live * clock + shared) / devices, size=size, cache_size=cache_size
    )
    return float(steps.sum() + prefill_seconds(cfg, device, p) / devices)


def decode_fraction(
    cfg: ModelConfig,
    device: Device,
    prompts: Sequence[int] | np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    seconds: float,
    *,
    devices: int = 1,
    size: float = 2,
    cache_size: float = 2,
) -> float:
    """Share of the limit that a rollout of `seconds` reached; arguments as for `rollout_seconds`."""  # fmt: skip
    return rollout_seconds(cfg, device, prompts, lengths, devices=devices, size=size, cache_size=cache_size) / seconds


def update_flops(cfg: ModelConfig, prompts: Sequence[int] | np.ndarray, lengths: Sequence[int] | np.ndarray) -> float:
    """Model FLOPs of forward and backward, three times the forward pass: 6·N + 6·L·H·E·T a token without prompts.

    Rematerialisation and passes for old or reference log-probabilities are overhead and do not count. Arguments as for
    `rollout_seconds`.
    """
    p, n = np.asarray(prompts, np.float64), np.asarray(lengths, np.float64)
    pairs = (p**2).sum() / 2 + (n.reshape(len(p), -1) * p[:, None]).sum() + (n**2).sum() / 2
    return float(3 * forward_flops(cfg, p.sum() + n.sum(), pairs, n.sum()))


def mfu(
    cfg: ModelConfig,
    device: Device,
    prompts: Sequence[int] | np.ndarray,
    lengths: Sequence[int] | np.ndarray,
    seconds: float,
    *,
    devices: int = 1,
) -> float:
    """Share of the products' ceiling that an update of `seconds` on these completions reached."""  # fmt: skip
    return update_flops(cfg, prompts, lengths) / (seconds * devices * device.flops)


def apply_seconds(params: float, device: Device) -> float:
    """Limit of one AdamW step on `params` parameters of a device: memory traffic alone."""
    return ADAM_BYTES * params / device.bandwidth


def ceiling(devices: Sequence[jax.Device]) -> Device | None:
    """The ceiling of one of `devices`: by name for accelerators, measured for CPUs (a second), None for those
    unknown."""
    if devices[0].platform == "cpu":
        return measured(devices, (1, 32, 512), seconds=0.5)
    return next((DEVICES[name] for kind, name in KINDS.items() if re.search(kind, devices[0].device_kind)), None)


def measured(
    devices: Sequence[jax.Device],
    rows: Sequence[int] = (1, 8, 32, 128, 512),
    *,
    megabytes: int = 64,
    repeats: int = 5,
    seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Device:
    """The float32 ceiling of one of `devices` while all of them work: the best of a few repeats.

    Products are a chain of 16 matrices [256, 704] and back, 11.5 MB of weights; bandwidth is that of summing an array.

    Args:
        seconds: for all measurements together, compiling apart: the best single call in so much time, not of `repeats`.
        clock: seconds; `time.process_time` where other processes share the cores.
    """  # fmt: skip
    n = len(devices)
    mesh = jax.make_mesh((n,), ("rows",), axis_types=(AxisType.Auto,), devices=devices)
    by_row, everywhere = NamedSharding(mesh, P("rows")), NamedSharding(mesh, P())
    rng = np.random.default_rng(0)
    wide = jax.device_put(rng.standard_normal((8, 256, 704), np.float32) / 16, everywhere)
    back = jax.device_put(rng.standard_normal((8, 704, 256), np.float32) / 27, everywhere)

    @jax.jit
    def chain(x: jax.Array, wide: jax.Array, back: jax.Array) -> jax.Array:
        for a, b in zip(wide, back, strict=True):
            x = x @ a @ b
        return x

    def best(call: Callable[[], jax.Array], times: int) -> float:
        jax.block_until_ready(call())
        spent, end = [], time.monotonic() + (seconds or 0) / (len(rows) + 1)
        times = 1 if seconds else times
        while not spent or (time.monotonic() < end if seconds else len(spent) < repeats):
            start = clock()
            for _ in range(times):
                jax.block_until_ready(call())
            spent.append((clock() - start) / times)
        return min(spent)

    rates = []
    for m in rows:
        x = jax.device_put(rng.standard_normal((m * n, 256), np.float32), by_row)
        once = best(lambda x=x: chain(x, wide, back), max(1, 2048 // (m + 16)))
        rates.append((m, 2 * wide.size * 2 * m / once))
    held = jax.device_put(np.ones((n, megabytes * 250_000), np.float32), by_row)
    total = jax.jit(lambda x: x.sum(axis=1))
    return Device(0.0, held.nbytes / n / best(lambda: total(held), 1), rates[-1][1], tuple(rates))
