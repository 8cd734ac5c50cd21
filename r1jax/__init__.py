"""r1jax: the DeepSeek-R1 recipe in JAX.

Shape letters, used in every signature:

    B  questions in a round            L  layers             V  vocabulary
    G  completions of each question    D  width              X  experts
    N  rows, B·G, question-major       F  MLP width          P  prompts or prompt slots
    T  completion slots                H  query heads        Q  slots fed in one call
    S  all slots of a row              K  key/value heads    R  packed rows
                                       E  head width

Masks are bool, True counts. Log-probabilities are float32, in nats, at the sampling temperature; element t belongs to
completion token t. `x.reshape(B, G)` turns rows into groups.

Names below resolve on first use: importing r1jax imports nothing heavy, not even jax.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# The public names, in the order of the walk: where each lives.
_HOME = {
    "fill": "r1jax.prompts", "R1_ZERO": "r1jax.prompts",
    "SentencePiece": "r1jax.tokenizer",
    "make_mesh": "r1jax.sharding", "place": "r1jax.sharding",
    "ModelConfig": "r1jax.model.config", "forward": "r1jax.model.transformer", "from_hf": "r1jax.weights",
    "sync": "r1jax.sampler", "row_keys": "r1jax.sampler", "sample": "r1jax.sampler", "Rollout": "r1jax.rollout",
    "Verdict": "r1jax.rewards.verdict", "Pool": "r1jax.rewards.isolate",
    "group_advantages": "r1jax.grpo", "policy_loss": "r1jax.grpo", "grpo_loss": "r1jax.grpo",
    "token_logprobs": "r1jax.logprobs", "pack": "r1jax.rollout",
    "Learner": "r1jax.update", "TrainState": "r1jax.update",
    "RLRecipe": "r1jax.recipe", "train": "r1jax.train_rl",
}  # fmt: skip

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    """PEP 562: imports the home of a public name when it is first asked for."""
    if name not in _HOME:
        raise AttributeError(f"module 'r1jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
