"""Questions chosen and ordered by pass rate."""

import json

import numpy as np
import pytest

from r1jax.data import questions
from r1jax.data.difficulty import read_difficulty

RATES = {"a": 0.0, "b": 0.25, "c": 0.5, "d": 0.9, "e": 1.0}


@pytest.fixture
def files(tmp_path):
    """Questions a to f; f has no pass rate. Rates as a table, and as the samples of a run."""
    asked = tmp_path / "questions.jsonl"
    asked.write_text(
        "".join(
            json.dumps({"id": name, "problem": f"What is {i} + 1?", "gold": str(i + 1), "kind": "math"}) + "\n"
            for i, name in enumerate("abcdef")
        )
    )
    table = tmp_path / "rates.jsonl"
    table.write_text("".join(json.dumps({"id": k, "pass_rate": v}) + "\n" for k, v in RATES.items()))
    samples = tmp_path / "samples.jsonl"
    right = {"a": [0, 0], "b": [1, 0, 0, 0], "c": [0, 1], "d": [1] * 9 + [0], "e": [1]}
    samples.write_text(
        "".join(json.dumps({"id": k, "reward": {"accuracy": x}}) + "\n" for k, v in right.items() for x in v)
        + json.dumps({"id": "f", "reward": {"format": 1.0}})
        + "\n"
    )
    return asked, table, samples


def drawn(asked, **how):
    take, data = questions.stream(str(asked), 0, difficulty=read_difficulty(**how))
    count = data["counts"]["rows"]
    return [[take(epoch * count + i)["id"] for i in range(count)] for epoch in (0, 1)], data


@pytest.mark.parametrize("which", [1, 2])
def test_questions_outside_the_bounds_are_left_out_and_unknown_ones_kept(files, which):
    epochs, data = drawn(files[0], keep="0.1:0.9", path=str(files[which]), in_order=False)
    assert [sorted(epoch) for epoch in epochs] == [list("bcdf")] * 2
    assert epochs[0] != epochs[1]  # shuffled anew
    assert data["counts"] == {"rows": 4, "too_easy_or_hard": 2}
    assert data["difficulty"]["keep_pass_rate"] == [0.1, 0.9] and len(data["difficulty"]["pass_rates"]) == 64


def test_a_curriculum_goes_from_easy_to_hard_in_every_pass(files):
    epochs, _ = drawn(files[0], keep="", path=str(files[1]), in_order=True)
    for epoch in epochs:
        known = [name for name in epoch if name != "f"]
        assert known == list("edcba")
        assert 2 <= epoch.index("f") <= 3  # as if at a half


def test_rows_may_bring_their_own_rate_and_the_file_goes_before_it(tmp_path):
    asked = tmp_path / "own.jsonl"
    rows = [{"id": n, "problem": f"{n}?", "gold": "1", "kind": "math", "pass_rate": r} for n, r in RATES.items()]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "later.jsonl").write_text('{"id": "a", "pass_rate": 0.5}\n')
    assert sorted(drawn(asked, keep="0.2:0.6", path="", in_order=False)[0][0]) == ["b", "c"]
    later = dict(keep="0.2:0.6", path=str(tmp_path / "later.jsonl"), in_order=False)
    assert sorted(drawn(asked, **later)[0][0]) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("keep", "path", "words"),
    [
        ("0.9:0.1", "", "--keep-pass-rate=0.9:0.1 must be LOW:HIGH"),
        ("half", "", "--keep-pass-rate=half must be LOW:HIGH"),
        ("0:1", "nowhere.jsonl", "--pass-rates=nowhere.jsonl cannot be read"),
        ("", "some.jsonl", "--pass-rates=some.jsonl does nothing without --keep-pass-rate"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_flag(keep, path, words):
    with pytest.raises(ValueError, match=words):
        read_difficulty(keep, path, in_order=False)


def test_files_without_rates_and_bounds_that_keep_nothing_are_refused(files, tmp_path):
    asked, table, _ = files
    with pytest.raises(ValueError, match="none of the 6 rows of --prompts has a pass rate"):
        drawn(asked, keep="0:1", path="", in_order=False)
    (tmp_path / "no.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(ValueError, match="no line has a pass_rate"):
        read_difficulty("0:1", str(tmp_path / "no.jsonl"), in_order=False)
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "pass_rate": 1}\n[]\n')
    with pytest.raises(ValueError, match="line 2"):
        read_difficulty("0:1", str(tmp_path / "bad.jsonl"), in_order=False)
    known = tmp_path / "known.jsonl"
    known.write_text("".join(line + "\n" for line in asked.read_text().splitlines()[:5]))
    with pytest.raises(ValueError, match=r"keeps none of 5 rows, whose pass rates lie between 0.0 and 1.0"):
        drawn(known, keep="0.6:0.7", path=str(table), in_order=False)
    with pytest.raises(ValueError, match="names the generator"):
        questions.stream("nano", 0, difficulty=read_difficulty("0:1", str(table), in_order=False))


def test_the_order_is_the_same_as_ever_without_these_flags(files):
    take, data = questions.stream(str(files[0]), 3)
    order = np.random.default_rng([3, 0]).permutation(6)
    assert [take(i)["id"] for i in range(6)] == ["abcdef"[i] for i in order]
    assert "difficulty" not in data and data["counts"] == {"rows": 6}
