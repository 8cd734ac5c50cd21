"""The walk of reinforcement learning: prompts, rollouts, rewards, advantages, updates, checkpoints, evaluation.

`train` is the loop; everything it calls is a function of another file. Every process decodes, scores and logs its own rows;
process 0 writes the files.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from r1jax import checkpoint, launch, lineage, report, sampler
from r1jax.alarms import Alarms
from r1jax.data import prompts as questions
from r1jax.evaluate import judge, mean, summary, traits
from r1jax.grpo import group_advantages
from r1jax.model.config import ModelConfig
from r1jax.progress import Progress
from r1jax.prompts import fill
from r1jax.recipe import RLRecipe
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.rollout import Minibatch, PackedRows, Rollout, pack, spread
from r1jax.run import Logs, Policy, RunOptions, load_policy, new_workdir, write_policy
from r1jax.saver import Saver, remove
from r1jax.sharding import abstract, make_mesh, row_shards, shard_rows
from r1jax.update import Learner, TrainState, grpo_objective, score, start, update

MAY_CHANGE = frozenset({"steps", "mesh", "eval_every", "save_every", "log_samples", "workdir", "resume", "coordinator", "processes", "process_id"})
EVAL_ROUND = 0xE7A1  # evaluation draws its noise from a round of its own, the same at every step


class RLState(NamedTuple):
    """What a checkpoint holds: the train state and the reference it is held against."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    reference: dict


class Round(NamedTuple):
    """One round of this process's questions, on the host: N = B·G rows, question-major."""

    examples: list[dict]
    rollout: Rollout
    texts: list[str]
    scores: rule.Scores
    advantages: np.ndarray


def learner(recipe: RLRecipe, cfg: ModelConfig) -> Learner:
    """The compiled side of a recipe."""
    schedule = optax.linear_schedule(0.0, recipe.learning_rate, recipe.warmup_steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(recipe.grad_clip),
        optax.adamw(schedule if recipe.warmup_steps else recipe.learning_rate, recipe.adam_b1, recipe.adam_b2, weight_decay=recipe.weight_decay),
    )  # fmt: skip
    return Learner(cfg, optimizer, grpo_objective(recipe.clip_eps, recipe.kl_coef), recipe.temperature, remat=recipe.remat)


def complete(
    policy: Policy, weights: sampler.Weights, examples: Sequence[Mapping], samples: int, mesh: Mesh, *,
    seed: int, round_: int, temperature: float, max_tokens: int,
) -> tuple[Rollout, list[str]]:
    """`samples` completions of each example, and their texts."""  # fmt: skip
    tokenizer = policy.tokenizer
    prompts = [tokenizer.encode(fill(policy.template, example["problem"])) for example in examples]
    ids = np.repeat([questions.number(example) for example in examples], samples)
    keys = sampler.row_keys(seed, round_, ids, np.tile(np.arange(samples), len(examples)))
    rollout = sampler.sample(
        policy.cfg, weights, prompts, keys, mesh,
        max_tokens=max_tokens, temperature=temperature, stop_ids=(tokenizer.eos_id,), pad_id=tokenizer.pad_id,
    )  # fmt: skip
    texts = [tokenizer.decode(row[:length]) for row, length in zip(rollout.tokens, rollout.lengths, strict=True)]
    return rollout, texts


def roll(recipe: RLRecipe, policy: Policy, params: dict, examples: list[dict], round_: int, seed: int, mesh: Mesh, pool: Pool) -> Round:
    """Samples, scores and compares one round."""
    weights = sampler.sync(params, mesh)
    rollout, texts = complete(
        policy, weights, examples, recipe.group_size, mesh,
        seed=seed, round_=round_, temperature=recipe.temperature, max_tokens=recipe.max_tokens,
    )  # fmt: skip
    repeated = [example for example in examples for _ in range(recipe.group_size)]
    parts = {"accuracy": recipe.accuracy_weight, "format": recipe.format_weight}
    scores = rule.score(pool, texts, repeated, parts)
    shape = (len(examples), recipe.group_size)
    advantages = np.asarray(group_advantages(scores.total.reshape(shape), scores.valid.reshape(shape))).reshape(-1)
    return Round(examples, rollout, texts, scores, advantages)


def minibatches(
    recipe: RLRecipe, round_: Round, ours: Learner, params: dict, reference: dict, mesh: Mesh
) -> list[list[Minibatch]]:
    """The round split by whole groups: for each optimizer step its micro-batches on the mesh.

    Every log-probability is taken here, before the first step: one definition of old for all minibatches of the round.
    """
    members = np.arange(len(round_.texts)).reshape(recipe.minibatches, -1)
    return [micro_batches(recipe, round_, rows, ours, params, reference, mesh) for rows in members]


def micro_batches(
    recipe: RLRecipe, round_: Round, members: np.ndarray, ours: Learner, params: dict, reference: dict, mesh: Mesh
) -> list[Minibatch]:
    """One optimizer step's rows, packed, weighted and scored."""
    rollout, valid = round_.rollout, round_.scores.valid
    completions = [(int(i) // recipe.group_size, rollout.tokens[i, : rollout.lengths[i]]) for i in members]
    rows, places = pack(rollout.prompts, completions, recipe.row_length)
    count = sampler.agreed(int(valid[members].sum()), sum)
    # 1/(N·|oᵢ|), made in float64 from the whole minibatch: micro-batches, packing and shards change nothing.
    lengths = rollout.lengths[members].astype(np.float64)
    weight = np.where(valid[members], 1.0 / (max(count, 1) * lengths), 0.0)
    shape = rows.tokens.shape
    per_token = {
        "weight": [np.full(int(n), w) for n, w in zip(lengths, weight, strict=True)],
        "advantage": [np.full(int(n), a) for n, a in zip(lengths, round_.advantages[members], strict=True)],
        "rollout_logp": [rollout.logp[i, : rollout.lengths[i]] for i in members],
    }
    arrays = {name: spread(values, places, shape) for name, values in per_token.items()}
    size = recipe.batch_rows // jax.process_count()
    total = sampler.agreed(-(-shape[0] // size)) * size
    rows, arrays = jax.tree.map(lambda x: np.pad(x, ((0, total - x.shape[0]), (0, 0))), (rows, arrays))
    batches = []
    for start in range(0, total, size):
        piece_rows, piece = shard_rows(jax.tree.map(lambda x, s=start: x[s : s + size], (rows, arrays)), mesh)
        old = piece["rollout_logp"] if recipe.old_logp == "sampler" else score(ours, params, piece_rows)[0]
        ref = score(ours, reference, piece_rows)[0] if recipe.kl_coef else old
        batches.append(Minibatch(PackedRows(*piece_rows), piece["weight"], piece["advantage"], piece["rollout_logp"], old, ref))
    return batches


def pooled(values: Mapping[str, np.ndarray], group_size: int) -> dict[str, np.ndarray]:
    """Per-row values of all processes, in the order one process would have. Questions are dealt to processes in turn."""
    count = jax.process_count()
    if count == 1:
        return dict(values)
    gathered = multihost_utils.process_allgather({k: np.asarray(v, np.float64) for k, v in values.items()})
    return {k: v.reshape(count, -1, group_size).transpose(1, 0, 2).reshape(-1) for k, v in gathered.items()}


def evaluate(policy: Policy, params: dict, examples: Sequence[dict], mesh: Mesh, pool: Pool, *, seed: int, max_tokens: int) -> dict:
    """One line of eval.jsonl without its step: one sample of each problem at temperature 1, shared out to the processes."""
    count, me = jax.process_count(), jax.process_index()
    padded = list(examples) + [examples[-1]] * (-len(examples) % count)
    mine = padded[me::count]
    rollout, texts = complete(
        policy, sampler.sync(params, mesh), mine, 1, mesh, seed=seed, round_=EVAL_ROUND, temperature=1.0, max_tokens=max_tokens
    )
    rows = pooled(judge(pool, texts, mine, rollout.lengths, rollout.stopped), 1)
    return summary({k: v[: len(examples)] for k, v in rows.items()}, examples)


def round_rows(round_: Round, group_size: int) -> dict[str, np.ndarray]:
    """What each row of a round measured, of all processes."""
    repeated = [example for example in round_.examples for _ in range(group_size)]
    tokens = [tuple(row[:n]) for row, n in zip(round_.rollout.tokens, round_.rollout.lengths, strict=True)]
    alone = [len(set(tokens[i : i + group_size])) == 1 for i in range(0, len(tokens), group_size)]
    values = {
        "total": round_.scores.total, "valid": round_.scores.valid, "advantage": round_.advantages,
        "length": round_.rollout.lengths, "stopped": round_.rollout.stopped,
        "one_completion": np.repeat(alone, group_size), **traits(round_.texts, repeated),
        **{f"part/{name}": part for name, part in round_.scores.parts.items()},
    }  # fmt: skip
    return pooled(values, group_size)


def step_metrics(rows: Mapping[str, np.ndarray], update: Mapping[str, float], group_size: int) -> dict[str, float | None]:
    """One line of metrics.jsonl, without step and perf, from the rows and the update of one optimizer step."""
    valid = rows["valid"] > 0
    right = rows["part/accuracy"] == 1
    groups = np.where(valid, rows["total"], np.nan).reshape(-1, group_size)
    with np.errstate(all="ignore"):
        spread_out = np.nanmax(groups, axis=1, initial=-np.inf) > np.nanmin(groups, axis=1, initial=np.inf)
    total = update["weight"] or 1.0
    averaged = ("kl", "clip_fraction", "entropy", "sampler_gap/k3")
    return {
        "reward/mean": mean(rows["total"][valid]),
        "reward/std": float(np.std(rows["total"][valid])) if valid.any() else None,
        "reward/max": float(rows["total"][valid].max()) if valid.any() else None,
        **{f"reward/{k.removeprefix('part/')}": mean(v) for k, v in rows.items() if k.startswith("part/")},
        "completion/length": mean(rows["length"]),
        "completion/length_right": mean(rows["length"][right]),
        "completion/length_wrong": mean(rows["length"][rows["part/accuracy"] == 0]),
        "completion/truncated": mean(rows["stopped"] == 0),
        "completion/reflective_words": mean(rows["reflective_words"]),
        "completion/language": mean(rows["language"]),
        "group/zero_variance": mean(~spread_out),
        "group/one_completion": mean(rows["one_completion"]),
        "rows/invalid": mean(~valid),
        **{name: update[name] / total for name in averaged},
        "loss": update["loss"],
        "log_ratio/max": update["log_ratio/max"],
        "sampler_gap/max": update["sampler_gap/max"],
        "grad_norm": update["grad_norm"],
        "update/skipped": update["skipped"],
    }


def sample_lines(step: int, round_number: int, round_: Round, seed: int, count: int, group_size: int) -> list[dict]:
    """`count` rows of this process's round for samples.jsonl, evenly over its questions and groups."""
    lines = []
    for i in np.unique(np.linspace(0, len(round_.texts) - 1, max(count, 0)).astype(int)):
        example, sample = round_.examples[i // group_size], int(i % group_size)
        lines.append({
            "step": step, "round": round_number, "id": example["id"], "sample": sample,
            "kind": example.get("task", example["kind"]), "language": example.get("language"),
            "problem": example["problem"], "gold": example["gold"], "prompt": None, "completion": round_.texts[i],
            "length": int(round_.rollout.lengths[i]), "truncated": not round_.rollout.stopped[i],
            "reward": {name: part[i] for name, part in round_.scores.parts.items()},
            "verdict": round_.scores.verdicts[i].verdict, "advantage": float(round_.advantages[i]),
            "key": [seed, round_number, questions.number(example), sample],
        })  # fmt: skip
    return lines


def every(interval: int, before: int, after: int) -> bool:
    """Whether a multiple of the interval lies in (before, after]."""
    return interval > 0 and after // interval > before // interval


def check(recipe: RLRecipe, mesh: Mesh) -> None:
    """Raises ValueError for a recipe that cannot run, before anything is allocated."""
    processes, shards = jax.process_count(), row_shards(mesh)
    rules = (
        (recipe.group_size >= 2, f"--group-size={recipe.group_size} leaves nothing to compare: at least 2"),
        (recipe.questions_per_round % (recipe.minibatches * processes) == 0,
         f"--questions-per-round={recipe.questions_per_round} must be a multiple of --minibatches={recipe.minibatches} x {processes} processes: whole groups are split"),
        (recipe.batch_rows % shards == 0 or shards % recipe.batch_rows == 0,
         f"--batch-rows={recipe.batch_rows} does not fit {shards} row shards of the mesh: use a multiple, such as {shards}"),
        (recipe.old_logp in ("trainer", "sampler"), f"--old-logp={recipe.old_logp} must be trainer or sampler"),
        (recipe.temperature > 0, f"--temperature={recipe.temperature} must be above 0: greedy rows of a group are all the same"),
        (recipe.steps >= 1, f"--steps={recipe.steps} must be at least 1"),
    )  # fmt: skip
    for true, message in rules:
        if not true:
            raise ValueError(message)


def resume_point(workdir: Path, minibatches: int, steps: int) -> int | None:
    """The newest checkpoint a longer run can go on from: one at the end of a round. Later ones are removed."""
    last = checkpoint.latest(workdir / "checkpoints")
    while last is not None and last % minibatches and last < steps:
        remove(workdir / "checkpoints", last)
        last = checkpoint.latest(workdir / "checkpoints")
    return last


def train(recipe: RLRecipe, options: RunOptions, stage: str) -> Path:
    """The whole walk. Returns the working directory; see the README for what it holds.

    Raises:
        ValueError: a flag, file or checkpoint that cannot be used.
        FloatingPointError: `max_skips` non-finite updates in a row; the last one's batch is in the working directory.
    """
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    workdir = Path(options.workdir or new_workdir(stage))
    mesh = make_mesh(options.mesh)
    check(recipe, mesh)
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options)
    before = lineage.check_resume(workdir, fields, options.resume, MAY_CHANGE)
    take, data = questions.stream(options.prompts, options.seed)
    held_out = questions.held_out(options.eval_prompts, recipe.eval_problems)
    policy, params, parent = load_policy(options, mesh)
    ours = learner(recipe, policy.cfg)
    manifest = lineage.Manifest(stage, fields, options.seed, lineage.versions(), parent, data)
    last = resume_point(workdir, recipe.minibatches, recipe.steps)
    if last is None:
        state, reference = start(ours, params), jax.tree.map(jnp.copy, params)
    else:
        fresh = jax.eval_shape(lambda p: RLState(*start(ours, p), p), params)
        state = checkpoint.restore(workdir, abstract(fresh, mesh), last)
        state, reference = TrainState(*state[:3]), state.reference
        manifest = dataclasses.replace(before, recipe=fields, status="running")
    if last is not None and last >= recipe.steps:
        print(f"{workdir} is complete: {last} steps of --steps={recipe.steps}. Raise --steps to go on; the report is {workdir / 'report.html'}")
        return workdir
    if launch.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        lineage.write(workdir, manifest)
        write_policy(workdir, policy)
    logs = Logs(workdir, -1 if last is None else last)
    judged = dict(seed=options.seed, max_tokens=recipe.max_tokens)
    with (
        Pool() as pool,
        Saver(workdir / "checkpoints") as saver,
        launch.stop_requests() as stopping,
        Progress(recipe.steps, last or 0) as progress,
    ):
        def evaluated(step: int) -> dict:
            progress.say(f"step {step}: evaluating on {len(held_out)} held-out problems")
            line = evaluate(policy, state.params, held_out, mesh, pool, **judged)
            logs.write("eval", {"step": step, **line})
            shown = ", ".join(f"{k} {line[k]:.3f}" for k in ("accuracy", "format", "length", "reflective_words") if line[k] is not None)
            progress.say(f"step {step}: held-out {shown}")
            return line

        progress.say(f"{workdir}: {stage}, {recipe.steps} steps on {mesh.devices.size} x {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}")
        alarms, results = Alarms(), dict(manifest.results)
        if last is None:
            results["base"] = evaluated(0)
        step = last or 0
        skipped = 0
        while step < recipe.steps:
            began, first = time.monotonic(), step
            number = step // recipe.minibatches
            index = number * recipe.questions_per_round + np.arange(recipe.questions_per_round)
            mine = [take(int(i)) for i in index[jax.process_index() :: jax.process_count()]]
            round_ = roll(recipe, policy, state.params, mine, number, options.seed, mesh, pool)
            rows = round_rows(round_, recipe.group_size)
            rolled = time.monotonic()
            batches = minibatches(recipe, round_, ours, state.params, reference, mesh)
            for part, batch in enumerate(batches[: recipe.steps - step]):
                state, figures = update(ours, state, batch)
                figures = {k: float(v) for k, v in jax.device_get(figures).items()}
                step += 1
                size = len(rows["total"]) // recipe.minibatches
                metrics = step_metrics({k: v[part * size : (part + 1) * size] for k, v in rows.items()}, figures, recipe.group_size)
                seconds = time.monotonic() - began
                perf = {"perf/step_s": seconds, "perf/rollout_s": rolled - began, "perf/tokens_per_s": rows["length"].sum() / seconds}
                logs.write("metrics", {"step": step, **metrics, **perf})
                progress.update(step, {k: metrics[k] for k in ("reward/accuracy", "reward/format", "completion/length")})
                skipped = skipped + 1 if figures["skipped"] else 0
                if figures["skipped"]:
                    save_batch(workdir, step, batch)
                if skipped > recipe.max_skips:
                    raise FloatingPointError(f"{skipped} updates in a row were not finite; the last batch is {workdir}/nonfinite-{step}.npz. Lower --learning-rate")
                if every(recipe.ref_every, step - 1, step):
                    reference = jax.tree.map(jnp.copy, state.params)  # an alias would be donated away
                for text in alarms.check(metrics):
                    progress.say(f"step {step}: warning: {text}")
                    manifest = dataclasses.replace(manifest, warnings=[*manifest.warnings, {"step": step, "text": text}])
            for line in sample_lines(step, number, round_, options.seed, recipe.log_samples, recipe.group_size):
                line["prompt"] = fill(policy.template, line["problem"])
                logs.write("samples", line)
            done, stop = step >= recipe.steps, stopping()
            if every(recipe.eval_every, first, step) or done:
                results["final"] = evaluated(step)
            if every(recipe.save_every, first, step) or done or stop:
                logs.sync()
                saver.save(step, RLState(*state, reference), {"round": number + 1})
                if launch.is_main():
                    lineage.write(workdir, dataclasses.replace(manifest, results=results))
                    report.write(workdir)
            if stop and not done:
                saver.wait()
                raise SystemExit(f"stopped at step {step}; go on with --workdir={workdir} --resume=True and the same flags")
        saver.wait()
        if launch.is_main():
            lineage.write(workdir, dataclasses.replace(manifest, results=results, status="complete"))
            progress.say(f"report: {report.write(workdir)}")
    logs.close()
    return workdir


def save_batch(workdir: Path, step: int, batches: Sequence[Minibatch]) -> None:
    """A minibatch whose update was not finite, for a look at it: this process's part of it."""
    local = jax.tree.map(lambda x: np.concatenate([np.asarray(s.data) for s in x.addressable_shards if s.replica_id == 0]), list(batches))
    arrays = {f"{name}/{i}": value for i, b in enumerate(local) for name, value in (b._asdict() | b.rows._asdict()).items() if name != "rows"}
    np.savez_compressed(workdir / f"nonfinite-{step}.npz", **arrays)
