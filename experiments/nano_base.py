"""Trains the nano tokenizer and base model from scratch, and measures what RL can lift.

Run:     python -m experiments.nano_base                  (the base that ships as r1jax/nano/weights/nano)
         ... --model=nano-small --steps=3000              (the student's, r1jax/nano/weights/nano-small)
Cost:    see the card beside the weights; at most 90 minutes on 2 CPU cores
Expect:  single steps and its own checks nearly always right, most countdown solutions stopping after one try
Departs: DeepSeek-V3-Base was not trained on its own RL template; 12 % of the nano documents carry it, because a model
         of this size cannot follow an instruction it has never seen.

Stops and goes on: `--workdir=DIR --resume=True`. The result is `<workdir>/base/`, a Hugging Face directory (Qwen3
shape).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Literal

import tyro

from r1jax.run import explained
from r1jax.supervised import SFTRecipe

SHAPE = dict(heads=6, kv_heads=3, head_width=32, qk_norm=True, rope_theta=1e4, max_positions=1024)
MODELS = {
    "nano": dict(width=192, layers=4, mlp_width=512, **SHAPE),
    "nano-small": dict(width=128, layers=3, mlp_width=320, **SHAPE),  # the base of a student for distillation
}
VOCABULARY = 768
TOKENIZER_DOCUMENTS = 20_000
RECIPE = SFTRecipe(
    steps=5500, learning_rate=5e-3, final_learning_rate=2e-4, warmup_steps=150, optimizer="muon", weight_decay=0.05,
    grad_clip=1.0, row_length=512, batch_rows=6, save_every=500,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Command:
    """Train the nano base."""

    recipe: tyro.conf.OmitArgPrefixes[SFTRecipe] = RECIPE
    model: Literal["nano", "nano-small"] = "nano"
    """Which base: the policy's, or the smaller one of a student."""
    workdir: str = "runs/nano_base"
    """Checkpoints and the result go here."""
    seed: int = 1
    """Of the corpus and of the initial parameters."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:..,fsdp:..,tensor:..,expert:.."""
    resume: bool = False
    """Continue the run in workdir."""


def main(command: Command) -> None:
    import jax
    import numpy as np

    from r1jax import checkpoint, launch, lineage, supervised, tokenizer
    from r1jax.log import JsonLines, cut_back
    from r1jax.model import transformer
    from r1jax.model.attend_choice import attention_backend
    from r1jax.model.config import ModelConfig
    from r1jax.nano import corpus
    from r1jax.progress import Progress
    from r1jax.saver import Saver
    from r1jax.sharding import abstract, compute_dtype, make_mesh, place, rows_in_turn
    from r1jax.update import Learner, cross_entropy, start, update

    launch.share_cpu(command.mesh)
    launch.start()
    recipe, workdir, seed = command.recipe, Path(command.workdir), command.seed
    fields = dataclasses.asdict(command)
    allowed = {"workdir", "resume", "mesh"}
    lineage.check_resume(workdir, fields, command.resume, allowed)
    mesh = make_mesh(command.mesh)
    began = time.monotonic()
    pieces = tokenizer.train((corpus.document(seed, -1 - i) for i in range(TOKENIZER_DOCUMENTS)), VOCABULARY)
    cfg = ModelConfig(vocab_size=pieces.vocab_size, **MODELS[command.model])

    def document(index: int) -> tuple[list[int], list[float]]:
        tokens = [*pieces.encode(corpus.document(seed, index)), pieces.eos_id]
        return tokens, [1.0] * len(tokens)

    data = supervised.batches([supervised.Documents(1 << 40, document, recipe.row_length)], [1.0], recipe)
    learner = Learner(
        cfg, supervised.optimizer(recipe), cross_entropy, dtype=compute_dtype(mesh), remat="full",
        row_shards=rows_in_turn(mesh),
        attention=attention_backend(mesh, cfg), mesh=mesh,
    )  # fmt: skip
    manifest = lineage.Manifest(
        "nano_base", fields, seed, lineage.versions(), data={"tokenizer_documents": TOKENIZER_DOCUMENTS}
    )
    last = checkpoint.latest(workdir / "checkpoints")
    if last is None:
        lineage.write(workdir, manifest)
        state, spent = start(learner, place(transformer.init(cfg, jax.random.key(seed)), mesh), mesh), 0.0
    else:
        fresh = jax.eval_shape(lambda: start(learner, transformer.init(cfg, jax.random.key(seed))))
        state = checkpoint.restore(workdir, abstract(fresh, mesh), last)
        meta = checkpoint.read_meta(workdir, last)
        data.set_state(meta["data"])
        spent = meta["seconds"]
        cut_back(workdir / "metrics.jsonl", last)
    first = int(state.step)
    losses: list[jax.Array] = []
    with (
        JsonLines(workdir / "metrics.jsonl") as metrics,
        Saver(workdir / "checkpoints", keep=1) as saver,
        launch.stop_requests() as stopping,
        Progress(recipe.steps, first) as progress,
    ):
        for step in range(first + 1, recipe.steps + 1):
            batches = supervised.token_batches(next(data), mesh)
            state, figures = update(learner, state, batches)
            losses.append(figures["loss"])
            if step % 20 == 0 or step == recipe.steps:
                loss = float(np.mean(jax.device_get(losses)))
                losses.clear()
                tokens = (step - first) * recipe.batch_rows * recipe.row_length
                rate = tokens / (time.monotonic() - began)
                metrics.write(
                    {"step": step, "loss": loss, "grad_norm": figures["grad_norm"], "perf/tokens_per_s": rate}
                )
                progress.update(step, {"loss": loss, "tokens/s": rate})
            stop = stopping()
            if step % recipe.save_every == 0 or step == recipe.steps or stop:
                seconds = spent + time.monotonic() - began
                saver.save(step, state, {"data": data.get_state(), "seconds": seconds})
            if stop:
                sys.exit(f"stopped at step {step}; go on with --workdir={workdir} --resume=True")
    seconds = spent + time.monotonic() - began
    export(workdir / "base", cfg, jax.tree.map(np.asarray, state.params), pieces)
    scores = measure(workdir / "base", mesh)
    counted = jax.tree.reduce(lambda total, x: total + x.size, state.params, 0)
    write_card(
        workdir / "base",
        command,
        counted,
        recipe.steps * recipe.batch_rows * recipe.row_length,
        seconds,
        lineage.versions(),
        scores,
    )
    lineage.write(workdir, dataclasses.replace(manifest, results={"base": None, "final": scores}, status="complete"))
    print(json.dumps(scores, indent=1, ensure_ascii=False))


def export(directory: Path, cfg, params: dict, pieces) -> None:
    """The base as a Hugging Face directory in bfloat16."""
    import ml_dtypes

    from r1jax import weights

    shutil.rmtree(directory, ignore_errors=True)  # a resumed run writes its base again
    weights.export(directory, cfg, params, ml_dtypes.bfloat16, tokenizer=pieces)


def measure(directory: Path, mesh, problems: int = 512, samples: int = 16) -> dict:
    """The table before any RL, on held-out problems at temperature 1 under the R1-Zero template."""
    import numpy as np

    from r1jax import sampler, tokenizer, weights
    from r1jax.evaluate import judge, summary
    from r1jax.nano import measure, tasks
    from r1jax.nano.base import TOKENIZER
    from r1jax.prompts import R1_ZERO
    from r1jax.rewards import rule
    from r1jax.rewards.isolate import Pool
    from r1jax.rounds import complete
    from r1jax.run import Policy

    cfg, params = weights.from_hf(directory, mesh)
    policy = Policy(cfg, tokenizer.SentencePiece.load(directory / TOKENIZER), R1_ZERO)
    examples = tasks.held_out(problems)
    ready, texts, lengths, stopped = sampler.sync(params, mesh), [], [], []
    for start in range(0, problems, 64):  # a thousand rows at a time
        rollout, some = complete(
            policy,
            ready,
            examples[start : start + 64],
            samples,
            mesh,
            seed=0,
            round_=0,
            temperature=1.0,
            max_tokens=256,
        )
        texts += some
        lengths.append(rollout.lengths)
        stopped.append(rollout.stopped)
    repeated = [example for example in examples for _ in range(samples)]
    with Pool() as pool:
        right = np.asarray([v.reward == 1.0 for v in rule.verify(pool, texts, repeated)]).reshape(problems, samples)
        figures = summary(judge(pool, texts, repeated, np.concatenate(lengths), np.concatenate(stopped)), repeated)
    figures["samples"] = [
        {"problem": repeated[i]["problem"], "completion": texts[i], "right": bool(right.reshape(-1)[i])}
        for i in range(0, len(texts), len(texts) // 12)
    ]
    return figures | measure.table(texts, examples, right)


def write_card(
    directory: Path, command: Command, parameters: int, tokens: int, seconds: float, versions: dict, scores: dict
) -> None:
    """card.json: recipe, seed, hashes, scores."""
    from r1jax.digest import file_sha256

    hashes = {path.name: file_sha256(path) for path in sorted(directory.iterdir()) if path.name != "card.json"}
    card = {
        "command": f"python -m experiments.nano_base --model={command.model} --steps={command.recipe.steps}",
        "recipe": dataclasses.asdict(command.recipe), "seed": command.seed, "parameters": parameters, "tokens": tokens,
        "minutes": round(seconds / 60, 1), "versions": versions, "sha256": hashes,
        "licence": "Apache-2.0; trained on generated text only",
        "phenomena": {
            "length": "most documents stop after one try or a guess; the few that go on are right more often",
            "reflection": "every further try opens with wait, but wait, retry, hmm (等等, 但是等等, 重试, 嗯); works "
            "checks a guess",
            "language mixing": "stubborn authors, the most successful, change the language at a quarter of their tries",
            "format": "35 % of the solutions break the think/answer form in one of six ways",
            "few-shot": "5 % of the documents are two questions, the second answered in the manner of the first",
            "detail": "a prompt that asks for detail, reflection and verification is answered by the patient and the "
            "stubborn",
            "rewriting": "9 % of the documents translate a chain of thought into the question's language, or sum it up",
            "help and harm": "one question in ten is general; replies are right, wrong, padded, refused or harmful",
        },
        "scores": scores,
    }  # fmt: skip
    (directory / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    try:
        main(tyro.cli(Command, description=__doc__, config=(tyro.conf.FlagConversionOff,)))
    except (ValueError, OSError) as error:
        sys.exit(explained(error))
