"""Log-probabilities of given tokens, without ever holding all logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, Int

from r1jax.model.attend_choice import attend_packed
from r1jax.model.config import ModelConfig
from r1jax.model.feedforward import loads
from r1jax.model.layers import soft_cap
from r1jax.model.transformer import forward, unembedding
from r1jax.rollout import PackedRows

CHUNK = 1024  # tokens whose logits exist at one time


def token_logprobs(
    hidden: Float[Array, "M D"],
    unembedding: Float[Array, "D V"],
    targets: Int[Array, "M *K"],
    temperature: ArrayLike = 1.0,
    *,
    cap: float = 0.0,
) -> tuple[Float[Array, "M *K"], Float[Array, M]]:
    """log softmax(hidden · unembedding / temperature) at `targets`, one or several of each token, and the entropy
    there, both in nats and float32.

    Logits are made chunk by chunk and made again in the backward pass. No gradient flows through the entropy: it is a
    metric.
    """

    @jax.checkpoint
    def chunk(args: tuple[Array, Array]) -> tuple[Array, Array]:
        h, y = args
        logits = jnp.einsum("md,dv->mv", h, unembedding.astype(h.dtype), preferred_element_type=jnp.float32)
        logits = soft_cap(logits, cap) / temperature
        # As the sampler does: the difference to the largest is exact, and what is left is small.
        logits = logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
        normaliser = jnp.log(jnp.sum(jnp.exp(logits), axis=-1))
        logp = jnp.take_along_axis(logits, y.reshape(len(y), -1), axis=-1) - normaliser[:, None]
        frozen = jax.lax.stop_gradient(logits - normaliser[:, None])
        return logp.reshape(y.shape), -jnp.sum(jnp.exp(frozen) * frozen, axis=-1)

    size = min(CHUNK, hidden.shape[0])
    pad = -hidden.shape[0] % size
    h = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(-1, size, hidden.shape[-1])
    each = targets.shape[1:]
    y = jnp.pad(targets, ((0, pad), *((0, 0) for _ in each))).reshape(-1, size, *each)
    logp, entropy = jax.lax.map(chunk, (h, y))
    return logp.reshape(-1, *each)[: hidden.shape[0]], entropy.reshape(-1)[: hidden.shape[0]]


def likeliest_tokens(
    hidden: Float[Array, "M D"], unembedding: Float[Array, "D V"], count: int, *, cap: float = 0.0
) -> tuple[Float[Array, "M K"], Int[Array, "M K"]]:
    """The `count` largest log-probabilities after each token, in nats and float32, and whose they are."""

    def chunk(h: Array) -> tuple[Array, Array]:
        logits = jnp.einsum("md,dv->mv", h, unembedding.astype(h.dtype), preferred_element_type=jnp.float32)
        return tuple(jax.lax.top_k(jax.nn.log_softmax(soft_cap(logits, cap)), count))

    size = min(CHUNK, hidden.shape[0])
    h = jnp.pad(hidden, ((0, -hidden.shape[0] % size), (0, 0))).reshape(-1, size, hidden.shape[-1])
    return tuple(x.reshape(-1, count)[: hidden.shape[0]] for x in jax.lax.map(chunk, h))


def packed_logprobs(
    cfg: ModelConfig,
    params: dict,
    rows: PackedRows,
    temperature: ArrayLike = 1.0,
    *,
    dtype: DTypeLike = jnp.float32,
    remat: str = "none",
    row_shards: int | None = None,
    attention: str = "xla",
    mesh: Mesh | None = None,
    targets: Int[Array, "R S K"] | None = None,
) -> tuple[Float[Array, "R S *K"], Float[Array, "R S"], Float[Array, "L X"] | None]:
    """log π of every token of packed rows, each given what it may read, the entropy of its distribution, and the
    experts' loads.

    The first token of a row has no source; its value means nothing and no weight may lie on it.

    Args:
        dtype: of the network; logits, softmax and what is returned are float32.
        attention, mesh, row_shards: see `attend_packed`.
        targets: other tokens than those of the rows, several in the place of each.
    """  # fmt: skip
    predicting, load = hidden_before(
        cfg, params, rows, dtype=dtype, remat=remat, row_shards=row_shards, attention=attention, mesh=mesh
    )
    wanted = rows.tokens if targets is None else targets
    shape = rows.tokens.shape
    logp, entropy = token_logprobs(
        predicting, unembedding(params), wanted.reshape(-1, *wanted.shape[2:]), temperature, cap=cfg.logit_cap
    )
    return logp.reshape(wanted.shape), entropy.reshape(shape), load


def hidden_before(
    cfg: ModelConfig, params: dict, rows: PackedRows, *, dtype: DTypeLike, remat: str, row_shards: int | None,
    attention: str, mesh: Mesh | None,
) -> tuple[Float[Array, "M D"], Float[Array, "L X"] | None]:
    """What each of the M = R·S tokens of packed rows is predicted from, and the experts' loads: see `packed_logprobs`.
    """  # fmt: skip
    attend = attend_packed(rows, attention, mesh, row_shards=row_shards)
    replayed = None if rows.routes is None else jnp.moveaxis(rows.routes, 2, 0)
    hidden, _, routes = forward(
        cfg, params, rows.tokens, rows.positions, attend, chosen=replayed, dtype=dtype, remat=remat
    )
    load = None if routes is None else loads(routes, rows.group > 0, cfg.experts.count)
    predicting = jnp.take_along_axis(hidden, rows.source[..., None], axis=1)
    return predicting.reshape(-1, hidden.shape[-1]), load
