"""Trains the nano tokenizer and base model from scratch, and evaluates the base before any RL.

Run:     python -m experiments.nano_base                  (the base that ships as r1jax/nano/weights/nano)
         ... --model=nano-small --steps=3000              (the student's base, r1jax/nano/weights/nano-small)
Cost:    at most 90 minutes on 2 CPU cores; card.json beside the weights has the measured time
Expect:  single steps and self-checks are nearly always right; most solutions of countdown problems stop after one try
Departs: DeepSeek-V3-Base was not trained on the prompt template that R1-Zero's RL uses. Of nano's documents, 12 % use
         R1-Zero's template, because a model of this size cannot follow an instruction that it has never seen.

To resume a stopped run: `--workdir=DIR --resume=True`. The result is `<workdir>/base/`, a Hugging Face directory
(Qwen3 shape).
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Literal

import jax
import ml_dtypes
import numpy as np
from jax.sharding import Mesh

from r1jax import cli, storage, weights
from r1jax.evaluation import nano_samples
from r1jax.evaluation.completions import judge, summary
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend
from r1jax.nano import corpus, tasks
from r1jax.policy import Policy
from r1jax.prompts import R1_ZERO
from r1jax.recipes import PretrainRecipe, RunOptions
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.runs import manifests
from r1jax.runs.hashing import file_sha256
from r1jax.runs.run import Run
from r1jax.runs.step_logger import Times
from r1jax.sampling import sampler
from r1jax.sampling.complete import Draws, complete
from r1jax.sharding import compute_dtype, place, rows_in_turn
from r1jax.tokenizers import sentencepiece
from r1jax.tokenizers.sentencepiece import train_tokenizer
from r1jax.training import supervised_batches
from r1jax.training.logprobs import Network
from r1jax.training.objectives import cross_entropy
from r1jax.training.optimizers import optimizer
from r1jax.training.step import Learner, start, update
from r1jax.weights.bundled import TOKENIZER

SHAPE = dict(heads=6, kv_heads=3, head_width=32, qk_norm=True, rope_theta=1e4, max_positions=1024)
MODELS = {
    "nano": dict(width=192, layers=4, mlp_width=512, **SHAPE),
    "nano-small": dict(width=128, layers=3, mlp_width=320, **SHAPE),  # the base of a student for distillation
}
VOCABULARY = 768
TOKENIZER_DOCUMENTS = 20_000
RECIPE = PretrainRecipe(
    steps=5500,
    learning_rate=5e-3,
    final_learning_rate=2e-4,
    warmup_steps=150,
    optimizer="muon",
    weight_decay=0.05,
    grad_clip=1.0,
    row_length=512,
    batch_rows=6,
    save_every=500,
)


@dataclasses.dataclass(frozen=True)
class Command:
    """Trains nano or nano-small, the small bases that ship with the package, on generated text."""

    recipe: Annotated[PretrainRecipe, cli.FLAT] = RECIPE
    model: Literal["nano", "nano-small"] = "nano"
    """Which base to train: nano (for the policy), or nano-small (for a student of distillation)."""
    workdir: str = "runs/nano_base"
    """Directory for checkpoints and the result."""
    seed: int = 1
    """Seed of the corpus and of the initial parameters."""
    mesh: str = "auto"
    """Devices: auto, AxB (fsdp=A, tensor=B), or data:..,fsdp:..,tensor:..,expert:.."""
    resume: bool = False
    """Continue the run in --workdir."""


def main(command: Command) -> None:
    """Trains the base, writes it as a Hugging Face directory, and writes card.json with the results."""
    recipe, seed = command.recipe, command.seed
    options = RunOptions(workdir=command.workdir, mesh=command.mesh, seed=seed, resume=command.resume)
    storage.require_local(command.workdir, "--workdir", "weights are written as local files")
    defaults = manifests.defaults_of(command)
    with Run("nano_base", options, dataclasses.asdict(command), defaults=defaults, has_report=False) as run:
        run.claim({"tokenizer_documents": TOKENIZER_DOCUMENTS})
        began = time.monotonic()
        pieces = train_tokenizer((corpus.document(seed, -1 - i) for i in range(TOKENIZER_DOCUMENTS)), VOCABULARY)
        cfg = ModelConfig(vocab_size=pieces.vocab_size, **MODELS[command.model])

        def document(index: int) -> tuple[list[int], list[float]]:
            tokens = [*pieces.encode(corpus.document(seed, index)), pieces.eos_id]
            return tokens, [1.0] * len(tokens)

        documents = supervised_batches.Documents(1 << 40, document, recipe.row_length)
        data = supervised_batches.batches([documents], [1.0], recipe.row_length, recipe.batch_rows)
        learner = make_learner(recipe, cfg, run.mesh)
        state = run.restore(lambda: start(learner, transformer.init(cfg, jax.random.key(seed))))
        spent = run.read_meta().get("seconds", 0.0)
        if state is None:
            state = start(learner, place(transformer.init(cfg, jax.random.key(seed)), run.mesh), run.mesh)
        else:
            data.set_state(run.read_meta()["data"])

        def save() -> None:
            run.save(state, {"data": data.get_state(), "seconds": spent + time.monotonic() - began})

        run.begin(Policy(cfg, pieces, R1_ZERO), recipe.steps, shown=("loss", "perf/tokens_per_s"), keep=save)

        def describe(figures: dict[str, float], times: Times) -> dict:
            rate = recipe.batch_rows * recipe.row_length / times.seconds
            return {name: figures[name] for name in ("loss", "grad_norm", "skipped")} | {"perf/tokens_per_s": rate}

        while run.step < run.steps:
            batch = supervised_batches.token_batches(next(data), run.mesh)
            ready = run.watch(batch)
            state, figures = update(learner, state, batch)
            run.log(figures, describe, ready, batch)
            if run.due(recipe.save_every, at_stop=True):
                save()
            run.stop_if_asked()
        seconds = spent + time.monotonic() - began
        export(run.workdir / "base", cfg, jax.tree.map(np.asarray, state.params), pieces)
        scores = measure(run.workdir / "base", run.mesh)
        counts = {
            "parameters": jax.tree.reduce(lambda total, x: total + x.size, state.params, 0),
            "tokens": recipe.steps * recipe.batch_rows * recipe.row_length,
        }
        write_card(run.workdir / "base", command, counts, seconds, scores)
        run.results = {"base": None, "final": scores}
        run.finish()
        print(json.dumps(scores, indent=1, ensure_ascii=False))


def make_learner(recipe: PretrainRecipe, cfg: ModelConfig, mesh: Mesh) -> Learner:
    """Returns the learner: the network, the recipe's optimizer and the cross-entropy loss."""
    network = Network(
        cfg,
        dtype=compute_dtype(mesh),
        remat="full",
        row_shards=rows_in_turn(mesh),
        attention=attention_backend(mesh, cfg),
        mesh=mesh,
    )
    return Learner(network, optimizer(recipe.descent), cross_entropy)


def export(directory: Path, cfg, params: dict, pieces) -> None:
    """Writes the base as a Hugging Face directory in bfloat16. An existing `directory` is replaced.

    Args:
        pieces: the base's tokenizer.
    """
    shutil.rmtree(directory, ignore_errors=True)  # a resumed run writes its base again
    weights.export(directory, cfg, params, ml_dtypes.bfloat16, tokenizer=pieces)


def measure(directory: Path, mesh, problems: int = 512, samples: int = 16) -> dict:
    """Samples the base on held-out problems at temperature 1 with the R1-Zero template, and judges the completions.

    Returns a dict: the means of `completions.summary`, the measurements of `nano_samples.table`, and some completions
    under "samples".

    Args:
        directory: the base's Hugging Face directory.
        problems: number of problems.
        samples: completions of each problem.
    """
    cfg, params = weights.from_hf(directory, mesh)
    policy = Policy(cfg, sentencepiece.SentencePiece.load(directory / TOKENIZER), R1_ZERO)
    examples = tasks.held_out(problems)
    ready, texts, lengths, stopped = sampler.sync(params, mesh), [], [], []
    for first in range(0, problems, 64):  # a thousand rows at a time
        some = examples[first : first + 64]
        rollout, said = complete(policy, ready, some, Draws(samples, 0, 0), mesh, sampler.Sampling(256))
        texts += said
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
    return figures | nano_samples.table(texts, examples, right)


def write_card(directory: Path, command: Command, counts: dict[str, int], seconds: float, scores: dict) -> None:
    """Writes card.json into the base's directory: recipe, seed, hashes of the files, scores, counts and training time.

    Args:
        counts: the numbers of parameters and of training tokens.
        seconds: the training time.
        scores: what `measure` returns.
    """
    hashes = {path.name: file_sha256(path) for path in sorted(directory.iterdir()) if path.name != "card.json"}
    card = {
        "command": f"python -m experiments.nano_base --model={command.model} --steps={command.recipe.steps}",
        "recipe": dataclasses.asdict(command.recipe),
        "seed": command.seed,
        **counts,
        "minutes": round(seconds / 60, 1),
        "versions": manifests.versions(),
        "sha256": hashes,
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
    }
    (directory / "card.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    cli.main(Command, main, __doc__)
