"""A run's working directory and the policy it starts from: what the walks share besides their loop."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from r1jax import checkpoint, lineage, presets, tokenizer, weights
from r1jax.digest import params_sha256
from r1jax.launch import is_main
from r1jax.log import JsonLines, cut_back
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.nano import base
from r1jax.prompts import TEMPLATES
from r1jax.saver import is_disk_full
from r1jax.sharding import abstract
from r1jax.tokenizer import Tokenizer

LOGS = ("metrics", "eval", "samples")
MODEL = "model.json"  # beside the checkpoints, with the tokenizer's files, so that a run can be another run's --weights


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What every run asks of its user besides the numbers of its recipe."""

    workdir: str = ""
    """Where everything of this run is written. Default: a new directory below runs/."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:2,fsdp:2,tensor:2,expert:1."""
    seed: int = 0
    """Of prompts and sampling noise."""
    model: str = "nano"
    """The base that ships with the package, when --weights is not given."""
    weights: str = ""
    """Start from this run's directory, one of its checkpoints, or a Hugging Face directory."""
    prompts: str = ""
    """jsonl or parquet rows {id, problem, gold, kind}; kind picks the verifier. Default: the nano generator."""
    eval_prompts: str = ""
    """Held-out problems in the same form. Default: the nano generator's fixed list."""
    template: str = "r1_zero"
    """Prompt template: r1_zero, or a text file that holds {question}."""
    resume: bool = False
    """Continue the run in --workdir."""
    coordinator: str | None = None
    """host:port of process 0, where no cluster is detected."""
    processes: int | None = None
    """Number of processes; 1 runs alone even on a cluster."""
    process_id: int | None = None
    """This process's number, from 0."""


class Policy(NamedTuple):
    """What samples and is trained: shapes, tokenizer, template."""

    cfg: ModelConfig
    tokenizer: Tokenizer
    template: str


def explained(error: Exception) -> str:
    """What the user reads about an error that ends a run."""
    if is_disk_full(error) and "--resume" not in str(error):
        return f"error: the disk is full ({error}). Earlier checkpoints are whole: free some space, then go on with --resume=True"
    return f"error: {error}"


def new_workdir(stage: str) -> str:
    """A directory named by the time (UTC), the same for all processes."""
    now = int(time.time())
    if jax.process_count() > 1:
        now = int(multihost_utils.broadcast_one_to_all(np.int32(now)))
    return f"runs/{stage}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}"


def template_of(name: str) -> str:
    """A template by name or from a file.

    Raises:
        ValueError: neither; or the file lacks {question}.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"--template={name} is neither a file nor one of {', '.join(TEMPLATES)}")
    text = path.read_text(encoding="utf-8")
    if "{question}" not in text:
        raise ValueError(f"--template={name} does not hold {{question}}, where the question goes")
    return text


def load_policy(options: RunOptions, mesh: Mesh) -> tuple[Policy, dict, dict[str, str]]:
    """The policy, its parameters on the mesh, and the parent {path, sha256} for the manifest.

    Raises:
        ValueError: nothing at --weights, a damaged or foreign checkpoint, shapes that are not those of --model.
    """
    template = template_of(options.template)
    preset = options.model in presets.PRESETS
    if preset and not options.weights:
        raise ValueError(f"--model={options.model} needs --weights=DIR, its Hugging Face directory; --dry-run=True plans without it")
    path = Path(options.weights) if options.weights else base.directory(options.model)
    shown = options.weights or f"r1jax/nano/{options.model}"
    if (path / "config.json").exists():
        cfg = weights.read_config(path)
        pieces = tokenizer_of(path, cfg, shown)
        presets.check(options.model, cfg, shown)
        cfg, params = weights.from_hf(path, mesh)
        return Policy(cfg, pieces, template), params, {"path": shown, "sha256": params_sha256(params) if jax.process_count() == 1 else ""}
    found = checkpoint.find(path)
    home = found.parent.parent
    try:
        cfg = ModelConfig.from_dict(json.loads((home / MODEL).read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"--weights={options.weights}: {home} lacks a readable {MODEL} ({error})") from error
    pieces = tokenizer_of(home, cfg, shown)
    shapes = jax.eval_shape(lambda: transformer.init(cfg, jax.random.key(0)))
    params = checkpoint.restore_params(found, abstract(shapes, mesh), jnp.float32)
    return Policy(cfg, pieces, template), params, {"path": shown, "sha256": checkpoint.sha256(found)}


def tokenizer_of(directory: Path, cfg: ModelConfig, shown: str) -> Tokenizer:
    """The tokenizer beside a model. Raises ValueError where it is unreadable or has tokens that the model has not."""
    try:
        pieces = tokenizer.load(directory)
    except ValueError as error:
        raise ValueError(f"--weights={shown}: {error}") from error
    if pieces.vocab_size > cfg.vocab_size:
        raise ValueError(
            f"--weights={shown}: the tokenizer has {pieces.vocab_size} tokens, the model {cfg.vocab_size}: they do not belong together"
        )
    return pieces


def write_policy(workdir: Path, policy: Policy) -> None:
    """Shapes and tokenizer beside the checkpoints."""
    lineage.write_atomically(workdir / MODEL, json.dumps(policy.cfg.as_dict(), indent=1) + "\n")
    policy.tokenizer.save(workdir)


class Logs:
    """metrics.jsonl, eval.jsonl and samples.jsonl of a working directory, written by process 0 alone.

    Args:
        step: lines after this step are cut off first: the run goes on from its checkpoint.
    """

    def __init__(self, workdir: Path, step: int):
        self._files: dict[str, JsonLines] = {}
        if is_main():
            for name in LOGS:
                cut_back(workdir / f"{name}.jsonl", step)
                self._files[name] = JsonLines(workdir / f"{name}.jsonl")

    def write(self, name: str, line: Mapping[str, Any]) -> None:
        if self._files:
            self._files[name].write(line)

    def sync(self) -> None:
        """Waits until every line is on disk: before a checkpoint that counts on them."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
