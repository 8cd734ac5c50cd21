"""Trains a policy by reinforcement learning. In `train`, each step of the paper's algorithm is one call.

Shapes: B questions of a round, G completions of each, N = B·G rows, T completion slots, R packed rows of S slots. Each
process scores n of the N rows. Process 0 writes the files.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from r1jax.evaluation import completions
from r1jax.evaluation.completions import Earned
from r1jax.evaluation.during_training import Examination, examine
from r1jax.losses import LOSSES, Objective, dual_clip
from r1jax.model import lora
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend
from r1jax.model.lora import merge
from r1jax.model.packed_rows import PackedRows
from r1jax.planning.utilization import Pace
from r1jax.policy import Policy
from r1jax.recipes import RLRecipe, RunOptions
from r1jax.rewards import custom
from r1jax.rewards.isolate import Pool
from r1jax.rewards.penalties import Penalties, add_penalties
from r1jax.rl import partial_rollouts
from r1jax.rl.advantages import charge_kl, compute_advantages
from r1jax.rl.ahead_rounds import AheadRounds
from r1jax.rl.checks import check, check_terms
from r1jax.rl.critic import Critic, make_critic
from r1jax.rl.first_round import explain_first, first_lines
from r1jax.rl.memory import choose_waves
from r1jax.rl.metrics import SHOWN, RoundLog, sample_lines
from r1jax.rl.minibatches import Layout, RefLogprobs, add_old_logprobs, add_ref_logprobs, pack_minibatches
from r1jax.rl.questions import fit_questions, open_questions
from r1jax.rl.refill import RefilledRounds
from r1jax.rl.rounds import (
    Reward,
    RoundDraws,
    Sample,
    Setting,
    WholeRounds,
    gather_scores,
    make_rule_reward,
    rollouts,
)
from r1jax.rl.state import make_checkpoint_state
from r1jax.runs import manifests
from r1jax.runs.health import Alarms
from r1jax.runs.run import Run, every
from r1jax.sampling.sampler import Sampling
from r1jax.sharding import compute_dtype, copy_to, rows_in_turn
from r1jax.training.logprobs import Network
from r1jax.training.objectives import Terms, grpo_objective
from r1jax.training.optimizers import hold, optimizer
from r1jax.training.step import Learner, TrainState, score, start, update

# Rewards and benchmarks are compared by their hashes.
MAY_CHANGE = frozenset({"steps", "log_samples", "wave_rows", "rollout_mesh", "reward", "decontaminate"})
HELD_OUT = (
    "accuracy",
    "no_answer",
    "format",
    "length",
    "reflective_words",
    "reward/mean",
)  # values of an evaluation that are printed on screen

MakeReward = Callable[[Policy], Reward]
MakeReferee = Callable[[Network, Policy], RefLogprobs]


def train(
    recipe: RLRecipe,
    options: RunOptions,
    stage: str,
    make_reward: MakeReward | None = None,
    rewarded: Mapping[str, Any] | None = None,
    make_referee: MakeReferee | None = None,
) -> Path:
    """Trains a policy by GRPO or another loss of `LOSSES`. Returns the working directory; the README lists its files.

    Args:
        recipe, options: the hyperparameters, and the flags of the run.
        stage: name of the stage, for the manifest and the default working directory.
        make_reward: makes the stage's own reward for a policy; if None, --reward or the rule reward applies.
        rewarded: entries for the manifest that identify what `make_reward` and `make_referee` read, such as a teacher.
        make_referee: makes the function that computes log π_ref; if None, an earlier policy computes it.

    Raises:
        ValueError: a flag, file or checkpoint cannot be used.
        FloatingPointError: more than `max_skips` updates in a row were not finite. The last batch is in `workdir`.
    """
    fields, defaults = dataclasses.asdict(recipe) | dataclasses.asdict(options), manifests.defaults_of(recipe, options)
    with Run(stage, options, fields, may_change=MAY_CHANGE, defaults=defaults) as run:
        check(recipe, run.mesh)
        terms = read_terms(recipe, options, stage, make_reward)
        found = open_questions(run, recipe, custom.describe_terms(terms) | dict(rewarded or {}))
        policy, params, frozen = load_trained(run, recipe)
        ask, held_out, *_ = fit_questions(run, recipe, policy, found)
        learner, objective = make_learner(recipe, policy.cfg, run.mesh, options.exact), objective_of(recipe)
        critic = make_critic(recipe, policy.cfg, run.mesh)  # a value network with --loss=ppo
        reward, earned, task = choose_reward(recipe, policy, terms, make_reward)
        referee = make_referee(learner.network, policy) if make_referee else None
        state, reference, waiting = restore_or_start(run, recipe, learner, critic, params, referee is None)
        if run.is_complete(recipe.steps):
            return run.workdir
        pool = run.enter(Pool())
        waves = choose_waves(recipe, policy.cfg, run.rollout_mesh, run.mesh)
        draws = draws_of(recipe, options.seed, waves[0], learner.network)
        sample = make_sample(run, recipe, Setting(policy, run.rollout_mesh, pool, ask, draws), waiting, task)
        del waiting  # with --ahead, parameters that the sampler replaces
        layout, penalties = layout_of(recipe, run.mesh), penalties_of(recipe)
        pace = Pace.of(policy.cfg, run.mesh, learner.network.attention, run.rollout_mesh)
        numbers = dict(max_skips=recipe.max_skips, alarms=alarms_of(recipe, terms), detail=describe(learner.network))

        def save() -> None:
            run.save(make_checkpoint_state(state, reference, sample.waiting_at(run.step), run.mesh, critic.state))

        run.begin(policy, recipe.steps, shown=("reward/mean", *SHOWN) if terms else SHOWN, keep=save, **numbers)
        run.say(*first_lines(recipe, options, policy, objective, ask(0, 0)["problem"]))

        def params_now() -> dict:
            return merge(state.params, frozen)

        def ref_logprobs(rows: PackedRows) -> jax.Array:
            return referee(rows) if referee else score(learner.network, merge(reference, frozen), rows)[0]

        def evaluate() -> dict:
            how = Examination(options.seed, recipe.max_tokens, earned=earned, wave_rows=waves[1])
            return examine(policy, params_now(), held_out, run.mesh, pool, how)[0]

        if run.owes_evaluation:
            run.evaluate(evaluate, shown=HELD_OUT)
        rounds = range(run.step // recipe.minibatches, -(-recipe.steps // recipe.minibatches))
        for round_ in rollouts(sample, params_now, rounds):  # B questions, rollout [N, T]
            scores = reward(round_.verdicts, round_.texts, round_.repeated, round_.step)  # of this process's n texts
            scores = add_penalties(scores, round_.texts, round_.rollout.lengths[round_.rollout.own], penalties)  # [n]
            scores = gather_scores(scores, round_.rollout)  # total, valid [N]
            advantages = compute_advantages(scores, round_.rollout, objective, parts_of(recipe))  # [N]
            round_ = round_._replace(scores=scores, advantages=advantages)
            run.say(*explain_first(round_, policy, {} if terms or make_reward else weights_of(recipe)))
            lines = RoundLog(round_, recipe.minibatches, pace, layout.all_rows, all_parameters=frozen is None)
            minibatches = pack_minibatches(round_, recipe.minibatches, objective, layout, recipe.max_tokens)  # [R, S]
            minibatches = add_old_logprobs(learner.network, params_now(), minibatches, recipe.old_logp, layout.charged)
            if recipe.kl_coef:
                minibatches = add_ref_logprobs(ref_logprobs, minibatches)
                minibatches, round_ = charge_kl(minibatches, round_, objective, layout, recipe.kl_coef)
            minibatches, round_ = critic.estimate(minibatches, round_)  # PPO: an advantage and a return of each token
            for part, minibatch in enumerate(minibatches[: recipe.steps - run.step]):
                ready = run.watch(minibatch)
                state, figures = update(learner, state, minibatch, frozen)  # one optimizer step
                run.log(critic.learn(minibatch, figures), lines.describe(part), ready, minibatch)
                if every(recipe.ref_every, run.step - 1, run.step):
                    reference = jax.tree.map(jnp.copy, state.params)  # a copy, because the update donates the state
            run.write_samples(sample_lines(run.step, round_, options.seed, recipe.log_samples, policy.template))
            if run.due(recipe.eval_every):
                run.evaluate(evaluate, shown=HELD_OUT)
            if run.due(recipe.save_every, at_stop=True) or ends_in_next_round(recipe, run.step):
                save()
            run.stop_if_asked()
        return run.finish()


def ends_in_next_round(recipe: RLRecipe, step: int) -> bool:
    """Returns whether the run ends in the middle of the round after optimizer step `step`.

    A longer run cannot continue from the end of such a run, and continues from this step instead.
    """
    return 0 < recipe.steps - step < recipe.minibatches


def read_terms(
    recipe: RLRecipe, options: RunOptions, stage: str, make_reward: MakeReward | None
) -> Sequence[custom.Term]:
    """Returns the functions that --reward names, with their weights. The reward is their weighted sum.

    Args:
        make_reward: makes the stage's own reward; None if the stage has none.

    Raises:
        ValueError: --reward is given to a stage that has its own reward, a function cannot be loaded, or a flag of the
            recipe does not go with the reward.
    """
    terms = custom.read(options.reward)
    if terms and make_reward:
        raise ValueError(
            f"--reward={' '.join(options.reward)} cannot replace the reward of {stage}. Leave --reward out"
        )
    check_terms(recipe, own=bool(terms) or make_reward is not None)
    return terms


def choose_reward(
    recipe: RLRecipe, policy: Policy, terms: Sequence[custom.Term], make_reward: MakeReward | None
) -> tuple[Reward, Earned, Reward]:
    """Chooses the run's reward: the reward of --reward if given, else the stage's own reward, else the rule reward.

    Args:
        policy: the policy, for which the stage's reward is made.
        terms: the weighted functions of --reward, from `read_terms`.
        make_reward: makes the stage's own reward; None if the stage has none.

    Returns:
        (reward, earned, task), three functions. `reward` scores the sampled completions. `earned` scores the held-out
        completions of an evaluation. With --reward, `earned` applies this reward and the penalties. Without --reward,
        it applies the penalties alone. `task` is the reward by which --refill compares the completions of a group. For
        the rule reward, `task` is accuracy alone. For any other reward, `task` equals `reward`.
    """
    own = custom.make_reward(terms, policy.style) if terms else None
    reward = own or (make_reward(policy) if make_reward else make_rule_reward(weights_of(recipe), policy.style))
    task = reward if own or make_reward else make_rule_reward({"accuracy": 1.0}, policy.style)
    return reward, functools.partial(completions.earned, reward=own, penalties=penalties_of(recipe)), task


def weights_of(recipe: RLRecipe) -> dict[str, float]:
    """Returns {name: weight} of the three parts of the rule reward: accuracy, format and language."""
    return {"accuracy": recipe.accuracy_weight, "format": recipe.format_weight, "language": recipe.language_weight}


def shares_of(recipe: RLRecipe) -> dict[str, float]:
    """Returns {name: weight} of the parts of the rule reward and of the two penalties, overlong and repetition."""
    return weights_of(recipe) | {"overlong": recipe.overlong_weight, "repetition": recipe.repetition_weight}


def parts_of(recipe: RLRecipe) -> dict[str, float] | None:
    """Returns {name: weight} of the parts that --per-reward normalises separately; None without --per-reward."""
    return shares_of(recipe) if recipe.per_reward else None


def alarms_of(recipe: RLRecipe, terms: Sequence[custom.Term]) -> Alarms:
    """Returns the `Alarms` that check the metrics of each step. `terms`: the weighted functions of --reward."""
    rewarded, grouped = any((*shares_of(recipe).values(), *terms)), not LOSSES[recipe.loss].valued
    return Alarms(rewarded=rewarded, kl=recipe.kl_coef > 0, grouped=grouped)


def objective_of(recipe: RLRecipe) -> Objective:
    """Returns the loss that --loss names. With --dual-clip, the loss uses the surrogate of dual-clip PPO."""
    objective = LOSSES[recipe.loss]
    return objective._replace(surrogate=dual_clip(recipe.dual_clip)) if recipe.dual_clip else objective


def penalties_of(recipe: RLRecipe) -> Penalties:
    """Returns the settings of the penalties for long or repetitive completions, which are added to any reward."""
    r = recipe
    return Penalties(r.max_tokens, r.overlong_weight, r.overlong_cache, r.repetition_weight, r.repetition_ngram)


def layout_of(recipe: RLRecipe, mesh: Mesh) -> Layout:
    """Returns how updates pack completions and place them on the mesh."""
    r, valued = recipe, LOSSES[recipe.loss].valued
    every_row, charged = bool(r.kl_coef or r.balance_rate or r.entropy_coef or valued), r.kl == "k1_reward"
    return Layout(r.row_length, r.batch_rows, mesh, every_row, charged, charged or valued, r.mask_truncated)


def draws_of(recipe: RLRecipe, seed: int, wave_rows: int = 0, trainer: Network | None = None) -> RoundDraws:
    """Returns the size and the sampling settings of a round (one sampling phase and its optimizer steps).

    Args:
        seed: seed of the sampling noise.
        wave_rows: most rows that all processes sample at once; 0 for all rows.
        trainer: the trainer's network, whose attention backend the sampler uses too; None for the default backend.
    """
    r, attention = recipe, trainer.attention if trainer else None
    sampling = Sampling(r.max_tokens, r.temperature, attention=attention, replay=r.replay_routes, wave_rows=wave_rows)
    return RoundDraws(recipe.questions_per_round, recipe.group_size, recipe.minibatches, seed, sampling)


def make_sample(
    run: Run, recipe: RLRecipe, setting: Setting, waiting: partial_rollouts.Waiting | dict | None, task: Reward
) -> Sample:
    """Makes the function that samples the completions of a round (one sampling phase).

    With --carry-over, a round may end with unfinished rows (completions). With --refill, further questions replace each
    question whose completions all have the same task reward. With --ahead, a round is sampled while the round before it
    is trained, in a thread that ends with the run.

    Args:
        setting: what sampling needs besides the parameters.
        waiting: unfinished groups from a checkpoint with --carry-over; the trained parameters that sample the first
            round with --ahead; otherwise None.
        task: the reward by which --refill compares the completions of a group.
    """
    if recipe.ahead:
        return run.enter(AheadRounds(setting, waiting, -(-recipe.steps // recipe.minibatches)))
    if recipe.refill > 1:
        return RefilledRounds(setting, task, recipe.refill)
    return (
        partial_rollouts.PartialRounds(setting, recipe.carry_over, waiting)
        if recipe.carry_over
        else WholeRounds(setting)
    )


def load_trained(run: Run, recipe: RLRecipe) -> tuple[Policy, dict, dict | None]:
    """Loads the policy of --weights or --model, with new LoRA adapters if --lora-rank is given.

    Returns (policy, trained parameters, frozen parameters). The frozen parameters are None if all parameters are
    trained.

    Raises:
        ValueError: the checkpoint cannot be used, or --replay-routes is given and the model has no experts.
    """
    policy, params = run.load_policy(frozen=recipe.lora_rank > 0)
    if recipe.replay_routes and not policy.cfg.experts:
        raise ValueError(
            "--replay-routes=True needs a model with experts, and this model has none; leave --replay-routes out"
        )
    adapters = (recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)
    return policy, *lora.prepare(params, *adapters, run.mesh, run.options.seed)


def restore_or_start(
    run: Run, recipe: RLRecipe, learner: Learner, critic: Critic, params: dict, own_reference: bool
) -> tuple[TrainState, dict, partial_rollouts.Waiting | dict | None]:
    """Restores the newest checkpoint, or starts afresh if there is none. Gives the critic its train state.

    Returns (train state, parameters of the reference policy, what the next round begins with). With --carry-over, a
    round begins with unfinished groups of completions. With --ahead, it begins with the trained parameters of the
    policy that samples, on the rollout mesh. Otherwise the third result is None.

    Args:
        params: the trained parameters to start from.
        own_reference: whether the reference policy is an earlier copy of the policy. If not, its parameters are
            returned as {}.
    """
    waiting = None
    if recipe.carry_over:
        waiting = partial_rollouts.make_room(recipe.carry_over, recipe.group_size, recipe.max_tokens)

    def copy(params: dict) -> dict:
        return jax.tree.map(jnp.copy, params) if own_reference else {}  # a copy, because the update donates the state

    def fresh(params: dict) -> NamedTuple:
        held, valued = params if recipe.ahead else waiting, critic.start(params)
        return make_checkpoint_state(start(learner, params), copy(params), held, run.mesh, valued)

    found = run.restore_round(recipe.minibatches, recipe.steps, fresh, params)
    critic.state = getattr(found, "critic", None) or critic.start(params, run.mesh)
    if recipe.ahead:
        held, alias = (params, False) if found is None else (found.behaviour, True)  # updates donate `params`
        waiting = copy_to(held, run.rollout_mesh, alias=alias)
    if found is None:
        return start(learner, params, run.mesh), copy(params), waiting
    waiting = jax.tree.map(np.asarray, found.waiting) if recipe.carry_over else waiting
    return TrainState(*found[:3]), found.reference, waiting


def describe(network: Network) -> str:
    """Returns dtype and attention backend in words, for the first line on screen.

    On a CPU without exact (float64) attention, also names the flag that turns it on, and the reason why it is off.
    """
    if jax.default_backend() != "cpu" or network.attention == "exact":
        return network.detail
    return f"{network.detail}: float64 would be slower for a model of this size, --exact=True takes it"


def make_learner(recipe: RLRecipe, cfg: ModelConfig, mesh: Mesh, exact: bool | None = None) -> Learner:
    """Makes the network, optimizer and loss of a recipe.

    Args:
        exact: whether attention is computed in float64 on CPUs; if None, the size of the model decides.
    """
    r, in_reward = recipe, recipe.kl == "k1_reward"
    loss = grpo_objective(
        r.clip_eps,
        0.0 if in_reward else r.kl_coef,
        clip_eps_high=r.clip_eps_high or r.clip_eps,
        objective=objective_of(r),
        terms=Terms("k3" if in_reward else r.kl, r.entropy_coef, r.off_policy_bound, r.tis_cap, r.tis_by),
    )
    network = Network(
        cfg,
        r.temperature,
        compute_dtype(mesh),
        remat=r.remat,
        row_shards=rows_in_turn(mesh),
        attention=attention_backend(mesh, cfg, compared=True, exact=exact),
        mesh=mesh,
        entropy_gradient=r.entropy_coef != 0,
    )
    return Learner(network, hold(optimizer(r.descent), r.value_warmup_steps), loss, r.balance_rate)
