"""The walk of reinforcement learning: prompts, rollouts, rewards, advantages, updates, checkpoints, evaluation.

`train` is the loop; everything it calls is a function of another file. Every process decodes, scores and logs its own
rows; process 0 writes the files.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from r1jax import carry, checkpoint, launch, lineage, log, lora, report
from r1jax.alarms import Alarms
from r1jax.checks import check, check_data, check_row_length, questions_of
from r1jax.data import prompts as questions
from r1jax.examine import examine
from r1jax.ledger import Ledger, Sampled
from r1jax.metrics import round_rows, sample_lines
from r1jax.model.attend_choice import attention_backend
from r1jax.model.config import ModelConfig
from r1jax.pace import Pace
from r1jax.progress import Progress
from r1jax.recipe import RLRecipe
from r1jax.rewards.isolate import Pool
from r1jax.rounds import Reward, Scorer, minibatches, parts, roll, rule_reward
from r1jax.run import Logs, Policy, RunOptions, load_policy, new_workdir, write_policy
from r1jax.saver import Saver, remove
from r1jax.sharding import abstract, compute_dtype, make_mesh, rows_in_turn
from r1jax.update import Learner, TrainState, grpo_objective, merge, start, update

MAY_CHANGE = frozenset({
    "steps", "mesh", "eval_every", "save_every", "log_samples", "workdir", "weights", "resume", "coordinator",
    "processes", "process_id", "track",
})  # fmt: skip
GENERATED = 256  # questions of the generator whose length is looked at before a run begins
ADAPTERS = 0xADA7  # fresh adapters are a function of the seed


MakeReward = Callable[[RLRecipe, Policy], Reward]
MakeReferee = Callable[[Learner, Policy], Scorer]


@functools.cache
def adamw(
    learning_rate: float, warmup_steps: int, grad_clip: float, b1: float, b2: float, weight_decay: float
) -> optax.GradientTransformation:
    """AdamW behind a clip by global norm, with a linear warm-up. Cached: equal recipes share their compiled updates."""
    schedule = optax.linear_schedule(0.0, learning_rate, warmup_steps) if warmup_steps else learning_rate
    return optax.chain(optax.clip_by_global_norm(grad_clip), optax.adamw(schedule, b1, b2, weight_decay=weight_decay))


def learner(recipe: RLRecipe, cfg: ModelConfig, mesh: Mesh) -> Learner:
    """The compiled side of a recipe."""
    r = recipe
    optimizer = adamw(r.learning_rate, r.warmup_steps, r.grad_clip, r.adam_b1, r.adam_b2, r.weight_decay)
    objective = grpo_objective(
        r.clip_eps, r.kl_coef, clip_eps_high=r.clip_eps_high or r.clip_eps, by_sequence=r.loss == "sequence",
        tis_cap=r.tis_cap,
    )
    return Learner(
        cfg, optimizer, objective, r.temperature, compute_dtype(mesh), remat=r.remat, row_shards=rows_in_turn(mesh),
        balance_rate=r.balance_rate, attention=attention_backend(mesh, cfg, compared=True), mesh=mesh,
    )  # fmt: skip


def every(interval: int, before: int, after: int) -> bool:
    """Whether a multiple of the interval lies in (before, after]."""
    return interval > 0 and after // interval > before // interval


def logged_warnings(workdir: Path, alarms: Alarms) -> list[dict]:
    """The warnings of the steps in the log, which bring `alarms` to where they were: a resumed run warns as an unbroken
    one."""
    path = workdir / "metrics.jsonl"
    lines = log.read(path) if launch.is_main() and path.exists() else []
    return [{"step": line["step"], "text": text} for line in lines for text in alarms.check(line)]


def resume_point(workdir: Path, minibatches: int, steps: int) -> int | None:
    """The newest checkpoint a longer run can go on from: one at the end of a round. Later ones are removed."""
    last = checkpoint.latest(workdir / "checkpoints")
    while last is not None and last % minibatches and last < steps:
        remove(workdir / "checkpoints", last)
        last = checkpoint.latest(workdir / "checkpoints")
    return last


def train(
    recipe: RLRecipe, options: RunOptions, stage: str, make_reward: MakeReward = rule_reward,
    rewarded: Mapping[str, Any] | None = None, make_referee: MakeReferee | None = None,
) -> Path:
    """The whole walk. Returns the working directory; see the README for what it holds.

    Args:
        make_reward: what completions earn.
        rewarded: what else `make_reward` and `make_referee` depend on, for the manifest: "sources", checkpoints
            {path, sha256} by name, and numbers.
        make_referee: what the KL term holds the policy to; none: earlier parameters of its own.

    Raises:
        ValueError: a flag, file or checkpoint that cannot be used.
        FloatingPointError: more than `max_skips` non-finite updates in a row; the last one's batch is in the working
            directory.
    """
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    workdir = Path(options.workdir or new_workdir(stage))
    mesh = make_mesh(options.mesh)
    check(recipe, mesh)
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options)
    before = lineage.check_resume(workdir, fields, options.resume, MAY_CHANGE)
    take, data = questions.stream(options.prompts, options.seed)
    ask, late = questions_of(recipe, options, take)
    data |= late | dict(rewarded or {})
    held_out = questions.held_out(options.eval_prompts, recipe.eval_problems)
    check_data(workdir, options, before, data)
    policy, params, parent = load_policy(options, mesh, frozen=recipe.lora_rank > 0)
    lineage.check_parent(workdir, before, parent)
    if recipe.lora_rank:
        key = jax.random.fold_in(jax.random.key(options.seed), ADAPTERS)
        params = lora.attach(params, recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets, mesh, key)
    params, frozen = lora.partition(params)

    def whole(trained: dict) -> dict:
        return merge(trained, frozen)

    if recipe.replay_routes and not policy.cfg.experts:
        raise ValueError("--replay-routes=True needs a model with experts; leave it out")
    rows = range(data["counts"].get("rows", GENERATED))
    check_row_length(recipe, policy, (ask(i, step) for i in rows for step in (0, recipe.late_from)))
    ours = learner(recipe, policy.cfg, mesh)
    referee = make_referee(ours, policy) if make_referee else None

    def referred(params: dict) -> dict:
        return {} if referee else jax.tree.map(jnp.copy, params)  # an alias would be donated away

    manifest = lineage.Manifest(stage, fields, options.seed, lineage.versions(), parent, data)
    last = resume_point(workdir, recipe.minibatches, recipe.steps)
    waiting = carry.nobody(recipe) if recipe.carry_over else None
    if last is None:
        state, reference = start(ours, params, mesh), referred(params)
    else:
        fresh = jax.eval_shape(lambda p: carry.held(start(ours, p), referred(p), waiting, mesh), params)
        found = checkpoint.restore(workdir, abstract(fresh, mesh), last)
        state, reference = TrainState(*found[:3]), found.reference
        waiting = jax.tree.map(np.asarray, found.waiting) if recipe.carry_over else None
        manifest = dataclasses.replace(before, recipe=fields, status="running")
    if last is not None and last >= recipe.steps:
        if last == recipe.steps and before.status != "complete" and launch.is_main():  # killed on its last lines
            lineage.write(workdir, dataclasses.replace(manifest, status="complete"))
            report.write(workdir)
        print(
            f"{workdir} is complete: {last} steps of --steps={recipe.steps}. Raise --steps to go on; "
            f"the report is {workdir / 'report.html'}"
        )
        return workdir
    if launch.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        lineage.write(workdir, manifest)
        write_policy(workdir, policy)
    rewards = (recipe.accuracy_weight, recipe.format_weight, recipe.language_weight)
    logs, alarms = Logs(workdir, -1 if last is None else last, options, fields), Alarms(rewarded=any(rewards))
    manifest = dataclasses.replace(manifest, warnings=logged_warnings(workdir, alarms))
    reward = make_reward(recipe, policy)
    judged = dict(seed=options.seed, max_tokens=recipe.max_tokens)
    with (
        Pool() as pool,
        Saver(workdir / "checkpoints") as saver,
        launch.stop_requests() as stopping,
        Progress(recipe.steps, last or 0) as progress,
        Ledger(
            workdir, recipe, logs, alarms, progress, Pace.of(policy.cfg, mesh), manifest.warnings, whole=frozen is None
        ) as ledger,
        jax.set_mesh(mesh) if policy.cfg.experts else contextlib.nullcontext(),  # experts read it
    ):
        def evaluated(step: int) -> dict:
            progress.say(f"step {step}: evaluating on {len(held_out)} held-out problems")
            line = {"step": step} | examine(policy, whole(state.params), held_out, mesh, pool, **judged)[0]
            logs.write("eval", line)
            names = ("accuracy", "format", "length", "reflective_words")
            shown = ", ".join(f"{name} {line[name]:.3f}" for name in names if line[name] is not None)
            progress.say(f"step {step}: held-out {shown}")
            return line

        progress.say(
            f"{workdir}: {stage}, {recipe.steps} steps on {mesh.devices.size} x {mesh.devices.flat[0].device_kind}, "
            f"mesh {dict(mesh.shape)}, {jnp.dtype(ours.dtype)}, attention {ours.attention}"
        )
        results = dict(manifest.results)
        if last is None:
            results["base"] = evaluated(0)
        step = last or 0
        while step < recipe.steps:
            began, first = time.monotonic(), step
            if step > 0 and recipe.steps - step < recipe.minibatches:
                ledger.settle()
                logs.sync()
                # The run ends inside this round; a longer one will go on from the round's beginning.
                saver.save(step, carry.held(state, reference, waiting, mesh), {"round": step // recipe.minibatches})
            number = step // recipe.minibatches
            setting = (number, options.seed, mesh, pool, reward)
            if waiting is not None:
                round_, waiting = carry.roll(recipe, policy, whole(state.params), ask, waiting, *setting)
            else:
                index = number * recipe.questions_per_round + np.arange(recipe.questions_per_round)
                mine = [ask(int(i), step) for i in index[jax.process_index() :: jax.process_count()]]
                round_ = roll(recipe, policy, whole(state.params), mine, *setting)
            rows = round_rows(round_, recipe.group_size, step)
            drawn = round_.drawn or (rows["prompt"][:: recipe.group_size], rows["length"])
            sampled = Sampled(*drawn, began, time.monotonic())
            of_step = parts(recipe, len(rows["total"]) // recipe.group_size)
            against = referee or (ours, whole(reference))
            batches = minibatches(recipe, round_, ours, whole(state.params), against, mesh)
            for part, batch in enumerate(batches[: recipe.steps - step]):
                ready = ledger.ready(batch)
                state, figures = update(ours, state, batch, frozen)
                step += 1
                ledger.enter(step, sampled, {k: v[of_step[part]] for k, v in rows.items()}, batch, ready, figures)
                if every(recipe.ref_every, step - 1, step):
                    reference = referred(state.params)
            told = (options.seed, recipe.log_samples, recipe.group_size, policy.template)
            for line in sample_lines(step, number, round_, *told):
                logs.write("samples", line)
            done, stop = step >= recipe.steps, stopping()
            evaluating = every(recipe.eval_every, first, step) or done
            saving = every(recipe.save_every, first, step) or done or stop
            if evaluating or saving:
                ledger.settle()
            if evaluating:
                results["final"] = evaluated(step)
            if saving:
                logs.sync()
                if launch.is_main():  # before the checkpoint: a run that goes on from it finds its results here
                    lineage.write(workdir, dataclasses.replace(manifest, results=results, warnings=ledger.warnings))
                saver.save(step, carry.held(state, reference, waiting, mesh), {"round": number + 1})
                if launch.is_main():
                    report.write(workdir)
            if stop and not done:
                saver.wait()
                raise SystemExit(
                    f"stopped at step {step}; go on with --workdir={workdir} --resume=True and the same flags"
                )
        saver.wait()
        if launch.is_main():
            last_words = dict(results=results, warnings=ledger.warnings, status="complete")
            lineage.write(workdir, dataclasses.replace(manifest, **last_words))
            progress.say(f"report: {report.write(workdir)}")
    logs.close()
    return workdir
