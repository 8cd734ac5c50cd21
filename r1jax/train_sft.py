"""The walk of supervised fine-tuning: records, packed rows, updates, held-out loss, evaluation, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from r1jax import checkpoint, launch, lineage, report, teacher
from r1jax.data import prompts as questions
from r1jax.examine import examine
from r1jax.model.attend_choice import attention_backend
from r1jax.progress import Progress
from r1jax.rewards.isolate import Pool
from r1jax.run import Logs, RunOptions, load_policy, new_workdir, write_policy
from r1jax.saver import Saver
from r1jax.sft import Part, TuneRecipe, check, document, kept_out, loss_on, steps_of
from r1jax.sharding import abstract, compute_dtype, make_mesh, rows_in_turn
from r1jax.supervised import Documents, batches, optimizer, token_batches
from r1jax.train_rl import every
from r1jax.update import Learner, cross_entropy, soft_cross_entropy, start, update

MAX_SKIPS = 3  # updates in a row that were not finite
MAY_CHANGE = frozenset({
    "mesh", "eval_every", "save_every", "workdir", "weights", "resume", "coordinator", "processes", "process_id",
    "track",
})  # fmt: skip


def train(
    recipe: TuneRecipe, options: RunOptions, stage: str, parts: Sequence[Part], data: Mapping,
    teaching: teacher.Teaching = teacher.NOBODY,
) -> Path:
    """Fine-tunes the policy of `options` on records. Returns the working directory, which has the layout of an RL run.

    Args:
        parts: records to train on as they stand, mixed by their shares.
        data: what the manifest says about them; their sha256 and number are added.
        teaching: whose likeliest tokens are learned beside those of the records.

    Raises:
        ValueError: a flag, record or checkpoint that cannot be used.
        FloatingPointError: several updates in a row that were not finite.
    """  # fmt: skip
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    workdir, mesh = Path(options.workdir or new_workdir(stage)), make_mesh(options.mesh)
    check(recipe, mesh)
    parts = [part for part in parts if part.records]
    if not parts:
        raise ValueError(
            "there is no record to train on: every one was dropped. Read their reasons in the records file"
        )
    shares = [part.share or len(part.records) for part in parts]
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options) | dataclasses.asdict(teaching)
    before = lineage.check_resume(workdir, fields, options.resume, MAY_CHANGE)
    known = {"records": [len(part.records) for part in parts], "shares": shares}
    data = (
        dict(data)
        | known
        | {
            "sha256": questions.fingerprint(
                {name: r[name] for name in ("id", "problem", "response")} for p in parts for r in p.records
            )
        }
    )
    lineage.check_same(workdir, before, data, "records")
    problems = questions.held_out(options.eval_prompts, recipe.eval_problems)
    policy, params, parent = load_policy(options, mesh)
    lineage.check_parent(workdir, before, parent)
    out, tokens = kept_out(parts, recipe.held_out_problems), 0

    lessons = [[record for record in part.records if record["problem"] not in out] for part in parts]
    taught = None
    if teaching.teacher:
        taught = teacher.of(
            teaching, policy, [record for some in lessons for record in some], recipe.row_length, options, mesh,
            Path(f"{workdir}_teacher"),
        )  # fmt: skip

    def documents(records: list[Mapping], taught: teacher.Likeliest | None = None) -> Documents:
        def make(i: int) -> tuple[list[int], list[float]]:
            return document(records[i], policy, recipe.row_length)

        def first(i: int) -> int:
            return taught.first[records[i]["problem"], records[i]["response"]]

        return Documents(len(records), make, recipe.row_length, first if taught else None)

    trained = [documents(some, taught) for some in lessons]
    shares, trained = zip(
        *((share, some) for share, some in zip(shares, trained, strict=True) if len(some)), strict=True
    )
    unseen = documents([record for part in parts for record in part.records if record["problem"] in out])
    tokens = sum(
        len(some[i]["tokens"]) for some in trained for i in range(len(some))
    )  # reads each record: one that is too long ends it here
    whole = steps_of(recipe, tokens)
    ours = Learner(
        policy.cfg, optimizer(whole), soft_cross_entropy if taught else cross_entropy,
        dtype=compute_dtype(mesh), remat=recipe.remat, row_shards=rows_in_turn(mesh),
        attention=attention_backend(mesh, policy.cfg), mesh=mesh,
    )  # fmt: skip
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
    logs = Logs(workdir, -1 if last is None else last, options, fields)
    results, samples = dict(manifest.results), recipe.log_samples
    with (
        Pool() as pool,
        Saver(workdir / "checkpoints") as saver,
        launch.stop_requests() as stopping,
        Progress(whole.steps, last or 0) as progress,
        jax.set_mesh(mesh)
        if policy.cfg.experts
        else contextlib.nullcontext(),  # experts read it where they are visited
    ):

        def evaluated(step: int) -> dict:
            progress.say(f"step {step}: evaluating on {len(problems)} held-out problems")
            line, shown = examine(
                policy, state.params, problems, mesh, pool,
                seed=options.seed, max_tokens=recipe.max_tokens, samples=samples,
            )  # fmt: skip
            loss = {"loss": loss_on(unseen, recipe, ours, state.params, mesh)} if len(unseen) else {}
            line = {"step": step} | loss | line
            logs.write("eval", line)
            for sample in shown:
                logs.write("samples", {"step": step} | sample)
            said = ", ".join(
                f"{k} {line[k]:.3f}"
                for k in ("loss", "accuracy", "format", "language", "length")
                if line.get(k) is not None
            )
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
            state, figures = update(
                ours, state, token_batches(next(stream), mesh, recipe.micro_rows, taught and taught.targets)
            )
            figures = {k: float(v) for k, v in jax.device_get(figures).items() if k != "weight"}
            seconds = time.monotonic() - began
            logs.write("metrics", {
                "step": step, "loss": figures["loss"], "grad_norm": figures["grad_norm"],
                "update/skipped": figures["skipped"],
                "perf/step_s": seconds, "perf/tokens_per_s": recipe.batch_rows * recipe.row_length / seconds,
            })  # fmt: skip
            progress.update(step, {"loss": figures["loss"]})
            skipped = skipped + 1 if figures["skipped"] else 0
            if skipped > MAX_SKIPS:
                raise FloatingPointError(
                    f"{skipped} updates in a row were not finite, up to step {step}. Lower --learning-rate"
                )
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
                raise SystemExit(
                    f"stopped at step {step}; go on with --workdir={workdir} --resume=True and the same flags"
                )
        saver.wait()
        if launch.is_main():
            lineage.write(workdir, dataclasses.replace(manifest, results=results, status="complete"))
            progress.say(f"report: {report.write(workdir)}")
    logs.close()
    return workdir
