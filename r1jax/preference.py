"""The reward of R1's last stage: rules for reasoning prompts, two reward models for general ones, language for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from r1jax.recipe import RLRecipe
from r1jax.reward_model import RewardModel, helpful_input, safety_input, score
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rounds import Reward
from r1jax.run import Policy
from r1jax.sharding import rows_in_turn

SHARE = 256  # texts a reward model reads at a time


def all_scenarios(recipe: RLRecipe, policy: Policy, helpful: RewardModel, safety: RewardModel, weight: float, mesh: Mesh) -> Reward:
    """Reward = Reward_reasoning + Reward_general + Reward_language, of which a row has one of the first two.

    A reasoning prompt earns its rule rewards. A general prompt earns format and the reward model of its set, "helpful" or
    "safety", times `weight`; both earn language consistency.

    Source: Nature 2025, eq. 8-10.
    """
    weights = {"accuracy": recipe.accuracy_weight, "format": recipe.format_weight, "language": recipe.language_weight}

    def reward(pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], step: int) -> rule.Scores:
        scores = rule.score(pool, texts, examples, weights, policy.style)
        parts = dict(scores.parts)
        for name, model, read in (("helpful", helpful, helpful_input), ("safety", safety, safety_input)):
            mine = [i for i, example in enumerate(examples) if example["kind"] == rule.GENERAL and example.get("set", "helpful") == name]
            values = np.full(len(texts), np.nan)
            for start in range(0, len(mine), SHARE):
                some = mine[start : start + SHARE]
                values[some] = score(model, [read(examples[i]["problem"], texts[i]) for i in some], mesh, rows_in_turn(mesh))
            parts[name] = values
        total, valid = rule.combined(parts, weights | {"helpful": weight, "safety": weight}, scores.valid)
        return rule.Scores(total, valid, parts, scores.verdicts)

    return reward
