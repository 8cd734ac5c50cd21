"""Computes statistics over k samples of each problem: pass@k, cons@k, and confidence intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

RESAMPLES = 2000
BLOCK = 1 << 22  # numbers that the bootstrap resamples at a time


def pass_at_k(right: np.ndarray, k: int) -> np.ndarray:
    """Returns an array [P] with pass@k of P problems, the probability that at least one of k samples is right.

    The unbiased estimate for a problem is 1 − C(n−c, k)/C(n, k), which is c/n for k = 1.

    Args:
        right: [P, n] bool, whether each of a problem's n samples is right; c is the number of right samples.

    Raises:
        ValueError: k is not in 1..n.

    Source: Chen et al. 2021 (arXiv 2107.03374), eq. 1, in its stable form 1 − Π (1 − k/i), i = n−c+1..n.
    """
    right = np.asarray(right, bool)
    n = right.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must lie in 1..{n}, because each problem has {n} samples")
    counts = right.sum(axis=1)
    # If fewer than k are wrong, the product includes the factor of i = k, which is 0.
    return np.asarray([1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)) for c in counts])


def cons_at_k(answers: Sequence[str | None], worth: Sequence[float]) -> float:
    """Returns cons@k of one problem: the score of the majority answer among the problem's k samples.

    Answers are compared in normal form. A sample without an answer has no vote; a problem without votes scores 0. If
    several answers tie, the score is the mean over the tied answers, as if the tie were broken at random.

    Args:
        answers: each sample's answer in normal form (`Verdict.canonical`); None for a sample without an answer.
        worth: the score of each sample, 1 for a right sample and 0 for any other.

    Source: DeepSeek-AI 2025, Table 2 and appendix D.1 (cons@64); how ties are broken is not published.
    """
    votes: dict[str, list[float]] = defaultdict(list)
    for answer, value in zip(answers, worth, strict=True):
        if answer is not None:
            votes[answer].append(value)
    most = max(map(len, votes.values()), default=0)
    return float(np.mean([np.mean(values) for values in votes.values() if len(values) == most])) if votes else 0.0


def interval(
    values: np.ndarray, seed: int, level: float = 0.95, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Returns the bootstrap interval (low, high) of the mean over problems; None if no value is finite.

    The finite values are resampled with replacement `resamples` times. The bounds are percentiles of the means of these
    resamples.

    Args:
        values: [P] one value for each of P problems; nan leaves a problem out. Samples of one problem are not
            independent, so average over them first.
        seed: seed of the bootstrap.
        level: coverage of the interval.

    Source: Efron and Tibshirani 1993, section 13.3.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if values.size < 2:  # scipy needs at least two values
        return (float(values[0]), float(values[0])) if values.size else None
    rng, batch = np.random.default_rng(seed), max(1, BLOCK // values.size)
    drawn = bootstrap((values,), np.mean, n_resamples=resamples, batch=batch, method="percentile", rng=rng)
    # Not `drawn.confidence_interval`: its percentiles round differently from those in stored results.
    low, high = np.quantile(drawn.bootstrap_distribution, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean(values: Sequence | np.ndarray) -> float | None:
    """Returns the mean of the finite values; None, not nan, if there are none."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else None
