"""Repetition."""

import json
from pathlib import Path

import pytest

from r1jax.rewards.repetition import penalty, repeated_share

CASES = Path(__file__).parents[1] / "cases" / "format" / "peers_shaping.jsonl"
ROWS = [r for r in map(json.loads, CASES.open(encoding="utf-8")) if r["fn"] == "repetition_penalty"]


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_a_repetition_case_gets_the_expected_penalty(row):
    found = penalty(row["completion"], n=row["config"]["ngram_size"], max_penalty=row["config"]["max_penalty"])
    assert found == pytest.approx(row["expected"], abs=1e-12)


def test_chinese_characters_are_words():
    # 等等等等: bigrams 等等 three times, 2 of 3 repeated
    assert repeated_share("等等等等", 2) == pytest.approx(2 / 3)
    # 再试 一次 再试: trigrams of 再试一次再试 are 再试一, 试一次, 一次再, 次再试, all distinct
    assert repeated_share("再试一次再试", 3) == 0.0
    # "so 好 so 好": bigrams (so 好), (好 so), (so 好): 1 of 3
    assert repeated_share("so好so好", 2) == pytest.approx(1 / 3)


def test_token_ids_are_words_too():
    assert repeated_share([1, 2, 1, 2, 1, 2], 2) == pytest.approx(3 / 5)


def test_an_endless_loop_comes_near_1_and_fresh_words_stay_at_0():
    assert repeated_share("wait again " * 5000, 4) > 0.999
    assert repeated_share(" ".join(map(str, range(5000))), 2) == 0.0


def test_senseless_settings_are_refused():
    with pytest.raises(ValueError, match="n=0"):
        repeated_share("a", 0)
    with pytest.raises(ValueError, match=r"max_penalty=0\.5"):
        penalty("a", n=2, max_penalty=0.5)
