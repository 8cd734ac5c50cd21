"""Defines the content of the checkpoints of reinforcement learning.

Each kind of run has a type of its own, because Orbax cannot restore a checkpoint in which an optional field is absent.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from r1jax.rl.partial_rollouts import Waiting
from r1jax.training.step import TrainState


class RLState(NamedTuple):
    """The train state, and the parameters of the reference policy."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    reference: dict


class PartialState(NamedTuple):
    """`RLState` plus the unfinished groups (--carry-over)."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    reference: dict
    waiting: Waiting


class AheadState(NamedTuple):
    """`RLState` plus the trained parameters under which the next round is sampled (--ahead)."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    reference: dict
    behaviour: dict


class ValuedState(NamedTuple):
    """`RLState` plus the train state of the value network and the unfinished groups ({} without --carry-over)."""

    step: jax.Array
    params: dict
    opt_state: optax.OptState
    reference: dict
    waiting: Waiting | dict
    critic: TrainState


def make_checkpoint_state(
    state: TrainState, reference: dict, waiting: Waiting | dict | None, mesh: Mesh, critic: TrainState | None = None
) -> RLState | PartialState | AheadState | ValuedState:
    """Returns the content of a checkpoint.

    Args:
        reference: the parameters of the reference policy.
        waiting: the unfinished groups with --carry-over; the trained parameters that sample the next round with
            --ahead; otherwise None. See `rounds.Sample.waiting_at`.
        critic: the train state of the value network; None without one.
    """
    if isinstance(waiting, dict):
        return AheadState(*state, reference, waiting)
    held = {} if waiting is None else jax.device_put(waiting, NamedSharding(mesh, P()))
    if critic is not None:
        return ValuedState(*state, reference, held, critic)
    return PartialState(*state, reference, held) if held else RLState(*state, reference)
