"""The small parts that attention and MLPs share."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from r1jax.model.config import ModelConfig

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nn.silu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
}


class Linear(nn.Module):
    """x·kernel + bias, plus a low-rank adapter where the parameters hold one (`r1jax.lora`).

    Attributes:
        features: axes of the output.
        inputs: how many trailing axes of x are summed over.
    """

    features: int | tuple[int, ...]
    inputs: int = 1
    use_bias: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        features = self.features if isinstance(self.features, tuple) else (self.features,)
        kernel = self.param("kernel", nn.initializers.zeros, (*x.shape[-self.inputs :], *features))
        x = x.astype(self.dtype)
        y = jnp.tensordot(x, kernel.astype(self.dtype), axes=self.inputs)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, features).astype(self.dtype)
            y = y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
        if self.has_variable("params", "lora_a"):
            a, b = (self.get_variable("params", name).astype(self.dtype) for name in ("lora_a", "lora_b"))
            y = y + jnp.tensordot(jnp.tensordot(x, a, axes=self.inputs), b, axes=1)
        return y


class Kernel(nn.Module):
    """The weight of a matrix that is not applied to the last axis of one input."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", nn.initializers.zeros, self.shape)


class PlusOneNorm(nn.Module):
    """Gemma's RMSNorm: x / rms(x) · (1 + scale), all in float32."""

    epsilon: float
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.zeros, (x.shape[-1],)).astype(jnp.float32)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * (1.0 + scale.reshape((1,) * (x.ndim - 1) + (-1,)))).astype(self.dtype)


def norm(cfg: ModelConfig, dtype: DTypeLike, name: str | None = None) -> nn.Module:
    """The RMSNorm of a model."""
    kind = PlusOneNorm if cfg.norm_plus_one else nn.RMSNorm
    return kind(epsilon=cfg.norm_eps, dtype=dtype, name=name)


def soft_cap(x: Array, cap: float) -> Array:
    """x squeezed into (-cap, cap); 0 leaves it alone."""
    return cap * jnp.tanh(x / cap) if cap else x
