"""Measures a nano base model from its samples before RL. The base's pass@k bounds what RL can achieve."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.evaluation.statistics import mean, pass_at_k
from r1jax.nano.solutions import NO, TRY, YES

STEP = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")
CHECKED = re.compile(rf"=(\d+) \d+\? ({'|'.join([*NO.values(), *YES.values()])})")
MOST_TRIES = 12


def right_steps(text: str) -> list[bool]:
    """Returns, for each calculation x∘y=z written in the text, whether z is the correct result."""
    value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    return [value[op](int(x), int(y)) == int(z) for x, op, y, z in STEP.findall(text)]


def tries(text: str) -> list[str]:
    """Returns the text of each try in a solution of a countdown problem. "try" or 试 (`TRY`) begins a try."""
    return re.split(rf"(?:{'|'.join(TRY.values())})(?= \d)", text)[1:]  # not within "retry" and 重试


def right_checks(text: str, example: Mapping) -> list[bool]:
    """Returns, for each check in a countdown solution, whether the check is correct.

    After a try, the solution compares the value with the target and writes yes or no. The check is correct if it says
    yes exactly when the value is the target.

    Args:
        example: the countdown problem; its gold answer holds the target.
    """
    target = str(example["gold"]["target"])
    found = [match for attempt in tries(text) if (match := CHECKED.search(attempt))]
    return [(match[1] == target) == (match[2] in YES.values()) for match in found]


def table(texts: Sequence[str], examples: Sequence[Mapping], right: np.ndarray) -> dict:
    """Returns what the samples show about the base model, as a nested dict.

    "steps" and "checks" say how many calculations and checks (`right_steps`, `right_checks`) the samples hold, and
    which share of them is right. "countdown by tries" maps each number of tries to {share, accuracy}: the share of
    countdown solutions with this number of tries, and their accuracy. The entry `MOST_TRIES` includes solutions with
    more tries. "pass@k" maps k to pass@k.

    Args:
        texts: [P · samples] completions, all samples of a problem together.
        examples: [P] problems.
        right: [P, samples] bool, whether the verifier found the completion's answer right.
    """
    samples = right.shape[1]
    steps, checks = [], []
    by_tries: dict[int, list[bool]] = defaultdict(list)
    for i, text in enumerate(texts):
        example = examples[i // samples]
        steps += right_steps(text)
        if example["kind"] == "countdown":
            checks += right_checks(text, example)
            by_tries[min(len(tries(text)), MOST_TRIES)].append(bool(right[i // samples, i % samples]))
    countdowns = sum(map(len, by_tries.values()))
    return {
        "steps": {"right": mean(steps), "n": len(steps)},
        "checks": {"right": mean(checks), "n": len(checks)},
        "countdown by tries": {
            str(count): {"share": len(results) / countdowns, "accuracy": mean(results)}
            for count, results in sorted(by_tries.items())
        },
        "pass@k": {str(k): mean(pass_at_k(right, k)) for k in (1, 4, 16) if k <= samples},
    }
