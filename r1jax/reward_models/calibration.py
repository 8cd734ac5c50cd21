"""Computes accuracy, calibration and length bias of a reward model on held-out judgements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

NEWTON = 50
BINS = 10


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Returns σ(x) in float64, without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x, np.float64)))


def standard(values: np.ndarray) -> dict[str, float]:
    """Returns a dict {scale, offset} such that scale·values + offset has mean 0 and standard deviation 1.

    Args:
        values: [N] rewards of N texts.
    """
    values = np.asarray(values, np.float64)
    scale = 1.0 / max(values.std(), 1e-6)
    return {"scale": float(scale), "offset": float(-scale * values.mean())}


def platt(values: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Fits σ(scale·value + offset) to the probability that a text's label is true. Returns {scale, offset}.

    This is Platt scaling: the fit maximises the likelihood of the labels.

    With n₁ true and n₀ false labels, the targets are (n₁ + 1)/(n₁ + 2) and 1/(n₀ + 2) instead of 1 and 0, so that the
    fit is finite even if a threshold separates the labels.

    Args:
        values: [N] rewards of N texts.
        labels: [N] bool, the labels of these texts.

    Source: Platt 1999, "Probabilistic outputs for support vector machines", section 2.2; with the correction of Lin,
    Lin & Weng 2007, which halves a Newton step until the loss falls.
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
    """Returns the area under the ROC curve; None if all labels are equal.

    The area is the share of pairs (a text labelled True, a text labelled False) in which the first text has the higher
    reward. A tie counts one half.

    Args:
        values: [N] rewards of N texts.
        labels: [N] bool, the labels of these texts.
    """
    from scipy.stats import mannwhitneyu  # imported here: it takes a second, and every command imports this module

    values, labels = np.asarray(values), np.asarray(labels, bool)
    above, below = values[labels], values[~labels]
    if not above.size or not below.size:
        return None
    # "asymptotic" concerns only the p-value, which is not used; the statistic is exact.
    return float(mannwhitneyu(above, below, method="asymptotic").statistic / (above.size * below.size))


def calibration_error(probability: np.ndarray, labels: np.ndarray) -> float:
    """Returns the expected calibration error over `BINS` bins of equal width.

    Args:
        probability: [N] predicted probability that the label is true, for N texts.
        labels: [N] bool, the labels of these texts.
    """
    probability, labels = np.asarray(probability), np.asarray(labels, np.float64)
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    gaps = [abs(probability[bins == b].mean() - labels[bins == b].mean()) * (bins == b).sum() for b in np.unique(bins)]
    return float(sum(gaps) / len(probability))


def correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Returns Pearson's correlation of `a` and `b`, two arrays of equal length; None if `a` or `b` is constant."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else None


def share(true: np.ndarray, where: np.ndarray) -> float | None:
    """Returns which share of the selected entries of `true` is True; None if no entry is selected.

    Both arguments are bool arrays of equal length. An entry is selected if `where` is True there.
    """
    return float(true[where].mean()) if where.any() else None


def of_pairs(
    values: np.ndarray, lengths: np.ndarray, phrases: np.ndarray, truth: Sequence[Sequence[float]] | None = None
) -> dict:
    """Returns accuracy, loss, biases and calibration of a pairwise reward model on P held-out pairs, as a dict.

    The dict's entry "accuracy" is the share of pairs whose chosen reply has the higher reward. The entry "calibration"
    is a dict {scale, offset}: scale·reward + offset is the standardised reward. The entry "log_odds" is a factor. The
    factor times the difference of two replies' standardised rewards is the log-odds that the first reply is preferred.

    Args:
        values: [2P] raw rewards, chosen and rejected alternating.
        lengths: [2P] number of characters of each reply.
        phrases: [2P] number of stock phrases, such as "Great question!", in each reply.
        truth: [P] pairs (true worth of the chosen reply, true worth of the rejected reply); None if the true worths are
            unknown. If they are given, the dict has two more shares of pairs. "accuracy_truth" is the share in which
            the model prefers the reply of higher true worth. "annotator_truth" is the share in which the chosen reply
            has the higher true worth. Both shares leave out pairs whose replies have equal true worths.
    """
    chosen, rejected = values[0::2], values[1::2]
    won, longer = chosen > rejected, lengths[0::2] - lengths[1::2]
    margins, labels = np.concatenate([chosen - rejected, rejected - chosen]), np.repeat([True, False], len(won))
    calibration = standard(values)
    # This times the standardised margin is the log-odds of being preferred.
    odds = platt(margins * calibration["scale"], labels)["scale"]
    figures = {
        "n": len(won),
        "accuracy": float(won.mean()),
        "loss": float(np.logaddexp(0.0, rejected - chosen).mean()),
        "accuracy_chosen_longer": share(won, longer > 0),
        "accuracy_chosen_shorter": share(won, longer < 0),
        "length_chosen": float(lengths[0::2].mean()),
        "length_rejected": float(lengths[1::2].mean()),
        **biases(values, lengths, phrases),
        "log_odds": odds,
        "calibration_error": calibration_error(sigmoid(odds * calibration["scale"] * margins), labels),
    }
    if truth is not None:
        worth = np.asarray(truth, np.float64)
        differ = worth[:, 0] != worth[:, 1]
        better = worth[:, 0] > worth[:, 1]
        figures |= {"accuracy_truth": share(won == better, differ), "annotator_truth": share(better, differ)}
    return figures | {"calibration": calibration}


def of_labels(
    values: np.ndarray, safe: np.ndarray, lengths: np.ndarray, phrases: np.ndarray, truth: Sequence[bool] | None = None
) -> dict:
    """Returns a dict: accuracy, AUC, loss, biases and calibration of a pointwise reward model on N held-out responses.

    "calibration" holds {scale, offset} of Platt scaling. "accuracy" is the share of responses whose label the model
    predicts: it predicts "safe" if the scaled reward is above 0.

    Args:
        values: [N] raw rewards.
        safe: [N] bool, the annotator's labels.
        lengths: [N] number of characters of each response.
        phrases: [N] number of stock phrases, such as "Great question!", in each response.
        truth: [N] bool, the true labels; None if they are unknown. If they are given, "accuracy_truth" is the model's
            accuracy against the true labels, and "annotator_truth" is the annotator's accuracy against the true labels.
    """
    safe = np.asarray(safe, bool)
    calibration = platt(values, safe)
    logits = calibration["scale"] * values + calibration["offset"]
    figures = {
        "n": len(safe),
        "accuracy": float(((logits > 0) == safe).mean()),
        "auc": auc(values, safe),
        "share_safe": float(safe.mean()),
        "loss": float(np.mean(np.logaddexp(0.0, values) - safe * values)),
        **biases(values, lengths, phrases),
        "calibration_error_before": calibration_error(sigmoid(values), safe),
        "calibration_error": calibration_error(sigmoid(logits), safe),
    }
    if truth is not None:
        known = np.asarray(truth, bool)
        figures |= {
            "accuracy_truth": float(((logits > 0) == known).mean()),
            "annotator_truth": float((safe == known).mean()),
        }
    return figures | {"calibration": calibration}


def biases(values: np.ndarray, lengths: np.ndarray, phrases: np.ndarray) -> Mapping[str, float | None]:
    """Returns how strongly rewards follow lengths and stock phrases, as {"length_correlation", "phrase_correlation"}.

    Both values are Pearson's correlation with the rewards, or None if one of the two correlated arrays is constant.

    Args:
        values, lengths, phrases: [N] arrays of the reward, the length, and the number of stock phrases of each text.
    """
    return {"length_correlation": correlation(values, lengths), "phrase_correlation": correlation(values, phrases)}
