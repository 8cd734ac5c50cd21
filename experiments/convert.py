"""Weights from one form to another: a Hugging Face directory, or a run of r1jax.

Run:     python -m experiments.convert --source=runs/r1_zero-… --target=exported             (serve it with vLLM)
         python -m experiments.convert --source=Qwen2.5-1.5B --target=imported --to=r1jax    (an Orbax checkpoint)
         ... --dry-run                               (what would be written; nothing is read but headers)
         ... --parity                                (read back, and compared with transformers if it is there)
Cost:    one pass over the weights; memory of one model and one layer
Expect:  parity of float32 weights below 1e-5, relative to the largest logit
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Literal, NamedTuple

import tyro

from r1jax.run import RunOptions, explained


@dataclasses.dataclass(frozen=True)
class Command:
    """Weights from one form to another."""

    source: str
    """A Hugging Face directory, the directory of a run, or one of its checkpoints."""
    target: str
    """A new directory."""
    to: Literal["hf", "r1jax"] = "hf"
    """hf: safetensors that transformers and vLLM load. r1jax: a checkpoint as a run writes it."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of the safetensors written."""
    shard_gb: float = 5.0
    """Largest safetensors file."""
    mesh: str = "auto"
    """Where the weights lie while they pass through."""
    dry_run: bool = False
    """Say what would be written, and stop."""
    parity: bool = False
    """Read the target back, and compare it with what was written and with transformers."""


class Imported(NamedTuple):
    """What an r1jax target's checkpoint holds."""

    params: dict


def main() -> None:
    bare = {"--dry-run": "--dry-run=True", "--parity": "--parity=True"}
    arguments = [bare.get(argument, argument) for argument in sys.argv[1:]]
    command = tyro.cli(Command, args=arguments, description=__doc__, config=(tyro.conf.FlagConversionOff,))
    try:
        print(planned(command))
        if not command.dry_run:
            convert(command)
    except (ValueError, OSError) as error:
        sys.exit(explained(error))


def planned(command: Command) -> str:
    """What will be read and written, from headers and shapes alone.

    Raises:
        ValueError: nothing readable at --source, or a used --target.
    """
    import numpy as np

    from r1jax import checkpoint, presets, weights
    from r1jax.weights.config_out import family_of
    from r1jax.weights.files import check, tensors

    target = Path(command.target)
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"--target={target} is not empty: name a new directory")
    source = Path(command.source)
    if (source / "config.json").exists():
        cfg = weights.read_config(source)
        held = tensors(source)
        without_mtp = dataclasses.replace(cfg, mtp_layers=0)
        cfg = cfg if f"model.layers.{cfg.layers}.eh_proj.weight" in held else without_mtp
        check(cfg, held, source)
        what = f"{len(held)} tensors in {len({x.file for x in held.values()})} files"
    else:
        with checkpoint.behind("--source"):
            found = checkpoint.find(source)
            cfg = checkpoint.read_model(found.parent.parent, source)
        what = f"checkpoint {found.name}"
    count = presets.count(cfg, mtp=True)
    size = count * (2 if command.dtype.endswith("16") else 4) if command.to == "hf" else count * 4
    files = f", about {int(np.ceil(size / (command.shard_gb * 1e9)))} files" if command.to == "hf" else ""
    written = command.dtype if command.to == "hf" else "float32"
    read = f"{source}: {family_of(cfg)}, {count:,} parameters, {what}"
    return f"{read}\n{target}: {command.to}, {written}, {size / 1e9:.2f} GB{files}"


def convert(command: Command) -> None:
    import jax.numpy as jnp

    from r1jax import weights
    from r1jax.run import load_policy, write_policy
    from r1jax.saver import Saver
    from r1jax.sharding import make_mesh

    mesh, target = make_mesh(command.mesh), Path(command.target)
    policy, params, _ = load_policy(RunOptions(weights=command.source), mesh)
    if command.to == "hf":
        weights.export(
            target, policy.cfg, params, jnp.dtype(command.dtype), tokenizer=policy.tokenizer,
            shard_bytes=int(command.shard_gb * 1e9),
        )  # fmt: skip
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


def parity(command: Command, cfg, params: dict, mesh) -> list[str]:
    """Lines about how far the target is from the source.

    Raises:
        ValueError: what was read back is not what was written.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np

    from r1jax.model import transformer
    from r1jax.model.attention import attend_full, causal
    from r1jax.run import load_policy

    _, back, _ = load_policy(RunOptions(weights=command.target), mesh)
    number = jnp.dtype(command.dtype if command.to == "hf" else "float32")
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(back), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        exact = ours if name.endswith("router/bias") else ours.astype(number).astype(jnp.float32)
        if not jnp.array_equal(exact, theirs):
            raise ValueError(f"--parity: {name} of {command.target} is not what was written")
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
        lines.append(f"parity: logits differ from transformers by {worst:.1e} of the largest, in float32")
        if worst > 1e-4:
            raise ValueError(f"--parity: {lines[-1]}")
    return lines


if __name__ == "__main__":
    main()
