"""Computes rooflines: the least time that the hardware allows for decoding, prefill and updates.

The limit assumes that memory is read once, that matrix products run at the machine's peak rate, and that everything
else is free. `mfu` and `decode_fraction` return the fraction of this limit that a run reached. Functions take the
lengths of sequences, not their tokens. The completions of a group share one prompt, so the prompt counts once: in
prefill, in the update, and in the cache that decoding reads.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.distributed import launch
from r1jax.model.config import ModelConfig


class Device(NamedTuple):
    """The limits of one device.

    Attributes:
        memory: size of the memory in bytes.
        bandwidth: bytes/s that are read from memory.
        flops: FLOP/s of large matrix products.
        rates: pairs (rows, FLOP/s of matrix products with this number of rows), in rising order of rows. They describe
            devices such as CPUs, on which products of few rows reach fewer FLOP/s than `flops`, even if reading the
            weights is free. If `rates` is empty, `flops` holds for all numbers of rows.
    """

    memory: float
    bandwidth: float
    flops: float
    rates: tuple[tuple[int, float], ...] = ()

    def rate(self, rows: np.ndarray | float) -> np.ndarray | float:
        """Returns the FLOP/s of matrix products with `rows` rows."""
        if not self.rates:
            return self.flops
        known, speeds = zip(*self.rates, strict=True)
        return np.interp(np.log2(np.maximum(rows, 1)), np.log2(known), speeds)


# Products in bfloat16, dense. h200 is measured, the others are from data sheets. A v7x chip shows as two devices.
DEVICES = {
    "t4": Device(16e9, 0.32e12, 0.65e14),  # in float16: a T4 has no bfloat16
    "l4": Device(24e9, 0.30e12, 1.21e14),
    "rtx4090": Device(24e9, 1.01e12, 1.65e14),
    "a100-40gb": Device(40e9, 1.56e12, 3.12e14),
    "a100": Device(80e9, 2.0e12, 3.12e14),
    "h100": Device(80e9, 3.35e12, 9.9e14),
    "h200": Device(141e9, 4.3e12, 7.9e14),
    "b200": Device(180e9, 8.0e12, 2.25e15),
    "v4": Device(32e9, 1.23e12, 2.75e14),
    "v5e": Device(16e9, 0.82e12, 1.97e14),
    "v5p": Device(95e9, 2.77e12, 4.59e14),
    "v6e": Device(32e9, 1.64e12, 9.18e14),
    "v7x": Device(96e9, 3.69e12, 1.15e15),
}
WITHOUT_KERNELS = frozenset({"t4"})  # Triton and cuDNN's flash attention need a GPU of compute capability 8.0
KINDS = {
    r"\bT4\b": "t4",
    r"\bL4\b": "l4",
    "RTX 4090": "rtx4090",
    "A100.*40GB": "a100-40gb",
    "A100": "a100",
    "H100": "h100",
    "H200": "h200",
    "B200": "b200",
    "v4$": "v4",
    "v5 ?(lite|e)": "v5e",
    "v5p?$": "v5p",
    "v6 ?(lite|e)": "v6e",
    "TPU ?v?7x?": "v7x",
}


def share_of_memory(name: str) -> float:
    """Returns the fraction of a device's memory that JAX takes for arrays. `name` is a key of `DEVICES`.

    On GPUs the fraction is the value of the environment variable XLA_PYTHON_CLIENT_MEM_FRACTION. A run sets this
    variable to `launch.MEMORY` unless the user has set it. The rest is left to CUDA, NCCL and cuDNN. On TPUs the
    fraction is 1, because TPUs reserve next to nothing.
    """
    return 1.0 if name.startswith("v") else float(os.environ.get(launch.FRACTION, launch.MEMORY))


def usable_memory(name: str) -> float:
    """Returns how many bytes of a device JAX takes for arrays. `name` is a key of `DEVICES`."""
    return DEVICES[name].memory * share_of_memory(name)


def read_params(cfg: ModelConfig, rows: float) -> float:
    """Returns how many matrix parameters the device reads in a step that processes `rows` tokens.

    With experts, the count contains the expected number of distinct experts that are visited if each token chooses at
    random.
    """
    x = cfg.experts
    if not x:
        return cfg.matmul_params
    layers = sum(group.stop - group.start for group in cfg.groups if group.feed == "experts")
    hit = x.count * (1 - (1 - x.per_token / x.count) ** rows)
    return cfg.matmul_params + layers * 3 * cfg.width * x.width * (hit - x.per_token)


def pair_flops(cfg: ModelConfig, *, cached: bool = False) -> float:
    """Returns the FLOPs that one query token spends on one key and its value: 4·L·H·E, over all L layers.

    H is the number of heads, and E is their width.

    Args:
        cached: whether attention reads the cached latents themselves, as in decoding. This matters only for models with
            latent attention. The latents are wider than the keys and values made from them.
    """
    m = cfg.latent
    width = cfg.head_width
    if m:
        width = (2 * m.kv_rank + m.rope_width) / 2 if cached else (m.nope_width + m.rope_width + m.value_width) / 2
    return 4 * cfg.layers * cfg.heads * width


def forward_flops(cfg: ModelConfig, tokens: float, pairs: float, unembedded: float | None = None) -> float:
    """Returns the FLOPs of a forward pass.

    Args:
        tokens: number of tokens that are processed.
        pairs: number of (query, key) pairs in attention. A causal sequence of T tokens has T²/2.
        unembedded: number of tokens whose logits are computed; None means all.
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
    """Returns the least seconds of one decoding step: one more token for each of `rows` rows.

        max(bytes of weights / bandwidth, FLOPs of products / rate) + bytes of the cache / bandwidth

    Inside a layer, products and reads of the cache do not overlap.

    Args:
        rows: number of completions that are decoded.
        slots: number of cache slots that all rows together read. Slots of a shared prompt count once.
        size, cache_size: bytes of a weight, and of a number in the cache.
    """
    weights = size * read_params(cfg, rows) / device.bandwidth
    products = 2 * cfg.matmul_params * rows / device.rate(rows)
    return np.maximum(weights, products) + cache_size * cfg.layers * cfg.cache_width * slots / device.bandwidth


def prefill_seconds(cfg: ModelConfig, device: Device, prompts: Sequence[int] | np.ndarray) -> float:
    """Returns the least seconds of the forward pass over prompts, with logits of each prompt's last token only.

    Args:
        prompts: lengths of the prompts. A prompt occurs once, whatever the number of its completions.
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
    """Returns the least seconds of a rollout, if all rows start at once and finished rows cost nothing.

    Args:
        device: the limits of one device.
        prompts: [B] lengths of the prompts of B questions.
        lengths: [B·G] number of sampled tokens of each completion. The G completions of a question are consecutive.
        devices: number of devices that share the rows. Every device holds all weights.
        size, cache_size: bytes of a weight and of a number in the cache.
    """
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
    """Returns the fraction of the limit that a rollout reached: `rollout_seconds` divided by the measured `seconds`.

    The other arguments are those of `rollout_seconds`.
    """
    return rollout_seconds(cfg, device, prompts, lengths, devices=devices, size=size, cache_size=cache_size) / seconds


def update_flops(cfg: ModelConfig, prompts: Sequence[int] | np.ndarray, lengths: Sequence[int] | np.ndarray) -> float:
    """Returns the model FLOPs of an update, three times the FLOPs of the forward pass.

    If the prompts are empty, an update takes 6·N + 6·L·H·E·T FLOPs per token: N matrix parameters, L layers, H heads
    of width E, and T tokens in a sequence. Recomputation and the passes for old or reference log-probabilities are not
    counted. The arguments are those of `rollout_seconds`.
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
    """Returns the model FLOPs utilisation of an update: its FLOP/s as a fraction of the peak FLOP/s of all devices.

    Args:
        prompts, lengths: lengths of prompts and completions that the update trained on; see `rollout_seconds`.
        seconds: time of the update.
        devices: number of devices that share the update.
    """
    return update_flops(cfg, prompts, lengths) / (seconds * devices * device.flops)


def ceiling(devices: Sequence[jax.Device]) -> Device | None:
    """Returns the limits of one of `devices`, which must all be of the same kind.

    Returns None for an accelerator that `DEVICES` lacks.

    The limits of accelerators come from `DEVICES`. The limits of CPUs are measured, which takes a second.
    """
    if devices[0].platform == "cpu":
        return measure_device(devices, (1, 32, 512), seconds=0.5)
    return next((DEVICES[name] for kind, name in KINDS.items() if re.search(kind, devices[0].device_kind)), None)


def measure_device(
    devices: Sequence[jax.Device],
    rows: Sequence[int] = (1, 8, 32, 128, 512),
    *,
    megabytes: int = 64,
    repeats: int = 5,
    seconds: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Device:
    """Measures the float32 limits of one device while all `devices` work. Repeats each measurement and keeps the best.

    FLOP/s are measured on a chain of 16 matrix products, from width 256 to 704 and back (11.5 MB of weights). Bandwidth
    is measured by summing an array. `memory` of the result is 0: it is not measured.

    Args:
        rows: the numbers of rows with which the products are measured, in rising order. The speeds become `rates` of
            the result. The last speed also becomes `flops`.
        megabytes: size of the array to sum, on each device.
        repeats: number of repeats of each measurement, if `seconds` is None.
        seconds: time for all measurements together, without compilation. Each measurement is repeated for an equal part
            of this time, and `repeats` is ignored. If None, each measurement is repeated `repeats` times.
        clock: returns the current time in seconds; use `time.process_time` if other processes share the cores.
    """
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
