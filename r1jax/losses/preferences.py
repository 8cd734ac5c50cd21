"""Computes losses of preferences.

A preference is a pair of a chosen and a rejected completion, or a single completion with a label.

Log-probabilities [N] are sums over a completion's tokens, in nats. If a function takes means instead, its docstring
says so. The formula in a docstring is the value of one pair or completion. The loss is Σ w·value, where w is `weight`.
By default w is 1/N, so the loss is a mean. For a minibatch in several micro-batches, give weights that add up to 1 over
the whole minibatch. The losses of the micro-batches then add up to the loss of the minibatch.

Each loss function also returns weighted sums to log. The implicit reward of a completion is β log(π/π_ref), or β log π
without a reference policy. "reward/chosen" sums w times the implicit reward of the chosen completions.
"reward/rejected" is the same sum for the rejected completions. For pairs, "reward/margin" sums w times the margin: the
chosen completion's reward minus the rejected one's. "accuracy" sums w over the pairs whose margin is positive.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

Result = tuple[jax.Array, dict[str, jax.Array]]


def dpo_loss(
    chosen: jax.Array,
    rejected: jax.Array,
    ref_chosen: jax.Array,
    ref_rejected: jax.Array,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    weight: jax.Array | None = None,
) -> Result:
    """Returns the DPO loss Σ w·value over pairs, and figures to log.

        value = −log σ(β (log(π/π_ref) of chosen − log(π/π_ref) of rejected))

    Args:
        chosen, rejected: [N] log π of the completions of each pair. Gradients flow through these two arguments only.
        ref_chosen, ref_rejected: [N] log π_ref.
        beta: β.
        label_smoothing: probability that a label is wrong ("conservative DPO"). 0 trusts all labels.
        weight: [N] w; None means 1/N.

    Returns:
        The loss, and sums over pairs, weighted with w. "reward/chosen" and "reward/rejected" sum the implicit reward
        β log(π/π_ref). "reward/margin" sums the margin: the chosen completion's reward minus the rejected one's.
        "accuracy" sums w where the margin is positive.

    Source: Rafailov et al. 2023 (DPO), eq. 7; label smoothing: Mitchell 2023, "A note on DPO with noisy preferences".
    """
    win, lose = _implicit(beta, chosen, ref_chosen), _implicit(beta, rejected, ref_rejected)
    margin = win - lose
    value = -(1 - label_smoothing) * jax.nn.log_sigmoid(margin) - label_smoothing * jax.nn.log_sigmoid(-margin)
    return _add(value, weight), _figures(win, lose, weight)


def ipo_loss(
    chosen: jax.Array,
    rejected: jax.Array,
    ref_chosen: jax.Array,
    ref_rejected: jax.Array,
    *,
    beta: float,
    weight: jax.Array | None = None,
) -> Result:
    """Returns the IPO loss Σ w·value over pairs, and figures to log as for `dpo_loss`.

        value = (h − 1/(2β))²,   h = log(π/π_ref) of chosen − log(π/π_ref) of rejected

    Args:
        chosen, rejected, ref_chosen, ref_rejected: as for `dpo_loss`. The paper uses sums over tokens. TRL and later
            work of the paper's authors use means over tokens, which may be given instead.
        beta: β, the paper's τ.
        weight: [N] w; None means 1/N.

    Source: Azar et al. 2023 (IPO), eq. 17.
    """
    h = (chosen - rejected) - jax.lax.stop_gradient(ref_chosen - ref_rejected)
    value = jnp.square(h - 1 / (2 * beta))
    return _add(value, weight), _figures(
        _implicit(beta, chosen, ref_chosen), _implicit(beta, rejected, ref_rejected), weight
    )


def simpo_loss(
    chosen: jax.Array, rejected: jax.Array, *, beta: float, gamma: float, weight: jax.Array | None = None
) -> Result:
    """Returns the SimPO loss Σ w·value over pairs, and figures to log as for `dpo_loss`.

        value = −log σ(β (mean log π of chosen − mean log π of rejected) − γ)

    There is no reference policy: the implicit reward is β mean log π.

    Args:
        chosen, rejected: [N] means of log π over the tokens of each completion.
        beta, gamma: β and γ.
        weight: [N] w; None means 1/N.

    Source: Meng et al. 2024 (SimPO), eq. 6.
    """
    win, lose = beta * chosen, beta * rejected
    return _add(-jax.nn.log_sigmoid(win - lose - gamma), weight), _figures(win, lose, weight)


def orpo_loss(chosen: jax.Array, rejected: jax.Array, *, beta: float, weight: jax.Array | None = None) -> Result:
    """Returns the ORPO loss Σ w·value over pairs, and figures to log as for `dpo_loss`.

        value = −mean log π of chosen − λ log σ(log odds of chosen − log odds of rejected)

    There is no reference policy: the implicit reward is λ mean log π.

    Args:
        chosen, rejected: [N] means of log π over the tokens of each completion, below 0.
        beta: λ, the weight of the odds ratio.
        weight: [N] w; None means 1/N.

    Source: Hong et al. 2024 (ORPO), eq. 6 and 7: odds = P/(1 − P), P the geometric mean of the token probabilities.
    """
    log_odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    value = -chosen - beta * jax.nn.log_sigmoid(log_odds)
    return _add(value, weight), _figures(beta * chosen, beta * rejected, weight)


def kto_loss(
    logp: jax.Array,
    ref_logp: jax.Array,
    desirable: jax.Array,
    baseline: jax.Array,
    *,
    beta: float,
    weights: tuple[float, float] = (1.0, 1.0),
    weight: jax.Array | None = None,
) -> Result:
    """Returns the KTO loss Σ w λ (1 − v) over single completions with a label, and figures to log.

        v = σ(β (log(π/π_ref) − z)) if desirable, else σ(β (z − log(π/π_ref)))

    λ is the entry of `weights` for the label. z = max(0, baseline), without gradient.

    Args:
        logp, ref_logp: [N] log π and log π_ref of the completions.
        desirable: [N] bool, the labels.
        baseline: scalar, an estimate of KL(π ‖ π_ref), such as `mismatched_kl` returns.
        beta: β.
        weights: λ_D of desirable and λ_U of undesirable completions. For n_D desirable and n_U
            undesirable completions, the paper recommends that λ_D n_D / (λ_U n_U) lie between 1 and 4/3.
        weight: [N] w; None means 1/N.

    Returns:
        The loss; and sums weighted with w. "reward/chosen" is the sum of β log(π/π_ref) over desirable completions, and
        "reward/rejected" is the sum over undesirable completions. "desirable" is the sum of w over desirable
        completions, and "kl" is the sum of w·z.

    Source: Ethayarajh et al. 2024 (KTO), eq. 8.
    """
    reward = logp - jax.lax.stop_gradient(ref_logp)
    z = jax.lax.stop_gradient(jnp.maximum(baseline, 0.0))
    desirable = jnp.asarray(desirable, bool)
    sign = jnp.where(desirable, 1.0, -1.0)
    value = jnp.where(desirable, *weights) * (1 - jax.nn.sigmoid(beta * sign * (reward - z)))
    return _add(value, weight), _labelled(beta * reward, desirable, weight) | {"kl": _add(z + 0 * value, weight)}


def mismatched_kl(logp: jax.Array, ref_logp: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Returns KTO's z: the mean of log(π/π_ref) over completions after a wrong prompt; 0 if the mean is negative.

    Args:
        logp, ref_logp: [N] log π and log π_ref of the completions, each after the prompt of another completion.
        weight: [N] weight of each completion in the mean. If None, all weigh the same.

    Source: Ethayarajh et al. 2024, section 4.2. There, completion i follows prompt i+1 of the batch, and z has no
    gradient.
    """
    share = jnp.ones_like(logp) if weight is None else weight
    mean = jnp.sum(share * (logp - ref_logp)) / jnp.maximum(share.sum(), 1e-9)
    return jax.lax.stop_gradient(jnp.maximum(mean, 0.0))


def _add(values: jax.Array, weight: jax.Array | None) -> jax.Array:
    """Σ w·values, a mean if `weight` is None."""
    return values.mean() if weight is None else jnp.sum(weight * values)


def _implicit(beta: float, logp: jax.Array, ref_logp: jax.Array) -> jax.Array:
    """β log(π/π_ref), [N]."""
    return beta * (logp - jax.lax.stop_gradient(ref_logp))


def _figures(win: jax.Array, lose: jax.Array, weight: jax.Array | None) -> dict[str, jax.Array]:
    """The figures of pairs."""
    values = {"reward/chosen": win, "reward/rejected": lose, "reward/margin": win - lose, "accuracy": win > lose}
    return jax.lax.stop_gradient({name: _add(value * 1.0, weight) for name, value in values.items()})


def _labelled(reward: jax.Array, desirable: jax.Array, weight: jax.Array | None) -> dict[str, jax.Array]:
    """The figures of labelled completions. The rewards are sums over those of a label; "desirable" is their share."""
    values = {"reward/chosen": reward * desirable, "reward/rejected": reward * ~desirable, "desirable": desirable}
    return jax.lax.stop_gradient({name: _add(value * 1.0, weight) for name, value in values.items()})


def _log1mexp(x: jax.Array) -> jax.Array:
    """log(1 − eˣ) for x < 0, exact near 0 and far from it (Mächler 2012)."""
    return jnp.where(x > -0.6931472, jnp.log(-jnp.expm1(x)), jnp.log1p(-jnp.exp(x)))
