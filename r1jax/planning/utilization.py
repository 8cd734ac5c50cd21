"""Computes hardware utilisation: the fraction of the machine's limit that a run reached.

metrics.jsonl holds these fractions under names that begin with `perf/`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend
from r1jax.planning import roofline
from r1jax.sharding import compute_dtype, row_shards


@functools.cache  # measuring CPUs takes a second
def ceiling(devices: tuple[jax.Device, ...]) -> roofline.Device | None:
    """Returns the memory size, bandwidth and peak FLOP/s of one device. Computes them once per process.

    All `devices` must be of the same kind. Returns None for an accelerator that `roofline.DEVICES` lacks. See
    `roofline.ceiling`.
    """
    return roofline.ceiling(devices)


class Pace(NamedTuple):
    """The hardware limits of a mesh. The methods compare a rollout's or an update's speed with these limits.

    Attributes:
        cfg: the model.
        device: combined limits of the devices that share one row shard; None if the device is unknown.
        shards: number of row shards, the parts into which the mesh splits the rows of a batch (`sharding.row_shards`).
        size, cache_size: bytes of a weight, and of a number in the cache of a rollout.
        sampler: the limits of the mesh that samples; None if the same mesh samples and trains.
    """

    cfg: ModelConfig
    device: roofline.Device | None
    shards: int
    size: int
    cache_size: int
    sampler: Pace | None = None

    @classmethod
    def of(cls, cfg: ModelConfig, mesh: Mesh, attention: str = "", rollout_mesh: Mesh | None = None) -> Pace:
        """Returns the `Pace` of a model on a mesh.

        `attention` names the model's attention backend; "" is the default backend. `rollout_mesh` is the mesh that
        samples rollouts; None means `mesh`.

        The limits of accelerators come from a table. The limits of CPUs are measured. Each process measures its own CPU
        devices, while all of them work at once.
        """
        shards = row_shards(mesh)
        one = ceiling(tuple(mesh.local_devices))
        each = mesh.devices.size // shards
        rates = tuple((rows, each * rate) for rows, rate in one.rates) if one else ()
        device = one and roofline.Device(one.memory * each, one.bandwidth * each, one.flops * each, rates)
        size = jnp.dtype(compute_dtype(mesh)).itemsize
        wide = (attention or attention_backend(mesh, cfg, compared=True)) == "exact"
        sampler = None if rollout_mesh in (None, mesh) else cls.of(cfg, rollout_mesh, attention)
        return cls(cfg, device, shards, size, 8 if wide else size, sampler)

    def rollout(self, prompts: np.ndarray, lengths: np.ndarray, seconds: float) -> dict[str, float]:
        """Returns {"perf/decode_fraction": a fraction that says how close a rollout came to the hardware's limit}.

        The fraction is the shortest time that the hardware allows (`roofline.rollout_seconds`), divided by `seconds`.
        Returns {} if the hardware's limits are not known.

        Args:
            prompts: [B] lengths of the prompts of B questions.
            lengths: [B·G] number of sampled tokens of each completion. The G completions of a question are consecutive.
            seconds: time of the rollout, including the verification of its answers; with --ahead, without it.
        """
        if self.sampler is not None:
            return self.sampler.rollout(prompts, lengths, seconds)
        if self.device is None:
            return {}
        return {
            "perf/decode_fraction": roofline.decode_fraction(
                self.cfg,
                self.device,
                prompts,
                lengths,
                seconds,
                devices=self.shards,
                size=self.size,
                cache_size=self.cache_size,
            )
        }

    def update(self, prompts: np.ndarray, lengths: np.ndarray, seen: np.ndarray, seconds: float) -> dict[str, float]:
        """Returns {"perf/mfu": the FLOP/s of an update as a fraction of the peak FLOP/s of all devices}.

        Returns {} if the hardware's limits are not known.

        Args:
            prompts, lengths: see `rollout`.
            seen: [B·G] bool, in the order of `lengths`, True for completions that the update trained on. Other
                completions are not counted.
            seconds: time of the update.
        """
        if self.device is None:
            return {}
        groups = seen.reshape(len(prompts), -1).any(axis=1)
        there = np.where(groups, prompts, 0), np.where(seen, lengths, 0)
        return {"perf/mfu": roofline.mfu(self.cfg, self.device, *there, seconds, devices=self.shards)}
