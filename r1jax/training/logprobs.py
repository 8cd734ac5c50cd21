"""Computes log-probabilities of given tokens in chunks, so that the logits of all tokens never exist at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, Int

from r1jax.model.config import ModelConfig
from r1jax.model.feedforward import loads
from r1jax.model.kernels.backends import attend_packed
from r1jax.model.layers import soft_cap
from r1jax.model.packed_rows import PackedRows
from r1jax.model.transformer import Pass, forward, unembedding
from r1jax.sharding import ROW_AXES, UNEMBEDDING, fit_split, row_shards

CHUNK = 1024  # tokens whose logits exist on a device at the same time
CPU_LOGITS = 1 << 24  # logits that exist at the same time on a CPU device: several such arrays are alive
# Name of the metric that counts the tokens of each expert, [L, X]. It is summed over micro-batches, and `step.apply`
# replaces it by a single number.
LOAD = "experts/load"


class Reading(NamedTuple):
    """Settings of a forward pass over packed rows. Under `jit` they are a static argument.

    Attributes:
        dtype: dtype of the network; logits, softmax and results are float32.
        remat: what the backward pass recomputes: "none" (nothing), "dots" (all but attention and the products with
            weights) or "full" (all but attention); see `transformer.REMAT`.
        row_shards: number of shards over which the rows are divided. If given, attention processes the rows of a shard
            one after another; if None, all rows are processed at once (see `attend_full`).
        attention: name of the attention backend; see `attend_packed`.
        mesh: mesh over which the rows are sharded; None means one device.
        entropy_gradient: whether gradients flow through the entropy.
    """

    dtype: DTypeLike = jnp.float32
    remat: str = "none"
    row_shards: int | None = None
    attention: str = "xla"
    mesh: Mesh | None = None
    entropy_gradient: bool = False


PLAIN = Reading()


def chunk_of(vocab: int) -> int:
    """Returns the number of tokens whose logits exist on a device at the same time, for a vocabulary of `vocab` tokens.

    On CPUs this number is lower for large vocabularies. It is never below 128, because matrix products of fewer rows
    are slow.
    """
    if jax.default_backend() != "cpu":
        return CHUNK
    return min(CHUNK, max(128, CPU_LOGITS // vocab // 128 * 128))


def token_logprobs(
    hidden: Float[Array, "M D"],
    unembedding: Float[Array, "D V"],
    targets: Int[Array, "M *K"],
    temperature: ArrayLike = 1.0,
    *,
    cap: float = 0.0,
    entropy_gradient: bool = False,
    mesh: Mesh | None = None,
    tied: bool = False,
) -> tuple[Float[Array, "M *K"], Float[Array, M]]:
    """Returns log softmax(hidden · unembedding / temperature) at `targets`, and the entropy of that softmax.

    Both are in nats, float32. Logits are computed in chunks and recomputed in the backward pass.

    Args:
        targets: token ids: [M] for one token per position, or [M, K] for K tokens per position.
        cap: soft cap of the logits (`soft_cap`), applied before the temperature; 0 for none.
        entropy_gradient: whether gradients flow through the entropy. An entropy that is only a metric needs none.
        mesh: mesh over whose row shards the positions are divided; None means one device. Every device goes through the
            chunks of its own positions, and gathers the unembedding over the mesh axis `fsdp` once. If the mesh axis
            `tensor` splits the vocabulary, every device computes the logits of its own part.
        tied: whether the unembedding is the transposed embedding. On a mesh, the gradient of the unembedding is then
            summed over devices in the layout of the embedding. So XLA can sum it together with the gradient of the
            embedding.
    """

    def here(hidden: Array, unembedding: Array, targets: Array, axis: str | None = None) -> tuple[Array, Array]:
        def over(x: Array, total: Callable[[Array, str], Array]) -> Array:
            return total(x, axis) if axis else x

        @jax.checkpoint
        def chunk(args: tuple[Array, Array]) -> tuple[Array, Array]:
            h, y = args
            logits = jnp.einsum("md,dv->mv", h, unembedding.astype(h.dtype), preferred_element_type=jnp.float32)
            logits = soft_cap(logits, cap) / temperature
            # As in the sampler: the difference to the maximum is exact, and what remains is small.
            logits = logits - over(jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)), jax.lax.pmax)
            normaliser = jnp.log(over(jnp.sum(jnp.exp(logits), axis=-1), jax.lax.psum))
            logp = over(pick(logits, y.reshape(len(y), -1), axis), jax.lax.psum) - normaliser[:, None]
            each = logits - normaliser[:, None]
            each = each if entropy_gradient else jax.lax.stop_gradient(each)
            return logp.reshape(y.shape), -over(jnp.sum(jnp.exp(each) * each, axis=-1), jax.lax.psum)

        return in_chunks(chunk, unembedding.shape[1], hidden, targets)

    return by_shard(here, mesh, hidden, unembedding, targets, tied=tied)


def pick(logits: Float[Array, "m V"], targets: Int[Array, "m K"], axis: str | None) -> Float[Array, "m K"]:
    """Returns the logits at the targets.

    Args:
        axis: mesh axis over which the vocabulary is split; None if it is not split. With a split, the result is 0 for
            every target outside this device's part of the vocabulary.
    """
    if axis is None:
        return jnp.take_along_axis(logits, targets, axis=-1)
    local = targets - jax.lax.axis_index(axis) * logits.shape[-1]
    mine = (local >= 0) & (local < logits.shape[-1])
    return jnp.where(mine, jnp.take_along_axis(logits, jnp.where(mine, local, 0), axis=-1), 0.0)


def in_chunks(
    chunk: Callable, vocab: int, hidden: Float[Array, "M D"], *targets: Int[Array, "M *K"]
) -> tuple[Array, ...]:
    """Returns `chunk(hidden, *targets)`, computed for `chunk_of(vocab)` positions at a time."""
    count = hidden.shape[0]
    size = min(chunk_of(vocab), count)

    def cut(x: Array) -> Array:
        return jnp.pad(x, ((0, -count % size), *((0, 0) for _ in x.shape[1:]))).reshape(-1, size, *x.shape[1:])

    return tuple(x.reshape(-1, *x.shape[2:])[:count] for x in jax.lax.map(chunk, tuple(map(cut, (hidden, *targets)))))


def by_shard(
    f: Callable,
    mesh: Mesh | None,
    hidden: Float[Array, "M D"],
    unembedding: Float[Array, "D V"],
    *targets: Array,
    split: bool = True,
    tied: bool = False,
) -> tuple[Array, ...]:
    """Returns the result of f(hidden, unembedding, *targets, axis), where each row shard runs f on its own positions.

    The unembedding is gathered over the mesh axis `fsdp` once, in the dtype of the hidden states. Its gradient is
    scattered once. `f` gets `axis`, the mesh axis that still splits the vocabulary; None if `f` gets the whole
    vocabulary. Without this function, XLA would do one of two things: either every device would compute the chunks of
    all positions, or the logits of all positions would be summed over the devices.

    Args:
        split: whether the mesh axis `tensor` may split the vocabulary that `f` gets.
        tied: see `token_logprobs`.
    """
    if mesh is None or mesh.size == 1:
        return f(hidden, unembedding, *targets)
    rows = ROW_AXES if hidden.shape[0] % row_shards(mesh) == 0 else ()
    inner, axis = fit_split(UNEMBEDDING, unembedding.shape, mesh)
    axis = axis if split else None

    def each(hidden: Array, unembedding: Array, *targets: Array) -> tuple[Array, ...]:
        # Outside the loop: the gradient is then summed over devices once, and not in each round. Before the gather: the
        # sum is then over what is left of the gradient after its scatter.
        matrix = jax.lax.pcast(unembedding, tuple(a for a in rows if a != inner), to="varying")
        matrix = (matrix.T if tied else matrix).astype(hidden.dtype)
        if inner:
            matrix = jax.lax.all_gather(matrix, inner, tiled=True)
        matrix = matrix.astype(unembedding.dtype)  # the dtype in which the gradients of the chunks are added up
        hidden = jax.lax.pcast(hidden, (axis,), to="varying") if axis else hidden
        return f(hidden, matrix, *targets, axis=axis)

    specs = (P(rows), P(axis, inner) if tied else P(inner, axis), *(P(rows) for _ in targets))
    shared = jax.shard_map(each, mesh=mesh, in_specs=specs, out_specs=P(rows))
    return shared(hidden, unembedding.T if tied else unembedding, *targets)


def likeliest_tokens(
    hidden: Float[Array, "M D"],
    unembedding: Float[Array, "D V"],
    count: int,
    *,
    cap: float = 0.0,
    mesh: Mesh | None = None,
) -> tuple[Float[Array, "M K"], Int[Array, "M K"]]:
    """Returns the K = `count` most likely next tokens at each position: their log-probabilities, then their token ids.

    Log-probabilities are in nats, float32, at temperature 1. `cap` and `mesh` are the same as for `token_logprobs`.
    """

    def here(hidden: Array, unembedding: Array, axis: None = None) -> tuple[Array, Array]:
        def chunk(args: tuple[Array]) -> tuple[Array, Array]:
            matrix = unembedding.astype(hidden.dtype)
            logits = jnp.einsum("md,dv->mv", args[0], matrix, preferred_element_type=jnp.float32)
            return tuple(jax.lax.top_k(jax.nn.log_softmax(soft_cap(logits, cap)), count))

        return in_chunks(chunk, unembedding.shape[1], hidden)

    return by_shard(here, mesh, hidden, unembedding, split=False)


def packed_logprobs(
    cfg: ModelConfig,
    params: dict,
    rows: PackedRows,
    temperature: ArrayLike = 1.0,
    reading: Reading = PLAIN,
    targets: Int[Array, "R S K"] | None = None,
) -> tuple[Float[Array, "R S *K"], Float[Array, "R S"], Float[Array, "L X"] | None]:
    """Returns the log-probability of every token in packed rows, given the tokens before it in its own sequence.

    The first token of a prompt or document has no token before it in its own sequence. So its log-probability is
    meaningless, and its loss weight must be 0. If `rows.wanted` is given, only the slots that it names are computed,
    and the results of all other slots are 0.

    Args:
        targets: [R, S, K] tokens to score instead of the tokens in the rows, K per slot. If None, the tokens in the
            rows are scored.

    Returns:
        (log-probabilities, entropies, loads). The entropies are those of the distribution at each slot. The loads
        [L, X] are the number of tokens that chose each expert in each layer with experts; None if the model has no
        experts.
    """
    predicting, load = hidden_before(cfg, params, rows, reading)
    asked = take_wanted(rows.tokens if targets is None else targets, rows)
    logp, entropy = token_logprobs(
        predicting,
        unembedding(params),
        asked.reshape(-1, *asked.shape[2:]),
        temperature,
        cap=cfg.logit_cap,
        entropy_gradient=reading.entropy_gradient,
        mesh=reading.mesh,
        tied=cfg.tie_embeddings,
    )
    return put_wanted(logp.reshape(asked.shape), rows), put_wanted(entropy.reshape(asked.shape[:2]), rows), load


def take_wanted(x: Array, rows: PackedRows) -> Array:
    """Returns the entries [R, U, ..] of x [R, S, ..] at the slots that `rows.wanted` [R, U] names.

    Returns x itself if `rows.wanted` is None.
    """
    if rows.wanted is None:
        return x
    slots = jnp.minimum(rows.wanted, x.shape[1] - 1)
    return jnp.take_along_axis(x, slots.reshape(*slots.shape, *([1] * (x.ndim - 2))), axis=1)


def put_wanted(x: Array, rows: PackedRows) -> Array:
    """Returns an array [R, S, ..] with x [R, U, ..] at the slots that `rows.wanted` names, and 0 at all others.

    Returns x itself if `rows.wanted` is None.
    """
    if rows.wanted is None:
        return x
    empty = jnp.zeros((rows.tokens.shape[1], *x.shape[2:]), x.dtype)
    return jax.vmap(lambda slots, values: empty.at[slots].set(values, mode="drop"))(rows.wanted, x)


def hidden_before(
    cfg: ModelConfig, params: dict, rows: PackedRows, reading: Reading
) -> tuple[Float[Array, "M D"], Float[Array, "L X"] | None]:
    """Returns the hidden states that predict the tokens of packed rows, and the loads of the experts.

    The hidden states [M, D] have one entry for each of M slots. M is R·S, or R·U if `rows.wanted` names U slots per
    row. The loads [L, X] are the number of tokens that chose each expert in each layer with experts; None if the model
    has no experts.
    """
    attend = attend_packed(rows, reading.attention, reading.mesh, row_shards=reading.row_shards)
    replayed = None if rows.routes is None else jnp.moveaxis(rows.routes, 2, 0)
    how = Pass(reading.dtype, reading.remat, reading.mesh)
    hidden, _, routes = forward(cfg, params, rows.tokens, rows.positions, attend, chosen=replayed, how=how)
    load = None if routes is None else loads(routes, rows.group > 0, cfg.experts.count)
    predicting = jnp.take_along_axis(hidden, take_wanted(rows.source, rows)[..., None], axis=1)
    return predicting.reshape(-1, hidden.shape[-1]), load


@dataclasses.dataclass(frozen=True)
class Network:
    """The settings of a forward pass: everything that determines its result, except parameters and input. Under `jit`
    they are a static argument.

    Attributes:
        temperature: sampling temperature, at which log-probabilities are taken.
        dtype: dtype of the network; log-probabilities are float32.
        remat: what the backward pass recomputes: "none" (nothing), "dots" (all but attention and the products with
            weights) or "full" (all but attention); see `transformer.REMAT`.
        row_shards: number of shards over which the rows are divided. If given, attention processes the rows of a shard
            one after another; if None, all rows are processed at once (see `attend_full`).
        attention: name of the attention backend; see `attend_packed`.
        mesh: mesh over which the rows are sharded; None means one device.
        entropy_gradient: whether gradients flow through the entropy, for an entropy bonus.
    """

    cfg: ModelConfig
    temperature: float = 1.0
    dtype: DTypeLike = jnp.float32
    remat: str = "dots"
    row_shards: int | None = None
    attention: str = "xla"
    mesh: Mesh | None = None
    entropy_gradient: bool = False

    @property
    def detail(self) -> str:
        """The dtype and the attention backend in words, for the first line that a run prints."""
        return f"{jnp.dtype(self.dtype)}, attention {self.attention}"

    @property
    def reading(self) -> Reading:
        """The settings of a forward pass over packed rows."""
        return Reading(self.dtype, self.remat, self.row_shards, self.attention, self.mesh, self.entropy_gradient)

    def logprobs(
        self, params: dict, rows: PackedRows, targets: Int[Array, "R S K"] | None = None
    ) -> tuple[Float[Array, "R S *K"], Float[Array, "R S"], dict[str, Array]]:
        """Returns log-probabilities of the tokens of packed rows, entropies, and metrics of the forward pass.

        Args:
            targets: [R, S, K] tokens to score instead of the tokens in the rows; if None, the latter are scored.

        Returns:
            (log-probabilities, entropies, metrics). The entropies are those of the distribution at each slot. The
            metrics are {} if the model has no experts. Otherwise they have one key, the constant `LOAD`, whose value is
            the number of tokens that chose each expert. A loss must add these metrics to its own.
        """
        logp, entropy, load = packed_logprobs(self.cfg, params, rows, self.temperature, self.reading, targets)
        return logp, entropy, {} if load is None else {LOAD: load}
