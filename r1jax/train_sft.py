"""Runs supervised fine-tuning: reads records, packs rows, updates the policy, measures the held-out loss, and saves
checkpoints.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jax.sharding import Mesh

from r1jax import storage
from r1jax.data import questions
from r1jax.evaluation.during_training import Examination, examine
from r1jax.model import lora
from r1jax.model.config import ModelConfig
from r1jax.model.kernels.backends import attention_backend
from r1jax.model.lora import merge
from r1jax.policy import Policy
from r1jax.recipes import PretrainRecipe, RunOptions, SFTRecipe
from r1jax.rewards.isolate import Pool
from r1jax.rewards.kinds import GENERAL
from r1jax.rewards.language import spoken
from r1jax.rl.checks import refuse_rewards
from r1jax.runs import manifests, templates
from r1jax.runs.run import Run
from r1jax.runs.step_logger import Times
from r1jax.runs.templates import CHAT, Asked, read_template
from r1jax.sft import teacher_logits
from r1jax.sft.conversations import encode_conversation
from r1jax.sft.documents import Part, check, choose_held_out, document, measure_loss, resolve_steps
from r1jax.sharding import compute_dtype, rows_in_turn
from r1jax.training.logprobs import Network
from r1jax.training.objectives import cross_entropy, soft_cross_entropy
from r1jax.training.optimizers import optimizer
from r1jax.training.step import Learner, start, update
from r1jax.training.supervised_batches import Documents, batches, token_batches

HELD_OUT = ("loss", "accuracy", "format", "language", "length")  # values of an evaluation that are printed on screen


def train(
    recipe: SFTRecipe,
    options: RunOptions,
    stage: str,
    parts: Sequence[Part],
    data: Mapping,
    teaching: teacher_logits.Teaching = teacher_logits.NOBODY,
) -> Path:
    """Fine-tunes the policy of `options` on records. Returns the working directory, which has the layout of an RL run.

    Args:
        recipe: the hyperparameters.
        options: flags of the run.
        stage: name of the stage, for the manifest and the default working directory.
        parts: sets of records to train on. The `share` of a part says how often its records are drawn.
        data: the manifest's entry for the records. `train` adds the entries that `describe_records` returns.
        teaching: a teacher whose likeliest tokens the policy learns in addition to the records' tokens; by default
            none.

    Raises:
        ValueError: a flag, record or checkpoint cannot be used.
        FloatingPointError: several updates in a row were not finite.
    """
    refuse_rewards(options, "fine-tuning learns from records")
    fields = dataclasses.asdict(recipe) | dataclasses.asdict(options) | dataclasses.asdict(teaching)
    with Run(stage, options, fields, defaults=manifests.defaults_of(recipe, options, teaching)) as run:
        check(recipe, run.mesh)
        parts = [part for part in parts if part.records]
        if not parts:
            raise ValueError(
                "no record to train on: all have keep=false. Each record states its reason; "
                "loosen the filters, or set keep to true"
            )
        run.claim(dict(data) | describe_records(parts), "records")
        problems = questions.held_out(options.eval_prompts, recipe.eval_problems) if options.eval_prompts else None
        policy, params = run.load_policy(frozen=recipe.lora_rank > 0)
        params, frozen = split_trained(recipe, run, params)
        lessons = prepare(recipe, run, parts, policy, teaching)
        problems = ask_unseen(lessons.held_out[: recipe.eval_problems]) if problems is None else problems
        learner = make_learner(lessons.numbers, recipe.remat, policy.cfg, run.mesh, soft=lessons.taught is not None)
        stream = batches(lessons.trained, lessons.shares, recipe.row_length, recipe.batch_rows, options.seed)
        state = run.restore(lambda p: start(learner, p), params)
        if state is None:
            state = start(learner, params, run.mesh)
        else:
            stream.set_state(run.read_meta()["data"])
        if run.is_complete(lessons.numbers.steps):
            return run.workdir
        pool = run.enter(Pool())

        def save() -> None:
            run.save(state, {"data": stream.get_state()})

        run.begin(policy, lessons.numbers.steps, detail=lessons.said, keep=save)
        run.say(templates.describe(policy, options, parts[0].records[0]["problem"]))

        def evaluate() -> dict:
            how = Examination(options.seed, recipe.max_tokens, recipe.log_samples)
            whole, line = merge(state.params, frozen), {}
            if problems:
                line, shown = examine(policy, whole, problems, run.mesh, pool, how)
                run.write_samples({"step": run.step} | sample for sample in shown)
            unseen = lessons.unseen
            if not len(unseen):
                return line
            slots = dict(rows=recipe.micro_rows or recipe.batch_rows, row_length=recipe.row_length)
            return {"loss": measure_loss(unseen, learner.network, whole, run.mesh, **slots)} | line

        def describe(figures: dict[str, float], times: Times) -> dict:
            return {
                "loss": figures["loss"],
                "grad_norm": figures["grad_norm"],
                "update/skipped": figures["skipped"],
                "perf/step_s": times.seconds,
                "perf/tokens_per_s": recipe.batch_rows * recipe.row_length / times.seconds,
            }

        if run.owes_evaluation:
            run.evaluate(evaluate, HELD_OUT)
        while run.step < run.steps:
            batch = token_batches(next(stream), run.mesh, recipe.micro_rows, lessons.targets)
            ready = run.watch(batch)
            state, figures = update(learner, state, batch, frozen)
            run.log(figures, describe, ready, batch)
            if run.due(recipe.eval_every):
                run.evaluate(evaluate, HELD_OUT)
            if run.due(recipe.save_every, at_stop=True):
                save()
            run.stop_if_asked()
        return run.finish()


def describe_records(parts: Sequence[Part]) -> dict:
    """Returns the manifest's entry for the records.

    The entry is {"records": [number of records in each part], "shares": [share of each part], "sha256": hash of the
    records of all parts}.
    """
    names = ("id", "problem", "response", "messages")
    rows = ({name: r[name] for name in names if name in r} for part in parts for r in part.records)
    return {
        "records": [len(part.records) for part in parts],
        "shares": [part.share or len(part.records) for part in parts],
        "sha256": questions.fingerprint(rows),
    }


class Lessons(NamedTuple):
    """Tokenized records, ready for training.

    Attributes:
        trained: for each part (a source of records), its documents (tokenized records) to train on.
        shares: for each part, how often its documents are drawn, relative to the other parts.
        unseen: documents of the problems that are held out.
        tokens: number of tokens in the training documents.
        numbers: the hyperparameters, with the number of steps filled in.
        taught: the likeliest tokens of --teacher at each response token of `trained`; None without a teacher.
        held_out: the records of the problems that are held out, not tokenized.
        dropped: number of conversations left out, because they are longer than a row.
    """

    trained: Sequence[Documents]
    shares: Sequence[float]
    unseen: Documents
    tokens: int
    numbers: PretrainRecipe
    taught: teacher_logits.Likeliest | None
    held_out: Sequence[Mapping]
    dropped: int

    @property
    def targets(self):
        """The function `Likeliest.targets`, which returns the teacher's target tokens of a batch; None without
        --teacher.
        """
        return self.taught and self.taught.targets

    @property
    def said(self) -> str:
        """How many records and tokens there are, in words, for the first line on screen."""
        count = sum(map(len, self.trained))
        long = f", {self.dropped} longer than --row-length dropped" if self.dropped else ""
        return f"{count} records of {self.tokens} tokens ({len(self.unseen)} more kept out{long})"


def prepare(
    recipe: SFTRecipe, run: Run, parts: Sequence[Part], policy: Policy, teaching: teacher_logits.Teaching
) -> Lessons:
    """Splits off held-out problems, and tokenizes every training record once. With a teacher, computes the teacher's
    likeliest tokens.

    Args:
        parts: sets of records to train on.
        policy: the policy, whose template and tokenizer are used.
        teaching: the teacher, or `teacher_logits.NOBODY`.

    Raises:
        ValueError: a record is too long, or the teacher cannot be used.
    """
    asked = read_template(run.options, policy.tokenizer)
    whole, parts = parts, [drop_long(part, policy, recipe.row_length, asked, run.options) for part in parts]
    dropped = sum(len(a.records) - len(b.records) for a, b in zip(whole, parts, strict=True))
    out = choose_held_out(parts, recipe.held_out_problems)
    lessons = [[record for record in part.records if record["problem"] not in out] for part in parts]
    taught = None
    if teaching.teacher:
        records = [record for some in lessons for record in some]
        beside = storage.require_local(
            f"{run.workdir}_teacher", "--workdir", "the tokens of --teacher are kept in a local array beside the run"
        )
        taught = teacher_logits.find_top_tokens(
            teaching, policy, records, recipe.row_length, run.options, run.mesh, beside
        )

    def documents(records: list[Mapping], taught: teacher_logits.Likeliest | None = None) -> Documents:
        def make(i: int) -> tuple[list[int], list[float]]:
            if "messages" in records[i]:
                return encode_record(records[i], policy, asked, run.options)
            return document(records[i], policy, recipe.row_length)

        def first(i: int) -> int:
            return taught.first[records[i]["problem"], records[i]["response"]]

        return Documents(len(records), make, recipe.row_length, first if taught else None)

    shares = [part.share or len(part.records) for part in parts]
    kept = [(share, documents(some, taught)) for share, some in zip(shares, lessons, strict=True) if some]
    shares, trained = zip(*kept, strict=True)
    held_out = [record for part in parts for record in part.records if record["problem"] in out]
    unseen = documents(held_out)
    tokens = sum(
        len(some[i]["tokens"]) for some in trained for i in range(len(some))
    )  # tokenizes each record, so that a long one fails here
    return Lessons(trained, shares, unseen, tokens, resolve_steps(recipe, tokens), taught, held_out, dropped)


def encode_record(record: Mapping, policy: Policy, asked: Asked, options: RunOptions) -> tuple[list[int], list[float]]:
    """Returns the token ids and loss weights of a conversation.

    Any template can write one question with its reply. Other conversations need a chat template.

    Args:
        record: a mapping with the keys id and messages. One question with its reply also has problem and response.
        asked: the template, from `read_template`.
        options: flags of the run. Only --system-prompt is used, and only with a chat template.

    Raises:
        ValueError: the template cannot write the conversation. The message names the conversation's id.
    """
    roles = [message["role"] for message in record["messages"]]
    try:
        if asked.name == CHAT:
            return encode_conversation(record["messages"], policy.tokenizer, options.system_prompt)
        if roles != ["user", "assistant"]:
            raise ValueError(
                f"it has the turns {', '.join(roles)}, which --template={asked.name} cannot write. Use a model with a "
                "chat template, or conversations of one question and one reply"
            )
    except ValueError as error:
        raise ValueError(f"--data: conversation {record['id']}: {error}") from error
    return document(record, policy, sys.maxsize)


def drop_long(part: Part, policy: Policy, row_length: int, asked: Asked, options: RunOptions) -> Part:
    """Returns the part (a source of records) without conversations of more than `row_length` tokens.

    Keeps every record without `messages`, because it is not a conversation.

    Args:
        policy, asked, options: as for `encode_record`.

    Raises:
        ValueError: no record is left.
    """
    kept = [
        record
        for record in part.records
        if "messages" not in record or len(encode_record(record, policy, asked, options)[0]) <= row_length
    ]
    if not kept:
        raise ValueError(f"--row-length={row_length} is shorter than every conversation: raise --row-length")
    return part._replace(records=kept)


def ask_unseen(records: Sequence[Mapping]) -> list[dict]:
    """Returns the problem of each held-out record as an evaluation question that no verifier grades."""
    asked = [dict(id=record["id"], problem=record["problem"], gold=None, kind=GENERAL) for record in records]
    return [row | {"language": spoken(row["problem"])} for row in asked]


def split_trained(recipe: SFTRecipe, run: Run, params: dict) -> tuple[dict, dict | None]:
    """Returns (trained parameters, frozen parameters). With --lora-rank, the trained parameters are new LoRA adapters,
    and all others are frozen. Otherwise returns (all parameters, None).
    """
    if not recipe.lora_rank:
        return params, None
    adapters = (recipe.lora_rank, recipe.lora_alpha, recipe.lora_targets)
    return lora.prepare(params, *adapters, run.mesh, run.options.seed)


def make_learner(numbers: PretrainRecipe, remat: str, cfg: ModelConfig, mesh: Mesh, *, soft: bool) -> Learner:
    """Makes the network, optimizer and loss of a recipe.

    Args:
        soft: whether the loss is also computed against the teacher's likeliest tokens.
        remat: what the backward pass recomputes, as in `Network`.
    """
    network = Network(
        cfg,
        dtype=compute_dtype(mesh),
        remat=remat,
        row_shards=rows_in_turn(mesh),
        attention=attention_backend(mesh, cfg),
        mesh=mesh,
    )
    return Learner(network, optimizer(numbers.descent), soft_cross_entropy if soft else cross_entropy)
