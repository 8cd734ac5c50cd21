"""Shapes and switches of a model."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary positions are stretched beyond the context a model was first trained on.

    `linear` slows every frequency by `factor`; `llama3` only the slow ones, with a ramp between; `yarn` (Peng et al.
    2023) likewise, and it sharpens attention by a temperature.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_positions: int = 0  # the first context; unused by linear
    low_freq_factor: float = 1.0  # llama3: wavelengths above original/low are slowed in full
    high_freq_factor: float = 4.0  # llama3: wavelengths below original/high are left alone
    beta_fast: float = 32.0  # yarn: pairs that turn more often than this within the first context are left alone
    beta_slow: float = 1.0  # yarn: pairs that turn less often are slowed in full
    mscale: float = 0.0  # yarn, DeepSeek: the temperature on cos and sin is m(mscale) / m(mscale_all_dim)
    mscale_all_dim: float = 0.0  # yarn, DeepSeek: m(mscale_all_dim)² on the scores
    attention_factor: float = 0.0  # yarn: the temperature on cos and sin itself; 0 derives it from the factor


@dataclasses.dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2): keys and values come from one small vector, all that is cached."""

    kv_rank: int  # width of that vector
    nope_width: int  # part of a head's q and k without positions
    rope_width: int  # part with rotary positions; the key's is shared by all heads
    value_width: int
    q_rank: int = 0  # queries go through a bottleneck too; 0 = they do not
    interleaved: bool = True  # rotary pairs are neighbours (2i, 2i+1)


@dataclasses.dataclass(frozen=True)
class Experts:
    """A mixture of X gated MLPs, of which each token visits `per_token`."""

    count: int  # X
    per_token: int
    width: int
    shared: int = 0  # experts of the same width that every token visits
    dense_layers: int = 0  # the first layers keep one plain MLP
    scores: Literal["softmax", "sigmoid"] = (
        "softmax"  # sigmoid: DeepSeek-V3, choice corrected by a bias without gradient
    )
    normalise: bool = False  # the chosen scores are divided by their sum
    scale: float = 1.0  # of the routed output
    groups: int = 1  # experts lie in groups, and a token's experts in at most `groups_kept` of them
    groups_kept: int = 1


class Group(NamedTuple):
    """A run of layers of equal shapes."""

    feed: Literal["dense", "experts"]
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A decoder of RMSNorm, rotary positions, attention and gated MLPs.

    The switches make it Llama, Mistral, Qwen, Gemma or DeepSeek. Shape letters are those of the glossary in `r1jax`.
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
    qk_norm: bool = False  # Qwen3, Gemma 3: RMSNorm over each head of q and k, before the rotation
    tie_embeddings: bool = True
    rope_scaling: RopeScaling | None = None
    windows: tuple[
        int, ...
    ] = ()  # per layer, how many tokens back it reads, itself included; 0 = all. () = all everywhere
    local_rope_theta: float = 0.0  # Gemma 3: of the layers with a window, unscaled; 0 = the same as the others
    query_scale: float = 0.0  # scores are q·k times this; 0 = 1/√E
    attention_cap: float = 0.0  # Gemma 2: scores become cap·tanh(scores/cap); 0 = they stay
    logit_cap: float = 0.0  # Gemma 2: logits likewise
    norm_plus_one: bool = False  # Gemma: norms multiply by 1 + scale
    post_norms: bool = False  # Gemma 2, 3: a norm after attention and MLP too
    embed_scale: float = 1.0  # Gemma: embeddings are multiplied by √D
    activation: Literal["silu", "gelu_tanh"] = "silu"
    latent: Latent | None = None  # DeepSeek
    experts: Experts | None = None  # Qwen3-MoE, DeepSeek
    mtp_layers: int = 0  # DeepSeek-V3: multi-token-prediction layers, kept but not run
    reward_head: bool = False  # one number instead of logits
    max_positions: int = 32_768  # the context it is said to read

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} is not a multiple of kv_heads={self.kv_heads}: every key head serves H/K queries"
            )
        if self.rope_width % 2:
            raise ValueError(f"head_width={self.head_width} is odd: rotary positions turn pairs of numbers")
        if self.windows and len(self.windows) != self.layers:
            raise ValueError(
                f"windows names {len(self.windows)} layers of {self.layers}: one number a layer, 0 for none"
            )
        x = self.experts
        if x and (x.count % x.groups or not 0 < x.per_token <= x.groups_kept * (x.count // x.groups)):
            raise ValueError(
                f"per_token={x.per_token} experts do not fit {x.groups_kept} of {x.groups} groups of {x.count} experts"
            )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ModelConfig:
        """The inverse of `as_dict`, from JSON. Raises TypeError for an unknown field."""
        parts = {"rope_scaling": RopeScaling, "latent": Latent, "experts": Experts}
        built = {name: parts[name](**value) if name in parts and value else value for name, value in fields.items()}
        if "windows" in built:
            built["windows"] = tuple(built["windows"])
        return cls(**built)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The layers in runs of equal shapes, as `params["layers"]` holds them."""
        if not self.experts:
            return (Group("dense", 0, self.layers),)
        first = min(self.experts.dense_layers, self.layers)
        whole = (Group("dense", 0, first), Group("experts", first, self.layers))
        return tuple(group for group in whole if group.stop > group.start)

    @property
    def rope_width(self) -> int:
        return self.latent.rope_width if self.latent else self.head_width

    @property
    def cache_width(self) -> int:
        """Numbers that one token leaves in the cache of one layer."""
        return self.latent.kv_rank + self.latent.rope_width if self.latent else 2 * self.kv_heads * self.head_width

    @property
    def attention_params(self) -> int:
        """Parameters of one layer's attention matrices."""
        if not self.latent:
            return 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        m = self.latent
        q_in = m.q_rank or self.width
        q = self.width * m.q_rank + q_in * self.heads * (m.nope_width + m.rope_width)
        kv = self.width * (m.kv_rank + m.rope_width) + m.kv_rank * self.heads * (m.nope_width + m.value_width)
        return q + kv + self.heads * m.value_width * self.width

    def feed_params(self, feed: str, *, active: bool) -> int:
        """Parameters of one layer's MLP matrices: all of them, or those that one token visits."""
        if feed == "dense":
            return 3 * self.width * self.mlp_width
        x = self.experts
        return 3 * self.width * x.width * ((x.per_token if active else x.count) + x.shared) + self.width * x.count

    @property
    def matmul_params(self) -> int:
        """Parameters in the matrix products of one token, the unembedding included (N_mm of the rooflines)."""
        body = sum(
            (g.stop - g.start) * (self.attention_params + self.feed_params(g.feed, active=True)) for g in self.groups
        )
        return body + self.vocab_size * self.width
