"""Defines the models of the benchmarks, and makes random parameters, prompts and completion lengths."""

from __future__ import annotations

import jax
import numpy as np

from r1jax.model import transformer
from r1jax.model.config import ModelConfig

TINY = ModelConfig(
    vocab_size=512,
    width=256,
    layers=4,
    heads=8,
    kv_heads=4,
    head_width=32,
    mlp_width=704,
    rope_theta=1e4,
    qkv_bias=True,
)  # 3.08M parameters in matrices
TOY = ModelConfig(
    vocab_size=64, width=32, layers=1, heads=4, kv_heads=2, head_width=8, mlp_width=64, rope_theta=1e4, qkv_bias=True
)
MODELS = {"full": TINY, "toy": TOY}
FIRST = 3  # lower tokens may be special to a peer


def random_params(cfg: ModelConfig, spread: float = 1.0) -> dict:
    """Returns model parameters, all random, because arithmetic on zeros and ones could be unrealistically cheap.

    Args:
        spread: factor on the standard deviation of the random numbers, which is 0.02 if `spread` is 1. With 10, the
            logits of the tokens are several nats apart.
    """
    rng = np.random.default_rng(0)

    def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        noise = 0.02 * spread * rng.standard_normal(x.shape, np.float32)
        return noise + np.float32(1.0) if "scale" in name else noise

    return jax.tree_util.tree_map_with_path(leaf, transformer.shapes(cfg))


def random_prompts(cfg: ModelConfig, count: int, length: int) -> list[list[int]]:
    """Returns `count` random prompts of `length` tokens."""
    return np.random.default_rng(1).integers(FIRST, cfg.vocab_size, (count, length)).tolist()


def long_tailed(count: int, mean: float, most: int) -> np.ndarray:
    """Returns `count` completion lengths in random order, from a lognormal distribution with σ = 0.8.

    The lengths are quantiles of the distribution, not random draws, so that the workload does not depend on a seed.

    Args:
        mean: the mean length, reached approximately.
        most: the greatest length, reached exactly.
    """
    from statistics import NormalDist

    z = np.array([NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)])
    shape = np.exp(0.8 * z)
    low, high = 0.0, float(most)
    for _ in range(60):  # the scale at which the clipped lengths have the mean
        scale = (low + high) / 2
        lengths = np.clip(np.rint(scale * shape), 1, most)
        low, high = (scale, high) if lengths.mean() < mean else (low, scale)
    lengths[-1] = most
    return np.random.default_rng(2).permutation(lengths).astype(np.int64)
