"""What a base can do, read off its samples: the table that bounds what RL can lift."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from r1jax.estimates import pass_at_k
from r1jax.evaluate import mean
from r1jax.nano.solutions import NO, TRY, YES

STEP = re.compile(r"(\d+)([-+*])(\d+)=(\d+)")
CHECKED = re.compile(rf"=(\d+) \d+\? ({'|'.join([*NO.values(), *YES.values()])})")
MOST_TRIES = 12


def right_steps(text: str) -> list[bool]:
    """Whether each written step x∘y=z is right."""
    value = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    return [value[op](int(x), int(y)) == int(z) for x, op, y, z in STEP.findall(text)]


def tries(text: str) -> list[str]:
    """The tries of a countdown solution, each up to the next."""
    return re.split(rf"(?:{'|'.join(TRY.values())})(?= \d)", text)[1:]  # not within "retry" and 重试


def right_checks(text: str, example: Mapping) -> list[bool]:
    """Whether each of a countdown solution's own verdicts (yes, no) is right about the value before it."""
    target = str(example["gold"]["target"])
    found = [match for attempt in tries(text) if (match := CHECKED.search(attempt))]
    return [(match[1] == target) == (match[2] in YES.values()) for match in found]


def table(texts: Sequence[str], examples: Sequence[Mapping], right: np.ndarray) -> dict:
    """The table printed before any RL.

    Args:
        texts: [problems · samples], problem-major; examples: one for each problem.
        right: [problems, samples] bool.
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
