"""Defines reward models, which compute one number for a text, at its last token.

R1 has two reward models. The helpfulness model is trained on pairs and reads only the text after the chain of thought
(`helpful_input`). The safety model is trained on single responses and reads the entire response (`safety_input`).

Each text has a row of its own, padded on the right to a *bucket*, a row length that is a power of two or 1.5 times a
power of two. One program is compiled for each bucket.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int

from r1jax.distributed import gather_arrays
from r1jax.model import transformer
from r1jax.model.attention import Attend, attend_full, causal
from r1jax.model.buckets import half_rung
from r1jax.model.config import ModelConfig
from r1jax.model.feedforward import within
from r1jax.model.kernels.backends import attend_packed, attention_backend
from r1jax.model.packed_rows import PackedRows
from r1jax.prompts import R1, fill
from r1jax.rewards.format import THINK, THINK_END
from r1jax.sharding import ROWS, compute_dtype, fetch, place, row_shards, rows_in_turn, shard_rows
from r1jax.tokenizers.protocol import Tokenizer
from r1jax.training.logprobs import Network
from r1jax.training.step import Loss

LEAST_SLOTS = 32
TOGETHER = 64  # texts that a process scores at a time


class RewardModel(NamedTuple):
    """A reward model ready to score. The reward of a text is scale · (output of the reward head) + offset."""

    cfg: ModelConfig
    params: dict
    tokenizer: Tokenizer
    scale: float = 1.0
    offset: float = 0.0


class Texts(NamedTuple):
    """Tokens of R texts [R, S], one text per row of S slots; `last` [R] is the slot of each text's last token."""

    tokens: Int[Array, "R S"]
    last: Int[Array, "R"]


class Judged(NamedTuple):
    """A micro-batch of judged texts.

    Attributes:
        texts: the judged texts; for pairs, chosen and rejected alternate.
        label: 1 for safe, 0 for unsafe; not used for pairs.
        weight: loss weight of each row, 0 for padding rows. The weight of a pair is the weight of its first row.
    """

    texts: Texts
    label: Float[Array, "R"]
    weight: Float[Array, "R"]


def summary_of(completion: str) -> str:
    """Returns the text after the last </think>, stripped; "" if there is no </think> or a <think> is never closed."""
    before, closed, rest = completion.rpartition(THINK_END)
    if not closed or THINK in rest or before.count(THINK) > before.count(THINK_END) + 1:
        return ""
    return rest.strip()


def helpful_input(question: str, completion: str) -> str:
    """Returns the helpfulness model's input: the question, then the summary (the text after the chain of thought).

    Source: Nature 2025, Methods ("exclusively on the final summary").
    """
    return f"{fill(R1, question)} {summary_of(completion)}"


def safety_input(question: str, completion: str) -> str:
    """Returns the safety model's input: the question and the entire response.

    Source: Nature 2025, Methods ("the entire response ..., including both the reasoning process and the summary").
    """
    return f"{fill(R1, question)} {completion.strip()}"


def with_head(cfg: ModelConfig, params: dict, mesh: Mesh) -> tuple[ModelConfig, dict]:
    """Makes a reward model from a language model. Returns its config and parameters.

    A reward head of zeros replaces the unembedding. If `cfg` already has a reward head, `cfg` and `params` are returned
    unchanged.
    """
    if cfg.reward_head:
        return cfg, params
    dtype = params["embed"]["embedding"].dtype
    head = place({"reward_head": {"kernel": jnp.zeros((cfg.width, 1), dtype)}}, mesh)
    kept = {name: part for name, part in params.items() if name not in ("unembed", "mtp")}
    return dataclasses.replace(cfg, reward_head=True, mtp_layers=0), kept | head


def tokenized(tokenizer: Tokenizer, text: str) -> list[int]:
    """Tokenizes a text and appends EOS, where the reward is computed."""
    return [*tokenizer.encode(text), tokenizer.eos_id]


def bucket(length: int) -> int:
    """Returns the row length (slots) for a text of `length` tokens.

    There are few row lengths, because a program is compiled for each.
    """
    return half_rung(length, LEAST_SLOTS)


def padded(sequences: Sequence[Sequence[int] | np.ndarray], rows: int, slots: int) -> Texts:
    """Puts each token list into a row of its own, in NumPy arrays. Rows beyond the last list stay zero.

    Args:
        sequences: token ids of each text, at most `slots` each.
        rows: R, number of rows.
        slots: S, slots of a row.
    """
    tokens, last = np.zeros((rows, slots), np.int32), np.zeros(rows, np.int32)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = sequence
        last[i] = len(sequence) - 1
    return Texts(tokens, last)


def attend_texts(
    texts: Texts, attention: str = "xla", mesh: Mesh | None = None, *, row_shards: int | None = None
) -> Attend:
    """Returns an `attend` (see `r1jax.model.attention`) for texts that each have a row of their own.

    Args:
        attention, mesh, row_shards: see `attend_packed`. XLA uses one causal mask for all texts.
    """
    slots = jnp.arange(texts.tokens.shape[1])
    if attention == "xla":
        return attend_full(causal(slots.size), row_shards=row_shards)
    group = (slots[None, :] <= texts.last[:, None]).astype(jnp.int32)  # a text is a prompt without completions
    nothing = jnp.zeros_like(group)
    return attend_packed(PackedRows(texts.tokens, nothing, group, nothing, nothing), attention, mesh)


def rewards(
    cfg: ModelConfig,
    params: dict,
    texts: Texts,
    *,
    how: transformer.Pass = transformer.PLAIN,
    attention: str = "xla",
    row_shards: int | None = None,
) -> Float[Array, "R"]:
    """Returns the uncalibrated reward at each text's last token, float32. Padding follows that token and has no effect.

    Args:
        how: dtype, recomputation and mesh of the forward pass.
        attention: name of the attention backend; see `attend_packed`.
        row_shards: number of shards over which the rows are divided. Within a shard, attention processes one row after
            another. If None, attention processes all rows at once.
    """
    positions = jnp.broadcast_to(jnp.arange(texts.tokens.shape[1]), texts.tokens.shape)
    attend = attend_texts(texts, attention, how.mesh, row_shards=row_shards)
    hidden, _, _ = transformer.forward(cfg, params, texts.tokens, positions, attend, how=how)
    last = jnp.take_along_axis(hidden, texts.last[:, None, None], axis=1)[:, 0]
    return transformer.rewards(params, last)


@functools.partial(jax.jit, static_argnames=("cfg", "attention", "row_shards", "where"))
def rewarded(
    cfg: ModelConfig, params: dict, texts: Texts, attention: str, row_shards: int | None, where: NamedSharding
) -> Float[Array, "R"]:
    """Returns the same as `rewards`, computed under jit in the mesh's `compute_dtype`.

    `where` is the sharding of the result.
    """
    how = transformer.Pass(compute_dtype(where.mesh), mesh=where.mesh)
    found = rewards(cfg, params, texts, how=how, attention=attention, row_shards=row_shards)
    return jax.lax.with_sharding_constraint(found, where)


def score(model: RewardModel, texts: Sequence[str], mesh: Mesh, together: int = TOGETHER) -> np.ndarray:
    """Returns the calibrated rewards [n] of n texts of any length, float64 on the host.

    The network computes in bfloat16 on accelerators (`compute_dtype`), with their attention kernels. Every process must
    call this function, each with its own texts; some may have none.

    Args:
        together: number of texts that are scored at the same time. A larger number needs more memory.
    """
    tokens = [tokenized(model.tokenizer, text) for text in texts]
    sizes = np.asarray([len(ids) for ids in tokens], np.int32)
    parts = gather_arrays({"sizes": sizes, "ids": np.concatenate([np.zeros(0, np.int32), *tokens]).astype(np.int32)})
    before = sum(len(part["sizes"]) for part in parts[: jax.process_index()])
    tokens = [ids for part in parts for ids in np.split(part["ids"], np.cumsum(part["sizes"]))[:-1]]
    order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
    rows = -(-together // row_shards(mesh)) * row_shards(mesh)
    found, attention = np.zeros(len(tokens)), attention_backend(mesh, model.cfg)
    with within(model.cfg, mesh):
        for b in range(-(-len(tokens) // rows)):
            some = order[b * rows : (b + 1) * rows]
            slots = bucket(max(len(tokens[i]) for i in some))
            placed = Texts(*shard_rows(padded([tokens[i] for i in some], rows, slots), mesh))
            where = NamedSharding(mesh, ROWS)
            values = rewarded(model.cfg, model.params, placed, attention, rows_in_turn(mesh), where)
            found[some] = fetch(values)[: len(some)]
    return model.scale * found[before : before + len(texts)] + model.offset


def pairwise(values: Float[Array, "R"], batch: Judged) -> tuple[Array, dict[str, Array]]:
    """Returns the Bradley-Terry loss −Σ w log σ(r_chosen − r_rejected), and a dict of metrics.

    r is the reward of a reply, and w the loss weight of a pair. The metric "accuracy" is the weighted share of pairs
    whose chosen reply has the higher reward.

    Args:
        values: uncalibrated rewards, chosen and rejected alternating.

    Source: Nature 2025, Methods ("pairwise loss"); Bradley & Terry 1952.
    """
    margin, weight = values[0::2] - values[1::2], batch.weight[0::2]
    return jnp.sum(weight * jax.nn.softplus(-margin)), {"accuracy": jnp.sum(weight * (margin > 0))}


def pointwise(values: Float[Array, "R"], batch: Judged) -> tuple[Array, dict[str, Array]]:
    """Returns the cross-entropy −Σ w [y log σ(r) + (1 − y) log σ(−r)] of the labels y, and a dict of metrics.

    w is the loss weight of a text, and r its reward. The metric "accuracy" is the weighted share of texts that the sign
    of r classifies correctly: r > 0 for safe texts, r ≤ 0 for others.

    Source: Nature 2025, Methods ("point-wise methodology").
    """
    right = (values > 0) == (batch.label > 0.5)
    return jnp.sum(batch.weight * (jax.nn.softplus(values) - batch.label * values)), {
        "accuracy": jnp.sum(batch.weight * right)
    }


@functools.cache
def judged_loss(judge: Callable[[Array, Judged], tuple[Array, dict[str, Array]]]) -> Loss:
    """Returns the loss function of a reward model, to be used as `Learner.loss`. The function takes `Judged` batches.

    The result is cached: the same `judge` gives the same function, so that learners share one compiled update.

    Args:
        judge: `pairwise` or `pointwise`: a function (rewards [R] of R texts, their micro-batch) -> (sum of losses,
            sums of metrics).
    """

    def loss(network: Network, params: dict, batch: Judged) -> tuple[Array, dict[str, Array]]:
        values = rewards(
            network.cfg,
            params,
            batch.texts,
            how=transformer.Pass(network.dtype, network.remat, network.mesh),
            attention=network.attention,
            row_shards=network.row_shards,
        )
        return judge(values, batch)

    return loss
