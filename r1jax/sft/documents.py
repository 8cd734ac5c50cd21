"""Turns SFT records into training documents, checks recipes, chooses held-out problems, and measures losses."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jax.sharding import Mesh

from r1jax.policy import Policy
from r1jax.prompts import fill
from r1jax.recipes import PretrainRecipe, SFTRecipe, require
from r1jax.rewards.format import THINK
from r1jax.sharding import row_shards
from r1jax.training.logprobs import Network
from r1jax.training.step import score
from r1jax.training.supervised_batches import Documents, response_only, token_batches


class Part(NamedTuple):
    """One source of training records.

    Attributes:
        records: mappings with keys id, problem and response.
        share: how often records of this part are drawn, relative to the shares of the other parts. If it is 0, the
            part's number of records is used as its share.
    """

    records: Sequence[Mapping]
    share: float = 0.0


def check(recipe: SFTRecipe, mesh: Mesh) -> None:
    """Raises ValueError if a number in the recipe cannot be used.

    A batch must divide evenly into micro-batches, and a micro-batch into the row shards of the mesh
    (`sharding.row_shards`).
    """
    shards, micro = row_shards(mesh), recipe.micro_rows or recipe.batch_rows
    rules = (
        (recipe.steps >= 0, f"--steps={recipe.steps} must be 0 (then --epochs sets the steps) or more"),
        (recipe.steps or recipe.epochs > 0, f"--epochs={recipe.epochs} must be above 0, or give --steps"),
        (
            micro % shards == 0,
            f"--micro-rows={micro} must be a multiple of the mesh's {shards} row shards (data·fsdp·expert of --mesh)",
        ),
        (
            recipe.batch_rows % micro == 0,
            f"--batch-rows={recipe.batch_rows} must be a multiple of --micro-rows={micro}",
        ),
        (recipe.eval_problems >= 1, f"--eval-problems={recipe.eval_problems} must be at least 1"),
        (recipe.held_out_problems >= 0, f"--held-out-problems={recipe.held_out_problems} must be 0 or more"),
    )
    require(rules)


def document(record: Mapping, policy: Policy, row_length: int) -> tuple[list[int], list[float]]:
    """Returns a record's token ids and their loss weights, two lists of equal length.

    The weights are 0 on the template and the question, and 1 on the response and the end-of-text token. If the template
    already ends in <think>, a leading <think> is removed from the response.

    Args:
        record: a mapping with keys id, problem and response.
        policy: its prompt template and tokenizer are used.

    Raises:
        ValueError: the document has more than `row_length` tokens.
    """
    asked, said = fill(policy.template, record["problem"]), record["response"]
    if asked.rstrip().endswith(THINK) and said.lstrip().startswith(THINK):
        said = said.lstrip().removeprefix(THINK)
    prompt = policy.tokenizer.encode(asked)
    response = [*policy.tokenizer.encode(said, start=False), policy.tokenizer.eos_id]
    if (size := len(prompt) + len(response)) > row_length:
        raise ValueError(
            f"record {record['id']} has {size} tokens and does not fit --row-length={row_length}: "
            "raise --row-length, or set the record's keep to false"
        )
    return response_only(prompt, response)


def choose_held_out(parts: Sequence[Part], count: int) -> set[str]:
    """Returns the problems to hold out: the `count` problems with the smallest hashes, but at most a tenth of all."""
    problems = {record["problem"] for part in parts for record in part.records}
    ordered = sorted(problems, key=lambda problem: (zlib.crc32(problem.encode()), problem))
    return set(ordered[: min(count, len(ordered) // 10)])


def resolve_steps(recipe: SFTRecipe, tokens: int) -> PretrainRecipe:
    """Returns the recipe as a `PretrainRecipe`, with its number of steps computed from `epochs` if `steps` is 0.

    Args:
        tokens: the number of training tokens in one epoch.

    Raises:
        ValueError: the warm-up takes all steps.
    """
    steps = recipe.steps or max(1, round(recipe.epochs * tokens / (recipe.batch_rows * recipe.row_length)))
    if recipe.warmup_steps >= steps:
        raise ValueError(
            f"--warmup-steps={recipe.warmup_steps} leaves nothing of {steps} steps for training: "
            "lower --warmup-steps, or give more records or a larger --epochs or --steps"
        )
    return with_steps(recipe, steps)


def with_steps(recipe: SFTRecipe, steps: int) -> PretrainRecipe:
    """Returns the recipe as a `PretrainRecipe` of `steps` steps."""
    same = {
        field.name: getattr(recipe, field.name) for field in dataclasses.fields(PretrainRecipe) if field.name != "steps"
    }
    return PretrainRecipe(steps=steps, **same)


def measure_loss(
    documents: Documents, network: Network, params: dict, mesh: Mesh, *, rows: int, row_length: int
) -> float:
    """Returns the mean negative log-probability of the documents' response tokens, in nats per token.

    Each document has a row of its own.

    Args:
        documents: tokenized documents with their loss weights.
        rows: R, documents in one forward pass.
        row_length: S, slots of a row.
    """
    lost, counted = 0.0, 0.0
    for first in range(0, len(documents), rows):
        batch = {
            name: np.zeros((rows, row_length), np.float32 if name == "weights" else np.int32)
            for name in ("tokens", "weights")
        }
        batch |= {f"tokens_{name}": np.zeros((rows, row_length), np.int32) for name in ("segment_ids", "positions")}
        for row, i in enumerate(range(first, min(first + rows, len(documents)))):
            one = documents[i]
            size = len(one["tokens"])
            batch["tokens"][row, :size], batch["weights"][row, :size] = one["tokens"], one["weights"]
            batch["tokens_segment_ids"][row, :size], batch["tokens_positions"][row, :size] = 1, np.arange(size)
        (placed,) = token_batches(batch, mesh)  # its weights sum to one: the result is the batch's mean
        here = float(batch["weights"].sum())
        logp = score(network, params, placed.rows)[0]
        lost -= here * float((placed.weight * logp).sum())
        counted += here
    return lost / max(counted, 1.0)
