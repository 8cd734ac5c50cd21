"""Reward models: one number for a text, read off its last token.

R1 has two. The helpful one is trained on pairs and reads only what follows the chain of thought; the safety one is
trained on single responses and reads everything. What each is given is made by one function each, and by nothing else.

A text has a row of its own, padded on the right to its *bucket*, a power of two or one and a half, so that there is one
program for each bucket.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from r1jax.model import transformer
from r1jax.model.attention import attend_full, causal
from r1jax.model.config import ModelConfig
from r1jax.prompts import R1, fill
from r1jax.rewards.format import THINK, THINK_END
from r1jax.sampler import agreed, half_rung
from r1jax.sharding import ROWS, local_rows, local_shards, place, rows_in_turn, shard_rows
from r1jax.tokenizer import Tokenizer
from r1jax.update import Learner, Sums, TrainState, apply, keep_place, places

LEAST_SLOTS = 32
TOGETHER = 64  # texts of a process that are scored at one time


class RewardModel(NamedTuple):
    """A reward model ready to score: its reward is scale · (the head's number) + offset."""

    cfg: ModelConfig
    params: dict
    tokenizer: Tokenizer
    scale: float = 1.0
    offset: float = 0.0


class Texts(NamedTuple):
    """Rows of one text each, and the slot of its last token."""

    tokens: Int[Array, "R S"]
    last: Int[Array, "R"]


class Judged(NamedTuple):
    """A micro-batch of judged texts.

    Attributes:
        label: 1 for what was judged safe, 0 for unsafe. Of pairs, chosen and rejected rows take turns.
        weight: of each row; of a pair its first row's. 0 where a row only fills the batch.
    """

    texts: Texts
    label: Float[Array, "R"]
    weight: Float[Array, "R"]


def summary_of(completion: str) -> str:
    """What a reader is shown: the text after the chain of thought. Nothing where that never began, or is not over."""
    before, closed, rest = completion.rpartition(THINK_END)
    if not closed or THINK in rest or before.count(THINK) > before.count(THINK_END) + 1:
        return ""
    return rest.strip()


def helpful_input(question: str, completion: str) -> str:
    """What the helpfulness model reads: the question and the summary.

    Source: Nature 2025, Methods ("exclusively on the final summary").
    """
    return f"{fill(R1, question)} {summary_of(completion)}"


def safety_input(question: str, completion: str) -> str:
    """What the safety model reads: the question and everything.

    Source: ibid. ("the entire response ..., including both the reasoning process and the summary").
    """
    return f"{fill(R1, question)} {completion.strip()}"


def with_head(cfg: ModelConfig, params: dict, mesh: Mesh) -> tuple[ModelConfig, dict]:
    """A language model as a reward model that rewards nothing yet: zeros in place of the unembedding. A reward model as
    it is."""
    if cfg.reward_head:
        return cfg, params
    dtype = params["embed"]["embedding"].dtype
    head = place({"reward_head": {"kernel": jnp.zeros((cfg.width, 1), dtype)}}, mesh)
    kept = {name: part for name, part in params.items() if name not in ("unembed", "mtp")}
    return dataclasses.replace(cfg, reward_head=True, mtp_layers=0), kept | head


def tokenized(tokenizer: Tokenizer, text: str) -> list[int]:
    """A text and the token that ends it, where its reward is read."""
    return [*tokenizer.encode(text), tokenizer.eos_id]


def bucket(length: int) -> int:
    """The slots of a row for a text of `length` tokens: every number of them is a program to compile."""
    return half_rung(length, LEAST_SLOTS)


def padded(sequences: Sequence[Sequence[int]], rows: int, slots: int) -> Texts:
    """Token lists in rows of their own, on the host; rows beyond them are empty."""
    tokens, last = np.zeros((rows, slots), np.int32), np.zeros(rows, np.int32)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = sequence
        last[i] = len(sequence) - 1
    return Texts(tokens, last)


def rewards(
    cfg: ModelConfig,
    params: dict,
    texts: Texts,
    *,
    dtype: DTypeLike = jnp.float32,
    remat: str = "none",
    row_shards: int | None = None,
) -> Float[Array, "R"]:
    """The head's number at the last token of each text, float32. Padding lies behind it and is never read."""
    slots = texts.tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(slots), texts.tokens.shape)
    attend = attend_full(causal(slots), row_shards=row_shards)
    hidden, _, _ = transformer.forward(cfg, params, texts.tokens, positions, attend, dtype=dtype, remat=remat)
    last = jnp.take_along_axis(hidden, texts.last[:, None, None], axis=1)[:, 0]
    return transformer.rewards(params, last)


@functools.partial(jax.jit, static_argnames=("cfg", "row_shards", "where"))
def rewarded(
    cfg: ModelConfig, params: dict, texts: Texts, row_shards: int | None, where: NamedSharding
) -> Float[Array, "R"]:
    return jax.lax.with_sharding_constraint(rewards(cfg, params, texts, row_shards=row_shards), where)


def score(model: RewardModel, texts: Sequence[str], mesh: Mesh, together: int = TOGETHER) -> np.ndarray:
    """[N] calibrated rewards of texts, float64 on the host, whatever their lengths. Every process calls it, with texts
    of its own.

    Args:
        together: how many texts of a process are read at one time; what they need of memory bounds it.
    """
    tokens = [tokenized(model.tokenizer, text) for text in texts]
    order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    rows = -(-together // local_shards(mesh)) * local_shards(mesh)
    found = np.zeros(len(texts))
    with within(model.cfg, mesh):
        for b in range(agreed(-(-len(texts) // rows))):
            mine = order[b * rows : (b + 1) * rows]
            slots = agreed(bucket(max((len(tokens[i]) for i in mine), default=0)))
            placed = Texts(*shard_rows(padded([tokens[i] for i in mine], rows, slots), mesh))
            values = rewarded(model.cfg, model.params, placed, rows_in_turn(mesh), NamedSharding(mesh, ROWS))
            found[mine] = local_rows(values)[: len(mine)]
    return model.scale * found + model.offset


def within(cfg: ModelConfig, mesh: Mesh) -> Any:
    """The mesh as a context where there are experts, who read it where they are visited."""
    return jax.set_mesh(mesh) if cfg.experts else contextlib.nullcontext()


def pairwise(values: Float[Array, "R"], batch: Judged) -> tuple[Array, dict[str, Array]]:
    """Bradley-Terry: −Σ w log σ(r_chosen − r_rejected), and the share of pairs in order.

    Source: Nature 2025, Methods ("pairwise loss"); Bradley & Terry 1952.
    """
    margin, weight = values[0::2] - values[1::2], batch.weight[0::2]
    return jnp.sum(weight * jax.nn.softplus(-margin)), {"accuracy": jnp.sum(weight * (margin > 0))}


def pointwise(values: Float[Array, "R"], batch: Judged) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of the label: −Σ w [y log σ(r) + (1 − y) log σ(−r)], and the share on the right side of 0.

    Source: ibid. ("point-wise methodology").
    """
    right = (values > 0) == (batch.label > 0.5)
    return jnp.sum(batch.weight * (jax.nn.softplus(values) - batch.label * values)), {
        "accuracy": jnp.sum(batch.weight * right)
    }


@functools.partial(jax.jit, static_argnames=("learner", "where"), donate_argnames=("sums",))
def accumulate(learner: Learner, params: dict, sums: Sums, batch: Judged, where: tuple = ()) -> Sums:
    """`sums` with the gradient and metrics of one micro-batch added; `learner.loss` is `pairwise` or `pointwise`."""

    def total(params: dict) -> tuple[Array, dict[str, Array]]:
        values = rewards(
            learner.cfg, params, batch.texts, dtype=learner.dtype, remat=learner.remat, row_shards=learner.row_shards
        )
        loss, metrics = learner.loss(values, batch)
        return loss, metrics | {"loss": loss}

    grads, metrics = jax.grad(total, has_aux=True)(params)
    grads = keep_place(grads, where) if where else grads
    return jax.tree.map(jnp.add, sums, Sums(grads, metrics))


@functools.partial(jax.jit, static_argnames=("where",))
def nothing(params: dict, where: tuple = ()) -> Sums:
    """Sums over no micro-batch."""
    zeros = jax.tree.map(jnp.zeros_like, params)
    return Sums(keep_place(zeros, where) if where else zeros, {"accuracy": jnp.float32(0), "loss": jnp.float32(0)})


def update(learner: Learner, state: TrainState, batches: Sequence[Judged]) -> tuple[TrainState, dict[str, Array]]:
    """One optimizer step on micro-batches, whose shapes may differ. Donates `state`; a step that is not finite is
    skipped."""
    where = places(state.params)
    sums = nothing(state.params, where)
    for batch in batches:
        sums = accumulate(learner, state.params, sums, batch, where)
    where = places(state)
    new, metrics = apply(learner, state, sums, where)
    # As in `update.update`: on a mesh of one device jit names the same place differently.
    leaves, structure = jax.tree.flatten(new)
    return jax.tree.unflatten(structure, jax.device_put(leaves, list(where))), metrics
