"""Defines the configs of published models. Their names are values of --model. Their weights come from --weights.

Source: the config.json and model cards of Qwen, meta-llama and deepseek-ai on the Hugging Face hub.
"""

from __future__ import annotations

import dataclasses

import jax

from r1jax.model import transformer
from r1jax.model.config import Experts, Latent, ModelConfig, RopeScaling


def qwen25(width: int, layers: int, heads: int, kv_heads: int, mlp_width: int, *, small: bool = False) -> ModelConfig:
    """Returns the config of a Qwen2.5 model.

    `small` selects tied embeddings, a shorter context and a less padded vocabulary.
    """
    return ModelConfig(
        vocab_size=151_936 if small else 152_064,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=width // heads,
        mlp_width=mlp_width,
        qkv_bias=True,
        tie_embeddings=small,
        max_positions=32_768 if small else 131_072,
    )


def qwen3(
    width: int,
    layers: int,
    heads: int,
    mlp_width: int,
    *,
    kv_heads: int = 8,
    tied: bool = False,
    experts: Experts | None = None,
) -> ModelConfig:
    """Returns the config of a Qwen3 model, dense or with experts.

    `tied`: embedding and unembedding are the same matrix.
    """
    return ModelConfig(
        vocab_size=151_936,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_width=128,
        mlp_width=mlp_width,
        qk_norm=True,
        tie_embeddings=tied,
        experts=experts,
        max_positions=40_960,
    )


def llama3(
    width: int,
    layers: int,
    heads: int,
    mlp_width: int,
    *,
    head_width: int = 128,
    factor: float = 8.0,
    tied: bool = False,
) -> ModelConfig:
    """Returns the config of a model of Llama 3.1 or later. Its rotary positions are stretched from a context of 8,192.

    `factor` is the factor of this stretching. `tied` says whether embedding and unembedding are the same matrix.
    """
    return ModelConfig(
        vocab_size=128_256,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=8,
        head_width=head_width,
        mlp_width=mlp_width,
        rope_theta=5e5,
        norm_eps=1e-5,
        tie_embeddings=tied,
        rope_scaling=RopeScaling("llama3", factor, 8192),
        max_positions=131_072,
    )


def math(cfg: ModelConfig) -> ModelConfig:
    """Returns the config of a Qwen2.5-Math model. `cfg` is the config of the Qwen2.5 model of the same size.

    Only the context (4,096) and the RoPE theta differ.
    """
    return dataclasses.replace(cfg, rope_theta=1e4, max_positions=4096)


def student(cfg: ModelConfig) -> ModelConfig:
    """Returns the config of an R1-Distill model.

    `cfg` is the config of the model that was fine-tuned, such as Qwen2.5-Math.

    The embeddings of an R1-Distill model are untied, and its context is 131,072.
    """
    return dataclasses.replace(cfg, tie_embeddings=False, max_positions=131_072)


QWEN25 = {
    "0.5b": qwen25(896, 24, 14, 2, 4864, small=True),
    "1.5b": qwen25(1536, 28, 12, 2, 8960, small=True),
    "3b": qwen25(2048, 36, 16, 2, 11_008, small=True),
    "7b": qwen25(3584, 28, 28, 4, 18_944),
    "14b": qwen25(5120, 48, 40, 8, 13_824),
    "32b": qwen25(5120, 64, 40, 8, 27_648),
    "72b": qwen25(8192, 80, 64, 8, 29_568),
}
QWEN3 = {
    "0.6b": qwen3(1024, 28, 16, 3072, tied=True),
    "1.7b": qwen3(2048, 28, 16, 6144, tied=True),
    "4b": qwen3(2560, 36, 32, 9728, tied=True),
    "8b": qwen3(4096, 36, 32, 12_288),
    "14b": qwen3(5120, 40, 40, 17_408),
    "32b": qwen3(5120, 64, 64, 25_600),
    "30b-a3b": qwen3(2048, 48, 32, 6144, kv_heads=4, experts=Experts(128, 8, 768, normalise=True)),
}
LLAMA = {
    "3.1-8b": llama3(4096, 32, 32, 14_336),
    "3.1-70b": llama3(8192, 80, 64, 28_672),
    "3.1-405b": llama3(16_384, 126, 128, 53_248),
    "3.2-1b": llama3(2048, 16, 32, 8192, head_width=64, factor=32.0, tied=True),
    "3.2-3b": llama3(3072, 28, 24, 8192, factor=32.0, tied=True),
    "3.3-70b": llama3(8192, 80, 64, 28_672),
}
DEEPSEEK_V3 = ModelConfig(
    vocab_size=129_280,
    width=7168,
    layers=61,
    heads=128,
    kv_heads=128,
    head_width=192,
    mlp_width=18_432,
    rope_theta=1e4,
    tie_embeddings=False,
    rope_scaling=RopeScaling("yarn", 40.0, 4096, mscale=1.0, mscale_all_dim=1.0),
    latent=Latent(kv_rank=512, nope_width=128, rope_width=64, value_width=128, q_rank=1536),
    experts=Experts(
        256, 8, 2048, shared=1, dense_layers=3, scores="sigmoid", normalise=True, scale=2.5, groups=8, groups_kept=4
    ),
    mtp_layers=1,
    max_positions=163_840,
)
PRESETS = (
    {f"qwen2.5-{size}": cfg for size, cfg in QWEN25.items()}
    | {f"qwen2.5-math-{size}": math(QWEN25[size]) for size in ("1.5b", "7b")}
    | {f"qwen3-{size}": cfg for size, cfg in QWEN3.items()}
    | {f"llama-{size}": cfg for size, cfg in LLAMA.items()}
    | {"deepseek-v3": DEEPSEEK_V3, "deepseek-r1": DEEPSEEK_V3}
    | {f"r1-distill-qwen-{size}": student(math(QWEN25[size])) for size in ("1.5b", "7b")}
    | {f"r1-distill-qwen-{size}": student(QWEN25[size]) for size in ("14b", "32b")}
    | {"r1-distill-llama-8b": LLAMA["3.1-8b"], "r1-distill-llama-70b": LLAMA["3.3-70b"]}
)


def count(cfg: ModelConfig, *, mtp: bool = False) -> int:
    """Returns the number of parameters of a model. `mtp` says whether to include multi-token-prediction layers."""
    return sum(
        x.size for x in jax.tree.leaves(transformer.shapes(cfg if mtp else dataclasses.replace(cfg, mtp_layers=0)))
    )


def check(name: str, cfg: ModelConfig, weights: str) -> None:
    """Checks that a model read from files has the shapes of the preset that the user named.

    Does nothing if `name` is not a preset.

    Args:
        name: name of the preset, from --model.
        cfg: config of the model that was read.
        weights: where the model was read from, for the error text.

    Raises:
        ValueError: the shapes of the parameters differ.
    """
    if name not in PRESETS:
        return
    bare, ours = (dataclasses.replace(c, mtp_layers=0, reward_head=False) for c in (cfg, PRESETS[name]))
    if transformer.shapes(bare) != transformer.shapes(ours):
        pairs = {key: (there, getattr(ours, key)) for key, there in vars(bare).items() if there != getattr(ours, key)}
        differ = ", ".join(f"{key} {there} instead of {here}" for key, (there, here) in pairs.items())
        raise ValueError(
            f"--weights={weights} has other shapes than --model={name}: {differ}. "
            f"Leave --model out, and the shapes are read from {weights}. Or name weights of {name} with --weights"
        )
