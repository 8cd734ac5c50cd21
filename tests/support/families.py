"""Random tiny models of every family, written by transformers itself."""

import os
import sys

import numpy as np
import pytest

if os.environ.get("CI") == "true" and sys.version_info[:2] == (3, 11):
    import torch
    import transformers
else:
    torch = pytest.importorskip("torch", reason="parity wants the extra 'parity'")
    transformers = pytest.importorskip("transformers", reason="parity wants the extra 'parity'")

SIZES = dict(
    vocab_size=67,
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    bos_token_id=None,
    eos_token_id=1,
    pad_token_id=0,
)
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
    "rope_theta": 5e3,
}
YARN = {
    "rope_type": "yarn",
    "factor": 4.0,
    "original_max_position_embeddings": 32,
    "beta_fast": 4.0,
    "beta_slow": 1.0,
    "rope_theta": 1e4,
}
WIDE = dict(YARN, mscale=1.0, mscale_all_dim=0.8)
LOCAL = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e3},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
}
GEMMA = dict(head_dim=8, sliding_window=6, query_pre_attn_scalar=11, num_hidden_layers=3)
ROUTED = dict(num_experts_per_tok=3, moe_intermediate_size=12, num_hidden_layers=3)
LATENT = ROUTED | dict(
    kv_lora_rank=12,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=10,
    num_key_value_heads=4,
    n_routed_experts=8,
    n_shared_experts=2,
    first_k_dense_replace=1,
)
GROUPED = dict(q_lora_rank=14, n_group=4, topk_group=2)
SLIDING = ["sliding_attention"] * 2 + ["full_attention"]
FAMILIES = {
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True, rope_theta=5e3)),
    "qwen2, windows": (
        "Qwen2",
        dict(use_sliding_window=True, sliding_window=7, max_window_layers=1, rope_parameters=YARN),
    ),
    "qwen3": ("Qwen3", dict(head_dim=8, rope_theta=5e3)),
    "qwen3, tied": ("Qwen3", dict(tie_word_embeddings=True, head_dim=8, rope_theta=5e3)),
    "llama": ("Llama", dict(rms_norm_eps=1e-5, rope_theta=5e3)),
    "llama, tied, wide heads": ("Llama", dict(tie_word_embeddings=True, head_dim=10, rope_theta=5e3)),
    "llama 3": ("Llama", dict(rope_parameters=LLAMA3, head_dim=12)),
    "mistral": ("Mistral", dict(sliding_window=9, rope_theta=5e3)),
    "gemma2": ("Gemma2", GEMMA | dict(attn_logit_softcapping=5.0, final_logit_softcapping=4.0, rope_theta=5e3)),
    "gemma3": ("Gemma3", GEMMA | dict(layer_types=SLIDING, rope_parameters=LOCAL)),
    "qwen3 moe": ("Qwen3Moe", ROUTED | dict(head_dim=8, num_experts=6, norm_topk_prob=True, rope_theta=5e3)),
    "deepseek v2": ("DeepseekV2", LATENT | dict(q_lora_rank=None, rope_parameters=WIDE, routed_scaling_factor=1.5)),
    "deepseek v2, groups": ("DeepseekV2", LATENT | GROUPED | dict(topk_method="group_limited_greedy")),
    "deepseek v3": ("DeepseekV3", LATENT | GROUPED | dict(rope_parameters=WIDE, num_nextn_predict_layers=0)),
}
TOKENS = np.random.default_rng(0).integers(2, 67, (2, 20))
TOKENS[1, :17] = TOKENS[0, :17]  # so that the sampler shares a prefix


def config(family: str) -> "transformers.PretrainedConfig":
    name, extra = FAMILIES[family]
    kind = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    made = kind(**(SIZES | extra), num_labels=1)
    made._attn_implementation = "eager"
    return made


def model(family: str, head: str = "ForCausalLM") -> "transformers.PreTrainedModel":
    """A random model in which every tensor matters: transformers' own start leaves biases at 0 and norms at 1."""
    name = FAMILIES[family][0]
    if name == "Gemma3" and head != "ForCausalLM":
        name = "Gemma3Text"
    made = getattr(transformers, name + head)(config(family)).float().eval()
    return randomise(made)


def randomise(made: "transformers.PreTrainedModel", seed: int = 0) -> "transformers.PreTrainedModel":
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, p in [*made.named_parameters(), *made.named_buffers()]:
            if "inv_freq" in key or "embed_scale" in key:
                continue
            # Scales lie around one: Gemma's store what is added to it.
            centre = 1.0 if "norm" in key and "gemma" not in made.config.model_type else 0.0
            p.normal_(centre, 0.15, generator=generator)
    return made


def logits(made: "transformers.PreTrainedModel", tokens: np.ndarray = TOKENS) -> np.ndarray:
    with torch.no_grad():
        return made(torch.from_numpy(np.asarray(tokens))).logits.numpy()
