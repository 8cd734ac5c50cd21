"""Defines on-policy distillation, in which a teacher replaces the reference policy of GRPO.

GRPO's KL term, at each token that the student sampled, is k3 = exp(d) - d - 1 with d = log π_teacher - log π_student.
The expected gradient of k3 is the gradient of KL(π_teacher || π_student) at that token. So the RL training loop distils
if all advantages are 0; with rewards it distils and reinforces.

Source: Agarwal et al. 2024, arXiv 2306.13649, the variant with the forward KL on the student's outputs only.
DeepSeek-R1 distils by fine-tuning on records instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from jax.sharding import Mesh

from r1jax.model.kernels.backends import attention_backend
from r1jax.policy import Policy
from r1jax.recipes import RLRecipe, require
from r1jax.rl.minibatches import RefLogprobs
from r1jax.training.logprobs import Network
from r1jax.training.step import score


def check(recipe: RLRecipe, flags: str = "") -> None:
    """Raises ValueError if --kl-coef gives the teacher no weight, if --ref-every would replace the teacher during the
    run, or if --ahead would let an earlier policy sample.

    Args:
        flags: what stands before the names of the recipe's flags, such as "on-policy.", for errors.
    """
    require(
        (
            (recipe.kl_coef > 0, f"--{flags}kl-coef={recipe.kl_coef} must be above 0: it weighs the teacher; use 1"),
            (
                recipe.ref_every == 0,
                f"--{flags}ref-every={recipe.ref_every} must be 0: the teacher stays the reference",
            ),
            (
                recipe.ahead == 0,
                f"--{flags}ahead={recipe.ahead} must be 0: the KL is that to the teacher only if the student's present "
                "policy samples",
            ),
        )
    )


def make_referee(teacher: Policy, params: dict, shown: str, mesh: Mesh) -> Callable[[Network, Policy], RefLogprobs]:
    """Makes a function that puts a teacher in the place of the reference policy.

    Args:
        teacher: the teacher's policy.
        params: the teacher's parameters.
        shown: the value of --teacher, for errors.

    Returns:
        A function `(student's network, student's policy) -> scorer`. It raises ValueError if the tokenizers of teacher
        and student differ. The scorer is a function `packed rows -> [R, S]` that returns the teacher's log-probability
        of each token that the student sampled.
    """

    def make(ours: Network, student: Policy) -> RefLogprobs:
        if not same_tokens(teacher, student):
            raise ValueError(
                f"--teacher={shown} has other tokens than the student: to score the student's samples, a teacher must "
                "have the student's tokenizer. Name such a teacher, or learn from the teacher's records with --by=sft"
            )
        exact = ours.attention == "exact"
        attention = attention_backend(mesh, teacher.cfg, compared=exact, exact=exact)
        network = dataclasses.replace(ours, cfg=teacher.cfg, attention=attention)
        return lambda rows: score(network, params, rows)[0]

    return make


def same_tokens(one: Policy, other: Policy) -> bool:
    """Returns whether `one` reads every token id of `other` as the same text, and both have the same stop tokens."""
    size = other.tokenizer.vocab_size
    return (
        one.cfg.vocab_size >= size
        and set(one.tokenizer.stop_ids) == set(other.tokenizer.stop_ids)
        and all(one.tokenizer.decode([token]) == other.tokenizer.decode([token]) for token in range(size))
    )
