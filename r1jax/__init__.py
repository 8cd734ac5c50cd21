"""r1jax: the DeepSeek-R1 recipe in JAX.

Shape letters, used in every signature:

    B  questions in a round            L  layers             V  vocabulary
    G  completions of each question    D  width              X  experts
    N  rows, B·G, question-major       F  MLP width          P  prompts or prompt slots
    T  completion slots                H  query heads        Q  slots fed in one call
    S  all slots of a row              K  key/value heads    R  packed rows
                                       E  head width

Masks are bool: an element counts where the mask is True. Log-probabilities are float32, in nats, at the sampling
temperature. Element t of an array of log-probabilities belongs to completion token t. `x.reshape(B, G)` turns rows
into groups.

The names below are imported on first use, so `import r1jax` imports nothing heavy, not even jax.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public names and the module that defines each, in the order in which training uses them.
_HOME = {
    "fill": "r1jax.prompts",
    "R1_ZERO": "r1jax.prompts",
    "SentencePiece": "r1jax.tokenizers.sentencepiece",
    "make_mesh": "r1jax.sharding",
    "place": "r1jax.sharding",
    "ModelConfig": "r1jax.model.config",
    "forward": "r1jax.model.transformer",
    "from_hf": "r1jax.weights",
    "sync": "r1jax.sampling.sampler",
    "row_keys": "r1jax.sampling.keys",
    "Sampling": "r1jax.sampling.sampler",
    "sample": "r1jax.sampling.sampler",
    "Rollout": "r1jax.sampling.rollout",
    "Verdict": "r1jax.rewards.verdict",
    "Pool": "r1jax.rewards.isolate",
    "group_advantages": "r1jax.losses",
    "policy_loss": "r1jax.losses",
    "grpo_loss": "r1jax.losses",
    "token_logprobs": "r1jax.training.logprobs",
    "pack": "r1jax.training.packing",
    "Network": "r1jax.training.logprobs",
    "Learner": "r1jax.training.step",
    "TrainState": "r1jax.training.step",
    "RLRecipe": "r1jax.recipes",
    "train": "r1jax.train_rl",
    "update": "r1jax.training.step",
    "score": "r1jax.training.step",
    "start": "r1jax.training.step",
    "load_policy": "r1jax.runs.policies",
    "RunOptions": "r1jax.recipes",
    "Round": "r1jax.rl.rounds",
}

# Modules that published notebooks import by these names.
_FORMER = {"launch": "r1jax.distributed", "log": "r1jax.jsonl"}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """Returns the object of a public name, after importing the module that defines it (PEP 562)."""
    if name in _FORMER:
        return importlib.import_module(_FORMER[name])
    if name not in _HOME:
        raise AttributeError(f"module 'r1jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
