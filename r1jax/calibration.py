"""What rewards say about themselves on held-out judgements: right how often, sure with what right, fond of length or
not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

NEWTON = 50
BINS = 10


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64)))


def standard(values: np.ndarray) -> dict[str, float]:
    """{scale, offset} for which scale·value + offset has mean 0 and deviation 1."""
    values = np.asarray(values, np.float64)
    scale = 1.0 / max(values.std(), 1e-6)
    return {"scale": float(scale), "offset": float(-scale * values.mean())}


def platt(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """{scale, offset} for which σ(scale·value + offset) is the likeliest probability of label 1.

    Labels count as (n₁ + 1)/(n₁ + 2) and 1/(n₀ + 2), so that the answer is finite where a threshold parts them.

    Source: Platt 1999, "Probabilistic outputs for support vector machines", section 2.2; its flaw mended as in Lin, Lin
    & Weng
    2007: Newton's steps are halved until the loss falls.
    """
    x, y = np.asarray(values, np.float64), np.asarray(labels, bool)
    target = np.where(y, (y.sum() + 1.0) / (y.sum() + 2.0), 1.0 / ((~y).sum() + 2.0))
    centre, spread = x.mean(), max(x.std(), 1e-6)
    z = np.stack([(x - centre) / spread, np.ones_like(x)])

    def loss(w: np.ndarray) -> float:
        logits = w @ z
        return float(np.sum(np.logaddexp(0.0, logits) - target * logits))

    w = np.zeros(2)
    for _ in range(NEWTON):
        p = sigmoid(w @ z)
        gradient, curvature = z @ (p - target), (z * (p * (1.0 - p))) @ z.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        while loss(w - step) > loss(w) and np.abs(step).max() > 1e-12:
            step /= 2
        w = w - step
        if np.abs(step).max() < 1e-10:
            break
    return {"scale": float(w[0] / spread), "offset": float(w[1] - w[0] * centre / spread)}


def auc(values: np.ndarray, labels: np.ndarray) -> float | None:
    """Chance that a value of label 1 is above one of label 0, ties half; None where a label is absent."""
    values, labels = np.asarray(values), np.asarray(labels, bool)
    if labels.all() or not labels.any():
        return None
    difference = values[labels][:, None] - values[~labels][None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def calibration_error(probability: np.ndarray, labels: np.ndarray) -> float:
    """Mean distance of a probability from how often it comes true, over `BINS` bins weighted by what lies in them."""
    probability, labels = np.asarray(probability), np.asarray(labels, np.float64)
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [abs(probability[bins == b].mean() - labels[bins == b].mean()) * (bins == b).sum() for b in np.unique(bins)]
    return float(sum(gaps) / len(probability))


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson's; None where one of the two does not vary."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else None


def share(true: np.ndarray, where: np.ndarray) -> float | None:
    """Mean of `true` where `where`; None where that is nowhere."""
    return float(true[where].mean()) if where.any() else None


def of_pairs(
    values: np.ndarray, lengths: np.ndarray, phrases: np.ndarray, truth: Sequence[Sequence[float]] | None = None
) -> dict:
    """Held-out figures of a pairwise reward model.

    Args:
        values: [2P] raw rewards, chosen and rejected in turn; lengths and phrases of the same replies.
        truth: what the two replies of each pair are really worth, where somebody knows.
    """
    chosen, rejected = values[0::2], values[1::2]
    won, longer = chosen > rejected, lengths[0::2] - lengths[1::2]
    margins, labels = np.concatenate([chosen - rejected, rejected - chosen]), np.repeat([True, False], len(won))
    calibration = standard(values)
    # A standardised margin times this is the log-odds of being preferred.
    odds = platt(margins * calibration["scale"], labels)["scale"]
    figures = {
        "n": len(won), "accuracy": float(won.mean()), "loss": float(np.logaddexp(0.0, rejected - chosen).mean()),
        "accuracy_chosen_longer": share(won, longer > 0), "accuracy_chosen_shorter": share(won, longer < 0),
        "length_chosen": float(lengths[0::2].mean()), "length_rejected": float(lengths[1::2].mean()),
        **biases(values, lengths, phrases), "log_odds": odds,
        "calibration_error": calibration_error(sigmoid(odds * calibration["scale"] * margins), labels),
    }  # fmt: skip
    if truth is not None:
        worth = np.asarray(truth, np.float64)
        differ = worth[:, 0] != worth[:, 1]
        better = worth[:, 0] > worth[:, 1]
        figures |= {"accuracy_truth": share(won == better, differ), "annotator_truth": share(better, differ)}
    return figures | {"calibration": calibration}


def of_labels(
    values: np.ndarray, safe: np.ndarray, lengths: np.ndarray, phrases: np.ndarray, truth: Sequence[bool] | None = None
) -> dict:
    """Held-out figures of a pointwise reward model, as `of_pairs`."""
    safe = np.asarray(safe, bool)
    calibration = platt(values, safe)
    logits = calibration["scale"] * values + calibration["offset"]
    figures = {
        "n": len(safe), "accuracy": float(((logits > 0) == safe).mean()), "auc": auc(values, safe),
        "share_safe": float(safe.mean()),
        "loss": float(np.mean(np.logaddexp(0.0, values) - safe * values)), **biases(values, lengths, phrases),
        "calibration_error_before": calibration_error(sigmoid(values), safe),
        "calibration_error": calibration_error(sigmoid(logits), safe),
    }  # fmt: skip
    if truth is not None:
        known = np.asarray(truth, bool)
        figures |= {
            "accuracy_truth": float(((logits > 0) == known).mean()),
            "annotator_truth": float((safe == known).mean()),
        }
    return figures | {"calibration": calibration}


def biases(values: np.ndarray, lengths: np.ndarray, phrases: np.ndarray) -> Mapping[str, float | None]:
    """How the reward goes with length and with stock phrases."""
    return {"length_correlation": correlation(values, lengths), "phrase_correlation": correlation(values, phrases)}
