"""The soft overlong penalty."""

import json
from pathlib import Path

import pytest

from r1jax.rewards.length import overlong

CASES = Path(__file__).parents[1] / "cases" / "format" / "peers_shaping.jsonl"
ROWS = [r for r in map(json.loads, CASES.open(encoding="utf-8")) if r["fn"] == "overlong"]


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_an_overlong_case_gets_the_expected_penalty(row):
    config = row["config"]
    assert (
        overlong(
            row["length"],
            max_length=config["max_completion_len"],
            cache=config["soft_punish_cache"],
        )
        == row["expected"]
    )


# DAPO: L_max 20480, L_cache 4096, so free up to 16384; half of the cache used at 18432
@pytest.mark.parametrize("length, expected", [(0, 0), (16384, 0), (18432, -0.5), (20480, -1), (20481, -1), (10**6, -1)])
def test_the_penalty_grows_linearly_over_the_cache(length, expected):
    assert overlong(length, max_length=20480, cache=4096) == expected


@pytest.mark.parametrize("cache", [0, -1, 101])
def test_a_cache_outside_the_length_is_refused(cache):
    with pytest.raises(ValueError, match=f"cache={cache}"):
        overlong(1, max_length=100, cache=cache)
