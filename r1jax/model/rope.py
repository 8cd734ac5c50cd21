"""Computes rotary positions (RoPE), plain and stretched."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from r1jax.model.config import ModelConfig, RopeScaling

Turn = tuple[Array, Array]  # cos and sin of the angles by which queries and keys are rotated


def rope(positions: Int[Array, "*rows Q"], width: int, theta: float, scaling: RopeScaling | None = None) -> Turn:
    """Returns cos and sin of the rotation angle of each position and pair of elements, [.., Q, 1, width/2] float32.

    bfloat16 is not exact enough: it cannot tell position 257 from 256.

    Args:
        width: the number of elements of a head that are rotated.
        theta: base of the frequencies.
        scaling: how positions are stretched for a longer context. None means that they are not stretched.
    """
    # NumPy constants: computed inside, two programs could differ in the last bit, multiplied by the position.
    frequency = theta ** (-np.arange(0, width, 2) / width)
    if scaling:
        frequency = stretch_frequencies(frequency, width, theta, scaling)
    frequency = frequency.astype(np.float32)
    angle = positions[..., None, None].astype(jnp.float32) * frequency.reshape((1,) * (positions.ndim + 1) + (-1,))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    if scaling and (sharpness := attention_factor(scaling)) != 1.0:
        return cos * sharpness, sin * sharpness
    return cos, sin


def turns(cfg: ModelConfig, positions: Int[Array, "*rows Q"]) -> tuple[Turn, Turn]:
    """Returns (cos, sin) for layers without an attention window, then (cos, sin) for layers with a window."""
    far = rope(positions, cfg.rope_width, cfg.rope_theta, cfg.rope_scaling)
    return far, rope(positions, cfg.rope_width, cfg.local_rope_theta) if cfg.local_rope_theta else far


def choose_turn(window: int | Array | None, far: Turn, near: Turn) -> Turn:
    """Returns the (cos, sin) of a layer: `near` if the layer has an attention window, else `far` (see `turns`).

    Args:
        window: the layer's window, as in `How.window`.
    """
    if not isinstance(window, Array):
        return near if window else far
    return far if near is far else jax.tree.map(lambda a, b: jnp.where(window > 0, b, a), far, near)


def rotate(x: Float[Array, "*rows Q H E"], turn: Turn) -> Float[Array, "*rows Q H E"]:
    """Returns x with elements i and i + E/2 of each head rotated as a pair, by the angles in `turn` (see `rope`)."""
    cos, sin = turn
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def split_pairs(x: Float[Array, "*rows E"]) -> Float[Array, "*rows E"]:
    """Moves the pairs (2i, 2i+1) of the last axis to (i, i + E/2), where `rotate` expects pairs.

    If q and k are both reordered, q·k does not change.
    """
    return jnp.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)


def stretch_frequencies(frequency: np.ndarray, width: int, theta: float, s: RopeScaling) -> np.ndarray:
    """Returns the scaled rotary frequencies: `s` divides all frequencies, or only the low ones, by `s.factor`.

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
    """Returns YaRN's attention temperature m = 0.1 · weight · ln(factor) + 1 for a context stretched by `factor`."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def attention_factor(s: RopeScaling) -> float:
    """Returns the factor by which `rope` multiplies cos and sin: YaRN's attention temperature, 1 for other scalings."""
    if s.kind != "yarn":
        return 1.0
    if s.attention_factor:
        return s.attention_factor
    if s.mscale and s.mscale_all_dim:
        return mscale(s.factor, s.mscale) / mscale(s.factor, s.mscale_all_dim)
    return mscale(s.factor)
