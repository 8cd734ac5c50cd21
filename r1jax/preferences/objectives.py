"""Computes preference losses on packed rows. Each row holds a prompt with two completions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from r1jax.losses import dpo_loss, ipo_loss, kto_loss, mismatched_kl, orpo_loss, simpo_loss
from r1jax.model.packed_rows import PackedRows
from r1jax.training.logprobs import Network
from r1jax.training.step import Loss


class PairBatch(NamedTuple):
    """A micro-batch: a prompt with two completions in each of P rows.

    Attributes:
        rows: the tokens. `rows.segment` is 1 at tokens of the chosen completion, and 2 at tokens of the rejected
            completion. For KTO, whose items are single completions, segment 1 is the item's completion, and segment 2
            is the completion of another item, from which KTO estimates its KL term.
        weight: weight of each row in the loss; 0 for rows without an item.
        label: for KTO, 1 if the item's completion is desirable, else 0. For pairs, always 1.
        reference: Σ log π_ref of both completions. None if the loss has no reference policy, or if these sums are added
            later.
    """

    rows: PackedRows
    weight: Float[Array, "P"]
    label: Float[Array, "P"]
    reference: Float[Array, "P 2"] | None


class Settings(NamedTuple):
    """Hyperparameters of a preference loss: see `PreferenceRecipe`."""

    beta: float
    label_smoothing: float = 0.0
    gamma: float = 0.0
    undesirable_weight: float = 1.0


class Preference(NamedTuple):
    """A preference loss, as an entry of `PREFERENCES`.

    Attributes:
        loss: `(logp [P, 2], reference [P, 2], label [P], weight [P], settings) -> (loss, metrics)` of a micro-batch.
            `logp` and `reference` are log π and log π_ref of both completions of each row.
        referenced: whether the loss compares the policy with a reference policy.
        averaged: whether `loss` gets a completion's mean log-probability per token in place of the sum over its tokens.
        labelled: whether the loss learns from labelled completions in place of pairs.
    """

    loss: Callable[..., tuple[Array, dict[str, Array]]]
    referenced: bool = True
    averaged: bool = False
    labelled: bool = False


def dpo(logp: Array, reference: Array, label: Array, weight: Array, s: Settings) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics) of a micro-batch by `losses.dpo_loss`. The arguments are those of `Preference.loss`."""
    how = dict(beta=s.beta, label_smoothing=s.label_smoothing, weight=weight)
    return dpo_loss(*logp.T, *reference.T, **how)


def ipo(logp: Array, reference: Array, label: Array, weight: Array, s: Settings) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics) of a micro-batch by `losses.ipo_loss`. The arguments are those of `Preference.loss`.

    `logp` and `reference` are mean log-probabilities per token, as in later work of IPO's authors. The IPO paper
    uses sums over tokens.
    """
    return ipo_loss(*logp.T, *reference.T, beta=s.beta, weight=weight)


def simpo(logp: Array, reference: Array, label: Array, weight: Array, s: Settings) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics) of a micro-batch by `losses.simpo_loss`. The arguments are those of `Preference.loss`."""
    return simpo_loss(*logp.T, beta=s.beta, gamma=s.gamma, weight=weight)


def orpo(logp: Array, reference: Array, label: Array, weight: Array, s: Settings) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics) of a micro-batch by `losses.orpo_loss`. The arguments are those of `Preference.loss`."""
    return orpo_loss(*logp.T, beta=s.beta, weight=weight)


def kto(logp: Array, reference: Array, label: Array, weight: Array, s: Settings) -> tuple[Array, dict[str, Array]]:
    """Returns (loss, metrics) of a micro-batch by `losses.kto_loss`. The arguments are those of `Preference.loss`.

    KTO's z, an estimate of the KL divergence from the reference policy, is computed from this micro-batch.
    """
    (mine, other), (ref_mine, ref_other) = logp.T, reference.T
    z = mismatched_kl(other, ref_other, weight)
    how = dict(beta=s.beta, weights=(1.0, s.undesirable_weight), weight=weight)
    return kto_loss(mine, ref_mine, label > 0, z, **how)


# The names that --loss of experiments.dpo takes.
PREFERENCES: dict[str, Preference] = {
    "dpo": Preference(dpo),
    "ipo": Preference(ipo, averaged=True),
    "kto": Preference(kto, labelled=True),
    "orpo": Preference(orpo, referenced=False, averaged=True),
    "simpo": Preference(simpo, referenced=False, averaged=True),
}


@functools.cache
def preference_objective(name: str, settings: Settings) -> Loss:
    """Returns a preference loss as a function (network, params, batch) -> (loss, metrics), for `Learner.loss`.

    Equal arguments return the same function, so that JAX compiles the update once.

    Args:
        name: the name of the loss, a key of `PREFERENCES`.
        settings: the hyperparameters of the loss.
    """
    entry = PREFERENCES[name]

    def loss(network: Network, params: dict, batch: PairBatch) -> tuple[Array, dict[str, Array]]:
        per_token, _, passed = network.logprobs(params, batch.rows)
        logp, sizes = add_up(per_token, batch.rows)
        reference = jnp.zeros_like(logp) if batch.reference is None else batch.reference
        if entry.averaged:
            logp, reference = logp / jnp.maximum(sizes, 1), reference / jnp.maximum(sizes, 1)
        there = (batch.weight > 0)[:, None]
        logp, reference = jnp.where(there, logp, -1.0), jnp.where(there, reference, -1.0)
        value, figures = entry.loss(logp, reference, batch.label, batch.weight, settings)
        return value, figures | {"weight": batch.weight.sum()} | passed

    return loss


def add_up(per_token: Float[Array, "P S"], rows: PackedRows) -> tuple[Float[Array, "P 2"], Float[Array, "P 2"]]:
    """Returns (sums of `per_token` over the tokens of each completion, numbers of tokens of each completion)."""
    masks = [rows.segment == number for number in (1, 2)]
    sums = jnp.stack([jnp.where(mask, per_token, 0.0).sum(axis=1) for mask in masks], axis=1)
    return sums, jnp.stack([mask.sum(axis=1) for mask in masks], axis=1).astype(jnp.float32)


@functools.partial(jax.jit, static_argnames="network")
def score_pairs(network: Network, params: dict, rows: PackedRows) -> Float[Array, "P 2"]:
    """Returns Σ log π of both completions of each row, without gradients."""
    return add_up(network.logprobs(params, rows)[0], rows)[0]
