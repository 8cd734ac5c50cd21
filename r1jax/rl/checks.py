"""Checks the flags of a reinforcement-learning run at the start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax.losses import KLS, LOSSES, Objective, clipped_surrogate, kl_of, row_weights
from r1jax.recipes import RLRecipe, RunOptions, require
from r1jax.rl.critic import critic_rules
from r1jax.sharding import row_shards
from r1jax.training import optimizers


def check(recipe: RLRecipe, mesh: Mesh) -> None:
    """Raises ValueError if a hyperparameter has a value that cannot be used. Is called before any allocation."""
    shards, count = row_shards(mesh), jax.process_count()
    processes, room = f"{count} process{'es' * (count > 1)}", -(-(recipe.group_size + recipe.carry_over) // count)
    rules = (
        (
            recipe.group_size >= (1 if recipe.loss in LOSSES and LOSSES[recipe.loss].valued else 2),
            f"--group-size={recipe.group_size} leaves nothing to compare: use at least 2",
        ),
        (
            recipe.questions_per_round >= recipe.minibatches,
            f"--questions-per-round={recipe.questions_per_round} must be at least --minibatches={recipe.minibatches}: "
            "every optimizer step needs a question",
        ),
        (
            recipe.batch_rows % shards == 0 or shards % recipe.batch_rows == 0,
            f"--batch-rows={recipe.batch_rows} does not fit {shards} row shards of the mesh: "
            f"use a multiple, such as {shards}",
        ),
        (recipe.old_logp in ("trainer", "sampler"), f"--old-logp={recipe.old_logp} must be trainer or sampler"),
        (recipe.loss in LOSSES, f"--loss={recipe.loss} must be one of {', '.join(LOSSES)}"),
        (
            recipe.clip_eps_high >= 0,
            f"--clip-eps-high={recipe.clip_eps_high} must be 0, which uses --clip-eps for both bounds, or more",
        ),
        (
            recipe.tis_cap == 0 or (recipe.tis_cap > 0 and recipe.old_logp == "trainer"),
            f"--tis-cap={recipe.tis_cap} needs --old-logp=trainer and a cap above 0, such as 2: it caps the ratio of "
            "the trainer's old policy to the sampler's. To cap nothing, use --tis-cap=0",
        ),
        (
            recipe.temperature > 0,
            f"--temperature={recipe.temperature} must be above 0: all greedy completions of a group are the same",
        ),
        (recipe.lora_rank >= 0, f"--lora-rank={recipe.lora_rank} must be 0, to train every parameter, or more"),
        (
            recipe.late_from >= 0,
            f"--late-from={recipe.late_from} must be 0, for never, or the first step that uses --late-prompts",
        ),
        (
            0 <= recipe.carry_over <= recipe.questions_per_round - recipe.minibatches,
            f"--carry-over={recipe.carry_over} must lie between 0 and "
            f"--questions-per-round={recipe.questions_per_round} minus --minibatches={recipe.minibatches}: each "
            "unfinished row can keep one group out of the round, and every optimizer step needs a group",
        ),
        (
            recipe.carry_over == 0 or not recipe.replay_routes,
            f"--carry-over={recipe.carry_over} does not keep the expert routes of unfinished rows, which "
            "--replay-routes=True needs: use --replay-routes=False or --carry-over=0",
        ),
        *penalty_rules(recipe),
        *term_rules(recipe),
        *critic_rules(recipe),
        *ahead_rules(recipe, mesh.size),
        (
            recipe.refill >= 0,
            f"--refill={recipe.refill} must be 0, for off, or the most times that a round may sample, such as 3",
        ),
        (
            recipe.refill <= 1 or recipe.group_size >= 2,
            f"--refill={recipe.refill} compares the completions of a group, and --group-size={recipe.group_size} "
            "leaves nothing to compare: use at least 2, or leave --refill at 0",
        ),
        (
            recipe.refill <= 1 or recipe.carry_over == 0,
            f"--refill={recipe.refill} needs whole groups, but --carry-over={recipe.carry_over} leaves some "
            "unfinished: set one of the two flags to 0",
        ),
        (
            recipe.wave_rows == 0 or recipe.wave_rows * jax.process_count() >= recipe.group_size + recipe.carry_over,
            f"--wave-rows={recipe.wave_rows} in {processes} has no room for --group-size={recipe.group_size} plus "
            f"--carry-over={recipe.carry_over} rows: use at least {room}, or 0 for as many as memory holds",
        ),
        (recipe.steps >= 1, f"--steps={recipe.steps} must be at least 1"),
        (recipe.eval_problems >= 1, f"--eval-problems={recipe.eval_problems} must be at least 1"),
    )
    require(rules)
    optimizers.check(recipe.descent)


def ahead_rules(recipe: RLRecipe, devices: int) -> tuple[tuple[bool, str], ...]:
    """Returns (condition, error message) pairs for --ahead and --rollout-mesh. A condition that is False is an error;
    see `recipes.require`.

    Args:
        devices: number of devices of --mesh.
    """
    r, flag = recipe, f"--ahead={recipe.ahead}"
    if r.ahead == 0:
        what = f"--rollout-mesh={r.rollout_mesh} is for --ahead=1: otherwise the devices of --mesh sample, too"
        return ((not r.rollout_mesh, f"{what}. Add --ahead=1, or leave --rollout-mesh out"),)
    apart = f"--mesh={devices - devices // 2}x1 --rollout-mesh={devices // 2}x1"
    return (
        (
            r.ahead == 1,
            f"{flag} must be 0, for sampling and updates in turn, or 1, for one round sampled beside the updates",
        ),
        (
            r.carry_over == 0,
            f"{flag} samples a round before the last one is trained, and --carry-over={r.carry_over} continues its "
            "unfinished rows under a newer policy: set one of the two flags to 0",
        ),
        (
            r.refill <= 1,
            f"{flag} samples a round without its rewards, by which --refill={r.refill} replaces groups: set one of the "
            "two flags to 0",
        ),
        (
            r.loss not in LOSSES or not LOSSES[r.loss].valued,
            f"{flag} does not go with --loss={r.loss}: its value network learns the returns of the policy in training, "
            "and an earlier policy samples. Use a loss without values, such as --loss=grpo, or --ahead=0",
        ),
        (
            r.tis_cap > 0 or r.old_logp == "sampler",
            f"{flag} lets an earlier policy sample, and --tis-cap={r.tis_cap} with --old-logp={r.old_logp} would treat "
            "its tokens as the policy's own. Give a cap, such as --tis-cap=2, or use --old-logp=sampler, whose ratio "
            "compares with the policy that sampled",
        ),
        (
            not r.replay_routes or jax.process_count() == 1,
            f"{flag} in {jax.process_count()} processes cannot use --replay-routes=True, whose expert routes are too "
            "large for the exchange beside training: use --replay-routes=False, one process, or --ahead=0",
        ),
        (
            bool(r.rollout_mesh) or devices == 1,
            f"{flag} on {devices} devices needs --rollout-mesh: if sampling and updates shared the devices, their "
            f"programs could wait for each other for ever. Divide the devices, such as {apart}, or use --mesh=1x1",
        ),
    )


def term_rules(recipe: RLRecipe) -> tuple[tuple[bool, str], ...]:
    """Returns (condition, error message) pairs for the flags that change the loss or add terms to it, such as --kl or
    --entropy-coef. A condition that is False is an error; see `recipes.require`.

    Raises:
        ValueError: --kl names an estimate that cannot be used. The message gives the reason.
    """
    r = recipe
    if r.kl != "k1_reward":
        kl_of(r.kl)
    plain = r.loss in LOSSES and LOSSES[r.loss].surrogate is clipped_surrogate
    return (
        (
            r.kl == "k3" or r.kl_coef > 0,
            f"--kl={r.kl} does nothing with --kl-coef={r.kl_coef}: give a coefficient, such as 0.001",
        ),
        (
            r.dual_clip == 0 or (r.dual_clip > 1 and plain),
            f"--dual-clip={r.dual_clip} must be above 1, such as 3, and the loss must have PPO's clip, as grpo does "
            f"(here --loss={r.loss}). Otherwise use --dual-clip=0",
        ),
        (
            r.kl != "k1_reward" or not r.mask_truncated or (r.loss in LOSSES and LOSSES[r.loss].valued),
            "--mask-truncated=True and --kl=k1_reward exclude each other: the KL would not be subtracted from the "
            "rewards of truncated completions, to which the other rewards are compared. Use --kl=k3",
        ),
        (math.isfinite(r.entropy_coef), f"--entropy-coef={r.entropy_coef} must be a number: 0 for no bonus, or 0.001"),
        (
            r.off_policy_bound >= 0,
            f"--off-policy-bound={r.off_policy_bound} must be 0, for no mask, or a number of nats above 0, such as 0.5",
        ),
        (r.tis_by in ("token", "sequence"), f"--tis-by={r.tis_by} must be token or sequence"),
        (
            r.tis_by == "token" or r.tis_cap > 0,
            f"--tis-by={r.tis_by} does nothing with --tis-cap={r.tis_cap}: give a cap, such as 2",
        ),
    )


def check_terms(recipe: RLRecipe, *, own: bool) -> None:
    """Raises ValueError if --per-reward=True cannot be used.

    Args:
        own: whether the run uses the reward of --reward or of its training stage instead of the rule reward. If so,
            --per-reward=True is an error, because it needs the weights of the rule reward's parts.
    """
    require(
        (
            (
                not (recipe.per_reward and own),
                "--per-reward=True needs the rule reward, which weighs its parts by --accuracy-weight, --format-weight "
                "and --language-weight, but this run has another reward. Leave --per-reward or --reward out",
            ),
            (
                not (recipe.per_reward and recipe.kl == "k1_reward"),
                "--per-reward=True and --kl=k1_reward exclude each other: the KL is subtracted from the total reward, "
                "and --per-reward uses only its parts. "
                f"Use one of --kl={', '.join(KLS)}",
            ),
            (
                not recipe.per_reward or LOSSES[recipe.loss].advantages is LOSSES["grpo"].advantages,
                f"--per-reward=True sets the advantages, and so does --loss={recipe.loss}: use --loss=grpo, dapo, "
                "sequence or cispo",
            ),
        )
    )


def describe_weights(name: str, objective: Objective, max_tokens: int) -> str | None:
    """Adds up the token weights that a loss gives to three completions of different lengths.

    Returns what is wrong with the sum, in words; None if the sum is 1, or if the loss does not promise a sum of 1.

    Args:
        name: the value of --loss.
        objective: the loss.
        max_tokens: T, the most tokens of a completion.
    """
    lengths = np.asarray([1.0, max(1, max_tokens // 3), max_tokens])
    sizes = dict(rows=len(lengths), tokens=int(lengths.sum()), max_tokens=max_tokens)
    total = float(np.sum(row_weights(objective, lengths, np.ones(3, bool), **sizes) * lengths))
    if not objective.sums_to_one or abs(total - 1) < 1e-6:
        return None
    return (
        f"the token weights of --loss={name} add up to {total:g}, not to 1, so --learning-rate and --kl-coef have "
        "another scale: correct token_weight of this loss, or set sums_to_one=False"
    )


def penalty_rules(recipe: RLRecipe) -> tuple[tuple[bool, str], ...]:
    """Returns (condition, error message) pairs for the flags of the reward penalties. A condition that is False is an
    error; see `recipes.require`.
    """
    flags = (("--overlong-weight", recipe.overlong_weight), ("--repetition-weight", recipe.repetition_weight))
    return (
        *(
            (
                0 <= weight < math.inf,
                f"{flag}={weight} must be 0, for no penalty, or more: the penalty itself is negative",
            )
            for flag, weight in flags
        ),
        (
            0 <= recipe.overlong_cache <= recipe.max_tokens,
            f"--overlong-cache={recipe.overlong_cache} must lie between 1 and --max-tokens={recipe.max_tokens}, or be "
            "0, for a fifth of --max-tokens",
        ),
        (
            recipe.overlong_cache == 0 or recipe.overlong_weight > 0,
            f"--overlong-cache={recipe.overlong_cache} does nothing without --overlong-weight: give a "
            "weight, such as 1",
        ),
        (recipe.repetition_ngram >= 1, f"--repetition-ngram={recipe.repetition_ngram} must be at least 1 word"),
    )


def refuse_rewards(options: RunOptions, what: str) -> None:
    """Raises ValueError if --reward or --decontaminate is given. For training loops that use neither flag.

    Args:
        what: a sentence for the error message. The sentence says what the training loop learns from.
    """
    refuse_flags(options, ("reward", "decontaminate"), what)


def refuse_flags(options: RunOptions, names: Sequence[str], what: str) -> None:
    """Raises ValueError if a flag is given that only reinforcement learning uses.

    Args:
        names: the fields of `options` for these flags. A field is empty unless its flag is given.
        what: a sentence for the error message. The sentence says what the training loop learns from.
    """
    for name in names:
        if given := getattr(options, name):
            shown = given if isinstance(given, str) else " ".join(given)
            raise ValueError(
                f"--{name.replace('_', '-')}={shown} is for reinforcement learning: {what}. Leave the flag out"
            )
