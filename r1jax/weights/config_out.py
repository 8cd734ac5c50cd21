"""Writes a ModelConfig as a config.json that transformers 4 and 5 can read."""

from __future__ import annotations

import dataclasses
from typing import Any

from r1jax.model.config import ModelConfig
from r1jax.weights.config_in import FAMILIES, GEMMA, HEADS

OWN_FIELDS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "attention_factor"),
}


def family_of(cfg: ModelConfig) -> str:
    """Returns the model family (`model_type` in config.json) whose networks have the features of `cfg`.

    A Mistral without a sliding window becomes a Llama, because the two networks are equal.
    """
    if cfg.latent:
        return "deepseek_v3" if cfg.experts and cfg.experts.scores == "sigmoid" else "deepseek_v2"
    if cfg.post_norms:
        return "gemma3_text" if cfg.qk_norm else "gemma2"
    if cfg.qk_norm:
        return "qwen3_moe" if cfg.experts else "qwen3"
    if cfg.qkv_bias:
        return "qwen2"
    return "mistral" if cfg.windows else "llama"


def config_to_hf(
    cfg: ModelConfig,
    eos_id: Any,
    pad_id: int | None,
    max_positions: int,
    dtype: str = "bfloat16",
    bos_id: int | None = None,
) -> dict:
    """Returns the content of a config.json that transformers 4, transformers 5 and vLLM load.

    Args:
        eos_id: id or ids of the tokens that end a text; None without a tokenizer.
        pad_id: id of the padding token; None without a tokenizer.
        max_positions: context length to write.
        dtype: dtype of the weights.
        bos_id: id of the token that begins a text; None if there is none.
    """
    family = family_of(cfg)
    name = "Gemma3Text" if family == "gemma3_text" and cfg.reward_head else FAMILIES[family]
    out = {
        "architectures": [name + HEADS[cfg.reward_head]],
        "model_type": family,
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.width,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_width,
        "intermediate_size": cfg.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": cfg.tie_embeddings,
        "max_position_embeddings": max_positions,
        "bos_token_id": bos_id,
        "eos_token_id": eos_id,
        "pad_token_id": pad_id,
        "torch_dtype": dtype,
        "dtype": dtype,
        **rope_to_hf(cfg, family),
    }
    if cfg.reward_head:
        out |= {"num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
    if family in GEMMA:
        out |= {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": round(cfg.query_scale**-2)}
        out |= {"attn_logit_softcapping": cfg.attention_cap or None, "final_logit_softcapping": cfg.logit_cap or None}
        out["hidden_act"] = "gelu_pytorch_tanh"
    if cfg.windows or family in (*GEMMA, "mistral"):
        out |= windows_to_hf(cfg, family)
    if cfg.latent:
        out |= latent_to_hf(cfg)
    if cfg.experts:
        out |= experts_to_hf(cfg, family)
    return out


def rope_to_hf(cfg: ModelConfig, family: str) -> dict:
    """Returns the RoPE settings as keys of config.json, for transformers 4 and 5. family: from `family_of`."""
    s = cfg.rope_scaling
    given: dict[str, Any] = {"rope_type": "default"}
    if s:
        given = {k: v for k, v in dataclasses.asdict(s).items() if k not in ("kind", "original_positions") and v}
        given = {k: v for k, v in given.items() if k in OWN_FIELDS[s.kind]}
        given |= {"rope_type": s.kind, "type": s.kind}
        given |= {"original_max_position_embeddings": s.original_positions} if s.original_positions else {}
    new = {"rope_theta": cfg.rope_theta, **{k: v for k, v in given.items() if k != "type"}}
    out = {"rope_theta": cfg.rope_theta, "rope_scaling": given if s else None, "rope_parameters": new}
    if family == "gemma3_text":
        local = {"rope_type": "default", "rope_theta": cfg.local_rope_theta or cfg.rope_theta}
        out |= {
            "rope_local_base_freq": local["rope_theta"],
            "rope_parameters": {"full_attention": new, "sliding_attention": local},
        }
    return out


def windows_to_hf(cfg: ModelConfig, family: str) -> dict:
    """Returns the sliding windows as keys of config.json. family: from `family_of`."""
    window = max(cfg.windows, default=0) or None
    if family == "mistral":
        return {"sliding_window": window}
    kinds = ["sliding_attention" if size else "full_attention" for size in cfg.windows or [0] * cfg.layers]
    out = {"sliding_window": window, "layer_types": kinds}
    if family in GEMMA:
        return out | {
            "sliding_window_pattern": kinds.index("full_attention") + 1 if "full_attention" in kinds else cfg.layers + 1
        }
    return out | {"use_sliding_window": True, "max_window_layers": kinds.index("sliding_attention")}


def latent_to_hf(cfg: ModelConfig) -> dict:
    """Returns the sizes of latent attention as keys of config.json, for a model with latent attention."""
    m = cfg.latent
    return {
        "kv_lora_rank": m.kv_rank,
        "q_lora_rank": m.q_rank or None,
        "qk_nope_head_dim": m.nope_width,
        "qk_rope_head_dim": m.rope_width,
        "v_head_dim": m.value_width,
        "rope_interleave": m.interleaved,
        "head_dim": m.rope_width,
    }


def experts_to_hf(cfg: ModelConfig, family: str) -> dict:
    """Returns the sizes and routing settings of the experts as keys of config.json, for a model with experts.

    `family`: from `family_of`.
    """
    x = cfg.experts
    out = {"num_experts_per_tok": x.per_token, "moe_intermediate_size": x.width, "norm_topk_prob": x.normalise}
    if family == "qwen3_moe":
        return out | {
            "num_experts": x.count,
            "num_local_experts": x.count,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    method = "noaux_tc" if x.scores == "sigmoid" else "group_limited_greedy" if x.groups > 1 else "greedy"
    return out | {
        "n_routed_experts": x.count,
        "n_shared_experts": x.shared,
        "first_k_dense_replace": x.dense_layers,
        "moe_layer_freq": 1,
        "scoring_func": x.scores,
        "routed_scaling_factor": x.scale,
        "n_group": x.groups,
        "topk_group": x.groups_kept,
        "topk_method": method,
        "num_nextn_predict_layers": cfg.mtp_layers,
    }
