"""Defines the small layers that attention and MLPs share: Linear, RMSNorm and the soft cap."""

from __future__ import annotations

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from r1jax.model.config import ModelConfig

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": nn.silu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
}


class Linear(nn.Module):
    """Returns x·kernel + bias, plus x·A·B if the parameters hold a low-rank adapter (`r1jax.model.lora`).

    Attributes:
        features: size of the output axis, or a tuple with the sizes of several output axes.
        inputs: number of trailing axes of x to sum over.
        dtype: dtype of the product and of the result.
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
    """Returns a parameter named "kernel" of the given shape, for products that `Linear` cannot express."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self) -> Array:
        return self.param("kernel", nn.initializers.zeros, self.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def inverse_rms(x: Float[Array, "*rows D"], eps: float) -> Float[Array, "*rows 1"]:
    """Returns 1/√(mean(x²) + eps), computed in float64 and rounded once, so that every program gets the same bits.

    In float32 on CPUs, XLA's order of additions and its method for the root would depend on the batch's shape.
    """
    with jax.enable_x64(True):
        wide = x.astype(jnp.float64)
        return (1.0 / jnp.sqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)).astype(x.dtype)


def inverse_rms_forward(x: Array, eps: float) -> tuple[Array, tuple[Array, Array]]:
    """Forward pass of `inverse_rms` for `custom_vjp`. Returns the result, and what the backward pass needs."""
    r = inverse_rms(x, eps)
    return r, (x, r)


def inverse_rms_backward(eps: float, kept: tuple[Array, Array], g: Array) -> tuple[Array]:
    """Backward pass of `inverse_rms` for `custom_vjp`. Returns the gradient of x. `g` is the gradient of the result."""
    x, r = kept
    return (-(g * r**3 / x.shape[-1]) * x,)


inverse_rms.defvjp(inverse_rms_forward, inverse_rms_backward)


class RMSNorm(nn.Module):
    """Returns (x / rms(x)) · scale; with `plus_one`, (x / rms(x)) · (1 + scale), as in Gemma.

    The computation is in float32 or wider. The result has dtype `dtype`.
    """

    epsilon: float
    dtype: DTypeLike
    plus_one: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        initial = nn.initializers.zeros if self.plus_one else nn.initializers.ones
        x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        scale = self.param("scale", initial, (x.shape[-1],)).astype(x.dtype)
        if jnp.dtype(self.dtype) == jnp.float32 and jax.default_backend() == "cpu":
            r = inverse_rms(x, self.epsilon)
        else:
            r = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return (x * r * (scale + self.plus_one).reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


def norm(cfg: ModelConfig, dtype: DTypeLike, name: str | None = None) -> RMSNorm:
    """Returns an RMSNorm with the settings of `cfg`, with results of dtype `dtype`, and parameters under `name`."""
    return RMSNorm(epsilon=cfg.norm_eps, dtype=dtype, plus_one=cfg.norm_plus_one, name=name)


def soft_cap(x: Array, cap: float) -> Array:
    """Returns cap·tanh(x/cap), which lies in (-cap, cap); x unchanged if `cap` is 0."""
    return cap * jnp.tanh(x / cap) if cap else x
