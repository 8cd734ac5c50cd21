"""The walk of a reward model: judged replies, a head on a policy's body, held-out accuracy and biases, calibration."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from r1jax import calibration, checkpoint, launch, lineage
from r1jax.checks import require
from r1jax.data.judged import KINDS, parted, read, replies
from r1jax.data.prompts import fingerprint
from r1jax.log import stream
from r1jax.model import transformer
from r1jax.nano import general, preferences
from r1jax.progress import Progress
from r1jax.reward_model import (
    Judged,
    RewardModel,
    bucket,
    helpful_input,
    padded,
    pairwise,
    pointwise,
    safety_input,
    score,
    summary_of,
    tokenized,
    update,
    with_head,
    within,
)  # fmt: skip
from r1jax.run import Logs, Policy, RunOptions, load_policy, new_workdir, tokenizer_of, write_policy
from r1jax.saver import Saver
from r1jax.sharding import abstract, compute_dtype, make_mesh, row_shards, rows_in_turn, shard_rows
from r1jax.tokenizer import Tokenizer
from r1jax.train_rl import adamw, every
from r1jax.update import Learner, start

MAY_CHANGE = frozenset({
    "mesh", "save_every", "workdir", "weights", "data", "sampled", "resume", "coordinator", "processes", "process_id",
    "track",
})  # fmt: skip
LOSS = {"helpful": pairwise, "safety": pointwise}
WAY_OUT = "Give the samples.jsonl of experiments.generate --prompts=nano:general"
READ = {"helpful": helpful_input, "safety": safety_input}


@dataclasses.dataclass(frozen=True)
class RewardRecipe:
    """Every number of a reward model's training. Fields are flags."""

    epochs: int
    """Times each judged item is read."""
    batch_items: int
    """Pairs, or labelled responses, of one step."""
    learning_rate: float
    """Of AdamW, constant after the warm-up."""
    warmup_steps: int
    """Steps of linear warm-up."""
    adam_b1: float
    adam_b2: float
    weight_decay: float
    grad_clip: float
    """Largest global norm of a gradient."""
    max_tokens: int
    """Items with a longer text are left out of training. Scoring knows no limit."""
    batch_rows: int
    """Texts of one micro-batch; even, and a multiple of the mesh's row shards."""
    remat: str
    """What the backward pass makes again: none, dots or full."""
    items: int
    """Judged items of the nano annotator, where --data names no file."""
    held_out_items: int
    """Items kept for measuring; of a file at most a fifth, and whole problems."""
    save_every: int
    """Steps between two checkpoints; 0: the last step alone, which is saved always."""


def check(recipe: RewardRecipe, kind: str, mesh: Mesh) -> None:
    """Raises ValueError for what cannot be trained, before anything is read."""
    rules = (
        (kind in KINDS, f"--kind={kind} must be {' or '.join(KINDS)}"),
        (recipe.epochs >= 1, f"--epochs={recipe.epochs} must be at least 1"),
        (recipe.batch_items >= 1, f"--batch-items={recipe.batch_items} must be at least 1"),
        (recipe.batch_rows % 2 == 0, f"--batch-rows={recipe.batch_rows} must be even: the two texts of a pair go "
        f"together"),
        (recipe.batch_rows > 0 and recipe.batch_rows % row_shards(mesh) == 0,
         f"--batch-rows={recipe.batch_rows} must be a multiple of the {row_shards(mesh)} row shards of the mesh"),
        (recipe.items >= 1, f"--items={recipe.items} must be at least 1"),
        (recipe.held_out_items >= 1, f"--held-out-items={recipe.held_out_items} must be at least 1"),
    )  # fmt: skip
    require(rules)


def judgements(recipe: RewardRecipe, kind: str, seed: int, data: str, sampled: str) -> tuple[list[dict], list[dict]]:
    """(items to train on, held-out items): a file's, or the nano annotator's on replies as people write them and as a
    model did.

    Raises:
        ValueError: a file that cannot be read or used.
    """
    if data and sampled:
        raise ValueError(
            f"--sampled={sampled} is for the nano annotator, --data={data} is judged already: give one of them"
        )
    if data:
        return parted(read(data, kind), recipe.held_out_items, seed)
    made, judged = (
        (preferences.pairs, preferences.pairs_of) if kind == "helpful" else (preferences.labels, preferences.labels_of)
    )
    try:
        records = [record for record in stream(sampled) if of_nano(record)] if sampled else []
    except OSError as error:
        raise ValueError(f"--sampled={sampled} cannot be read ({error.strerror}). {WAY_OUT}") from error
    if sampled and not records:
        raise ValueError(f"--sampled={sampled} holds no reply to nano's general prompts. {WAY_OUT}")
    counts = {"train": recipe.items, "held out": recipe.held_out_items}
    return tuple(made(seed, count, split) + judged(records, seed, count, split) for split, count in counts.items())


def of_nano(record: Mapping) -> bool:
    """Whether a record answers a general prompt of the generator, which knows what is right; those of a file name
    nothing that it could."""
    return record.get("task") == "general" and isinstance(record.get("gold"), Mapping)


def texts_of(item: Mapping, kind: str) -> list[str]:
    """What the model reads of an item: of a pair the chosen and then the rejected text."""
    return [READ[kind](item["problem"], completion) for completion in replies(item, kind)]


def micro_batches(
    tokens: Sequence[list[list[int]]], labels: Sequence[float], chosen: Sequence[int], batch_rows: int, mesh: Mesh
) -> list[Judged]:
    """One step's items on the mesh, neighbours in length together; the weights of all sum to one, each pair's lying on
    its first row.

    Every process knows all items and lays down its share of the rows.
    """
    order = sorted(chosen, key=lambda i: max(map(len, tokens[i])))
    each = batch_rows // len(tokens[order[0]])
    process, share = jax.process_index(), batch_rows // jax.process_count()
    batches = []
    for first in range(0, len(order), each):
        mine = order[first : first + each]
        rows = [text for i in mine for text in tokens[i]]
        label, weight = np.zeros(batch_rows, np.float32), np.zeros(batch_rows, np.float32)
        label[: len(rows)] = [labels[i] for i in mine for _ in tokens[i]]
        weight[: len(rows)] = 1.0 / len(order)
        whole = Judged(padded(rows, batch_rows, bucket(max(map(len, rows)))), label, weight)
        local = jax.tree.map(lambda x: x[process * share : (process + 1) * share], whole)
        batches.append(shard_rows(local, mesh))
    return batches


def taken(count: int, step: int, size: int, seed: int) -> list[int]:
    """The items of a step, from 0: each epoch is a new order of all; its last step may hold fewer."""
    epoch, step = divmod(step, -(-count // size))
    return np.random.default_rng([seed, epoch]).permutation(count)[step * size : (step + 1) * size].tolist()


def measured(kind: str, model: RewardModel, items: Sequence[dict], mesh: Mesh) -> dict:
    """Held-out figures of an uncalibrated model, and the calibration that they give. Every process reads all texts."""
    texts = [text for item in items for text in texts_of(item, kind)]
    values = score(model, texts, mesh)
    said = [completion for item in items for completion in replies(item, kind)]
    said = [summary_of(completion) for completion in said] if kind == "helpful" else said
    lengths, phrases = (np.asarray([size(text) for text in said], np.float64) for size in (len, general.fillers))
    truth = [item["truth"] for item in items] if all("truth" in item for item in items) else None
    if kind == "helpful":
        return calibration.of_pairs(values, lengths, phrases, truth)
    return calibration.of_labels(values, np.asarray([bool(item["safe"]) for item in items]), lengths, phrases, truth)


def fitting(
    items: Sequence[dict], kind: str, tokenizer: Tokenizer, longest: int
) -> tuple[list[list[list[int]]], list[float]]:
    """(tokens, labels) of the items whose texts are short enough.

    Raises:
        ValueError: none is.
    """
    found = [
        ([tokenized(tokenizer, text) for text in texts_of(item, kind)], float(item.get("safe", 1))) for item in items
    ]
    found = [(tokens, label) for tokens, label in found if max(map(len, tokens)) <= longest]
    if not found:
        raise ValueError(f"--max-tokens={longest} is less than every item needs: raise it")
    return [tokens for tokens, _ in found], [label for _, label in found]


def train(recipe: RewardRecipe, options: RunOptions, kind: str, data: str = "", sampled: str = "") -> Path:
    """Trains one reward model. Returns its working directory, which `load` reads.

    Args:
        kind: "helpful", from pairs, or "safety", from labelled responses.
        data: a file of judgements; by default the nano annotator's.
        sampled: records of experiments.generate, whose replies the nano annotator judges too.

    Raises:
        ValueError: a flag, file or checkpoint that cannot be used.
        FloatingPointError: a loss that is not finite.
    """
    launch.share_cpu(options.mesh)
    launch.start(options.coordinator, options.processes, options.process_id)
    launch.keep_compilations()
    workdir, mesh = Path(options.workdir or new_workdir(f"reward-{kind}")), make_mesh(options.mesh)
    check(recipe, kind, mesh)
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options) | {"kind": kind, "data": data, "sampled": sampled}
    before = lineage.check_resume(workdir, fields, options.resume, MAY_CHANGE)
    items, held_out = judgements(recipe, kind, options.seed, data, sampled)
    policy, params, parent = load_policy(options, mesh, rewards=True)
    lineage.check_parent(workdir, before, parent)
    tokens, labels = fitting(items, kind, policy.tokenizer, recipe.max_tokens)
    counts = {"items": len(tokens), "too_long": len(items) - len(tokens), "held_out": len(held_out)}
    read_from = lineage.files(*(path for path in (data, sampled) if path))
    info = {"sha256": fingerprint([*items, *held_out]), "counts": counts, "files": read_from}
    lineage.check_same(workdir, before, info, "judgements")
    cfg, params = with_head(policy.cfg, params, mesh)
    policy = Policy(cfg, policy.tokenizer, policy.template)
    optimizer = adamw(
        recipe.learning_rate, recipe.warmup_steps, recipe.grad_clip, recipe.adam_b1, recipe.adam_b2, recipe.weight_decay
    )
    learner = Learner(
        cfg, optimizer, LOSS[kind], dtype=compute_dtype(mesh), remat=recipe.remat, row_shards=rows_in_turn(mesh)
    )  # fmt: skip
    steps = recipe.epochs * -(-len(tokens) // recipe.batch_items)
    manifest = lineage.Manifest(f"reward_model_{kind}", fields, options.seed, lineage.versions(), parent, info)
    last = checkpoint.latest(workdir / "checkpoints")
    if last is None:
        state = start(learner, params, mesh)
    else:
        state = checkpoint.restore(workdir, abstract(jax.eval_shape(lambda p: start(learner, p), params), mesh), last)
        manifest = dataclasses.replace(before, recipe=fields, status="running")
    if launch.is_main():
        workdir.mkdir(parents=True, exist_ok=True)
        lineage.write(workdir, manifest)
        write_policy(workdir, policy)
    logs = Logs(workdir, -1 if last is None else last, options, fields)
    with (
        Saver(workdir / "checkpoints") as saver,
        launch.stop_requests() as stopping,
        Progress(steps, last or 0) as progress,
        within(cfg, mesh),
    ):
        progress.say(f"{workdir}: {manifest.stage}, {len(tokens)} items, {steps} steps on mesh {dict(mesh.shape)}")
        for number in range((last or 0) + 1, steps + 1):
            began = time.monotonic()
            chosen = taken(len(tokens), number - 1, recipe.batch_items, options.seed)
            state, figures = update(learner, state, micro_batches(tokens, labels, chosen, recipe.batch_rows, mesh))
            figures = {name: float(value) for name, value in jax.device_get(figures).items()}
            logs.write("metrics", {"step": number, **figures, "perf/step_s": time.monotonic() - began})
            if figures["skipped"]:
                raise FloatingPointError(
                    f"the loss of step {number} is not finite. Lower --learning-rate={recipe.learning_rate}"
                )
            progress.update(number, {name: figures[name] for name in ("loss", "accuracy")})
            done, stop = number == steps, stopping()
            if done:
                results = measured(kind, RewardModel(cfg, state.params, policy.tokenizer), held_out, mesh)
                logs.write("eval", {"step": number, **results})
                manifest = dataclasses.replace(manifest, results={"base": None, "final": results})
                progress.say(
                    f"held-out {kind}: " + ", ".join(f"{k} {v:.3f}" for k, v in results.items() if isinstance(v, float))
                )
            if every(recipe.save_every, number - 1, number) or done or stop:
                logs.sync()
                if launch.is_main():
                    lineage.write(workdir, manifest)
                saver.save(number, state, {})
            if stop and not done:
                saver.wait()
                raise SystemExit(
                    f"stopped at step {number}; go on with --workdir={workdir} --resume=True and the same flags"
                )
        saver.wait()
    logs.close()
    if launch.is_main():
        lineage.write(workdir, dataclasses.replace(manifest, status="complete"))
    return workdir


def load(directory: str | Path, kind: str, mesh: Mesh) -> RewardModel:
    """A trained reward model, calibrated.

    Raises:
        ValueError: no complete reward model of this kind there.
    """
    home = Path(directory)
    manifest = lineage.read(home)
    if manifest is None or manifest.stage != f"reward_model_{kind}" or manifest.status != "complete":
        found = "nothing" if manifest is None else f"{manifest.stage}, {manifest.status}"
        raise ValueError(
            f"--{kind}={directory} is no complete {kind} reward model (found: {found}): train one with "
            f"python -m experiments.train_reward_model --kind={kind}"
        )
    with checkpoint.behind(f"--{kind}"):
        cfg = checkpoint.read_model(home, directory)
        params = checkpoint.restore_params(home, abstract(transformer.shapes(cfg), mesh))
        pieces = tokenizer_of(home, cfg, str(directory))
    fitted = manifest.results["final"]["calibration"]
    return RewardModel(cfg, params, pieces, fitted["scale"], fitted["offset"])
