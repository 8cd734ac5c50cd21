"""Writes tiny models as GGUF files, as llama.cpp's convert_hf_to_gguf.py does."""

from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="GGUF files want the extra 'gguf'")

ARCH = {"llama": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma3_text": "gemma3"}
PARTS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
GEMMA = PARTS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """convert_hf_to_gguf.py, LlamaModel.permute."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def write(path: Path, model, tokenizer: dict, *, quantised: str = "", **keys) -> Path:
    """Writes a transformers model and the metadata of a tokenizer.

    quantised: the type of all matrices, such as Q8_0; keys: more metadata of the architecture.
    """
    cfg = model.config
    arch = ARCH[cfg.model_type]
    out = gguf.GGUFWriter(path, arch)
    head_dim = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    out.add_uint32(f"{arch}.block_count", cfg.num_hidden_layers)
    out.add_uint32(f"{arch}.context_length", cfg.max_position_embeddings)
    out.add_uint32(f"{arch}.embedding_length", cfg.hidden_size)
    out.add_uint32(f"{arch}.feed_forward_length", cfg.intermediate_size)
    out.add_uint32(f"{arch}.attention.head_count", cfg.num_attention_heads)
    out.add_uint32(f"{arch}.attention.head_count_kv", cfg.num_key_value_heads)
    out.add_float32(f"{arch}.attention.layer_norm_rms_epsilon", cfg.rms_norm_eps)
    out.add_uint32(f"{arch}.attention.key_length", head_dim)
    for key, value in keys.items():
        name = f"{arch}.{key.replace('__', '.')}"
        if isinstance(value, str):
            out.add_string(name, value)
        elif isinstance(value, float):
            out.add_float32(name, value)
        else:
            out.add_uint32(name, value)
    for key, value in tokenizer.items():
        if isinstance(value, list):
            out.add_array(key, value)
        elif isinstance(value, bool):
            out.add_bool(key, value)
        elif isinstance(value, str):
            out.add_string(key, value)
        else:
            out.add_uint32(key, value)
    tied = cfg.tie_word_embeddings
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        array, parts = tensor.numpy(), GEMMA if arch == "gemma3" else PARTS
        if name in TOP:
            theirs = TOP[name]
        else:
            _, _, layer, rest = name.split(".", 3)
            part, _, kind = rest.rpartition(".")
            theirs = f"blk.{layer}.{parts[part]}.{kind}"
            if arch == "llama" and parts[part] in ("attn_q", "attn_k"):
                heads = cfg.num_attention_heads if parts[part] == "attn_q" else cfg.num_key_value_heads
                array = permute(array, heads)
        if arch == "gemma3" and theirs.endswith("norm.weight"):
            array = array + 1
        if quantised and array.ndim == 2:
            kind = getattr(gguf.GGMLQuantizationType, quantised)
            out.add_tensor(theirs, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            out.add_tensor(theirs, np.ascontiguousarray(array))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path
