"""Loads a checkpoint for chat and serving: a run's directory, a Hugging Face folder, or a model of the Hub."""

from __future__ import annotations

from typing import NamedTuple

from jax.sharding import Mesh

from r1jax import storage
from r1jax.model import presets
from r1jax.policy import Policy
from r1jax.prompts import R1
from r1jax.recipes import RunOptions
from r1jax.runs import checkpoint, manifests
from r1jax.runs.policies import load_policy
from r1jax.runs.templates import CHAT
from r1jax.sampling.programs import Weights
from r1jax.sampling.sampler import sync
from r1jax.serving.conversation import has_chat
from r1jax.sharding import make_mesh
from r1jax.weights import hub
from r1jax.weights.files import is_hugging_face


class Model(NamedTuple):
    """A checkpoint that can be talked with.

    Attributes:
        policy: config, tokenizer and prompt template.
        params: the parameters, for scoring given text.
        weights: the same parameters, prepared for sampling.
        mesh: mesh that `params` and `weights` lie on.
        chat: whether conversations are rendered by the tokenizer's own chat template.
        described: what was loaded, in words.
    """

    policy: Policy
    params: dict
    weights: Weights
    mesh: Mesh
    chat: bool
    described: str

    @property
    def has_history(self) -> bool:
        """Whether the template can hold several turns."""
        return self.chat or self.policy.template == R1


def load(weights: str, model: str, template: str, mesh: str) -> Model:
    """Loads the model that the flags name.

    Args:
        weights, model: as in `RunOptions`.
        template: as in `RunOptions`, or "chat" for the tokenizer's own chat template. "" takes "chat" if the tokenizer
            has a chat template; otherwise the template that the run was trained with; otherwise r1_zero.
        mesh: as for `make_mesh`.

    Raises:
        ValueError: `template` is "chat", but the tokenizer has no chat template. Also the errors of `load_policy`.
    """
    where = make_mesh(mesh)
    named = "r1_zero" if template in ("", CHAT) else template
    if not template and weights:
        named = template_of_run(weights) or named
    policy, params, parent = load_policy(RunOptions(weights=weights, model=model, template=named), where, frozen=True)
    chat = template == CHAT or (not template and has_chat(policy))
    if chat and not has_chat(policy):
        raise ValueError(f"--template={CHAT}: this tokenizer has no chat template; use r1, r1_zero or a file")
    how = CHAT if chat else named
    described = f"{parent['path']}: {presets.count(policy.cfg):,} parameters, template {how}"
    return Model(policy, params, sync(params, where), where, chat, described)


def template_of_run(weights: str) -> str:
    """Returns the prompt template that a run was trained with; "" if `weights` names no run, or the run used none."""
    path = storage.path_of(hub.locate(weights), "weights")
    if is_hugging_face(path):
        return ""
    manifest = manifests.read(checkpoint.find(path).parent.parent)
    return str(manifest.recipe.get("template", "")) if manifest else ""
