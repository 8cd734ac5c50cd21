"""Runs the torch baselines of the GPU measurements, each in a process of its own.

The baseline of decoding (part G1 of `gpu`) is transformers' `generate` with a static cache. The baseline of the update
(part G4) is a training step with SDPA and gradient checkpointing.

`generate` uses bfloat16 weights. Training uses float32 weights and bfloat16 autocast, like r1jax's training.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.bench.gpu_common import Command
    from r1jax.model.config import ModelConfig

ROOT = Path(__file__).resolve().parents[2]


def torch_line(command: Command, kind: str, cfg: ModelConfig, **sizes: int) -> dict[str, Any]:
    """Runs a torch baseline in a process of its own. Returns its result, with tokens/s under "value".

    If torch or transformers is not installed, "value" is None, and the error message is under "missing".

    Args:
        kind: "generate" or "train".
        sizes: `batch`, `prompt` and `tokens` for "generate"; `rows` and `length` for "train".
    Raises:
        RuntimeError: the process failed for a reason other than a missing package.
    """
    model = dict(
        vocab_size=cfg.vocab_size,
        hidden_size=cfg.width,
        num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads,
        num_key_value_heads=cfg.kv_heads,
        intermediate_size=cfg.mlp_width,
        rope_theta=cfg.rope_theta,
        tie_word_embeddings=cfg.tie_embeddings,
    )
    asked = json.dumps({"kind": kind, "model": model, "repeats": command.repeats, **sizes})
    done = subprocess.run([command.torch_python, "-m", __name__, asked], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(
            f"the torch baseline {kind!r} failed under --torch-python={command.torch_python}: {done.stderr[-1500:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures the baseline that the JSON argument describes and prints the result as a JSON line."""
    asked = json.loads(sys.argv[1])
    try:
        import torch
        import transformers
    except ImportError as error:
        print(json.dumps({"missing": str(error), "unit": "tokens/s", "value": None}))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    config = transformers.Qwen2Config(**asked["model"], attn_implementation="sdpa")
    model = transformers.Qwen2ForCausalLM(config).to(device)
    call = {"generate": generating, "train": training}[asked["kind"]](torch, model, device, asked)
    spent = []
    for _ in range(asked["repeats"] + 1):  # the first warms up
        start = time.perf_counter()
        tokens = call()
        if device == "cuda":
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(
        json.dumps(
            {
                "value": tokens / min(spent[1:]),
                "unit": "tokens/s",
                "on": device,
                "versions": versions,
                "call": CALLS[asked["kind"]],
            }
        )
    )


CALLS = {
    "generate": "model.bfloat16().generate(ids, do_sample=True, top_k=0, min_new_tokens=n, max_new_tokens=n, "
    "cache_implementation='static')",
    "train": "for row: autocast(bfloat16), model(ids, labels=ids).loss.backward(), gradient checkpointing, sdpa; "
    "AdamW.step()",
}


def generating(torch: Any, model: Any, device: str, asked: dict) -> Any:
    """Returns a function that generates completions and returns their number of tokens.

    `asked` holds the sizes, as in `torch_line`.
    """
    model = model.bfloat16().eval()
    ids = torch.randint(3, model.config.vocab_size, (asked["batch"], asked["prompt"]), device=device)
    n = asked["tokens"]

    def call() -> int:
        with torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                top_k=0,
                min_new_tokens=n,
                max_new_tokens=n,
                cache_implementation="static",
                pad_token_id=0,
            )
        return asked["batch"] * n

    return call


def training(torch: Any, model: Any, device: str, asked: dict) -> Any:
    """Makes a function without arguments. The function does one optimizer step and returns the step's number of tokens.

    `asked` holds the sizes, as in `torch_line`.
    """
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda")
    ids = torch.randint(3, model.config.vocab_size, (asked["rows"], asked["length"]), device=device)

    def call() -> int:
        for row in ids:
            with torch.autocast(device, dtype=torch.bfloat16):
                loss = model(row[None], labels=row[None], use_cache=False).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return ids.numel()

    return call


if __name__ == "__main__":
    main()
