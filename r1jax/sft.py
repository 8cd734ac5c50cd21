"""Supervised fine-tuning without its loop: numbers, records as documents, what is kept out of training, its loss."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax.checks import require
from r1jax.prompts import fill
from r1jax.rewards.format import THINK
from r1jax.run import Policy
from r1jax.sharding import row_shards
from r1jax.supervised import Documents, SFTRecipe, response_only, token_batches
from r1jax.update import Learner, score


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
    """Problems, a tenth of them at most, that training never sees; evaluations measure the loss on their records."""
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
    """Records {id, problem, response} and how many are drawn, relative to other parts; 0: as many as there are."""

    records: Sequence[Mapping]
    share: float = 0.0


def check(recipe: TuneRecipe, mesh: Mesh) -> None:
    """Raises ValueError for a recipe that cannot run."""
    shards, micro = row_shards(mesh), recipe.micro_rows or recipe.batch_rows
    rules = (
        (recipe.steps >= 0, f"--steps={recipe.steps} must be 0, which counts --epochs, or more"),
        (recipe.steps or recipe.epochs > 0, f"--epochs={recipe.epochs} must be above 0"),
        (micro % shards == 0, f"--micro-rows={micro} must be a multiple of the mesh's {shards} row shards"),
        (
            recipe.batch_rows % micro == 0,
            f"--batch-rows={recipe.batch_rows} must be a multiple of --micro-rows={micro}",
        ),
        (recipe.eval_problems >= 1, f"--eval-problems={recipe.eval_problems} must be at least 1"),
        (recipe.held_out_problems >= 0, f"--held-out-problems={recipe.held_out_problems} must be 0 or more"),
    )
    require(rules)


def document(record: Mapping, policy: Policy, row_length: int) -> tuple[list[int], list[float]]:
    """A record's tokens and their weights: none on template and question, one on the response and the end of text.

    Where the template begins the chain of thought, the response does not begin it again.

    Raises:
        ValueError: it does not fit a row.
    """
    asked, said = fill(policy.template, record["problem"]), record["response"]
    if asked.rstrip().endswith(THINK) and said.lstrip().startswith(THINK):
        said = said.lstrip().removeprefix(THINK)
    prompt = policy.tokenizer.encode(asked)
    response = [*policy.tokenizer.encode(said, start=False), policy.tokenizer.eos_id]
    if (size := len(prompt) + len(response)) > row_length:
        raise ValueError(
            f"record {record['id']} has {size} tokens and does not fit --row-length={row_length}: "
            "raise it, or drop the record"
        )
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
            f"--warmup-steps={recipe.warmup_steps} leaves nothing of {steps} steps: "
            "lower it, or give more records, --epochs or --steps"
        )
    return with_steps(recipe, steps)


def with_steps(recipe: TuneRecipe, steps: int) -> SFTRecipe:
    """The recipe with so many steps."""
    same = {field.name: getattr(recipe, field.name) for field in dataclasses.fields(SFTRecipe) if field.name != "steps"}
    return SFTRecipe(steps=steps, **same)


def loss_on(documents: Documents, recipe: TuneRecipe, ours: Learner, params: dict, mesh: Mesh) -> float:
    """The mean negative log-probability, in nats, of the response tokens of documents, each in a row of its own."""
    rows, lost, counted = recipe.micro_rows or recipe.batch_rows, 0.0, 0.0
    for first in range(0, len(documents), rows):
        batch = {
            name: np.zeros((rows, recipe.row_length), np.float32 if name == "weights" else np.int32)
            for name in ("tokens", "weights")
        }
        batch |= {
            f"tokens_{name}": np.zeros((rows, recipe.row_length), np.int32) for name in ("segment_ids", "positions")
        }
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
