"""The verifier on whole files: other projects' tests, hostile texts, rewrites of real answers, real model output."""

import json
from pathlib import Path

import pytest

from r1jax.rewards.math import extract, verify

CASES = Path(__file__).parents[1] / "cases"
# The two of math_verify whose chains of equations contradict themselves, and one with a dollar sign inside a formula
CORE_FLOOR, HARD_FLOOR, REWRITE_FLOOR = 0.97, 0.98, 0.99


def rows(name):
    return [json.loads(line) for line in (CASES / name).read_text(encoding="utf-8").splitlines()]


def part(row, key):
    """`pred`, or the concatenation of `pred_parts`."""
    return row[key] if key in row else "".join(text * times for text, times in row[f"{key}_parts"])


def failures(cases):
    """(row, reward) of each case that came out otherwise than expected."""
    found = []
    for row in cases:
        reward = verify(part(row, "pred"), {"gold": part(row, "gold")}).reward
        if (reward == 1.0) != row.get("truth", row["expected"]):
            found.append((row["id"], reward))
    return found


def test_the_cores_of_the_peers_suites():
    core = [row for path in (CASES / "math").glob("*.jsonl") for row in rows(path) if row.get("core")]
    assert len(core) > 150
    failed = failures(core)
    assert len(failed) <= (1 - CORE_FLOOR) * len(core), failed
    assert sum(reward == 1.0 for _, reward in failed) <= 1, failed


def test_hostile_answers_earn_nothing_and_make_no_file():
    hard = [row for row in rows("adversarial.jsonl") if not row.get("soft")]
    canaries = {Path(row["canary"]) for row in hard if "canary" in row}
    assert canaries and not any(path.exists() for path in canaries)
    failed = dict(failures(hard))
    assert not any(path.exists() for path in canaries)
    assert len(failed) <= (1 - HARD_FLOOR) * len(hard), failed
    strict = {row["id"] for row in hard if row["category"] in ("injection", "resource", "empty", "equation_hack")}
    assert not strict & set(failed), failed


def test_soft_rows_get_some_verdict():
    for row in rows("adversarial.jsonl"):
        assert verify(part(row, "pred"), {"gold": part(row, "gold")}).verdict != "error", row["id"]


@pytest.mark.parametrize("name", ["self", "pairs", "mutants"])
def test_real_answers_equal_themselves_and_nothing_else(name):
    assert failures([row for row in rows(f"selfcheck/{name}.jsonl") if not row.get("soft")]) == []


def test_rewrites_keep_the_meaning():
    cases = rows("selfcheck/rewrites.jsonl")
    failed = failures(cases)
    assert len(failed) <= (1 - REWRITE_FLOOR) * len(cases), failed


@pytest.mark.parametrize("name", ["gsm8k_model_answers", "qwen_math_cot_800"])
def test_real_model_output(name):
    assert failures(rows(f"realdata/{name}.jsonl")) == []


def test_extraction_by_rule():
    ours = {"last_boxed_content": "boxed", "boxed_content": "boxed", "answer_tag_then_last_boxed": "answer_tag"}
    for row in rows("math/extraction.jsonl"):
        assert extract(row["text"], ours.get(row["rule"], row["rule"])) == row["expected"], row["id"]
