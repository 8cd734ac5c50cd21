"""Loads a trained reward model from its run's directory."""

from __future__ import annotations

from pathlib import Path

from jax.sharding import Mesh

from r1jax import storage
from r1jax.model import transformer
from r1jax.reward_models.model import RewardModel
from r1jax.runs import checkpoint, manifests
from r1jax.runs.policies import tokenizer_of
from r1jax.sharding import abstract, compute_dtype


def load_reward_model(directory: str | Path, kind: str, mesh: Mesh, flag: str = "") -> RewardModel:
    """Loads a trained reward model with its calibration. The parameters are bfloat16 on accelerators.

    Args:
        directory: the working directory of the training run.
        kind: "helpful" or "safety".
        flag: the flag whose value is `directory`, for error messages; "" stands for --{kind}.

    Raises:
        ValueError: the directory holds no complete reward model of this kind.
    """
    flag = flag or f"--{kind}"
    home = storage.path_of(directory, flag)
    manifest = manifests.read(home)
    if manifest is None or manifest.stage != f"reward_model_{kind}" or manifest.status != "complete":
        found = "nothing" if manifest is None else f"a run of {manifest.stage}, {manifest.status}"
        raise ValueError(
            f"{flag}={directory} is not a complete {kind} reward model (found: {found}): name another directory, or "
            f"train one with python -m experiments.train_reward_model --kind={kind}"
        )
    cfg = checkpoint.read_model(home, directory, flag)
    params = checkpoint.restore_params(home, abstract(transformer.shapes(cfg), mesh), compute_dtype(mesh), flag)
    pieces = tokenizer_of(home, cfg, str(directory), flag)
    fitted = manifest.results["final"]["calibration"]
    return RewardModel(cfg, params, pieces, fitted["scale"], fitted["offset"])
