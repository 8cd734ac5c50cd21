"""Computes coefficients such as ε and β from the step number, or from the KL that the last step measured."""

from __future__ import annotations

import math


def adapt_kl(coef: float, measured: float, *, target: float, horizon: float, samples: float) -> float:
    """Returns the next β. This proportional controller changes β so that the KL approaches its target.

        β ← β (1 + clip(KL/target − 1, −0.2, 0.2) · samples/horizon)

    Args:
        coef: β.
        measured: KL of the last step.
        target: KL to hold, above 0, in the unit of `measured`.
        horizon: number of samples during which β changes by a factor of about e^0.2 at most.
        samples: number of samples in the last step.

    Source: Ziegler et al. 2019, section 2.2.
    """
    error = min(max(measured / target - 1, -0.2), 0.2)
    return coef * (1 + error * samples / horizon)


def linear(step: float, steps: float, first: float, last: float) -> float:
    """Returns a coefficient's value at `step`, on a linear schedule.

    The coefficient changes from `first` at step 0 to `last` at step number `steps`, and then stays at `last`.
    """
    return first + (last - first) * min(max(step / steps, 0.0), 1.0)


def cosine(step: float, steps: float, first: float, last: float) -> float:
    """Returns a coefficient's value at `step`, on a cosine schedule.

    The coefficient goes along half a cosine from `first` at step 0 to `last` at step number `steps`, and then stays at
    `last`.
    """
    return last + (first - last) * (1 + math.cos(math.pi * min(max(step / steps, 0.0), 1.0))) / 2
