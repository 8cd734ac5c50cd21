"""Defines `ModelConfig`: the shapes of a model, and the switches in which model families differ."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, NamedTuple

UNROLLED = 12  # the sampler runs the layers of a model with at most this many layers one by one
STACKS = 4  # the sampler divides the layers of a larger model into about this many stacks


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Settings that stretch rotary positions beyond the context that a model was first trained on.

    `linear` divides every frequency by `factor`. `llama3` divides only the low frequencies, with a gradual transition
    to the unchanged high frequencies. `yarn` (Peng et al. 2023) also divides only the low frequencies, and sharpens
    attention by a temperature.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    original_positions: int = 0  # context length that the model was first trained on; unused by linear
    low_freq_factor: float = 1.0  # llama3: frequencies below this many turns in original_positions: divided by factor
    high_freq_factor: float = 4.0  # llama3: frequencies above this many turns in original_positions: unchanged
    beta_fast: float = 32.0  # yarn: frequencies above this many turns in original_positions: unchanged
    beta_slow: float = 1.0  # yarn: frequencies below this many turns in original_positions: divided by factor
    mscale: float = 0.0  # yarn, DeepSeek: cos and sin are multiplied by m(mscale) / m(mscale_all_dim)
    mscale_all_dim: float = 0.0  # yarn, DeepSeek: the scores are multiplied by m(mscale_all_dim)²; m is `rope.mscale`
    attention_factor: float = 0.0  # yarn: the number that cos and sin are multiplied by; 0 derives it from factor


@dataclasses.dataclass(frozen=True)
class Latent:
    """Settings of multi-head latent attention (DeepSeek-V2).

    Keys and values are computed from one small vector per token, and only that vector is cached.
    """

    kv_rank: int  # width of the cached vector
    nope_width: int  # width of the part of a head's q and k that has no positions
    rope_width: int  # width of the part of q and k that has rotary positions; for k, all heads share this part
    value_width: int  # width of a head's value
    q_rank: int = 0  # queries are computed through a bottleneck of this width; 0 = no bottleneck
    interleaved: bool = True  # rotary pairs are neighbours (2i, 2i+1), not halves


@dataclasses.dataclass(frozen=True)
class Experts:
    """Settings of a mixture of experts: X gated MLPs ("experts"), of which each token visits `per_token`."""

    count: int  # X
    per_token: int  # k, experts that a token visits, besides the shared experts
    width: int  # MLP width of one expert
    shared: int = 0  # number of experts of the same width that every token visits
    dense_layers: int = 0  # this many first layers have a plain MLP instead of experts
    scores: Literal["softmax", "sigmoid"] = (
        "softmax"  # sigmoid: DeepSeek-V3, where a bias without gradient corrects the choice of experts
    )
    normalise: bool = False  # whether the scores of the chosen experts are divided by their sum
    scale: float = 1.0  # factor on the output of the chosen experts
    groups: int = 1  # groups of experts; a token's experts lie in at most `groups_kept` of them
    groups_kept: int = 1  # groups from which a token may choose experts


class Group(NamedTuple):
    """A run of consecutive layers with equal shapes: layers `start` to `stop` - 1.

    Attributes:
        feed: the feed-forward of these layers: a plain MLP ("dense") or a mixture of experts ("experts").
    """

    feed: Literal["dense", "experts"]
    start: int
    stop: int


def stack_size(layers: int) -> int:
    """Returns how many of a model's `layers` layers the sampler keeps in one stack; 1 means each layer by itself.

    A program that runs every layer by itself is the fastest, but its compilation takes longer the more layers there
    are. So a model of more than `UNROLLED` layers keeps them in stacks. A program then has a loop over each stack, and
    its size does not depend on the number of layers. There are several stacks because caches are copied stack by stack
    (`programs.grow`), and so need room for the copy of one stack only.
    """
    return 1 if layers <= UNROLLED else -(-layers // STACKS)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Settings of a decoder with RMSNorm, rotary positions, attention and gated MLPs.

    Switches turn the decoder into Llama, Mistral, Qwen, Gemma or DeepSeek. The module `r1jax` lists the shape letters.
    Comments below name the families that use a switch.
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
    ] = ()  # per layer, how many tokens back a token reads, itself included; 0 = all; () = all in every layer
    local_rope_theta: float = 0.0  # Gemma 3: rope_theta of layers with a window, without scaling; 0 = as other layers
    query_scale: float = 0.0  # factor on q·k; 0 = 1/√E
    attention_cap: float = 0.0  # Gemma 2: scores become cap·tanh(scores/cap); 0 = no cap
    logit_cap: float = 0.0  # Gemma 2: logits become cap·tanh(logits/cap); 0 = no cap
    norm_plus_one: bool = False  # Gemma: norms multiply by 1 + scale
    post_norms: bool = False  # Gemma 2, 3: another norm after attention and MLP
    embed_scale: float = 1.0  # Gemma: embeddings are multiplied by √D
    activation: Literal["silu", "gelu_tanh"] = "silu"
    latent: Latent | None = None  # DeepSeek
    experts: Experts | None = None  # Qwen3-MoE, DeepSeek
    mtp_layers: int = 0  # DeepSeek-V3: number of multi-token-prediction layers, kept as parameters but never run
    reward_head: bool = False  # the output is one number instead of logits
    max_positions: int = 32_768  # the context length that the model was made for

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}, because every key head serves "
                "heads/kv_heads query heads"
            )
        if self.rope_width % 2:
            raise ValueError(
                f"the rotary width {self.rope_width} is odd, but rotary positions turn pairs of numbers: give an even "
                "head_width (for latent attention, an even rope_width)"
            )
        if self.windows and len(self.windows) != self.layers:
            raise ValueError(
                f"windows has {len(self.windows)} numbers for {self.layers} layers: give one per layer, 0 for no window"
            )
        x = self.experts
        if x and (x.count % x.groups or not 0 < x.per_token <= x.groups_kept * (x.count // x.groups)):
            raise ValueError(
                f"per_token={x.per_token} does not fit count={x.count}, groups={x.groups} and "
                f"groups_kept={x.groups_kept}: groups must divide count, and per_token must lie between 1 and the "
                "number of experts in the kept groups"
            )

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ModelConfig:
        """Returns the config that a dictionary from `as_dict` describes. The dictionary may have passed through JSON.

        Raises:
            TypeError: `fields` has a key that is no field of the config.
        """
        parts = {"rope_scaling": RopeScaling, "latent": Latent, "experts": Experts}
        built = {name: parts[name](**value) if name in parts and value else value for name, value in fields.items()}
        if "windows" in built:
            built["windows"] = tuple(built["windows"])
        return cls(**built)

    def as_dict(self) -> dict[str, Any]:
        """Returns all fields as a dictionary that can be written as JSON."""
        return dataclasses.asdict(self)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups of consecutive layers with equal shapes, in order. `params["layers"]` has an entry for each."""
        if not self.experts:
            return (Group("dense", 0, self.layers),)
        first = min(self.experts.dense_layers, self.layers)
        whole = (Group("dense", 0, first), Group("experts", first, self.layers))
        return tuple(group for group in whole if group.stop > group.start)

    @property
    def rope_width(self) -> int:
        """The number of elements of each query and key head that are rotated by position."""
        return self.latent.rope_width if self.latent else self.head_width

    @property
    def cache_width(self) -> int:
        """The number of elements that the cache of one layer stores for each token."""
        return self.latent.kv_rank + self.latent.rope_width if self.latent else 2 * self.kv_heads * self.head_width

    @property
    def attention_params(self) -> int:
        """The number of parameters in one layer's attention matrices."""
        if not self.latent:
            return 2 * self.width * self.head_width * (self.heads + self.kv_heads)
        m = self.latent
        q_in = m.q_rank or self.width
        q = self.width * m.q_rank + q_in * self.heads * (m.nope_width + m.rope_width)
        kv = self.width * (m.kv_rank + m.rope_width) + m.kv_rank * self.heads * (m.nope_width + m.value_width)
        return q + kv + self.heads * m.value_width * self.width

    def feed_params(self, feed: str, *, active: bool) -> int:
        """Returns the number of parameters in the MLP matrices of one layer, router included.

        Args:
            feed: feed-forward of the layer, "dense" or "experts" (see `Group`).
            active: whether to count only the experts that one token visits, rather than all experts.
        """
        if feed == "dense":
            return 3 * self.width * self.mlp_width
        x = self.experts
        return 3 * self.width * x.width * ((x.per_token if active else x.count) + x.shared) + self.width * x.count

    @property
    def matmul_params(self) -> int:
        """The number of parameters by which one token is multiplied in matrix products, unembedding included.

        The rooflines call this number N_mm.
        """
        body = sum(
            (g.stop - g.start) * (self.attention_params + self.feed_params(g.feed, active=True)) for g in self.groups
        )
        return body + self.vocab_size * self.width
