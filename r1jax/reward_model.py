"""Reward models: one number for a text, read off its last token.

R1 has two. The helpful one is trained on pairs and reads only what follows the chain of thought; the safety one is trained
on single responses and reads everything. What each is given is made by one function each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from r1jax.model import transformer
from r1jax.model.attention import attend_full
from r1jax.model.config import ModelConfig
from r1jax.prompts import R1, fill
from r1jax.rewards.format import THINK, THINK_END
from r1jax.rollout import PackedRows, pack, visible
from r1jax.sharding import row_shards, shard_rows
from r1jax.tokenizer import Tokenizer

BUCKET = 8  # numbers of rows are multiples of it, so that few shapes are compiled


class RewardModel(NamedTuple):
    """A reward model ready to score: raw numbers become (number - offset) · scale.

    Attributes:
        row_length: S of its packed rows; longer texts lose their beginning.
    """

    cfg: ModelConfig
    params: dict
    tokenizer: Tokenizer
    row_length: int
    offset: float = 0.0
    scale: float = 1.0


class Texts(NamedTuple):
    """Packed rows of N texts and where each one ends: `last` = row · S + slot."""

    rows: PackedRows
    last: Int[Array, "N"]


def summary_of(completion: str) -> str:
    """What a reader is shown: the text after the chain of thought; nothing while that is not closed."""
    if THINK not in completion and THINK_END not in completion:
        return completion.strip()
    return completion.rpartition(THINK_END)[2].replace(THINK, "").strip() if THINK_END in completion else ""


def helpful_input(question: str, completion: str) -> str:
    """What the helpfulness model reads. Source: Nature 2025, Methods ("exclusively on the final summary")."""
    return f"{fill(R1, question)} {summary_of(completion)}"


def safety_input(question: str, completion: str) -> str:
    """What the safety model reads. Source: ibid. ("the entire response ..., including both the reasoning process and the summary")."""
    return f"{fill(R1, question)} {completion.strip()}"


def head(cfg: ModelConfig, params: dict) -> tuple[ModelConfig, dict]:
    """A language model as a reward model that rewards nothing yet: a head of zeros in place of the unembedding."""
    cfg = ModelConfig.from_dict(cfg.as_dict() | {"reward_head": True})
    kept = {name: part for name, part in params.items() if name != "unembed"}
    return cfg, kept | {"reward_head": {"kernel": jnp.zeros((cfg.width, 1))}}


def packed_texts(tokenizer: Tokenizer, texts: Sequence[str], row_length: int, rows_of: int = BUCKET) -> Texts:
    """Texts with their end-of-text token, packed into a multiple of `rows_of` rows; NumPy arrays."""
    tokens = [[*tokenizer.encode(text), tokenizer.eos_id][-row_length:] for text in texts]
    completions = [(i, np.asarray(t[1:], np.int32)) for i, t in enumerate(tokens)]
    rows, places = pack([t[:1] for t in tokens], completions, row_length)
    extra = -rows.tokens.shape[0] % rows_of
    rows = jax.tree.map(lambda x: np.pad(x, [(0, extra)] + [(0, 0)] * (x.ndim - 1)), rows)
    last = [place.row * row_length + place.start + len(c) - 1 for place, (_, c) in zip(places, completions, strict=True)]
    return Texts(rows, np.asarray(last, np.int32))


def rewards(
    cfg: ModelConfig, params: dict, batch: Texts, *, dtype: DTypeLike = jnp.float32, remat: str = "none", shards: int | None = None
) -> Float[Array, "N"]:
    """The reward of each text, float32."""
    attend = attend_full(visible(batch.rows), row_shards=shards)
    hidden, _, _ = transformer.forward(cfg, params, batch.rows.tokens, batch.rows.positions, attend, dtype=dtype, remat=remat)
    return transformer.rewards(params, hidden.reshape(-1, hidden.shape[-1])[batch.last])


@functools.partial(jax.jit, static_argnames=("cfg", "shards"))
def _scored(cfg: ModelConfig, params: dict, batch: Texts, shards: int | None) -> Float[Array, "N"]:
    return rewards(cfg, params, batch, shards=shards)


def score(model: RewardModel, texts: Sequence[str], mesh: Mesh, shards: int | None = None) -> np.ndarray:
    """[N] calibrated rewards of texts, on the host. Of several processes each scores its own."""
    if not texts:
        return np.zeros(0)
    batch = packed_texts(model.tokenizer, texts, model.row_length, max(BUCKET, row_shards(mesh)))
    last = np.concatenate([batch.last, np.zeros(-len(batch.last) % 256, np.int32)])
    found = _scored(model.cfg, model.params, Texts(PackedRows(*shard_rows(batch.rows, mesh)), last), shards)
    return (np.asarray(found, np.float64)[: len(texts)] - model.offset) * model.scale


def pairwise(values: Float[Array, "N"], _: Array, weight: Float[Array, "M"]) -> Array:
    """Bradley-Terry: −Σ w log σ(chosen − rejected), where chosen and rejected take turns."""
    chosen, rejected = values[0::2], values[1::2]
    return -jnp.sum(weight * jax.nn.log_sigmoid(chosen - rejected))


def pointwise(values: Float[Array, "N"], safe: Float[Array, "N"], weight: Float[Array, "N"]) -> Array:
    """Cross-entropy of a label: −Σ w [y log σ(r) + (1 − y) log σ(−r)]."""
    return -jnp.sum(weight * (safe * jax.nn.log_sigmoid(values) + (1.0 - safe) * jax.nn.log_sigmoid(-values)))


Loss = Callable[[Array, Array, Array], Array]
