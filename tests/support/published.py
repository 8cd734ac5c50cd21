"""The published formulas in NumPy float64, completion by completion and token by token, as the papers print them.

Written from the papers' equations and not from the code. Everything is a sum over the tokens of completions in lists,
so padding and packing do not exist here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Case(NamedTuple):
    """Completions of some groups as lists of arrays of their own lengths, float64.

    `held` is log π_θ where no gradient flows through it; equal to `logp` but for a central difference.
    """

    logp: list[np.ndarray]
    held: list[np.ndarray]
    old: list[np.ndarray]
    ref: list[np.ndarray]
    sampler: list[np.ndarray]
    rewards: np.ndarray  # [B, G]
    budget: int


class Settings(NamedTuple):
    """ε, ε_high, β, and the further terms of a loss."""

    low: float = 0.2
    high: float = 0.28
    beta: float = 0.04
    kl: str = "k3"
    cap: float = 0.0
    by: str = "token"
    bound: float = 0.0
    dual: float = 0.0


def advantages(loss: str, rewards: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """[B, G] advantages."""
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    if loss in ("reinforce_pp", "reinforce_pp_baseline"):
        values = centred if loss.endswith("baseline") else rewards
        tokens = np.concatenate([np.full(n, v) for v, n in zip(values.ravel(), lengths.ravel(), strict=True)])
        spread = tokens.std()
        return (values - tokens.mean()) / spread if spread > 1e-12 else 0 * values
    if loss == "dr_grpo":
        return centred
    if loss == "ppo":  # before a value network has learnt: its values are 0, and the return is the reward
        return 1.0 * rewards
    found = np.zeros_like(rewards)
    for b, group in enumerate(rewards):
        for g, reward in enumerate(group):
            if loss == "rloo":
                found[b, g] = reward - np.mean([r for h, r in enumerate(group) if h != g])
            elif group.std() > 1e-12:
                found[b, g] = (reward - group.mean()) / group.std()
    return found


def surrogate(loss: str, at: tuple[float, float], ratio: float, a: float, s: Settings) -> float:
    """The policy's term of a token. at: (log π_θ, log π_θ without gradient)."""
    logp, held = at
    if loss == "cispo":
        return min(max(ratio, 1 - s.low), 1 + s.high) * a * logp
    if loss == "sequence_token":
        ratio *= np.exp(logp - held)
    value = min(ratio * a, min(max(ratio, 1 - s.low), 1 + s.high) * a)
    return max(value, s.dual * a) if s.dual and a < 0 else value


def divergence(kl: str, gap: float, log_ratio: float) -> float:
    """The KL estimate of a token. gap: log π_ref/π_θ."""
    k3 = np.exp(gap) - gap - 1
    return {"k3": k3, "k2": gap**2 / 2, "unbiased": np.exp(log_ratio) * k3}[kl]


def objective(loss: str, case: Case, s: Settings) -> float:
    """The loss, the negated objective."""
    lengths = np.asarray([len(x) for x in case.logp]).reshape(case.rewards.shape)
    total, over = 0.0, advantages(loss, case.rewards, lengths).ravel()
    n, tokens = lengths.size, lengths.sum()
    for i, a in enumerate(over):
        logp, held, old, ref, drawn = (x[i] for x in case[:5])
        size, row = len(logp), 0.0
        behind = np.mean(drawn - held)
        whole = np.exp(np.mean(logp - old))
        fixed = np.exp(np.mean(held - old))
        for t in range(size):
            of_token = np.exp(logp[t] - old[t])
            ratio = {"sequence": whole, "sequence_token": fixed}.get(loss, of_token)
            if loss == "cispo":
                ratio = np.exp(held[t] - old[t])
            term = surrogate(loss, (logp[t], held[t]), ratio, a, s)
            if s.cap:
                gap = old - drawn
                term *= min(np.exp(gap.sum() if s.by == "sequence" else gap[t]), s.cap)
            if s.bound and a < 0 and behind > s.bound:
                term = 0.0
            row += term - s.beta * divergence(s.kl, ref[t] - logp[t], logp[t] - old[t])
        if loss in ("grpo", "sequence", "sequence_token"):
            total += row / size / n
        elif loss == "dr_grpo":
            total += row / case.budget / n
        elif loss == "rloo":
            total += row / n
        else:
            total += row / tokens
    return -total


def slopes(loss: str, case: Case, s: Settings, i: int) -> np.ndarray:
    """The gradient of the loss for log π_θ of completion i, by central differences of the formula."""
    found = np.zeros(len(case.logp[i]))
    for t in range(len(found)):
        sides = []
        for sign in (1, -1):
            moved = [x.copy() for x in case.logp]
            moved[i][t] += sign * 1e-5
            sides.append(objective(loss, case._replace(logp=moved), s))
        found[t] = (sides[0] - sides[1]) / 2e-5
    return found


def kinks(loss: str, case: Case, s: Settings) -> bool:
    """Whether a ratio lies so near a bound that a difference would straddle it."""
    edges = [1 - s.low, 1 + s.high, *([s.dual] if s.dual else [])]
    for logp, old, drawn in zip(case.logp, case.old, case.sampler, strict=True):
        ratios = np.exp([*(logp - old), np.mean(logp - old)])
        if any(np.abs(ratios - edge).min() < 1e-3 for edge in edges):
            return True
        if s.bound and abs(np.mean(drawn - logp) - s.bound) < 1e-4:
            return True
    return False
