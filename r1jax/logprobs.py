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
    targets: Int[Array, M],
    temperature: ArrayLike = 1.0,
    *,
    cap: float = 0.0,
) -> tuple[Float[Array, M], Float[Array, M]]:
    """log softmax(hidden · unembedding / temperature) at `targets`, and the entropy there, both in nats and float32.

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
        logp = jnp.take_along_axis(logits, y[:, None], axis=-1)[:, 0] - normaliser
        frozen = jax.lax.stop_gradient(logits - normaliser[:, None])
        return logp, -jnp.sum(jnp.exp(frozen) * frozen, axis=-1)

    size = min(CHUNK, hidden.shape[0])
    pad = -hidden.shape[0] % size
    h = jnp.pad(hidden, ((0, pad), (0, 0))).reshape(-1, size, hidden.shape[-1])
    y = jnp.pad(targets, (0, pad)).reshape(-1, size)
    logp, entropy = jax.lax.map(chunk, (h, y))
    return logp.reshape(-1)[: hidden.shape[0]], entropy.reshape(-1)[: hidden.shape[0]]


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
) -> tuple[Float[Array, "R S"], Float[Array, "R S"], Float[Array, "L X"] | None]:
    """log π of every token of packed rows, each given what it may read, the entropy of its distribution, and the
    experts' loads.

    The first token of a row has no source; its value means nothing and no weight may lie on it.

    Args:
        dtype: of the network; logits, softmax and what is returned are float32.
        attention, mesh, row_shards: see `attend_packed`.
    """  # fmt: skip
    attend = attend_packed(rows, attention, mesh, row_shards=row_shards)
    replayed = None if rows.routes is None else jnp.moveaxis(rows.routes, 2, 0)
    hidden, _, routes = forward(
        cfg, params, rows.tokens, rows.positions, attend, chosen=replayed, dtype=dtype, remat=remat
    )
    load = None if routes is None else loads(routes, rows.group > 0, cfg.experts.count)
    predicting = jnp.take_along_axis(hidden, rows.source[..., None], axis=1)
    shape = rows.tokens.shape
    logp, entropy = token_logprobs(
        predicting.reshape(-1, hidden.shape[-1]),
        unembedding(params),
        rows.tokens.reshape(-1),
        temperature,
        cap=cfg.logit_cap,
    )
    return logp.reshape(shape), entropy.reshape(shape), load
