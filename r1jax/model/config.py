"""Shapes and switches of a model."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A dense decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

    Covers Llama, Mistral, Qwen2 and Qwen3 by three switches. Shape letters are those of the glossary in `r1jax`.
    """

    vocab_size: int  # V
    width: int  # D
    layers: int  # L
    heads: int  # H
    kv_heads: int  # K, a divisor of H
    head_width: int  # E
    mlp_width: int  # F
    rope_theta: float = 1e6
    norm_eps: float = 1e-6
    qkv_bias: bool = False  # Qwen2
    qk_norm: bool = False  # Qwen3: RMSNorm over each head of q and k, before the rotation
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}: every key head serves H/K queries")
        if self.head_width % 2:
            raise ValueError(f"head_width={self.head_width} is odd: rotary positions turn pairs of numbers")

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def matmul_params(self) -> int:
        """Parameters that take part in matrix products, the unembedding included (N_mm of the rooflines)."""
        attention = 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.width * self.mlp_width) + self.vocab_size * self.width
