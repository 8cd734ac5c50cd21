"""The reward of R1's last stage: rules for reasoning prompts, a reward model for general ones, language for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from r1jax.calibration import sigmoid
from r1jax.recipe import RLRecipe
from r1jax.reward_model import RewardModel, helpful_input, safety_input, score
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rounds import Reward
from r1jax.run import Policy

SETS = ("helpful", "safety")


def all_scenarios(
    recipe: RLRecipe,
    policy: Policy,
    helpful: RewardModel,
    safety: RewardModel,
    weight: float,
    mesh: Mesh,
    begins: int | None = None,
) -> Reward:
    """Reward = Reward_reasoning + Reward_general + Reward_language, of which a row has one of the first two.

    A reasoning prompt earns its rule rewards. A general prompt earns format and, times `weight`, the reward model of
    its set: "helpful" (where it names none too), whose rewards have mean 0 and deviation 1 on held-out replies, or
    "safety", the probability that the response is safe: being sure beyond doubt earns nothing more. All earn language
    consistency.

    Args:
        begins: step from which the reward models count, by default the recipe's `late_from`. Before it they are not
            asked.

    Raises:
        ValueError: on a call, an example of a set that there is not.
    Source: Nature 2025, eq. 8-10; "preference-based rewards ... exclusively during the final 400 steps".
    """
    weights = {"accuracy": recipe.accuracy_weight, "format": recipe.format_weight, "language": recipe.language_weight}
    begins = recipe.late_from if begins is None else begins

    def reward(pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], step: int) -> rule.Scores:
        scores = rule.score(pool, texts, examples, weights, policy.style)
        if step < begins:
            return scores
        parts, valid = dict(scores.parts), scores.valid
        of = [asked_set(example) for example in examples]
        for name, model, read in zip(SETS, (helpful, safety), (helpful_input, safety_input), strict=True):
            mine = np.flatnonzero([name == s for s in of])
            # Every process asks every model, though it may have nothing to ask: it has rows on the mesh of the others.
            values = score(model, [read(examples[i]["problem"], texts[i]) for i in mine], mesh)
            parts[name] = np.full(len(texts), np.nan)
            parts[name][mine] = values if name == "helpful" else sigmoid(values)
            valid = valid & (np.isfinite(parts[name]) | np.asarray([name != s for s in of], bool))
        total, valid = rule.combined(parts, weights | dict.fromkeys(SETS, weight), valid)
        return rule.Scores(total, valid, parts, scores.verdicts)

    return reward


def asked_set(example: Mapping) -> str | None:
    """Which reward model an example is due; None for reasoning."""
    if example["kind"] != rule.GENERAL:
        return None
    name = example.get("set") or "helpful"
    if name not in SETS:
        raise ValueError(
            f"the example {example['id']} is of the set {name!r}; a general example's set is {' or '.join(SETS)}"
        )
    return name
