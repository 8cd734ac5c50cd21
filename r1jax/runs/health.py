"""Gives warnings about silent failures of a training run, derived from the metrics of its steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax

PATIENCE = 3  # steps in a row before a warning about a condition that may pass by itself
TRUNCATED, ENTROPY, CLIPPED, GAP, SHARE = 0.5, 0.02, 0.5, 1e-3, 0.95
FAR = 1.0  # |log ρ| from which a clip that never acts bounds nothing

Metrics = Mapping[str, float | None]


class Alarm(NamedTuple):
    """A warning, and the condition under which it is given.

    Attributes:
        condition: a function that returns whether the metrics of a step call for the warning.
        text: text of the warning.
        patience: number of steps in a row for which the condition must hold before the warning is given.
        of_rewards: whether the warning applies only to runs that learn from rewards.
        of_kl: whether the warning applies only to runs with a KL term.
        of_groups: whether the warning applies only to losses that compare the completions of a group.
    """

    condition: Callable[[Metrics], bool]
    text: str
    patience: int = 1
    of_rewards: bool = False
    of_kl: bool = False
    of_groups: bool = False


def at_least(key: str, bound: float) -> Callable[[Metrics], bool]:
    """Returns a condition for `Alarm`: the metric `key` is present and at least `bound`."""
    return lambda metrics: (value := metrics.get(key)) is not None and value >= bound


def below(key: str, bound: float) -> Callable[[Metrics], bool]:
    """Returns a condition for `Alarm`: the metric `key` is present and below `bound`."""
    return lambda metrics: (value := metrics.get(key)) is not None and value < bound


ALARMS = (
    Alarm(
        at_least("group/one_completion", 0.05),
        "in some groups all completions are the same text: check that the sampling key changes and that entropy is "
        "above 0",
    ),
    Alarm(
        at_least("group/zero_variance", 1.0),
        f"no group's rewards differed for {PATIENCE} rounds: nothing is learned",
        patience=PATIENCE,
        of_rewards=True,
        of_groups=True,
    ),
    Alarm(
        at_least("completion/truncated", TRUNCATED),
        f"more than {TRUNCATED:.0%} of the completions are cut off at --max-tokens: raise it, or check the stop token",
    ),
    Alarm(
        lambda metrics: metrics.get("entropy") != 0 and below("entropy", ENTROPY)(metrics),  # 0: no token was trained
        f"entropy is below {ENTROPY} nats a token: the policy has stopped exploring",
    ),
    Alarm(
        lambda metrics: metrics.get("reward/max") == 0.0,
        f"all rewards are zero for {PATIENCE} rounds: check the verifier's kind and the template",
        patience=PATIENCE,
        of_rewards=True,
    ),
    Alarm(
        at_least("rows/invalid", 0.01),
        "rows without a verdict are left out of training: see verdict in samples.jsonl",
    ),
    Alarm(
        lambda metrics: metrics.get("kl") == 0.0,
        f"the KL is exactly 0 for {PATIENCE} steps, so --kl-coef has no effect: the reference is the policy itself. "
        "Raise --ref-every",
        patience=PATIENCE,
        of_kl=True,
    ),
    Alarm(
        at_least("clip_fraction", CLIPPED),
        f"more than {CLIPPED:.0%} of the tokens are clipped for {PATIENCE} steps: the policy moves too far in a round. "
        "Lower --learning-rate or --minibatches",
        patience=PATIENCE,
    ),
    Alarm(
        lambda metrics: metrics.get("clip_fraction") == 0.0 and at_least("log_ratio/max", FAR)(metrics),
        f"ratios reach e^{FAR:g} for {PATIENCE} steps and none is clipped: --clip-eps bounds nothing. Lower it, "
        "such as to 0.2",
        patience=PATIENCE,
    ),
    Alarm(  # an older policy's tokens (--carry-over, --ahead) differ for another reason
        lambda metrics: not metrics.get("staleness/max") and at_least("sampler_gap/k3", GAP)(metrics),
        f"sampler and trainer differ by more than {GAP:g} nats a token: the tokens are not those of the policy. "
        "Use --tis-cap=2, and compare the backends",
    ),
    Alarm(
        at_least("reward/largest_share", SHARE),
        f"one part of the reward explains more than {SHARE:.0%} of its variance for {PATIENCE} rounds: compare the "
        "weights of the parts, or use --per-reward=True",
        patience=PATIENCE,
        of_rewards=True,
    ),
)


class Alarms:
    """Gives the warnings of a run.

    A warning is given once while its condition holds. It is given again if the condition ceases to hold and then holds
    again.

    Args:
        rewarded: whether the run learns from rewards.
        kl: whether the run has a KL term.
        grouped: whether the loss compares the completions of a group.
    """

    def __init__(self, *, rewarded: bool = True, kl: bool = False, grouped: bool = True) -> None:
        told = (
            alarm
            for alarm in ALARMS
            if (rewarded or not alarm.of_rewards) and (kl or not alarm.of_kl) and (grouped or not alarm.of_groups)
        )
        self._rounds = {alarm: 0 for alarm in told}

    def check(self, metrics: Metrics) -> list[str]:
        """Returns the texts of the warnings to give after a step with these metrics.

        Call this method once for each step.
        """
        self._rounds = {alarm: rounds + 1 if alarm.condition(metrics) else 0 for alarm, rounds in self._rounds.items()}
        return [alarm.text for alarm, rounds in self._rounds.items() if rounds == alarm.patience]


LOWER = {  # phase in which memory ran out -> flags that change its need
    "sampling": "--wave-rows, --max-tokens, or --mesh",
    "update": "--batch-rows (reinforcement learning) or --micro-rows (fine-tuning), --row-length, or --remat=full",
    "loading weights": "the fsdp or tensor axis of --mesh, --lora-rank, or --model",
}


def explain_memory(error: str, phase: str) -> str:
    """Returns the message for a user whose device ran out of memory: how much is in use, and which flags lower it.

    Args:
        error: XLA's message, which says how much could not be allocated.
        phase: what the process was doing, from `phases.pulse`.
    """
    wanted = re.search(r"allocat\w* (?:of )?(\d+) bytes|allocat\w* (?:of )?([\d.]+ ?\w+)", error)
    held = []
    for device in jax.local_devices():
        stats = device.memory_stats() or {}
        if "bytes_in_use" in stats and "bytes_limit" in stats:
            held.append(f"{device}: {stats['bytes_in_use'] / 1e9:.2f} of {stats['bytes_limit'] / 1e9:.2f} GB in use")
    size = wanted and (f"{int(wanted[1]) / 1e9:.2f} GB" if wanted[1] else wanted[2])
    what = f" {size} more could not be allocated." if size else f" {error.splitlines()[0]}."
    there = f" {'; '.join(held[:8])}." if held else ""
    flags = LOWER.get(phase, "--batch-rows, --questions-per-round or --wave-rows, --max-tokens")
    said = f"a device ran out of memory in the phase: {phase}.{what}{there}"
    return f"{said} Change {flags}. --dry-run=True plans the memory"
