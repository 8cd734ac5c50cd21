"""Our own cases of the kinds that need no mathematics, and of programs: attacks earn nothing, honest ones all."""

import json
import time
from pathlib import Path

import pytest

from r1jax.rewards import choice, code, countdown, format, language, sandbox

OWN = Path(__file__).parents[1] / "cases" / "own"
VERIFIERS = {"countdown": countdown, "format": format, "language": language, "choice": choice}
LIMITS = {"time_s": 1, "wall_s": 3, "memory_mb": 256, "output_bytes": 1 << 16, "processes": 16, "file_mb": 4}
WIDE = LIMITS | {"time_s": 5, "wall_s": 60, "memory_mb": 512}
TASKS = {
    "stdin": {"mode": "stdin", "tests": [["1 2\n", "3\n"], ["40 2\n", "42\n"]]},
    "function": {"entry": "f", "tests": [[[1, 2], 3], [[40, 2], 42]]},
}


def rows(name):
    return [json.loads(line) for line in (OWN / name).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("kind", VERIFIERS)
def test_rewards_lie_between_the_bounds_of_each_case(kind):
    cases = [row for row in rows("rules.jsonl") if row["kind"] == kind]
    rewards = [VERIFIERS[kind].verify(row["text"], row["example"]).reward for row in cases]
    found = [
        (row, reward) for row, reward in zip(cases, rewards, strict=True) if not row["min"] <= reward <= row["max"]
    ]
    assert len(cases) > 25 and not found


ROUND2 = Path(__file__).parents[1] / "cases" / "round2"


@pytest.mark.parametrize(
    ("name", "verifier", "text"),
    [
        ("countdown/countdown", countdown, "pred"),
        ("choice/choice", choice, "pred"),
        ("format/r1_format", format, "completion"),
        ("format/language", language, "cot"),
    ],
)
def test_every_hard_case_of_the_second_round(name, verifier, text):
    cases = [json.loads(line) for line in (ROUND2 / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    failed = []
    for row in cases:
        low, high = (row["min"], row["max"]) if "min" in row else (float(row["expected"]),) * 2
        if not row.get("soft") and not low <= verifier.verify(row[text], row).reward <= high:
            failed.append(row["id"])
    assert not failed


@pytest.mark.skipif(sandbox.probe().letter > code.MINIMUM, reason=f"no sandbox here: {sandbox.probe()}")
@pytest.mark.parametrize("row", rows("programs.jsonl"), ids=lambda row: row["id"])
def test_programs_earn_what_they_do(row):
    if row.get("writes") and sandbox.probe().letter == "C":
        pytest.skip("tier C lets nothing write files")
    limits = WIDE if row["expected"] or row.get("slow_start") else LIMITS
    begun = time.monotonic()
    verdict = code.grade(row["program"], TASKS[row["mode"]] | {"limits": limits})
    assert verdict.reward == row["expected"], verdict
    assert time.monotonic() - begun < 60
