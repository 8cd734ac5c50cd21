"""Computes the values of a value network on packed rows, and its loss.

A value network is the decoder with a scalar head, which reward models have too (`reward_head`). The value of the state
before a token is the output of the head at the slot that predicts this token (`PackedRows.source`).
"""

from __future__ import annotations

import dataclasses
import functools

import jax
from jaxtyping import Array, Float

from r1jax.losses import value_loss
from r1jax.model import transformer
from r1jax.model.packed_rows import PackedRows
from r1jax.training.logprobs import LOAD, Network, hidden_before, put_wanted, take_wanted
from r1jax.training.packing import Minibatch
from r1jax.training.step import Loss


def packed_values(network: Network, params: dict, rows: PackedRows) -> tuple[Float[Array, "R S"], dict[str, Array]]:
    """Returns the value of the state before every token of packed rows, and metrics of the forward pass.

    If `rows.wanted` is given, only the slots that it names are computed, and all others are 0.

    Args:
        network: settings of the forward pass. Its config has a reward head.
        params: all parameters of the value network.
        rows: the packed rows. Their routes, which are the policy's, are not replayed.

    Returns:
        Values, and {LOAD: number of tokens that chose each expert}, as `Network.logprobs` returns it.
    """
    hidden, load = hidden_before(network.cfg, params, rows._replace(routes=None), network.reading)
    values = transformer.rewards(params, hidden).reshape(take_wanted(rows.tokens, rows).shape)
    return put_wanted(values, rows), {} if load is None else {LOAD: load}


@functools.partial(jax.jit, static_argnames=("network",))
def score_values(network: Network, params: dict, rows: PackedRows) -> Float[Array, "R S"]:
    """Returns the value of the state before every token of packed rows, without gradients."""
    return packed_values(dataclasses.replace(network, remat="none"), params, rows)[0]


@functools.cache
def value_objective(clip: float) -> Loss:
    """Returns the `Learner.loss` of a value network, a function (network, params, Minibatch) -> (loss, metrics).

    The minibatch must have `old_value` and `returns`. Tokens have the same weights as in the policy's loss. The result
    is cached, so that equal losses share their compiled updates.

    Args:
        clip: c of `losses.value_loss`; 0 for no clip.
    """

    def loss(network: Network, params: dict, batch: Minibatch) -> tuple[Array, dict[str, Array]]:
        values, passed = packed_values(network, params, batch.rows)
        value, sums = value_loss(values, batch.old_value, batch.returns, batch.weight, clip=clip)
        return value, sums | passed

    return loss
