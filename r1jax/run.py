"""A run's working directory and the policy it starts from: what the walks share besides their loop."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.typing import DTypeLike

from r1jax import checkpoint, lineage, lora, presets, tokenizer, weights
from r1jax.digest import params_sha256
from r1jax.launch import is_main
from r1jax.log import JsonLines, Write, cut_back, tensorboard, wandb
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.nano import base
from r1jax.prompts import TEMPLATES
from r1jax.rewards.format import ANSWER
from r1jax.saver import is_disk_full
from r1jax.sharding import abstract
from r1jax.tokenizer import Tokenizer
from r1jax.update import merge

SHIPPED = "r1jax/nano/"  # how manifests call the bases of the package
LOGS = ("metrics", "eval", "samples")
TRACKED = {"metrics": "", "eval": "held_out/"}  # and what their figures' names begin with
TRACKERS = {"tensorboard": "tensorboardX", "wandb": "wandb"}  # and their packages


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """What every run asks of its user besides the numbers of its recipe."""

    workdir: str = ""
    """Where everything of this run is written. Default: a directory below runs/ that is named by stage, new but where a
    stage collects its own records, which it does once."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:2,fsdp:2,tensor:2,expert:1."""
    seed: int = 0
    """Of prompts and sampling noise."""
    model: str = "nano"
    """The base that ships with the package, when --weights is not given; or, with it, the name of a known model."""
    weights: str = ""
    """Start from this run's directory, one of its checkpoints, or a Hugging Face directory."""
    prompts: str = "nano"
    """jsonl or parquet rows {id, problem, gold, kind}; kind picks the verifier. nano or nano:MIX is the generator."""
    late_prompts: str = ""
    """The questions from step --late-from on, in the same form."""
    eval_prompts: str = "nano"
    """Held-out problems in the same form. nano is the generator's fixed list."""
    template: str = "r1_zero"
    """Prompt template: r1_zero, r1, or a text file that holds {question}."""
    resume: bool = False
    """Continue the run in --workdir."""
    coordinator: str | None = None
    """host:port of process 0, where no cluster is detected."""
    processes: int | None = None
    """Number of processes; 1 runs alone even on a cluster."""
    process_id: int | None = None
    """This process's number, from 0."""
    track: Literal["", "tensorboard", "wandb"] = ""
    """Where the figures go besides the logs: tensorboard, below --workdir, or wandb, into the project r1jax."""

    def __post_init__(self) -> None:
        if self.track and find_spec(TRACKERS[self.track]) is None:
            raise ValueError(f"--track={self.track} needs its package: pip install 'r1jax[{self.track}]'")


class Policy(NamedTuple):
    """What samples and is trained: shapes, tokenizer, template."""

    cfg: ModelConfig
    tokenizer: Tokenizer
    template: str

    @property
    def style(self) -> str:
        """The form its completions should have: R1-Zero's where the template asks for an answer block, else R1's."""
        return "r1_zero" if ANSWER in self.template else "r1"


def explained(error: Exception) -> str:
    """What the user reads about an error that ends a run."""
    if is_disk_full(error) and "--resume" not in str(error):
        whole = "Earlier checkpoints are whole: free some space, then go on with --resume=True"
        return f"error: the disk is full ({error}). {whole}"
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


def load_policy(
    options: RunOptions, mesh: Mesh, *, frozen: bool = False, rewards: bool = False
) -> tuple[Policy, dict, dict[str, str]]:
    """The policy, its parameters on the mesh, and the parent {path, sha256} for the manifest.

    Args:
        frozen: the parameters will not be trained: accelerators then hold them in bfloat16.
        rewards: a reward model will do, too: it will be trained on as one.

    Raises:
        ValueError: nothing at --weights, a damaged or foreign checkpoint, shapes that are not those of --model, a
            reward model where a policy is wanted.
    """
    template = template_of(options.template)
    dtype = jnp.bfloat16 if frozen and mesh.devices.flat[0].platform != "cpu" else jnp.float32
    preset = options.model in presets.PRESETS
    if preset and not options.weights:
        raise ValueError(
            f"--model={options.model} needs --weights=DIR, its Hugging Face directory; --dry-run=True plans without it"
        )
    path = Path(options.weights) if options.weights else base.directory(options.model)
    shown = options.weights or SHIPPED + options.model
    if (path / "config.json").exists():
        cfg = weights.read_config(path)
        check_head(cfg, shown, rewards)
        pieces = tokenizer_of(path, cfg, shown)
        presets.check(options.model, cfg, shown)
        cfg, params = weights.from_hf(path, mesh, dtype)
        return (
            Policy(cfg, pieces, template),
            params,
            {"path": shown, "sha256": params_sha256(params) if jax.process_count() == 1 else ""},
        )
    found = checkpoint.find(path)
    home = found.parent.parent
    cfg = checkpoint.read_model(home, shown)
    check_head(cfg, shown, rewards)
    pieces = tokenizer_of(home, cfg, shown)
    manifest = lineage.read(home)
    params = restored(found, cfg, manifest, options, mesh, dtype)
    return Policy(cfg, pieces, template), params, {"path": shown, "sha256": checkpoint.sha256(found)}


def check_head(cfg: ModelConfig, shown: str, rewards: bool) -> None:
    """Raises ValueError for a reward model where a policy is wanted: it has no logits to sample from."""
    if cfg.reward_head and not rewards:
        raise ValueError(
            f"--weights={shown} is a reward model, which gives one number and writes no text: give the run of a "
            f"policy. "
            "The last stage of R1 reads reward models from --helpful and --safety"
        )


def restored(
    found: Path, cfg: ModelConfig, manifest: lineage.Manifest | None, options: RunOptions, mesh: Mesh, dtype: DTypeLike
) -> dict:
    """The parameters of a run: what it trained from its checkpoint, what it left frozen from its parent.

    Raises:
        ValueError: a damaged checkpoint, or a parent that is gone.
    """
    shapes = transformer.shapes(cfg)
    recipe = manifest.recipe if manifest else {}
    if rank := recipe.get("lora_rank"):
        shapes = lora.shapes(shapes, rank, recipe["lora_targets"])
    trained, frozen = lora.partition(shapes)
    params = checkpoint.restore_params(found, abstract(trained, mesh), dtype)
    if frozen is None:
        return params
    parent = manifest.parent["path"] if manifest and manifest.parent else "nowhere"
    if parent.startswith(SHIPPED):
        parent = str(base.directory(parent.removeprefix(SHIPPED)))
    if not Path(parent).exists():
        raise ValueError(
            f"--weights={options.weights} holds only what it trained; the rest was at {parent}, which is gone. "
            "Restore it"
        )
    _, rest, _ = load_policy(dataclasses.replace(options, weights=parent, model="nano"), mesh)
    kept = jax.tree_util.tree_map_with_path(
        lambda path, x: None if x is None else pick(rest, path), frozen, is_leaf=lambda x: x is None
    )
    return lora.merged(merge(params, kept))


def pick(tree: Any, path: tuple) -> jax.Array:
    for step in path:
        tree = tree[getattr(step, "key", getattr(step, "idx", None))]
    return tree


def tokenizer_of(directory: Path, cfg: ModelConfig, shown: str) -> Tokenizer:
    """The tokenizer beside a model. Raises ValueError where it is unreadable or has tokens that the model has not."""
    try:
        pieces = tokenizer.load(directory)
    except ValueError as error:
        raise ValueError(f"--weights={shown}: {error}") from error
    if pieces.vocab_size > cfg.vocab_size:
        raise ValueError(
            f"--weights={shown}: the tokenizer has {pieces.vocab_size} tokens, the model {cfg.vocab_size}: "
            "they do not belong together"
        )
    return pieces


def write_policy(workdir: Path, policy: Policy) -> None:
    """Shapes and tokenizer beside the checkpoints."""
    lineage.write_atomically(workdir / checkpoint.MODEL, json.dumps(policy.cfg.as_dict(), indent=1) + "\n")
    policy.tokenizer.save(workdir)


class Logs:
    """metrics.jsonl, eval.jsonl and samples.jsonl of a working directory, written by process 0 alone.

    Args:
        step: lines after this step are cut off first: the run goes on from its checkpoint.
        options: of the run, whose figures may be tracked elsewhere, too.
        fields: of its recipe, for a tracker.
    """

    def __init__(self, workdir: Path, step: int, options: RunOptions, fields: Mapping[str, Any]):
        self._files: dict[str, JsonLines] = {}
        self._track: Write | None = None
        if is_main():
            if options.track == "tensorboard":
                self._track = tensorboard(workdir / "tensorboard", resume_step=step if step >= 0 else None)
            elif options.track == "wandb":
                self._track = wandb(workdir / "wandb", project="r1jax", name=workdir.name, config=fields)
            for name in LOGS:
                cut_back(workdir / f"{name}.jsonl", step)
                self._files[name] = JsonLines(workdir / f"{name}.jsonl")

    def write(self, name: str, line: Mapping[str, Any]) -> None:
        if self._files:
            self._files[name].write(line)
        if self._track and name in TRACKED:
            self._track(line["step"], {f"{TRACKED[name]}{key}": x for key, x in line.items() if key != "step"})

    def sync(self) -> None:
        """Waits until every line is on disk: before a checkpoint that counts on them."""
        for file in self._files.values():
            file.sync()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
