"""Reads a config.json, written by transformers 4 or 5, into a ModelConfig."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from r1jax.model.config import Experts, Latent, ModelConfig, RopeScaling

FAMILIES = {  # model_type -> name of the architecture without ForCausalLM
    "llama": "Llama",
    "mistral": "Mistral",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "qwen3_moe": "Qwen3Moe",
    "gemma2": "Gemma2",
    "gemma3_text": "Gemma3",
    "deepseek_v2": "DeepseekV2",
    "deepseek_v3": "DeepseekV3",
}
HEADS = ("ForCausalLM", "ForSequenceClassification")
GEMMA = ("gemma2", "gemma3_text")
DEEPSEEK = ("deepseek_v2", "deepseek_v3")
# Defaults of transformers for what a config.json may leave out.
DEFAULTS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 4096},
    "qwen2": {"max_window_layers": 28, "sliding_window": 4096},
    "qwen3": {"max_window_layers": 28, "sliding_window": 4096, "head_dim": 128},
    "gemma2": {
        "sliding_window": 4096,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window_pattern": 2,
    },
    "gemma3_text": {
        "sliding_window": 4096,
        "sliding_window_pattern": 6,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
}
for _family in GEMMA:
    DEFAULTS[_family] |= {
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "tie_word_embeddings": True,
        "hidden_activation": "gelu_pytorch_tanh",
    }
ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}


def read_config(directory: Path, *, reward_head: bool = False, flag: str = "--weights") -> ModelConfig:
    """Reads the model config from the config.json of a Hugging Face directory.

    Args:
        reward_head: whether to replace the unembedding by a reward head.
        flag: the flag that named the directory, for errors.

    Raises:
        ValueError: config.json cannot be read, or asks for something that is not implemented.
    """
    path = directory / "config.json"
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{flag}={directory}: config.json cannot be read ({error}). Name a Hugging Face directory, which holds "
            "config.json, .safetensors files and a tokenizer"
        ) from error
    try:
        cfg = config_from_hf(config)
    except ValueError as error:
        raise ValueError(f"{flag}={directory}: {error}") from error
    return dataclasses.replace(cfg, reward_head=True) if reward_head else cfg


def family_and_head(config: Mapping[str, Any]) -> tuple[str, str]:
    """Returns (model_type, head) of a config.json. The head is "ForCausalLM" for a language model and
    "ForSequenceClassification" for a reward model.

    Raises:
        ValueError: the architecture is unknown.
    """
    architecture = (config.get("architectures") or [None])[0]
    known = {name + head: (kind, head) for kind, name in FAMILIES.items() for head in HEADS}
    known["Gemma3TextForSequenceClassification"] = ("gemma3_text", HEADS[1])
    if architecture is None and config.get("model_type") in FAMILIES:
        return config["model_type"], HEADS[0]
    if architecture not in known:
        names = ", ".join(FAMILIES.values())
        raise ValueError(
            f"config.json names the architecture {architecture or config.get('model_type')!r}; "
            f"known are {names}, each followed by {' or '.join(HEADS)}. Use one of these models"
        )
    return known[architecture]


def config_from_hf(config: Mapping[str, Any]) -> ModelConfig:
    """Returns the model config of a config.json with keys of transformers 4 or 5.

    Raises:
        ValueError: the architecture is unknown, a key is missing, or a key asks for something that is not implemented.
    """
    family, head = family_and_head(config)
    c = DEFAULTS.get(family, {}) | {k: v for k, v in config.items() if v is not None or k == "sliding_window"}
    act = c.get("hidden_activation" if family in GEMMA else "hidden_act", "silu")
    for unknown, what in (
        (c.get("attention_bias"), "attention_bias, which gives o_proj a bias too"),
        (c.get("mlp_bias"), "mlp_bias"),
        (act not in ACTIVATIONS, f"the activation {act!r}"),
        (c.get("use_bidirectional_attention"), "attention to later tokens"),
        (
            family == "qwen3_moe" and (c.get("decoder_sparse_step", 1) != 1 or c.get("mlp_only_layers")),
            "dense layers between layers with experts",
        ),
        (c.get("moe_layer_freq", 1) != 1, "dense layers between layers with experts"),
        (family == "deepseek_v2" and c.get("norm_topk_prob"), "norm_topk_prob"),
        (c.get("scoring_func", own_scores(family)) != own_scores(family), f"scoring_func {c.get('scoring_func')!r}"),
        (
            c.get("topk_method", "greedy") not in ("greedy", "group_limited_greedy", "noaux_tc"),
            f"topk_method {c.get('topk_method')!r}",
        ),
    ):
        if unknown:
            raise ValueError(f"config.json asks for {what}, which is not implemented: use another model")
    try:
        heads, width, layers = c["num_attention_heads"], c["hidden_size"], c["num_hidden_layers"]
        latent = latent_part(c) if family in DEEPSEEK else None
        return ModelConfig(
            vocab_size=c["vocab_size"],
            width=width,
            layers=layers,
            heads=heads,
            kv_heads=heads if latent else c.get("num_key_value_heads") or heads,
            head_width=latent.nope_width + latent.rope_width if latent else c.get("head_dim") or width // heads,
            mlp_width=c["intermediate_size"],
            norm_eps=c.get("rms_norm_eps", 1e-6),
            **rope_parts(c, family),
            windows=windows(c, family, layers),
            qkv_bias=family == "qwen2",
            qk_norm=family in ("qwen3", "qwen3_moe", "gemma3_text"),
            tie_embeddings=bool(c.get("tie_word_embeddings")),
            query_scale=c["query_pre_attn_scalar"] ** -0.5 if family in GEMMA else 0.0,
            attention_cap=c.get("attn_logit_softcapping", 0.0),
            logit_cap=c.get("final_logit_softcapping", 0.0),
            norm_plus_one=family in GEMMA,
            post_norms=family in GEMMA,
            embed_scale=width**0.5 if family in GEMMA else 1.0,
            activation=ACTIVATIONS[act],
            latent=latent,
            experts=experts_part(c, family),
            mtp_layers=c.get("num_nextn_predict_layers", 0) if family == "deepseek_v3" else 0,
            reward_head=head == HEADS[1],
            max_positions=c.get("max_position_embeddings", 32_768),
        )
    except KeyError as error:
        raise ValueError(
            f"config.json lacks {error}, which this architecture needs: download config.json again, or add the key"
        ) from error


def own_scores(family: str) -> str:
    """Returns how routers of a model family turn logits into expert scores: by "sigmoid" or "softmax"."""
    return "sigmoid" if family == "deepseek_v3" else "softmax"


def rope_parts(c: Mapping[str, Any], family: str) -> dict[str, Any]:
    """Returns the RoPE settings as fields of ModelConfig: "rope_theta", "rope_scaling", and for Gemma 3
    "local_rope_theta".

    transformers 5 writes these settings into one dictionary, or, for Gemma 3, into one dictionary for each kind of
    layer. transformers 4 writes flat keys.

    Args:
        c: the content of config.json, with defaults filled in.
        family: a key of FAMILIES.
    """
    new = c.get("rope_parameters") or {}
    far = new.get("full_attention", new)
    local = new.get("sliding_attention", {})
    old = c.get("rope_scaling") or {}
    theta = float(far.get("rope_theta") or c.get("rope_theta") or 1e4)
    parts: dict[str, Any] = {"rope_theta": theta, "rope_scaling": scaling({**old, **far}, c)}
    if family == "gemma3_text":
        parts["local_rope_theta"] = float(local.get("rope_theta") or c["rope_local_base_freq"])
    return parts


def scaling(rope: Mapping[str, Any], c: Mapping[str, Any]) -> RopeScaling | None:
    """Returns the RoPE scaling; None if RoPE is not scaled.

    Args:
        rope: the RoPE settings in config.json.
        c: the content of config.json.

    Raises:
        ValueError: the type of scaling is not implemented.
    """
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return None
    truncated = ' with "truncate": false' if rope.get("truncate", True) is False else ""
    if kind not in ("linear", "llama3", "yarn") or truncated:
        raise ValueError(
            f"config.json asks for rope type {kind!r}{truncated}, which is not implemented: use a model whose rope "
            'type is linear, llama3 or yarn (but yarn with "truncate": false is not implemented)'
        )
    fields = {field.name for field in dataclasses.fields(RopeScaling)}
    given = {k: float(v) for k, v in rope.items() if k in fields and v is not None}
    original = int(rope.get("original_max_position_embeddings") or c.get("max_position_embeddings", 0))
    return RopeScaling(kind=kind, **given, original_positions=0 if kind == "linear" else original)


def windows(c: Mapping[str, Any], family: str, layers: int) -> tuple[int, ...]:
    """Returns the sliding window of each layer: how many tokens back its attention reads, or 0 for all tokens.

    Returns () if no layer has a window.

    Args:
        c: the content of config.json, with defaults filled in.
        family: a key of FAMILIES.
        layers: number of layers.
    """
    window = c.get("sliding_window") or 0
    if family == "mistral":
        kinds = [True] * layers
    elif family in GEMMA or c.get("use_sliding_window"):
        kinds = [kind == "sliding_attention" for kind in c.get("layer_types") or ()]
        if not kinds and family in GEMMA:
            kinds = [(i + 1) % c["sliding_window_pattern"] != 0 for i in range(layers)]
        elif not kinds:
            kinds = [i >= c.get("max_window_layers", 28) for i in range(layers)]
    else:
        kinds = []
    return tuple(window * kind for kind in kinds) if window and any(kinds) else ()


def latent_part(c: Mapping[str, Any]) -> Latent:
    """Returns the sizes of latent attention in a DeepSeek config.json, whose content is `c`."""
    return Latent(
        kv_rank=c["kv_lora_rank"],
        nope_width=c["qk_nope_head_dim"],
        rope_width=c["qk_rope_head_dim"],
        value_width=c["v_head_dim"],
        q_rank=c.get("q_lora_rank") or 0,
        interleaved=c.get("rope_interleave", True),
    )


def experts_part(c: Mapping[str, Any], family: str) -> Experts | None:
    """Returns the sizes and routing settings of the experts; None if the model has no experts.

    Args:
        c: the content of config.json.
        family: a key of FAMILIES.
    """
    if family == "qwen3_moe":
        return Experts(
            c.get("num_experts") or c["num_local_experts"],
            c["num_experts_per_tok"],
            c["moe_intermediate_size"],
            normalise=c.get("norm_topk_prob", False),
        )
    if family not in DEEPSEEK:
        return None
    grouped = family == "deepseek_v3" or c.get("topk_method") == "group_limited_greedy"
    return Experts(
        c["n_routed_experts"],
        c["num_experts_per_tok"],
        c["moe_intermediate_size"],
        c.get("n_shared_experts", 0),
        c.get("first_k_dense_replace", 0),
        own_scores(family),
        family == "deepseek_v3" and c.get("norm_topk_prob", True),
        c.get("routed_scaling_factor", 1.0),
        *((c["n_group"], c["topk_group"]) if grouped else (1, 1)),
    )
