"""Loads and checks the policy that a run starts from, and writes model config and tokenizer beside checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from r1jax import storage, weights
from r1jax.model import lora, presets, transformer
from r1jax.model.config import ModelConfig
from r1jax.model.lora import merge
from r1jax.policy import Policy
from r1jax.recipes import RunOptions
from r1jax.runs import checkpoint, manifests
from r1jax.runs.files import write_atomically
from r1jax.runs.hashing import params_sha256
from r1jax.runs.templates import CHAT, FITTING, read_template, template_of
from r1jax.sharding import abstract
from r1jax.tokenizers.load import load_tokenizer
from r1jax.tokenizers.protocol import Tokenizer
from r1jax.weights import bundled, hub, peft
from r1jax.weights.files import file_sha256, hash_weights, is_hugging_face

SHIPPED = "r1jax/nano/"  # prefix of the package's base models in manifests


def load_policy(
    options: RunOptions, mesh: Mesh, *, frozen: bool = False, rewards: bool = False, flag: str = "--weights"
) -> tuple[Policy, dict, dict[str, Any]]:
    """Loads the policy that the flags name. Returns (policy, parameters on the mesh, the manifest's entry `parent`).

    Every process must call this function.

    Args:
        frozen: whether the parameters stay untrained. Accelerators then hold them in bfloat16.
        rewards: whether the weights may belong to a reward model, to continue its training.
        flag: the flag that gave `options.weights`, for errors. Only weights of --weights must have the shapes of
            --model: another flag names another model, such as a teacher.

    Raises:
        ValueError: `options.weights` does not exist, its checkpoint is damaged or belongs to another kind of model, its
            shapes differ from --model, or it is a reward model although `rewards` is False.
    """
    if options.template not in (CHAT, FITTING):
        template_of(options.template)  # an error now, not after the weights are read
    dtype = jnp.bfloat16 if frozen and mesh.devices.flat[0].platform != "cpu" else jnp.float32
    preset = options.model in presets.PRESETS
    if preset and not options.weights:
        raise ValueError(
            f"--model={options.model} needs {flag}=DIR, the Hugging Face directory with its weights; "
            "--dry-run=True plans a run without weights"
        )
    given = hub.locate(options.weights, flag)
    path = storage.path_of(given, flag) if given else bundled.directory(options.model, flag)
    shown = options.weights or SHIPPED + options.model
    if peft.is_peft(path):
        return load_peft(path, options, mesh, frozen=frozen, flag=flag)
    if (path / "config.json").exists():
        named, path = path, storage.fetch(path)
        cfg = weights.read_config(path, flag=flag)
        check_head(cfg, shown, rewards, flag)
        pieces = tokenizer_of(path, cfg, shown, flag)
        if flag == "--weights":
            presets.check(options.model, cfg, shown)
        cfg, params = weights.from_hf(path, mesh, dtype, flag=flag)
        return (
            make_policy(cfg, pieces, options),
            params,
            {
                "path": parent_path(options.weights, named) if options.weights else shown,
                "sha256": hash_weights(path, flag),
            },
        )
    found = checkpoint.find(path, flag=flag)
    home = found.parent.parent
    cfg = checkpoint.read_model(home, shown, flag)
    check_head(cfg, shown, rewards, flag)
    if flag == "--weights":
        presets.check(options.model, cfg, shown)
    pieces = tokenizer_of(home, cfg, shown, flag)
    manifest = manifests.read(home)
    params = load_params(found, cfg, manifest, options, mesh, dtype, flag)
    parent = {"path": str(storage.absolute(path)), "sha256": checkpoint.sha256(found, flag)}
    return make_policy(cfg, pieces, options), params, parent


def make_policy(cfg: ModelConfig, pieces: Tokenizer, options: RunOptions) -> Policy:
    """Makes a policy from a model config, its tokenizer `pieces`, and the prompt template that the flags name.

    Raises:
        ValueError: the template cannot be used.
    """
    asked = read_template(options, pieces)
    return Policy(cfg, pieces, asked.text, asked.style)


def parent_path(weights: str, found: Path) -> str:
    """Returns the absolute path that a manifest stores for weights.

    If `weights` is a GGUF file, this is the path of the file. Otherwise it is the path of `found`.

    Args:
        weights: a value of --weights.
        found: the directory that holds the weights. For a model of the Hub, the directory's name contains the commit.
    """
    return str(storage.absolute(storage.path_of(weights) if weights.lower().endswith(".gguf") else found))


def size_of(options: RunOptions) -> int:
    """Returns `ModelConfig.matmul_params` of the policy that the flags name.

    This is the number of parameters by which one token is multiplied in matrix products.

    Reads only the policy's config. Returns 0 if the config cannot be read; `load_policy` reports this error later.

    Uses no device. So a caller can read this size first, and then choose the number of CPU devices accordingly.
    """
    try:
        path = storage.path_of(hub.locate(options.weights)) if options.weights else bundled.directory(options.model)
        if peft.is_peft(path):
            base = peft.read_adapter_config(path)["base_model_name_or_path"]
            return size_of(dataclasses.replace(options, weights=base))
        if (path / "config.json").exists():
            return weights.read_config(storage.fetch(path)).matmul_params
        return checkpoint.read_model(checkpoint.find(path).parent.parent, path).matmul_params
    except (OSError, ValueError):
        return 0


def load_peft(
    directory: Path, options: RunOptions, mesh: Mesh, *, frozen: bool, flag: str
) -> tuple[Policy, dict, dict[str, Any]]:
    """Loads a PEFT adapter and its base, and adds the adapter into the base's parameters.

    Returns what `load_policy` returns.

    The tokenizer comes from the adapter's directory if that directory has a tokenizer, else from the base.

    Args:
        directory: the adapter's directory. Its adapter_config.json names the base: a path, or a model of the Hub.
        frozen, flag: see `load_policy`.

    Raises:
        ValueError: the adapter or its base cannot be read, or they do not belong together.
    """
    path = storage.fetch(directory)
    config = peft.read_adapter_config(path, flag)
    base, revision = config["base_model_name_or_path"], config.get("revision")
    named = f"{base}@{revision}" if revision and not Path(base).exists() else base
    try:
        policy, params, parent = load_policy(
            dataclasses.replace(options, weights=named), mesh, frozen=frozen, flag=flag
        )
    except ValueError as error:
        raise ValueError(
            f"{flag}={directory}: the base of the adapter cannot be used ({error}). Make {named} available, or "
            f"write the path of the base into {peft.CONFIG} as base_model_name_or_path"
        ) from error
    params = peft.add_adapter(path, config, policy.cfg, params, mesh, flag)
    if any((path / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        policy = policy._replace(tokenizer=tokenizer_of(path, policy.cfg, options.weights, flag))
    both = "\n".join([parent["sha256"], *(file_sha256(path / name) for name in (peft.CONFIG, peft.TENSORS))])
    digest = hashlib.sha256(both.encode()).hexdigest()
    return policy, params, {"path": str(storage.absolute(directory)), "sha256": digest}


def load_adapters(weights: str, mesh: Mesh, flag: str = "--weights") -> tuple[dict, str] | None:
    """Loads the adapters of a run that trained LoRA, but not the base that they adapt.

    Returns (adapters, path of the base), or None if `weights` names no run that trained LoRA.

    Args:
        weights: a value of --weights.
        flag: the flag that gave `weights`, for errors.
    """
    path = storage.path_of(hub.locate(weights, flag), flag)
    if is_hugging_face(path):
        return None
    found = checkpoint.find(path, flag=flag)
    manifest = manifests.read(found.parent.parent)
    rank = manifest.recipe.get("lora_rank") if manifest else 0
    if not rank or not manifest.parent:
        return None
    cfg = checkpoint.read_model(found.parent.parent, weights, flag)
    trained, _ = lora.partition(lora.shapes(transformer.shapes(cfg), rank, manifest.recipe["lora_targets"]))
    return checkpoint.restore_params(found, abstract(trained, mesh), jnp.float32, flag), base_of(manifest.parent)


def base_of(parent: Mapping[str, Any]) -> str:
    """Returns the path of the weights that a run began with, from the entry `parent` of its manifest."""
    path = parent["path"]
    return str(bundled.directory(path.removeprefix(SHIPPED))) if path.startswith(SHIPPED) else path


def step_of(weights: str, flag: str = "--weights") -> dict[str, int]:
    """Returns {"step": the step of the checkpoint that `weights` names}.

    Returns {} if `weights` is empty, or if it names Hugging Face weights or a GGUF file, which have no step.

    Args:
        weights: a value of --weights.
        flag: the flag that gave `weights`, for errors.
    """
    weights = hub.locate(weights, flag)
    if not weights or is_hugging_face(storage.path_of(weights)):
        return {}
    return {"step": int(checkpoint.find(weights, flag=flag).name)}


def check_head(cfg: ModelConfig, shown: str, rewards: bool, flag: str) -> None:
    """Raises ValueError if the model is a reward model although `rewards` is False.

    A reward model has no logits to sample from.

    Args:
        shown: the value of `flag`, for the error.
        rewards: whether a reward model is accepted.
        flag: the flag that named the model, for the error.
    """
    if cfg.reward_head and not rewards:
        raise ValueError(
            f"{flag}={shown} is a reward model, which cannot write text: give the run of a "
            f"policy. "
            "The last stage of R1 reads reward models from --helpful and --safety"
        )


def load_params(
    found: Path,
    cfg: ModelConfig,
    manifest: manifests.Manifest | None,
    options: RunOptions,
    mesh: Mesh,
    dtype: DTypeLike,
    flag: str,
) -> dict:
    """Loads all parameters of a run.

    If the run trained LoRA adapters, the adapters come from the run's checkpoint, and the frozen parameters come from
    the weights that the run began with. The adapters are then added into the parameters.

    Args:
        found: the directory of the checkpoint.
        manifest: the manifest of the run; None if the run has none.
        dtype: dtype of the parameters.
        flag: the flag that named the run, for errors.

    Raises:
        ValueError: the checkpoint is damaged, or the weights that the run began with no longer exist or have changed.
    """
    shapes = transformer.shapes(cfg)
    recipe = manifest.recipe if manifest else {}
    if rank := recipe.get("lora_rank"):
        shapes = lora.shapes(shapes, rank, recipe["lora_targets"])
    trained, frozen = lora.partition(shapes)
    params = checkpoint.restore_params(found, abstract(trained, mesh), dtype, flag)
    if frozen is None:
        return params
    began = manifest.parent if manifest and manifest.parent else {"path": "nowhere", "sha256": ""}
    parent = base_of(began)
    if not storage.path_of(parent, flag).exists():
        raise ValueError(
            f"{flag}={options.weights} holds only adapters. Their base, the weights that they were trained on, is no "
            f"longer at {parent}. Restore the base"
        )
    _, rest, now = load_policy(dataclasses.replace(options, weights=parent), mesh, flag=flag)
    if not same_weights(began, now, rest):
        both = (began, now | step_of(parent, flag))
        there, here = (p["sha256"][:12] + (f", step {p['step']}" if "step" in p else "") for p in both)
        raise ValueError(
            f"{flag}={options.weights} holds only adapters, which were trained on other weights ({there}) than those "
            f"now at {parent} ({here}). Restore the old weights at {parent}. If a run wrote newer checkpoints there, "
            "move them away"
        )
    kept = jax.tree_util.tree_map_with_path(
        lambda path, x: None if x is None else pick(rest, path), frozen, is_leaf=lambda x: x is None
    )
    return lora.fold_adapters(merge(params, kept))


def same_weights(began: Mapping[str, Any], now: Mapping[str, Any], params: dict) -> bool:
    """Returns whether weights on disk are still the weights that a run began with.

    Compares the hash in the run's manifest with the hash of the weights on disk. If the hash in the manifest is empty,
    any weights count as the same. Older runs with several processes stored no hash.

    Args:
        began: the entry `parent` of the run's manifest.
        now: the same entry for the weights on disk, as `load_policy` returns it.
        params: the parameters on disk. If the hashes of `began` and `now` differ, the hash of `began` is compared with
            `params_sha256(params)`, because older manifests store that hash for a Hugging Face directory.
    """
    if began.get("sha256") in ("", now["sha256"]):
        return True
    return jax.process_count() == 1 and "step" not in began and params_sha256(params) == began["sha256"]


def pick(tree: Any, path: tuple) -> jax.Array:
    """Returns the leaf of a tree at `path`, a key path of jax.tree_util."""
    for step in path:
        tree = tree[getattr(step, "key", getattr(step, "idx", None))]
    return tree


def tokenizer_of(directory: Path, cfg: ModelConfig, shown: str, flag: str = "--weights") -> Tokenizer:
    """Loads the tokenizer in the directory of a model.

    Args:
        shown: the value of `flag`, for errors.
        flag: the flag that named the model, for errors.

    Raises:
        ValueError: the tokenizer cannot be read, or has more tokens than the model.
    """
    try:
        pieces = load_tokenizer(directory)
    except ValueError as error:
        raise ValueError(f"{flag}={shown}: {error}") from error
    if pieces.vocab_size > cfg.vocab_size:
        raise ValueError(
            f"{flag}={shown}: the tokenizer has {pieces.vocab_size} tokens, but the model has {cfg.vocab_size}, so "
            "they do not belong together. Name a directory with the model's own tokenizer"
        )
    return pieces


def write_policy(workdir: Path, policy: Policy) -> None:
    """Writes the model config and the tokenizer into a run's directory, beside `checkpoints`."""
    write_atomically(workdir / checkpoint.MODEL, json.dumps(policy.cfg.as_dict(), indent=1) + "\n")
    policy.tokenizer.save(workdir)
