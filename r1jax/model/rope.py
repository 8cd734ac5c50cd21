"""Rotary positions, plain and stretched."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r1jax.model.config import ModelConfig, RopeScaling

Turn = tuple[Array, Array]


def rope(positions: Int[Array, "*rows Q"], width: int, theta: float, scaling: RopeScaling | None = None) -> Turn:
    """cos and sin, [.., Q, 1, width/2], of rotary positions. float32: bfloat16 cannot tell position 257 from 256."""
    # Constants of every program: computed inside, two programs could differ in the last bit, times the position.
    frequency = theta ** (-np.arange(0, width, 2) / width)
    if scaling:
        frequency = stretched(frequency, width, theta, scaling)
    frequency = frequency.astype(np.float32)
    angle = positions[..., None, None].astype(jnp.float32) * frequency.reshape((1,) * (positions.ndim + 1) + (-1,))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if scaling and (sharpness := attention_factor(scaling)) != 1.0:
        return cos * sharpness, sin * sharpness
    return cos, sin


def turns(cfg: ModelConfig, positions: Int[Array, "*rows Q"]) -> tuple[Turn, Turn]:
    """The turns of layers without and with a window."""
    far = rope(positions, cfg.rope_width, cfg.rope_theta, cfg.rope_scaling)
    return far, rope(positions, cfg.rope_width, cfg.local_rope_theta) if cfg.local_rope_theta else far


def rotate(x: Float[Array, "*rows Q H E"], turn: Turn) -> Float[Array, "*rows Q H E"]:
    """x with the pairs (i, i + E/2) of each head turned by their angles."""
    cos, sin = turn
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def apart(x: Float[Array, "*rows E"]) -> Float[Array, "*rows E"]:
    """Neighbouring pairs (2i, 2i+1) laid out as `rotate` wants them. q·k is the same in either order."""
    return jnp.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)


def stretched(frequency: np.ndarray, width: int, theta: float, s: RopeScaling) -> np.ndarray:
    """Frequencies, some of them slowed by the factor.

    Source: `modeling_rope_utils.py` of transformers; Llama 3.1 and YaRN reference code.
    """
    if s.kind == "linear":
        return frequency / s.factor
    if s.kind == "llama3":
        turned = s.original_positions * frequency / (2 * math.pi)  # turns within the first context
        keep = np.clip((turned - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0.0, 1.0)
    else:

        def pair(turned: float) -> float:  # the pair that turns this often within the first context
            return width * math.log(s.original_positions / (turned * 2 * math.pi)) / (2 * math.log(theta))

        low, high = max(math.floor(pair(s.beta_fast)), 0), min(math.ceil(pair(s.beta_slow)), width - 1)
        pairs = np.arange(width // 2)
        keep = 1.0 - np.clip((pairs - low) / (max(high - low, 0) or 0.001), 0.0, 1.0)
    return frequency / s.factor * (1.0 - keep) + frequency * keep


def mscale(factor: float, weight: float = 1.0) -> float:
    """YaRN's temperature of attention over a context stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def attention_factor(s: RopeScaling) -> float:
    """What cos and sin are multiplied by."""
    if s.kind != "yarn":
        return 1.0
    if s.attention_factor:
        return s.attention_factor
    if s.mscale and s.mscale_all_dim:
        return mscale(s.factor, s.mscale) / mscale(s.factor, s.mscale_all_dim)
    return mscale(s.factor)
