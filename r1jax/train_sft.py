"""The walk of supervised training: documents, packed rows, updates. Pre-training is the case where every token counts."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import grain
import jax
import numpy as np
import optax
from jax.sharding import Mesh

from r1jax import checkpoint, launch, lineage, report
from r1jax.data import prompts as questions
from r1jax.model.attend_choice import attention_backend
from r1jax.progress import Progress
from r1jax.prompts import fill
from r1jax.rewards.isolate import Pool
from r1jax.rollout import PackedRows
from r1jax.run import Logs, Policy, RunOptions, load_policy, new_workdir, write_policy
from r1jax.saver import Saver
from r1jax.sharding import abstract, compute_dtype, make_mesh, rows_in_turn, shard_rows
from r1jax.train_rl import evaluate
from r1jax.update import Learner, TokenBatch, cross_entropy, start, update

PACKING_BINS = 32  # rows a packer keeps open
MAY_CHANGE = frozenset({"mesh", "save_every", "workdir", "resume", "coordinator", "processes", "process_id"})


@dataclasses.dataclass(frozen=True)
class SFTRecipe:
    """Every number of a supervised run. Fields are flags."""

    steps: int
    """Optimizer steps."""
    learning_rate: float
    """Highest learning rate, reached after the warm-up."""
    final_learning_rate: float
    """Where the cosine ends."""
    warmup_steps: int
    """Steps of linear warm-up."""
    optimizer: str
    """adamw or muon (Muon for matrices, AdamW for the rest)."""
    weight_decay: float
    grad_clip: float
    """Largest global norm of a gradient."""
    row_length: int
    """Slots of a packed row; longer documents are cut."""
    batch_rows: int
    """Packed rows of one step; a multiple of the mesh's row shards."""
    save_every: int
    """Steps between two checkpoints."""


class Documents:
    """Random access to token documents for Grain: `make(i) -> (tokens, weights)`."""

    def __init__(self, count: int, make: Callable[[int], tuple[list[int], list[float]]], row_length: int):
        self._count, self._make, self._row_length = count, make, row_length

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        tokens, weights = self._make(index)
        return {
            "tokens": np.asarray(tokens[: self._row_length], np.int32),
            "weights": np.asarray(weights[: self._row_length], np.float32),
        }


def batches(documents: Documents, recipe: SFTRecipe, shuffled: int | None = None) -> grain.DatasetIterator:
    """Packed batches, endless; the iterator's state is saved beside the checkpoint. `shuffled`, a seed, orders each epoch anew."""
    dataset = grain.MapDataset.source(documents)
    dataset = (dataset if shuffled is None else dataset.seed(shuffled).shuffle()).repeat()
    packed = grain.experimental.FirstFitPackIterDataset(
        dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=256)),
        length_struct={"tokens": recipe.row_length, "weights": recipe.row_length}, num_packing_bins=PACKING_BINS,
    )  # fmt: skip
    return iter(packed.batch(recipe.batch_rows, drop_remainder=True))


def token_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> TokenBatch:
    """A Grain batch on the mesh. The weights sum to one; a document's first token is predicted by nothing and has none."""
    group, positions = batch["tokens_segment_ids"], batch["tokens_positions"]
    source = np.broadcast_to(np.maximum(np.arange(group.shape[1]) - 1, 0), group.shape)
    weight = np.where((positions > 0) & (group > 0), batch["weights"], 0.0).astype(np.float64)
    weight = (weight / max(weight.sum(), 1e-9)).astype(np.float32)
    rows = PackedRows(*(np.ascontiguousarray(x, np.int32) for x in (batch["tokens"], positions, group, np.zeros_like(group), source)))
    return TokenBatch(*shard_rows((rows, weight), mesh))


def optimizer(recipe: SFTRecipe) -> optax.GradientTransformation:
    """Clipping and AdamW or Muon under a warm-up and a cosine.

    Raises:
        ValueError: an unknown optimizer.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, recipe.learning_rate, recipe.warmup_steps, recipe.steps, recipe.final_learning_rate
    )
    if recipe.optimizer == "adamw":
        inner = optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=recipe.weight_decay)
    elif recipe.optimizer == "muon":
        inner = optax.contrib.muon(
            schedule, adam_learning_rate=lambda step: 0.6 * schedule(step), weight_decay=recipe.weight_decay,
            consistent_rms=0.2, adam_b2=0.95, muon_weight_dimension_numbers=matrices,
        )  # fmt: skip
    else:
        raise ValueError(f"--optimizer={recipe.optimizer} is unknown: use adamw or muon")
    return optax.chain(optax.clip_by_global_norm(recipe.grad_clip), inner)


def matrices(params: dict) -> dict:
    """Which axes of each kernel are the input and the output of its matrix, for Muon; None leaves a leaf to AdamW."""

    def leaf(path: tuple, x: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith("kernel") or not name.startswith("layers"):
            return None
        if name.endswith("o/kernel"):
            return optax.contrib.MuonDimensionNumbers((1, 2), (3,))
        return optax.contrib.MuonDimensionNumbers((1,), tuple(range(2, x.ndim)))

    return jax.tree_util.tree_map_with_path(leaf, params)


def response_only(prompt: Sequence[int], response: Sequence[int]) -> tuple[list[int], list[float]]:
    """A document whose loss lies on the response alone."""
    return [*prompt, *response], [0.0] * len(prompt) + [1.0] * len(response)


@dataclasses.dataclass(frozen=True)
class TuneRecipe:
    """Every number of supervised fine-tuning on records. Fields are flags."""

    epochs: float
    """Times each record is read, as tokens over the room of a step."""
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
    """Slots of a packed row; longer records are refused."""
    batch_rows: int
    """Packed rows of one step; a multiple of the mesh's row shards."""
    remat: str
    """What the backward pass makes again: none, dots or full."""
    max_tokens: int
    """Longest completion of an evaluation."""
    eval_problems: int
    """Held-out problems of the two evaluations, one sample each at temperature 1."""
    save_every: int
    """Steps between two checkpoints; the last step is saved always."""


def numbers(recipe: TuneRecipe, tokens: int) -> SFTRecipe:
    """The recipe with its steps: `epochs` passes over so many tokens."""
    steps = max(1, round(recipe.epochs * tokens / (recipe.batch_rows * recipe.row_length)))
    if recipe.warmup_steps >= steps:
        raise ValueError(f"--warmup-steps={recipe.warmup_steps} leaves nothing of {steps} steps: lower it, or give more records or --epochs")
    same = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(SFTRecipe) if field.name != "steps"}
    return SFTRecipe(steps=steps, **same)


def tokenized(records: Sequence[Mapping], policy: Policy, recipe: TuneRecipe) -> list[tuple[list[int], list[float]]]:
    """Documents of records: template and question without loss, the response and the end of text with it.

    Raises:
        ValueError: no record, or one that does not fit a row.
    """
    if not records:
        raise ValueError("there is no record to train on: every one was dropped. Read their reasons in the records file")
    documents = []
    for record in records:
        prompt = policy.tokenizer.encode(fill(policy.template, record["problem"]))
        response = [*policy.tokenizer.encode(record["response"], start=False), policy.tokenizer.eos_id]
        if len(prompt) + len(response) > recipe.row_length:
            raise ValueError(f"record {record['id']} has {len(prompt) + len(response)} tokens and does not fit --row-length={recipe.row_length}: raise it")
        documents.append(response_only(prompt, response))
    return documents


def train(recipe: TuneRecipe, options: RunOptions, stage: str, records: Sequence[Mapping], data: dict) -> Path:
    """Fine-tunes the policy of `options` on records. Returns the working directory, laid out as a reinforcement-learning run's.

    Args:
        records: {"id", "problem", "response"} each; the response is trained on as it stands.
        data: what the manifest says about them; their sha256 is added.

    Raises:
        ValueError: a flag, record or checkpoint that cannot be used.
    """
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    workdir, mesh = Path(options.workdir or new_workdir(stage)), make_mesh(options.mesh)
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options)
    before = lineage.check_resume(workdir, fields, options.resume, MAY_CHANGE)
    data = data | {"sha256": questions.fingerprint(records)}
    if before is not None and before.data != data:
        raise ValueError(f"{workdir} began with other records. Restore them, or name a new directory")
    held_out = questions.held_out(options.eval_prompts, recipe.eval_problems)
    policy, params, parent = load_policy(options, mesh)
    documents = tokenized(records, policy, recipe)
    whole = numbers(recipe, sum(len(tokens) for tokens, _ in documents))
    learner = Learner(
        policy.cfg, optimizer(whole), cross_entropy, dtype=compute_dtype(mesh), remat=recipe.remat, row_shards=rows_in_turn(mesh),
        attention=attention_backend(mesh, policy.cfg), mesh=mesh,
    )  # fmt: skip
    batch_stream = batches(Documents(len(documents), documents.__getitem__, recipe.row_length), whole, options.seed)
    manifest = lineage.Manifest(stage, fields, options.seed, lineage.versions(), parent, data)
    last = checkpoint.latest(workdir / "checkpoints")
    if last is None:
        state = start(learner, params, mesh)
    else:
        state = checkpoint.restore(workdir, abstract(jax.eval_shape(lambda p: start(learner, p), params), mesh), last)
        batch_stream.set_state(checkpoint.read_meta(workdir, last)["data"])
        manifest = dataclasses.replace(before, recipe=fields, status="running")
    if launch.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        lineage.write(workdir, manifest)
        write_policy(workdir, policy)
    logs, results = Logs(workdir, -1 if last is None else last), dict(manifest.results)
    judged = dict(seed=options.seed, max_tokens=recipe.max_tokens)
    with (
        Pool() as pool,
        Saver(workdir / "checkpoints") as saver,
        launch.stop_requests() as stopping,
        Progress(whole.steps, last or 0) as progress,
    ):
        def evaluated(step: int) -> dict:
            line = {"step": step} | evaluate(policy, state.params, held_out, mesh, pool, **judged)
            logs.write("eval", line)
            shown = ", ".join(f"{k} {line[k]:.3f}" for k in ("accuracy", "format", "language", "length") if line[k] is not None)
            progress.say(f"step {step}: held-out {shown}")
            return line

        progress.say(f"{workdir}: {stage}, {len(documents)} records, {whole.steps} steps on mesh {dict(mesh.shape)}")
        if last is None:
            results["base"] = evaluated(0)
        for step in range((last or 0) + 1, whole.steps + 1):
            began = time.monotonic()
            state, figures = update(learner, state, [token_batch(next(batch_stream), mesh)])
            figures = {k: float(v) for k, v in jax.device_get(figures).items() if k != "weight"}
            seconds = time.monotonic() - began
            logs.write("metrics", {"step": step, **figures, "perf/step_s": seconds})
            progress.update(step, {"loss": figures["loss"]})
            done, stop = step == whole.steps, stopping()
            if done:
                results["final"] = evaluated(step)
            if step % recipe.save_every == 0 or done or stop:
                logs.sync()
                if launch.is_main():
                    lineage.write(workdir, dataclasses.replace(manifest, results=results))
                saver.save(step, state, {"data": batch_stream.get_state()})
            if stop and not done:
                saver.wait()
                raise SystemExit(f"stopped at step {step}; go on with --workdir={workdir} --resume=True and the same flags")
        saver.wait()
        if launch.is_main():
            lineage.write(workdir, dataclasses.replace(manifest, results=results, status="complete"))
            progress.say(f"report: {report.write(workdir)}")
    logs.close()
    return workdir
