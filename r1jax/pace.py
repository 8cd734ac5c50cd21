"""How near a run comes to what its machine allows: the `perf/` figures of the training log that `limits` gives."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import limits
from r1jax.model.attend_choice import attention_backend
from r1jax.model.config import ModelConfig
from r1jax.sharding import compute_dtype, row_shards


@functools.cache  # CPUs are measured, which takes a second: once in a process
def ceiling(devices: tuple[jax.Device, ...]) -> limits.Device | None:
    return limits.ceiling(devices)


class Pace(NamedTuple):
    """The ceiling of a mesh.

    Attributes:
        device: of one shard of the rows: the devices that hold a policy together, as one. None where it is not known.
        shards: of the rows.
        size, cache_size: bytes of a weight and of a number in the cache of a rollout.
    """

    cfg: ModelConfig
    device: limits.Device | None
    shards: int
    size: int
    cache_size: int

    @classmethod
    def of(cls, cfg: ModelConfig, mesh: Mesh) -> Pace:
        """This process measures its own CPUs, each while all of them work; accelerators are known by name."""
        shards = row_shards(mesh)
        one = ceiling(tuple(mesh.local_devices))
        each = mesh.devices.size // shards
        rates = tuple((rows, each * rate) for rows, rate in one.rates) if one else ()
        device = one and limits.Device(one.memory * each, one.bandwidth * each, one.flops * each, rates)
        size = jnp.dtype(compute_dtype(mesh)).itemsize
        wide = attention_backend(mesh, cfg, compared=True) == "exact"
        return cls(cfg, device, shards, size, 8 if wide else size)

    def rollout(self, prompts: np.ndarray, lengths: np.ndarray, seconds: float) -> dict[str, float]:
        """The share of the limit that a rollout reached, its verdicts included; nothing where no limit is known.

        Args:
            prompts: [B] lengths.
            lengths: [B·G] sampled tokens, question-major.
        """
        if self.device is None:
            return {}
        return {"perf/decode_fraction": limits.decode_fraction(
            self.cfg, self.device, prompts, lengths, seconds, devices=self.shards, size=self.size,
            cache_size=self.cache_size,
        )}  # fmt: skip

    def update(self, prompts: np.ndarray, lengths: np.ndarray, seen: np.ndarray, seconds: float) -> dict[str, float]:
        """Model FLOPs of an update as a share of the products' ceiling; nothing where no ceiling is known.

        Args:
            prompts, lengths: as for `rollout`.
            seen: [B·G] rows the update went over; the others cost nothing.
        """
        if self.device is None:
            return {}
        groups = seen.reshape(len(prompts), -1).any(axis=1)
        there = np.where(groups, prompts, 0), np.where(seen, lengths, 0)
        return {"perf/mfu": limits.mfu(self.cfg, self.device, *there, seconds, devices=self.shards)}
