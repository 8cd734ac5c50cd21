"""Distillation on the student's own words: a teacher in the place of the reference.

The KL term of GRPO, at each token that the student sampled, is k3 = exp(d) - d - 1 with d = log π_teacher - log
π_student. Its gradient is in expectation that of KL(π_teacher || π_student) at this place, so that with advantages of 0
the walk of reinforcement learning distils, and with rewards it does both.

Source: Agarwal et al. 2024, arXiv 2306.13649 (on the student's outputs alone, forward KL); the paper distils by records
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jax.sharding import Mesh

from r1jax.checks import require
from r1jax.model.attend_choice import attention_backend
from r1jax.recipe import RLRecipe
from r1jax.rounds import Scorer
from r1jax.run import Policy
from r1jax.update import Learner


def check(recipe: RLRecipe, flags: str = "") -> None:
    """Raises ValueError for a recipe whose teacher would teach nothing.

    Args:
        flags: what the flags of this recipe begin with.
    """
    require((
        (recipe.kl_coef > 0, f"--{flags}kl-coef={recipe.kl_coef} must be above 0: it weighs the teacher; use 1"),
        (recipe.ref_every == 0,
         f"--{flags}ref-every={recipe.ref_every} must be 0: the teacher is the reference, and stays it"),
    ))  # fmt: skip


def referee(teacher: Policy, params: dict, shown: str, mesh: Mesh) -> Callable[[Learner, Policy], Scorer]:
    """What scores the student's tokens in the place of the reference.

    Args:
        shown: the teacher as its user gave it.

    Raises (what is returned):
        ValueError: the teacher's tokens are not the student's.
    """

    def make(ours: Learner, student: Policy) -> Scorer:
        if not same_tokens(teacher, student):
            raise ValueError(
                f"--teacher={shown} has other tokens than the student: a teacher of what the student samples must "
                "share its tokenizer. Take one that does, or learn from its --records by --by=sft"
            )
        attention = attention_backend(mesh, teacher.cfg, compared=True)
        return dataclasses.replace(ours, cfg=teacher.cfg, attention=attention), params

    return make


def same_tokens(one: Policy, other: Policy) -> bool:
    """Whether each token of the student's says the same to both."""
    size = other.tokenizer.vocab_size
    return (
        one.cfg.vocab_size >= size
        and set(one.tokenizer.stop_ids) == set(other.tokenizer.stop_ids)
        and all(one.tokenizer.decode([token]) == other.tokenizer.decode([token]) for token in range(size))
    )
