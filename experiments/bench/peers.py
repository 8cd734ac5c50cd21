"""Runs the samplers of other packages, each under an interpreter of its own. This module imports nothing of r1jax.

`tunix` and `transformers` take a Hugging Face directory with float32 weights and `prompts.json`. They return
(repeat, info). A call of `repeat()` samples all completions; this call is what a benchmark measures. `info["call"]` is
the measured expression as text, as a user would write it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

Made = tuple[Callable[[], dict[str, Any]], dict[str, Any]]


class Numbers:
    """A tokenizer whose texts are token ids separated by spaces."""

    def __init__(self, eos: int):
        self._eos = eos

    def encode(self, text: str, **_: Any) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return 0

    def eos_id(self) -> int:
        return self._eos

    def pad_id(self) -> int:
        return 0


def warm_up(repeat: Callable[[], dict[str, Any]], info: dict[str, Any]) -> Made:
    """Calls `repeat` twice to compile and warm up.

    Returns (`repeat`, `info` with one more entry). The entry "setup_s" holds the seconds of the two calls together.
    """
    start = time.perf_counter()
    repeat()
    repeat()
    return repeat, info | {"setup_s": time.perf_counter() - start}


def tunix(directory: str, group: int, tokens: int, sampled: bool) -> Made:
    """Prepares tunix' sampler, with a cache just large enough for prompt and completion. Returns (repeat, info).

    Each call of `repeat()` samples all completions and returns {"tokens": their tokens}. `info` holds the measured
    expression as text ("call"), the versions of the packages, and the seconds of set-up.

    Args:
        directory: a Hugging Face directory with prompts.json.
        group: completions of each prompt.
        tokens: tokens of each completion.
        sampled: True for top-p sampling, tunix' only random mode. False for greedy decoding, which is less work.
    """
    import jax.numpy as jnp
    from tunix.generate.sampler import CacheConfig, Sampler
    from tunix.models.qwen2 import model, params

    theirs = json.loads(Path(directory, "config.json").read_text())
    prompts = json.loads(Path(directory, "prompts.json").read_text())
    width = theirs.get("head_dim") or theirs["hidden_size"] // theirs["num_attention_heads"]
    config = model.ModelConfig(
        num_layers=theirs["num_hidden_layers"],
        vocab_size=theirs["vocab_size"],
        embed_dim=theirs["hidden_size"],
        hidden_dim=theirs["intermediate_size"],
        num_heads=theirs["num_attention_heads"],
        head_dim=width,
        num_kv_heads=theirs["num_key_value_heads"],
        rope_theta=int(theirs["rope_parameters"]["rope_theta"]),
        norm_eps=theirs["rms_norm_eps"],
        use_tied_embedding=True,
        dtype=jnp.float32,
        param_dtype=jnp.float32,
    )
    network = params.create_model_from_safe_tensors(directory, config, dtype=jnp.float32)
    length = len(prompts[0])
    cache = CacheConfig(length + tokens, config.num_layers, config.num_kv_heads, width)
    never = config.vocab_size + 1
    sampler = Sampler(network, Numbers(never), cache)
    texts = [" ".join(map(str, prompt)) for prompt in prompts for _ in range(group)]
    mode = {"temperature": 1.0, "top_p": 1.0, "seed": 0} if sampled else {"temperature": 0.0}

    def repeat() -> dict[str, Any]:
        out = sampler(texts, tokens, max_prompt_length=length, eos_tokens=[never], **mode)
        return {"tokens": sum(map(len, out.tokens))}

    shown = ", ".join(f"{name}={value}" for name, value in mode.items())
    made = f"Sampler(model, tokenizer, CacheConfig({length + tokens}, ..))"
    call = f"{made}(texts, {tokens}, max_prompt_length={length}, {shown})"
    found = {name: version(name) for name in ("google-tunix", "jax", "flax")}
    return warm_up(repeat, {"call": call, "versions": found})


def transformers(directory: str, group: int, tokens: int, cache: str) -> Made:
    """Prepares transformers' `generate`. Returns (repeat, info). OMP_NUM_THREADS sets the number of threads.

    Each call of `repeat()` samples all completions and returns {"tokens": their tokens}. `info` holds the measured
    expression as text ("call"), the versions of the packages, and the seconds of set-up.

    Args:
        directory: a Hugging Face directory with prompts.json.
        group: completions of each prompt.
        tokens: tokens of each completion.
        cache: "static" (just large enough for prompt and completion) or "dynamic".
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    network = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="sdpa").eval()
    prompts = json.loads(Path(directory, "prompts.json").read_text())
    rows = torch.tensor([prompt for prompt in prompts for _ in range(group)])
    options = dict(max_new_tokens=tokens, do_sample=True, temperature=1.0, top_k=0, top_p=1.0)
    if cache == "static":
        options["cache_implementation"] = "static"
    network.generation_config.eos_token_id = None
    network.generation_config.pad_token_id = 0
    mask = torch.ones_like(rows)

    def repeat() -> dict[str, Any]:
        with torch.inference_mode():
            out = network.generate(rows, attention_mask=mask, **options)
        return {"tokens": (out.shape[1] - rows.shape[1]) * len(rows)}

    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    call = f"model.generate(rows, attention_mask=mask, {shown})  # sdpa, {torch.get_num_threads()} threads"
    return warm_up(repeat, {"call": call, "versions": {name: version(name) for name in ("transformers", "torch")}})
