"""The walk of supervised fine-tuning: records, packed rows, updates, held-out loss, evaluation, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import checkpoint, launch, lineage, report, sampler
from r1jax.data import prompts as questions
from r1jax.evaluate import judge, summary
from r1jax.metrics import pooled
from r1jax.progress import Progress
from r1jax.prompts import fill
from r1jax.rewards.isolate import Pool
from r1jax.rounds import complete
from r1jax.run import Logs, Policy, RunOptions, load_policy, new_workdir, write_policy
from r1jax.saver import Saver
from r1jax.sharding import abstract, make_mesh, row_shards, rows_in_turn
from r1jax.supervised import Documents, SFTRecipe, batches, optimizer, response_only, token_batches
from r1jax.train_rl import EVAL_ROUND, every
from r1jax.update import Learner, cross_entropy, score, start, update

MAX_SKIPS = 3  # updates in a row that were not finite
MAY_CHANGE = frozenset({"mesh", "eval_every", "save_every", "workdir", "resume", "coordinator", "processes", "process_id"})


@dataclasses.dataclass(frozen=True)
class TuneRecipe:
    """Every number of supervised fine-tuning on records. Fields are flags."""

    epochs: float
    """Passes over as many tokens as all records have."""
    steps: int
    """Optimizer steps; 0: as many as --epochs takes."""
    learning_rate: float
    """Where the cosine begins, after the warm-up."""
    final_learning_rate: float
    """Where the cosine ends."""
    warmup_steps: int
    """Steps of linear warm-up."""
    optimizer: str
    """adamw or muon."""
    weight_decay: float
    grad_clip: float
    """Largest global norm of a gradient."""
    row_length: int
    """Slots of a packed row; a longer record is refused."""
    batch_rows: int
    """Packed rows of one step."""
    micro_rows: int
    """Packed rows of one forward pass, a multiple of the mesh's row shards; 0: all of a step."""
    remat: str
    """What the backward pass makes again: none, dots or full."""
    held_out_problems: int
    """Problems whose records are kept out of training, a tenth of them at most; their loss is measured at every evaluation."""
    max_tokens: int
    """Longest completion of an evaluation."""
    eval_problems: int
    """Problems of an evaluation, one sample each at temperature 1."""
    eval_every: int
    """Steps between two evaluations; 0: at the beginning and the end alone, where there is always one."""
    log_samples: int
    """Completions of each evaluation that go into samples.jsonl."""
    save_every: int
    """Steps between two checkpoints; the last step is saved always."""


class Part(NamedTuple):
    """Records {id, problem, response} and how many of them are drawn, relative to the other parts; 0: as many as it has."""

    records: Sequence[Mapping]
    share: float = 0.0


def check(recipe: TuneRecipe, mesh: Mesh) -> None:
    """Raises ValueError for a recipe that cannot run."""
    shards, micro = row_shards(mesh), recipe.micro_rows or recipe.batch_rows
    rules = (
        (recipe.steps >= 0, f"--steps={recipe.steps} must be 0, which counts --epochs, or more"),
        (recipe.steps or recipe.epochs > 0, f"--epochs={recipe.epochs} must be above 0"),
        (micro % shards == 0, f"--micro-rows={micro} must be a multiple of the mesh's {shards} row shards"),
        (recipe.batch_rows % micro == 0, f"--batch-rows={recipe.batch_rows} must be a multiple of --micro-rows={micro}"),
        (recipe.eval_problems >= 1, f"--eval-problems={recipe.eval_problems} must be at least 1"),
        (recipe.held_out_problems >= 0, f"--held-out-problems={recipe.held_out_problems} must be 0 or more"),
    )
    for true, message in rules:
        if not true:
            raise ValueError(message)


def document(record: Mapping, policy: Policy, row_length: int) -> tuple[list[int], list[float]]:
    """A record's tokens and their weights: none on template and question, one on the response and the end of text.

    Raises:
        ValueError: it does not fit a row.
    """
    prompt = policy.tokenizer.encode(fill(policy.template, record["problem"]))
    response = [*policy.tokenizer.encode(record["response"], start=False), policy.tokenizer.eos_id]
    if (size := len(prompt) + len(response)) > row_length:
        raise ValueError(f"record {record['id']} has {size} tokens and does not fit --row-length={row_length}: raise it, or drop the record")
    return response_only(prompt, response)


def kept_out(parts: Sequence[Part], count: int) -> set[str]:
    """Problems that no update sees: those with the smallest hashes, a tenth of all at most."""
    problems = {record["problem"] for part in parts for record in part.records}
    ordered = sorted(problems, key=lambda problem: (zlib.crc32(problem.encode()), problem))
    return set(ordered[: min(count, len(ordered) // 10)])


def steps_of(recipe: TuneRecipe, tokens: int) -> SFTRecipe:
    """The recipe with its steps.

    Raises:
        ValueError: no step is left after the warm-up.
    """
    steps = recipe.steps or max(1, round(recipe.epochs * tokens / (recipe.batch_rows * recipe.row_length)))
    if recipe.warmup_steps >= steps:
        raise ValueError(
            f"--warmup-steps={recipe.warmup_steps} leaves nothing of {steps} steps: lower it, or give more records, --epochs or --steps"
        )
    same = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(SFTRecipe) if field.name != "steps"}
    return SFTRecipe(steps=steps, **same)


def loss_on(documents: Documents, recipe: TuneRecipe, ours: Learner, params: dict, mesh: Mesh) -> float:
    """The mean negative log-probability, in nats, of the response tokens of documents, each in a row of its own."""
    rows, lost, counted = recipe.micro_rows or recipe.batch_rows, 0.0, 0.0
    for first in range(0, len(documents), rows):
        batch = {name: np.zeros((rows, recipe.row_length), np.float32 if name == "weights" else np.int32) for name in ("tokens", "weights")}
        batch |= {f"tokens_{name}": np.zeros((rows, recipe.row_length), np.int32) for name in ("segment_ids", "positions")}
        for row, i in enumerate(range(first, min(first + rows, len(documents)))):
            one = documents[i]
            size = len(one["tokens"])
            batch["tokens"][row, :size], batch["weights"][row, :size] = one["tokens"], one["weights"]
            batch["tokens_segment_ids"][row, :size], batch["tokens_positions"][row, :size] = 1, np.arange(size)
        (placed,) = token_batches(batch, mesh)  # weights that sum to one: the batch's own mean
        here = float(batch["weights"].sum())
        logp = score(ours, params, placed.rows)[0]
        lost -= here * float((placed.weight * logp).sum())
        counted += here
    return lost / max(counted, 1.0)


def examine(policy: Policy, params: dict, examples: list[dict], mesh: Mesh, pool: Pool, *, seed: int, max_tokens: int, samples: int) -> tuple[dict, list[dict]]:
    """One line of eval.jsonl and some of samples.jsonl, both without their step: one completion of each problem at temperature 1."""
    count, me = jax.process_count(), jax.process_index()
    mine = (examples + [examples[-1]] * (-len(examples) % count))[me::count]
    rollout, texts = complete(
        policy, sampler.sync(params, mesh), mine, 1, mesh, seed=seed, round_=EVAL_ROUND, temperature=1.0, max_tokens=max_tokens
    )
    judged = judge(pool, texts, mine, rollout.lengths, rollout.stopped, policy.style)
    shown = [
        {
            "round": EVAL_ROUND, "id": example["id"], "sample": 0, "kind": example.get("task", example["kind"]),
            "language": example.get("language"), "problem": example["problem"], "gold": example["gold"],
            "prompt": fill(policy.template, example["problem"]), "completion": texts[i], "length": int(rollout.lengths[i]),
            "truncated": not rollout.stopped[i], "reward": {name: judged[name][i] for name in ("accuracy", "format")},
            "key": [seed, EVAL_ROUND, questions.number(example), 0],
        }
        for i, example in enumerate(mine[:samples])
    ]  # fmt: skip
    rows = pooled(judged, 1)
    return summary({name: values[: len(examples)] for name, values in rows.items()}, examples), shown


def train(recipe: TuneRecipe, options: RunOptions, stage: str, parts: Sequence[Part], data: Mapping) -> Path:
    """Fine-tunes the policy of `options` on records. Returns the working directory, laid out as a reinforcement-learning run's.

    Args:
        parts: records to train on as they stand, mixed by their shares.
        data: what the manifest says about them; their sha256 and number are added.

    Raises:
        ValueError: a flag, record or checkpoint that cannot be used.
        FloatingPointError: several updates in a row that were not finite.
    """
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    workdir, mesh = Path(options.workdir or new_workdir(stage)), make_mesh(options.mesh)
    check(recipe, mesh)
    parts = [part for part in parts if part.records]
    if not parts:
        raise ValueError("there is no record to train on: every one was dropped. Read their reasons in the records file")
    shares = [part.share or len(part.records) for part in parts]
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options)
    before = lineage.check_resume(workdir, fields, options.resume, MAY_CHANGE)
    known = {"records": [len(part.records) for part in parts], "shares": shares}
    data = dict(data) | known | {"sha256": questions.fingerprint({name: r[name] for name in ("id", "problem", "response")} for p in parts for r in p.records)}
    if before is not None and before.data != data:
        raise ValueError(f"{workdir} began with other records. Restore them, or name a new directory")
    problems = questions.held_out(options.eval_prompts, recipe.eval_problems)
    policy, params, parent = load_policy(options, mesh)
    out, tokens = kept_out(parts, recipe.held_out_problems), 0

    def documents(records: list[Mapping]) -> Documents:
        return Documents(len(records), lambda i: document(records[i], policy, recipe.row_length), recipe.row_length)

    trained = [documents([record for record in part.records if record["problem"] not in out]) for part in parts]
    shares, trained = zip(*((share, some) for share, some in zip(shares, trained, strict=True) if len(some)), strict=True)
    unseen = documents([record for part in parts for record in part.records if record["problem"] in out])
    tokens = sum(len(some[i]["tokens"]) for some in trained for i in range(len(some)))  # reads each record: one that is too long ends it here
    whole = steps_of(recipe, tokens)
    ours = Learner(policy.cfg, optimizer(whole), cross_entropy, remat=recipe.remat, row_shards=rows_in_turn(mesh))
    stream = batches(trained, shares, whole, options.seed)
    manifest = lineage.Manifest(stage, fields, options.seed, lineage.versions(), parent, data)
    last = checkpoint.latest(workdir / "checkpoints")
    if last is None:
        state = start(ours, params, mesh)
    else:
        state = checkpoint.restore(workdir, abstract(jax.eval_shape(lambda p: start(ours, p), params), mesh), last)
        stream.set_state(checkpoint.read_meta(workdir, last)["data"])
        manifest = dataclasses.replace(before, recipe=fields, status="running")
    if last == whole.steps:
        if before.status != "complete" and launch.is_main():  # killed on its last lines
            lineage.write(workdir, dataclasses.replace(manifest, status="complete"))
            report.write(workdir)
        print(f"{workdir} is complete: {last} steps; the report is {workdir / 'report.html'}")
        return workdir
    if launch.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        lineage.write(workdir, manifest)
        write_policy(workdir, policy)
    logs, results, samples = Logs(workdir, -1 if last is None else last), dict(manifest.results), recipe.log_samples
    with (
        Pool() as pool,
        Saver(workdir / "checkpoints") as saver,
        launch.stop_requests() as stopping,
        Progress(whole.steps, last or 0) as progress,
        jax.set_mesh(mesh) if policy.cfg.experts else contextlib.nullcontext(),  # experts read it where they are visited
    ):
        def evaluated(step: int) -> dict:
            progress.say(f"step {step}: evaluating on {len(problems)} held-out problems")
            line, shown = examine(policy, state.params, problems, mesh, pool, seed=options.seed, max_tokens=recipe.max_tokens, samples=samples)
            line = {"step": step} | ({"loss": loss_on(unseen, recipe, ours, state.params, mesh)} if len(unseen) else {}) | line
            logs.write("eval", line)
            for sample in shown:
                logs.write("samples", {"step": step} | sample)
            said = ", ".join(f"{k} {line[k]:.3f}" for k in ("loss", "accuracy", "format", "language", "length") if line.get(k) is not None)
            progress.say(f"step {step}: held-out {said}")
            return line

        progress.say(
            f"{workdir}: {stage}, {sum(map(len, trained))} records of {tokens} tokens ({len(unseen)} more kept out), "
            f"{whole.steps} steps on mesh {dict(mesh.shape)}"
        )
        if last is None:
            results["base"] = evaluated(0)
        skipped = 0
        for step in range((last or 0) + 1, whole.steps + 1):
            began = time.monotonic()
            state, figures = update(ours, state, token_batches(next(stream), mesh, recipe.micro_rows))
            figures = {k: float(v) for k, v in jax.device_get(figures).items() if k != "weight"}
            seconds = time.monotonic() - began
            logs.write("metrics", {
                "step": step, "loss": figures["loss"], "grad_norm": figures["grad_norm"], "update/skipped": figures["skipped"],
                "perf/step_s": seconds, "perf/tokens_per_s": recipe.batch_rows * recipe.row_length / seconds,
            })  # fmt: skip
            progress.update(step, {"loss": figures["loss"]})
            skipped = skipped + 1 if figures["skipped"] else 0
            if skipped > MAX_SKIPS:
                raise FloatingPointError(f"{skipped} updates in a row were not finite, up to step {step}. Lower --learning-rate")
            done, stop = step == whole.steps, stopping()
            if every(recipe.eval_every, step - 1, step) or done:
                results["final"] = evaluated(step)
            if every(recipe.save_every, step - 1, step) or done or stop:
                logs.sync()
                if launch.is_main():  # before the checkpoint: a run that goes on from it finds its results here
                    lineage.write(workdir, dataclasses.replace(manifest, results=results))
                saver.save(step, state, {"data": stream.get_state()})
            if stop and not done:
                saver.wait()
                raise SystemExit(f"stopped at step {step}; go on with --workdir={workdir} --resume=True and the same flags")
        saver.wait()
        if launch.is_main():
            lineage.write(workdir, dataclasses.replace(manifest, results=results, status="complete"))
            progress.say(f"report: {report.write(workdir)}")
    logs.close()
    return workdir
