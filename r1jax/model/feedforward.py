"""The gated MLP."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from r1jax.model.config import ModelConfig


class GatedMLP(nn.Module):
    """down(silu(gate x) * up x), without biases (Shazeer 2020)."""

    cfg: ModelConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*rows D"]) -> Float[Array, "*rows D"]:
        def dense(name: str, width: int) -> nn.Dense:
            return nn.Dense(width, use_bias=False, dtype=self.dtype, name=name)

        # One axis of tokens: with two, XLA's CPU backend transposes copies for every weight gradient, at twice the time.
        flat = x.reshape(-1, x.shape[-1])
        hidden = nn.silu(dense("gate", self.cfg.mlp_width)(flat)) * dense("up", self.cfg.mlp_width)(flat)
        return dense("down", self.cfg.width)(hidden).reshape(x.shape)
