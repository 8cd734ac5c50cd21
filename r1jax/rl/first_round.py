"""Makes the texts that an RL run prints at its start: the first prompt, warnings about hyperparameters, and the reason
if the first round teaches nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.losses import Objective
from r1jax.model.config import ModelConfig
from r1jax.policy import Policy
from r1jax.recipes import RLRecipe, RunOptions
from r1jax.rewards.format import STYLES, verify
from r1jax.rewards.rule import Scores
from r1jax.rl.checks import describe_weights
from r1jax.rl.rounds import Round
from r1jax.runs.templates import WORDS, describe

LARGE_RATE, REAL_VOCABULARY = 5e-5, 16_384  # warns above this rate, if the model has this vocabulary or more
SHOWN = 800  # characters of the completion that are printed


def first_lines(recipe: RLRecipe, options: RunOptions, policy: Policy, objective: Objective, problem: str) -> list[str]:
    """Returns the lines to print before the first round: the first prompt, then warnings about hyperparameters.

    Args:
        objective: the loss.
        problem: the first problem, which is shown as the policy will see it.
    """
    fault = describe_weights(recipe.loss, objective, recipe.max_tokens)
    warnings = [fault and f"warning: {fault}", warn_rate(recipe, policy.cfg)]
    return [describe(policy, options, problem), *filter(None, warnings)]


def warn_rate(recipe: RLRecipe, cfg: ModelConfig) -> str:
    """Returns a warning if a larger model is trained at a learning rate for nano, the base that ships; else "".

    The warning needs three things: --learning-rate is above `LARGE_RATE`, all parameters are trained (no LoRA), and the
    vocabulary has at least `REAL_VOCABULARY` tokens.
    """
    if recipe.learning_rate <= LARGE_RATE or recipe.lora_rank or cfg.vocab_size < REAL_VOCABULARY:
        return ""
    return (
        f"--learning-rate={recipe.learning_rate:g} is nano's. All parameters of a pretrained model are usually trained "
        "at 1e-6 to 1e-5; R1-Zero's --recipe=small has numbers for one machine"
    )


def explain_first(round_: Round, policy: Policy, weights: Mapping[str, float]) -> list[str]:
    """Returns a list with the text of `explain_zero` for the first round of a run.

    Returns [] if the round is not the first, if some completion was right, or if this process has no completions.

    Args:
        round_: a round with scores.
        policy, weights: as for `explain_zero`.
    """
    if round_.number or not round_.texts:
        return []
    own = np.asarray(round_.rollout.own)
    said = explain_zero(round_.scores, round_.texts, policy, weights, ~np.asarray(round_.rollout.stopped)[own])
    return [said] if said else []


def explain_zero(
    scores: Scores, texts: Sequence[str], policy: Policy, weights: Mapping[str, float], truncated: np.ndarray
) -> str:
    """Returns a text that says why a first round teaches nothing and shows its first completion. Returns "" if some
    completion was right.

    Args:
        scores: the rewards of the round.
        texts: completions of the round.
        policy: the policy. The text says which format its `style` asks for.
        weights: {name: weight} of the parts of the rule reward; {} if the run has another reward.
        truncated: for each of `texts`, whether the completion was cut off.
    """
    right = scores.parts.get("accuracy")
    asked = bool(weights.get("accuracy")) and right is not None and np.isfinite(right).any()
    if np.nanmax(right) > 0 if asked else bool((scores.total != 0).any()):
        return ""
    what = "no completion of the first round was right" if asked else "every reward of the first round is 0"
    lines = [f"{what}, so accuracy gives no direction yet. Of {len(texts)} completions:"]
    if asked and scores.verdicts:
        found = Counter(verdict.verdict for verdict in scores.verdicts if verdict is not None)
        lines.append("  answers: " + ", ".join(f"{count} {name}" for name, count in found.most_common()))
    broken = Counter(verify(text, {"style": policy.style}).stage for text in texts)
    broken = Counter({stage: count for stage, count in broken.items() if stage not in STYLES})
    if broken:
        lines.append("  form: " + ", ".join(f"{count} {stage}" for stage, count in broken.most_common(4)))
    if truncated.any():
        lines.append(f"  cut off at --max-tokens: {int(truncated.sum())}")
    lines.append(f"the form that is asked for: {WORDS[STYLES[policy.style]]}. The first completion:")
    text = texts[0]
    lines.append(text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} [..] {text[-SHOWN // 2 :]}")
    lines.append(
        "If the answers are there in another form, give --answers=any or --think=free. If the model does not follow "
        "the prompt, give --template=chat with a --system-prompt, or a template file with worked examples. If it is "
        "cut off, raise --max-tokens. If its answers are wrong, give easier questions or a stronger model, or fine-tune"
    )
    return "\n".join(lines)
