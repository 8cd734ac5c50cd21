"""What k samples of each problem say about a policy: pass@k, cons@k, and how sure one may be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
BLOCK = 1 << 22  # numbers drawn at a time


def pass_at_k(right: np.ndarray, k: int) -> np.ndarray:
    """[P] for each problem the unbiased estimate 1 − C(n−c, k)/C(n, k) that one of k samples is right; c/n for k = 1.

    Args:
        right: [P, n] bool; c are right of n.

    Raises:
        ValueError: k outside 1..n.
    Source: Chen et al. 2021 (arXiv 2107.03374), eq. 1, in its stable form 1 − Π (1 − k/i), i = n−c+1..n.
    """
    right = np.asarray(right, bool)
    n = right.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"k={k} must lie in 1..{n}, the number of samples")
    counts = right.sum(axis=1)
    # Where fewer than k are wrong, the factor of i = k is among those multiplied, and is 0.
    return np.asarray([1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)) for c in counts])


def cons_at_k(answers: Sequence[str | None], worth: Sequence[float]) -> float:
    """What the answer that most samples of a problem give is worth: the majority vote of all its samples.

    Answers vote by their normal form, so two that share it vote together. A sample without an answer has no vote;
    without any vote the problem is not solved. A tie is settled by a fair lot: its value is the mean over the tied
    answers, whatever their order.

    Args:
        answers: the normal form of each sample's answer (`Verdict.canonical`), None where it has none.
        worth: 1 for each sample that is right, else 0.
    Source: DeepSeek-AI 2025, Table 2 and appendix D.1 (cons@64); how ties fall is not published.
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
    """The bootstrap interval of the mean over problems: percentiles of the means of `resamples` draws with replacement.

    Args:
        values: [P] one for each problem; nan where a problem has none. Samples of one problem are not independent, so
            they have been averaged before.

    Returns:
        (low, high); None where no problem has a value.
    Source: Efron and Tibshirani 1993, section 13.3.
    """
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return None
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK // values.size)
    means = [
        values[rng.integers(0, values.size, (min(block, resamples - start), values.size))].mean(axis=1)
        for start in range(0, resamples, block)
    ]
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
