"""A reward of one's own: how it is named, what it may return, and what its failures cost."""

import hashlib

import numpy as np
import pytest

from r1jax.rewards import custom
from r1jax.rewards.isolate import Pool
from r1jax.rewards.length import overlong
from r1jax.rewards.penalties import Penalties, add_penalties
from r1jax.rewards.repetition import repeated_share
from r1jax.rewards.rule import Scores

SOURCE = """
import math

def length(texts, examples):
    return [len(text) for text in texts]

def two(texts, examples):
    return {"a": [1.0] * len(texts), "b": [example["x"] for example in examples]}

def gaps(texts, examples):
    return [math.nan, None, 1]

def broken(texts, examples):
    return [1 / len(text) for text in texts]

def short(texts, examples):
    return [1.0]

def words(texts, examples):
    return ["much"] * len(texts)

def nothing(texts, examples):
    return None

def thief(texts, examples):
    return {"format": [1.0] * len(texts)}

def mean(texts, examples):
    return [0.0] * len(texts)

def vandal(texts, examples):
    texts.clear()
    for example in examples:
        example["x"] = None
    return [1.0] * 3

number = 3
"""
TEXTS = ["ab", "", "abcd"]
EXAMPLES = [{"problem": "?", "kind": "general", "gold": None, "x": i} for i in range(3)]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture(scope="module")
def pool():
    with Pool(1, item_s=30.0) as pool:
        yield pool


def scored(pool, *flags, texts=TEXTS, examples=EXAMPLES):
    told = []
    scores = custom.make_reward(custom.read(flags), "r1_zero", told.append)(pool, texts, examples, 0)
    return scores, told


def test_a_list_is_a_part_by_the_name_of_its_function_and_a_mapping_gives_several(pool, file):
    scores, told = scored(pool, f"{file}:length=0.5", f"{file}:two=2")
    assert {name: part.tolist() for name, part in scores.parts.items()} == {
        "length": [2, 0, 4],
        "a": [1, 1, 1],
        "b": [0, 1, 2],
    }
    assert scores.total.tolist() == [0.5 * 2 + 2 * 1, 2 * 2, 0.5 * 4 + 2 * 3]
    assert scores.valid.all() and not scores.failed.any() and scores.verdicts is None and told == []


def test_built_in_parts_stand_beside_a_function_and_only_those_that_are_named(pool, file):
    right, wrong = ("<think> 3 </think> <answer> 14 </answer>", "<think> 3 </think> <answer> 15 </answer>")
    row = {"problem": "?", "kind": "math", "gold": "14", "language": "en"}
    scores, _ = scored(pool, "accuracy=3", "format", f"{file}:length=0", texts=[right, wrong], examples=[row, row])
    assert list(scores.parts) == ["accuracy", "format", "length"]
    assert scores.total.tolist() == [4.0, 1.0] and [v.verdict for v in scores.verdicts] == ["correct", "wrong"]
    scores, _ = scored(pool, "language", texts=[right], examples=[row])
    assert list(scores.parts) == ["language"] and scores.verdicts is None


def test_a_number_that_is_not_finite_leaves_its_row_without_a_verdict(pool, file):
    scores, (said,) = scored(pool, f"{file}:gaps", f"{file}:length")
    assert scores.valid.tolist() == [False, False, True] and scores.failed.tolist() == [True, True, False]
    assert scores.total.tolist() == [0, 0, 5]
    assert "not finite for 2 of 3 completions" in said and "rows/failed" in said


@pytest.mark.parametrize(
    "name, words",
    [
        ("broken", "raised ZeroDivisionError: division by zero ({path}, line 14)"),
        ("short", "returned 1 numbers for 3 completions"),
        ("words", "returned ['much', 'much', 'much'] where a list of floats is due"),
        ("nothing", "returned None where a list of floats is due"),
    ],
)
def test_a_function_that_fails_leaves_all_rows_without_a_verdict_and_is_told_of_once(pool, file, name, words):
    told = []
    reward = custom.make_reward(custom.read([f"{file}:{name}", f"{file}:length"]), "r1_zero", told.append)
    for step in range(3):
        scores = reward(pool, TEXTS, EXAMPLES, step)
        assert not scores.valid.any() and scores.failed.all() and scores.total.tolist() == [0, 0, 0]
        assert list(scores.parts) == ["length"]
    assert len(told) == 1 and words.format(path=file) in told[0] and f"--reward={file}:{name}" in told[0]


def test_a_part_with_the_name_of_another_is_a_failure_and_not_a_mixture(pool, file):
    scores, (said,) = scored(pool, f"{file}:thief", "format")
    assert "named 'format'" in said and scores.failed.all() and scores.parts["format"].tolist() == [0, 0, 0]
    scores, told = scored(pool, f"{file}:thief")  # alone it may have it
    assert list(scores.parts) == ["format"] and told == []


def test_a_function_cannot_change_what_the_next_one_is_given(pool, file):
    scores, told = scored(pool, f"{file}:vandal", f"{file}:two", f"{file}:length")
    assert scores.parts["b"].tolist() == [0, 1, 2] and scores.parts["length"].tolist() == [2, 0, 4] and told == []
    assert [example["x"] for example in EXAMPLES] == [0, 1, 2]


@pytest.mark.parametrize(
    "flag, words",
    [
        ("mine.py", "names no reward; use FILE.py:FUNCTION"),
        ("helpful=1", "names no reward"),
        ("{file}", "names no reward"),
        ("{file}:length=much", "has the weight 'much', which is no finite number"),
        ("{file}:length=inf", "no finite number"),
        ("{file}:length=", "has the weight ''"),
        ("nowhere/mine.py:f", "nowhere/mine.py cannot be read (No such file or directory)"),
        ("{file}:lenght", "has no function lenght; it has length, two"),
        ("{file}:number", "has no function number"),
        ("{file}:mean", "another reward or a logged metric has the name mean; rename the function"),
    ],
)
def test_a_term_that_cannot_be_used_is_named_with_the_way_out(file, flag, words):
    flag = flag.format(file=file)
    with pytest.raises(ValueError) as error:
        custom.read([flag])
    assert str(error.value).startswith(f"--reward={flag}") and words in str(error.value)


def test_a_term_is_named_once(file):
    with pytest.raises(ValueError, match="another reward or a logged metric has the name length"):
        custom.read([f"{file}:length", f"{file}:length=2"])
    with pytest.raises(ValueError, match="gives accuracy a second time"):
        custom.read(["accuracy", "accuracy=2"])


@pytest.mark.parametrize(
    "source, words", [("def f(:", "SyntaxError"), ("\nimport nowhere", "No module named 'nowhere'")]
)
def test_a_file_that_cannot_be_imported_says_why_and_where(tmp_path, source, words):
    path = tmp_path / "bad.py"
    path.write_text(source)
    with pytest.raises(ValueError, match=f"the import of {path} failed: .*{words}.*line {source.count(chr(10)) + 1}"):
        custom.read([f"{path}:f"])


def test_the_manifest_is_told_the_hash_the_weight_and_the_place(file):
    terms = custom.read([f"{file}:length=0.5", "accuracy"])
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    rows = [
        {"name": "length", "weight": 0.5, "path": str(file), "sha256": sha256},
        {"name": "accuracy", "weight": 1.0},
    ]
    assert custom.describe_terms(terms) == {"rewards": rows} and custom.describe_terms([]) == {}
    assert (
        custom.format_terms(rows) == f"{file}:length=0.5 (sha256 {sha256[:12]}) accuracy=1"
        and custom.format_terms(None) == "none"
    )


def test_penalties_are_further_parts_of_any_reward():
    texts, lengths = ["a b a b", "a b c d", "x"], np.array([10, 8, 5])
    valid = np.array([True, True, False])
    scores = Scores(np.array([1.0, 2.0, 0.0]), valid, {"f": np.zeros(3)}, None)
    asked = Penalties(max_tokens=10, overlong=2.0, cache=4, repetition=3.0, ngram=2)
    found = add_penalties(scores, texts, lengths, asked)
    assert list(found.parts) == ["f", "overlong", "repetition"]
    assert found.parts["overlong"].tolist() == [-1.0, -0.5, 0.0]  # (6 - length) / 4
    assert found.parts["repetition"].tolist() == pytest.approx([-repeated_share(text, 2) for text in texts])
    assert found.total.tolist() == pytest.approx([1 - 2 * 1 - 3 * (1 / 3), 2 - 2 * 0.5, 0])
    assert add_penalties(scores, texts, lengths, Penalties(10)) is scores
    # A fifth of the longest completion by default, as in DAPO: 4,096 of 20,480.
    found = add_penalties(scores, texts, np.array([18432, 1, 1]), Penalties(20480, overlong=1.0))
    assert found.parts["overlong"][0] == overlong(18432, max_length=20480, cache=4096)
