"""Converts weights between a Hugging Face directory and a run of r1jax.

Run:     python -m experiments.convert --source=runs/r1_zero-… --target=exported             (serve it with vLLM)
         python -m experiments.convert --source=Qwen2.5-1.5B --target=imported --to=r1jax    (an Orbax checkpoint)
         ... --dry-run                               (prints what would be written; reads headers only)
         ... --parity                                (reads the result back; compares it with transformers if installed)
Cost:    one pass over the weights; memory for one model plus one layer
Expect:  with float32 weights, logits within 1e-5 of transformers', relative to the largest logit
"""

from __future__ import annotations

import dataclasses
import importlib.util
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax import cli, storage, weights
from r1jax.model import presets, transformer
from r1jax.model.attention import attend_full, causal
from r1jax.model.config import ModelConfig
from r1jax.recipes import RunOptions
from r1jax.runs import checkpoint, manifests
from r1jax.runs.policies import load_adapters, load_policy, write_policy
from r1jax.runs.saver import Saver
from r1jax.sharding import make_mesh
from r1jax.weights import hub, peft
from r1jax.weights.config_out import family_of
from r1jax.weights.files import check, tensors

ADAPTER = "adapter"  # folder in --target for the adapters of a LoRA run
LOCAL = "weights are written as local files"  # why --target may be in no bucket


@dataclasses.dataclass(frozen=True)
class Command:
    """Converts weights between a Hugging Face directory and a run of r1jax."""

    source: str
    """A Hugging Face directory, a GGUF file, OWNER/NAME of the Hugging Face Hub, a PEFT adapter, the directory of a
    run, or one of its checkpoints."""
    target: str
    """A new or empty directory for the converted weights."""
    to: Literal["hf", "r1jax"] = "hf"
    """hf: safetensors, which transformers and vLLM load. For a LoRA run, the adapter is also written, as a PEFT
    directory, to TARGET/adapter. r1jax: a checkpoint like those of a run."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Number type of the safetensors."""
    shard_gb: float = 5.0
    """Largest size of a safetensors file, in GB."""
    mesh: str = "auto"
    """Mesh of devices that holds the weights during conversion: auto, AxB (fsdp=A, tensor=B), or named axes."""
    dry_run: bool = False
    """Print what would be written, then stop."""
    parity: bool = False
    """Read the target back, and compare its tensors with the source and its logits with transformers (if installed)."""


class Imported(NamedTuple):
    """The contents of the checkpoint in an r1jax target: parameters only, without an optimizer."""

    params: dict


def main() -> None:
    cli.main(Command, run, __doc__)


def run(command: Command) -> None:
    """Prints the plan, then converts the weights unless --dry-run is given.

    Raises:
        ValueError: --source cannot be read, --target is not empty, or --parity finds a difference.
    """
    print(describe_plan(command))
    if not command.dry_run:
        convert(command)


def describe_plan(command: Command) -> str:
    """Returns a text that says what will be read and written. Reads only headers and shapes, not the weights.

    Raises:
        ValueError: --source cannot be read, or --target is not empty.
    """
    target = storage.require_local(command.target, "--target", LOCAL)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"--target={target} is not empty: name a new directory")
    source = storage.path_of(hub.locate(command.source, "--source"), "--source")
    adapter = beside = ""
    if peft.is_peft(source):
        config = peft.read_adapter_config(storage.fetch(source), "--source")
        adapter = f", and the adapter {source} of rank {config.get('r')}"
        source = storage.path_of(hub.locate(config["base_model_name_or_path"], "--source"), "--source")
    if (source / "config.json").exists():
        source = storage.fetch(source)
        cfg = weights.read_config(source, flag="--source")
        held = tensors(source, "--source")
        without_mtp = dataclasses.replace(cfg, mtp_layers=0)
        cfg = cfg if f"model.layers.{cfg.layers}.eh_proj.weight" in held else without_mtp
        check(cfg, held, source, "--source")
        what = f"{len(held)} tensors in {len({x.file for x in held.values()})} files"
    else:
        found = checkpoint.find(source, flag="--source")
        cfg = checkpoint.read_model(found.parent.parent, source, "--source")
        what = f"checkpoint {found.name}"
        manifest = manifests.read(found.parent.parent)
        if command.to == "hf" and manifest and manifest.recipe.get("lora_rank"):
            beside = f"\n{target / ADAPTER}: its LoRA adapter, as a PEFT directory"
    count = presets.count(cfg, mtp=True)
    size = count * (2 if command.dtype.endswith("16") else 4) if command.to == "hf" else count * 4
    files = f", about {int(np.ceil(size / (command.shard_gb * 1e9)))} files" if command.to == "hf" else ""
    written = command.dtype if command.to == "hf" else "float32"
    read = f"{source}: {family_of(cfg)}, {count:,} parameters, {what}{adapter}"
    return f"{read}\n{target}: {command.to}, {written}, {size / 1e9:.2f} GB{files}{beside}"


def convert(command: Command) -> None:
    """Reads the source and writes the target.

    With --parity, also reads the target back and compares it with the source.
    """
    mesh, target = make_mesh(command.mesh), storage.require_local(command.target, "--target", LOCAL)
    policy, params, _ = load_policy(RunOptions(weights=command.source), mesh, flag="--source")
    if command.to == "hf":
        weights.export(
            target,
            policy.cfg,
            params,
            jnp.dtype(command.dtype),
            tokenizer=policy.tokenizer,
            shard_bytes=int(command.shard_gb * 1e9),
        )
        if adapters := load_adapters(command.source, mesh, "--source"):
            try:
                peft.export_adapter(target / ADAPTER, policy.cfg, *adapters)
            except ValueError as error:
                print(f"no {target / ADAPTER}: {error}")
    else:
        target.mkdir(parents=True, exist_ok=True)
        write_policy(target, policy)
        with Saver(target / "checkpoints") as saver:
            saver.save(0, Imported(params), {})
            saver.wait()
    print(f"written: {target}")
    if command.parity:
        for line in parity(command, policy.cfg, params, mesh):
            print(line)


def parity(command: Command, cfg: ModelConfig, params: dict, mesh: Mesh) -> list[str]:
    """Reads the target back and compares it with the source and with transformers. Returns the lines of the report.

    Args:
        cfg, params: the source's config and parameters.

    Raises:
        ValueError: a tensor that was read back differs from the tensor that was written, or the logits differ from
            transformers' logits by more than 1e-4 of the largest logit.
    """
    _, back, _ = load_policy(RunOptions(weights=command.target), mesh, flag="--target")
    number = jnp.dtype(command.dtype if command.to == "hf" else "float32")
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(back), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        exact = ours if name.endswith("router/bias") else ours.astype(number).astype(jnp.float32)
        if not jnp.array_equal(exact, theirs):
            raise ValueError(
                f"--parity: the tensor {name} in --target={command.target} differs from the tensor that was written. "
                "Do not use this target. Convert again into another directory"
            )
    lines = [f"parity: every tensor read back from {command.target} is the one written, bit for bit"]
    if command.to == "hf" and importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        import torch
        import transformers

        tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (2, 16))
        model = transformers.AutoModelForCausalLM.from_pretrained(
            command.target, dtype=torch.float32, attn_implementation="eager"
        )
        with torch.no_grad():
            theirs = model(torch.from_numpy(tokens)).logits.numpy()
        positions = jnp.broadcast_to(jnp.arange(16), (2, 16))

        @jax.jit
        def logits(params: dict) -> jax.Array:
            hidden = transformer.forward(cfg, params, jnp.asarray(tokens), positions, attend_full(causal(16)))[0]
            return transformer.logits(cfg, params, hidden)

        worst = float(abs(np.asarray(logits(back)) - theirs).max() / abs(theirs).max())
        lines.append(f"parity: logits differ from transformers by {worst:.1e} of the largest logit, in float32")
        if worst > 1e-4:
            raise ValueError(
                f"--parity: logits differ from transformers by {worst:.1e} of the largest logit; at most 1e-4 is "
                f"allowed. r1jax does not support this model. Do not use --target={command.target}"
            )
    return lines


if __name__ == "__main__":
    main()
