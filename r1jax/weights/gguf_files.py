"""Turns a GGUF file, the format of llama.cpp and Ollama, into a Hugging Face directory in the cache.

The package `gguf` reads and dequantises the tensors; this module gives them the names and the layout of Hugging Face.
All other code then reads the directory as if it had been downloaded. Quantised tensors become float32, so the directory
is larger than the file.

Sources: llama.cpp's convert_hf_to_gguf.py, whose renaming, permutation and shift of norms are undone here.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from r1jax import storage
from r1jax.distributed import beat
from r1jax.tokenizers.gguf import tokenizer_files
from r1jax.weights.files import file_sha256
from r1jax.weights.write import SHARD_BYTES, save_shards

VERSION = 1  # of this conversion: a directory in the cache that an older one wrote is written anew
ARCHITECTURES = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma3": "Gemma3"}
MODEL_TYPES = {"gemma3": "gemma3_text"}
GEMMA = "gemma3"
TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA_LAYER = LAYER | {  # as `names.SANDWICH`
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
FREQUENCIES = "rope_freqs.weight"  # Llama 3's stretching of rotary positions, as a divisor of each frequency
BLOCK = re.compile(r"blk\.(\d+)\.(\w+)\.(weight|bias)")


@functools.cache  # a run asks several times, and each time would hash the file
def locate(weights: str, flag: str = "--weights") -> Path:
    """Returns a Hugging Face directory with the content of a GGUF file, as `directory_of` does.

    Args:
        weights: path of the GGUF file, on this machine or in a bucket.
        flag: the flag that gave `weights`, for errors.

    Raises:
        ValueError: there is no such file. Also the errors of `directory_of`.
    """
    path = storage.path_of(weights, flag)
    if not path.is_file():
        raise ValueError(f"{flag}={weights}: there is no such file. Check the path")
    return directory_of(storage.fetch(path), flag)


def directory_of(path: Path, flag: str = "--weights") -> Path:
    """Returns a Hugging Face directory with the content of a GGUF file. The directory is written once, into the cache.

    Args:
        flag: the flag that named the file, for errors.

    Raises:
        ValueError: the file cannot be read, is a part of a split model, or holds a model or a tokenizer that is not
            implemented; or the package `gguf` is not installed.
    """
    held = storage.cache() / "gguf" / f"{path.stem}-{file_sha256(path)[:16]}-{VERSION}"
    if (held / "config.json").exists():
        return held
    try:
        import gguf
        import tokenizers  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{flag}={path} needs the package gguf: pip install 'r1jax[gguf]'") from error
    try:
        reader = gguf.GGUFReader(path)
        metadata = {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # the reader raises whatever its parsing runs into
        raise ValueError(
            f"{flag}={path} is no readable GGUF file ({type(error).__name__}: {error}). Download it again"
        ) from error
    beside = held.with_name(f".{held.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        config = read_config(metadata, reader.tensors)
        for name, content in tokenizer_files(metadata).items():
            (beside / name).write_bytes(content)
        save_shards(beside, parts(metadata, reader.tensors, gguf.dequantize))
        (beside / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        if not held.exists():
            os.replace(beside, held)
    except (ValueError, KeyError) as error:
        said = f"its metadata lacks {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{flag}={path}: {said}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return held


def read_config(metadata: Mapping[str, Any], tensors: list) -> dict[str, Any]:
    """Returns the content of config.json.

    Args:
        metadata: the key-value pairs of the file.
        tensors: the tensors of the file, from `gguf.GGUFReader`.

    Raises:
        ValueError: the architecture, or a setting of it, is not implemented.
        KeyError: a key is missing.
    """
    family = metadata["general.architecture"]
    if family not in ARCHITECTURES:
        raise ValueError(
            f"it holds a model of the kind {family!r}; only {', '.join(ARCHITECTURES)} can be read from GGUF. Use the "
            "model's Hugging Face directory, or another model"
        )
    if metadata.get("split.count", 1) > 1:
        raise ValueError("it is one part of a split model: merge the parts with llama-gguf-split --merge")
    own = {key.removeprefix(f"{family}."): value for key, value in metadata.items() if key.startswith(f"{family}.")}
    shapes = {tensor.name: tuple(int(n) for n in reversed(tensor.shape)) for tensor in tensors}
    if unread := [key for key in own if key.startswith("expert_") and own[key]]:
        raise ValueError(
            f"it holds experts ({unread[0]}), which cannot be read from GGUF: use the model's Hugging Face directory"
        )
    heads, width = int(own["attention.head_count"]), int(own["embedding_length"])
    head_width = int(own.get("attention.key_length") or own.get("rope.dimension_count") or width // heads)
    config = {
        "architectures": [f"{ARCHITECTURES[family]}ForCausalLM"],
        "model_type": MODEL_TYPES.get(family, family),
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": width,
        "num_hidden_layers": int(own["block_count"]),
        "num_attention_heads": heads,
        "num_key_value_heads": int(own.get("attention.head_count_kv", heads)),
        "head_dim": head_width,
        "intermediate_size": int(own["feed_forward_length"]),
        "hidden_act": "silu",
        "rms_norm_eps": shortest(own["attention.layer_norm_rms_epsilon"]),
        "max_position_embeddings": int(own["context_length"]),
        "rope_theta": shortest(own.get("rope.freq_base", 1e4)),
        "tie_word_embeddings": "output.weight" not in shapes,
        "torch_dtype": "float32",
    }
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if (token := metadata.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[f"{name}_token_id"] = int(token)
    frequencies = next((tensor.data for tensor in tensors if tensor.name == FREQUENCIES), None)
    config["rope_scaling"] = read_scaling(own, frequencies, config["rope_theta"], head_width)
    return config | (gemma_keys(own, config) if family == GEMMA else {})


def gemma_keys(own: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys of config.json that Gemma 3 has in addition to the keys that all families have.

    Args:
        own: the metadata of the architecture. The prefix "ARCHITECTURE." has been removed from the keys.
        config: the keys that all families have, with their values.
    """
    # llama.cpp, too, tells the 27B, whose queries are scaled otherwise, by its number of layers.
    whole = config["hidden_size"] // config["num_attention_heads"]
    scalar = whole if config["num_hidden_layers"] == 62 else config["head_dim"]
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": int(own["attention.sliding_window"]),
        "sliding_window_pattern": int(own.get("attention.sliding_window_pattern", 6)),
        "rope_local_base_freq": shortest(own.get("rope.freq_base_swa", 1e4)),
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
    }


def read_scaling(
    own: Mapping[str, Any], frequencies: np.ndarray | None, theta: float, head_width: int
) -> dict[str, Any] | None:
    """Returns the entry `rope_scaling` of config.json; None if the model has no RoPE scaling.

    Args:
        own: the metadata of the architecture. The prefix "ARCHITECTURE." has been removed from the keys.
        frequencies: [head_width / 2] divisors of the rotary frequencies, which files of Llama 3 have; None if the file
            has none.
        theta: base of the frequencies.

    Raises:
        ValueError: the RoPE scaling is none of linear, yarn and Llama 3's.
    """
    kind, factor = own.get("rope.scaling.type", "none"), shortest(own.get("rope.scaling.factor", 1.0))
    if frequencies is not None:
        factor = shortest(np.max(frequencies))
        llama = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
        if not np.allclose(frequencies, llama3_divisors(theta, head_width, factor), rtol=1e-4):
            raise ValueError(
                f"its tensor {FREQUENCIES} is not the RoPE scaling of Llama 3: use the model's Hugging Face directory"
            )
        return {"rope_type": "llama3", "factor": factor, **llama}
    if kind == "none" or (kind == "linear" and factor in (0.0, 1.0)):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn":
        original = int(own["rope.scaling.original_context_length"])
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    raise ValueError(
        f"its RoPE scaling is {kind!r}; only linear, yarn and Llama 3's are implemented. Use another model"
    )


def llama3_divisors(theta: float, head_width: int, factor: float) -> np.ndarray:
    """Returns [head_width / 2] divisors of the rotary frequencies of a Llama 3 model.

    The context length before the RoPE scaling is 8,192 tokens.

    Args:
        theta: base of the frequencies.
        factor: factor of the RoPE scaling, by which it divides the low frequencies.
    """
    waves = 2 * np.pi * theta ** (np.arange(0, head_width, 2, dtype=np.float64) / head_width)
    smooth = np.clip((8192 / waves - 1.0) / (4.0 - 1.0), 0.0, 1.0)
    return 1.0 / ((1.0 - smooth) / factor + smooth)


def parts(metadata: Mapping[str, Any], tensors: list, dequantise: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yields the model's tensors in parts {Hugging Face name: tensor}, one part for each safetensors file to write.

    A part has at most `SHARD_BYTES` bytes, or a single larger tensor.

    Args:
        metadata: the key-value pairs of the file.
        tensors: the tensors of the file, from `gguf.GGUFReader`.
        dequantise: a function `(data, type) -> float32 array`.

    Raises:
        ValueError: a tensor has no place in the architecture.
    """
    held: dict[str, np.ndarray] = {}
    for tensor in tensors:
        if tensor.name == FREQUENCIES:
            continue
        beat("reading a GGUF file")
        name = their_name(tensor.name, metadata["general.architecture"])
        exact = tensor.tensor_type.name in ("F32", "F16")  # numpy has these types
        array = np.asarray(tensor.data if exact else dequantise(tensor.data, tensor.tensor_type))
        array = undo(array, tensor.name, metadata)
        if held and sum(x.nbytes for x in held.values()) + array.nbytes > SHARD_BYTES:
            yield held
            held = {}
        held[name] = np.ascontiguousarray(array)
    yield held


def undo(array: np.ndarray, name: str, metadata: Mapping[str, Any]) -> np.ndarray:
    """Undoes llama.cpp's changes to a tensor, and returns the tensor as the Hugging Face checkpoint has it.

    llama.cpp interleaves the two halves of each rotary head of a Llama, and adds 1 to the norms of Gemma.

    Args:
        name: the name of the tensor in the GGUF file.
        metadata: the key-value pairs of the file.
    """
    family = metadata["general.architecture"]
    if family == GEMMA and name.endswith("norm.weight"):
        return array.astype(np.float32) - np.float32(1)
    if family == "llama" and (found := BLOCK.fullmatch(name)) and found[2] in ("attn_q", "attn_k"):
        heads = metadata["llama.attention.head_count"]
        if found[2] == "attn_k":
            heads = metadata.get("llama.attention.head_count_kv", heads)
        halves = array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:])
        return halves.swapaxes(1, 2).reshape(array.shape)
    return array


def their_name(name: str, family: str) -> str:
    """Returns the Hugging Face name of a GGUF file's tensor. Raises ValueError if the family has no such tensor."""
    if name in TOP:
        return TOP[name]
    found, rows = BLOCK.fullmatch(name), GEMMA_LAYER if family == GEMMA else LAYER
    if found is None or found[2] not in rows:
        raise ValueError(f"its tensor {name} has no place in a {family}: use the model's Hugging Face directory")
    return f"model.layers.{found[1]}.{rows[found[2]]}.{found[3]}"


def shortest(number: Any) -> float:
    """Returns the shortest decimal number that rounds to the same float32: 1e-05, not 9.99999974e-06."""
    return float(str(np.float32(number)))
