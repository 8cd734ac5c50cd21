"""Holds the table of the claims, in the order of report.html, the page that `python -m experiments.claims` writes.

The module `protocol` says what a new claim needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from experiments.claims import (
    chain_does_work,
    cold_start_speeds,
    distillation_beats_rl,
    grpo_vs_ppo,
    language_mixing,
    length_growth,
    lifts_reasoning,
    objectives,
    process_rewards,
    r1_by_stage,
    reward_hacking,
    reward_overoptimisation,
    samples_and_thought,
    sft_form_rl_skill,
    sharpens_base,
    tree_search,
)
from experiments.claims.protocol import Bench, Finding


class Claim(NamedTuple):
    """A claim.

    Attributes:
        said: the claim, a sentence.
        find: measures the claim; called with an object of the class `command`.
        command: the class of the claim's flags: `Bench`, or a class that extends it.
        minutes: estimated minutes for each seed on 2 cores. A claim takes less if another claim has already made
            the runs that it needs. A claim may read working directories of experiments.r1, which the flag --runs names.
            The time in which experiments.r1 made them is not counted.
    """

    said: str
    find: Callable[[Any], Finding]
    command: type[Bench]
    minutes: float


CLAIMS = {  # name of the module -> the claim
    "lifts_reasoning": Claim(
        "Reasoning, length and reflection rise together in pure RL.", lifts_reasoning.find, Bench, 11
    ),
    "chain_does_work": Claim("The answer follows from the chain of thought.", chain_does_work.find, Bench, 12),
    "sharpens_base": Claim(
        "RL lifts what the base can do at times, and does not reach what it never does.",
        sharpens_base.find,
        sharpens_base.Command,
        20,
    ),
    "length_growth": Claim(
        "GRPO makes wrong answers longer than Dr. GRPO does, at the same accuracy.", length_growth.find, Bench, 20
    ),
    "objectives": Claim("No other loss beats GRPO by more than the seeds differ.", objectives.find, Bench, 30),
    "grpo_vs_ppo": Claim(
        "GRPO is as good as PPO, with less memory and no more time a step.", grpo_vs_ppo.find, Bench, 22
    ),
    "cold_start_speeds": Claim(
        "RL from a cold start reaches an accuracy in fewer steps.",
        cold_start_speeds.find,
        cold_start_speeds.Command,
        42,
    ),
    "sft_form_rl_skill": Claim(
        "Fine-tuning on well-formed texts teaches form, RL teaches skill.",
        sft_form_rl_skill.find,
        sft_form_rl_skill.Command,
        14,
    ),
    "language_mixing": Claim(
        "Languages mix in R1-Zero, and a reward for the question's language cures it.", language_mixing.find, Bench, 20
    ),
    "r1_by_stage": Claim("Each stage of R1 adds what the paper says it adds.", r1_by_stage.find, Bench, 0),
    "distillation_beats_rl": Claim(
        "Distillation beats RL on a small student at equal prompts.", distillation_beats_rl.find, Bench, 0
    ),
    "reward_hacking": Claim(
        "A preference reward rises while the replies' true worth falls, if RL goes on too long.",
        reward_hacking.find,
        Bench,
        15,
    ),
    "reward_overoptimisation": Claim(
        "Stronger selection by a reward model raises the reward and lowers the true worth.",
        reward_overoptimisation.find,
        Bench,
        3,
    ),
    "process_rewards": Claim(
        "A process reward model is hacked as the reward of RL, and helps as a ranker of samples.",
        process_rewards.find,
        process_rewards.Command,
        21,
    ),
    "samples_and_thought": Claim(
        "Accuracy rises with more samples, and with more thinking in one sample.",
        samples_and_thought.find,
        samples_and_thought.Command,
        15,
    ),
    "tree_search": Claim(
        "At equal sampled tokens, guided tree search does not beat independent samples.",
        tree_search.find,
        tree_search.Command,
        22,
    ),
}
