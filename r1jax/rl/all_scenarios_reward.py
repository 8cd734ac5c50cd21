"""Defines the reward of R1's last stage: rule rewards for reasoning prompts, reward models for general prompts, and
language consistency for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jax.sharding import Mesh

from r1jax.reward_models.calibration import sigmoid
from r1jax.reward_models.model import RewardModel, helpful_input, safety_input, score
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rewards.kinds import GENERAL
from r1jax.rl.rounds import Reward

SETS, READ = ("helpful", "safety"), (helpful_input, safety_input)


def make_all_scenarios_reward(
    weights: Mapping[str, float],
    style: str,
    models: Mapping[str, RewardModel],
    mesh: Mesh,
    *,
    preference_weight: float,
    begins: int,
) -> Reward:
    """Makes the reward Reward_reasoning + Reward_general + Reward_language. A completion gets one of the first two
    parts, depending on the kind of its prompt, and always the third.

    A completion of a reasoning prompt gets the rule rewards: accuracy and format. A completion of a general prompt gets
    the format reward plus `preference_weight` times the score of a reward model. The prompt's entry `set` names the
    reward model. "helpful", the default, gives scores with mean 0 and standard deviation 1 on held-out replies.
    "safety" gives the probability that the reply is safe. Every completion gets the language-consistency reward.

    Args:
        weights: {name: weight} of the rule rewards "accuracy", "format" and "language".
        style: the expected format of completions, a key of `format.STYLES`.
        models: {"helpful": reward model, "safety": reward model}.
        preference_weight: weight of the scores of both reward models.
        begins: step from which the reward models count. Before this step they are not called.

    Returns:
        The reward. It raises ValueError if the `set` of an example is neither "helpful" nor "safety".

    Source: Nature 2025, eq. 8-10; "preference-based rewards ... exclusively during the final 400 steps".
    """

    def reward(pool: Pool, texts: Sequence[str], examples: Sequence[Mapping], step: int) -> rule.Scores:
        scores = rule.score(pool, texts, examples, weights, style)
        if step < begins:
            return scores
        parts, valid = dict(scores.parts), scores.valid
        of = [choose_set(example) for example in examples]
        for name, model, read in zip(SETS, (models["helpful"], models["safety"]), READ, strict=True):
            mine = np.flatnonzero([name == s for s in of])
            # Every process calls every model, even without texts: scoring runs on the mesh of all processes.
            values = score(model, [read(examples[i]["problem"], texts[i]) for i in mine], mesh)
            parts[name] = np.full(len(texts), np.nan)
            parts[name][mine] = values if name == "helpful" else sigmoid(values)
            valid = valid & (np.isfinite(parts[name]) | np.asarray([name != s for s in of], bool))
        total, valid = rule.combine_parts(parts, weights | dict.fromkeys(SETS, preference_weight), valid)
        return rule.Scores(total, valid, parts, scores.verdicts)

    return reward


def choose_set(example: Mapping) -> str | None:
    """Returns the name of the reward model that scores completions of an example: "helpful" or "safety", as the
    example's `set` says. Returns None for a reasoning example, which no reward model scores.

    Raises:
        ValueError: the example names another set.
    """
    if example["kind"] != GENERAL:
        return None
    name = example.get("set") or "helpful"
    if name not in SETS:
        raise ValueError(
            f"the example {example['id']} has set={name!r}; the set of a general example must be {' or '.join(SETS)}"
        )
    return name
