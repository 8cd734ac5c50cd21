"""Equal and different answers, every pair both ways, and texts as models write them."""

import json
from itertools import groupby
from pathlib import Path

import pytest

from r1jax.rewards.math import extract, grade_pair, verify

OWN = Path(__file__).parents[1] / "cases" / "own"


def rows(name):
    return [json.loads(line) for line in (OWN / name).read_text(encoding="utf-8").splitlines()]


def reward(gold, answer):
    return verify(f"So \\boxed{{{answer}}}", {"gold": gold}).reward


PAIRS = {
    name: list(group)
    for name, group in groupby(sorted(rows("math_pairs.jsonl"), key=lambda row: row["class"]), lambda row: row["class"])
}


@pytest.mark.parametrize("name", PAIRS)
def test_answers_of_a_class_are_equal_or_different_both_ways(name):
    failed = []
    for row in PAIRS[name]:
        for gold, answer in ((row["gold"], row["pred"]), (row["pred"], row["gold"])):
            earned = reward(gold, answer)
            if earned != 1.0 if row["expected"] else earned not in (0.0, None):
                failed.append((gold, answer, earned))
    assert not failed


def test_a_long_decimal_stands_for_an_endless_number_only_to_its_last_place():
    # sqrt(2) = 1.41421356237309 50 488...: fourteen places cut, then with the last one wrong, then a short rounding
    assert reward(r"\sqrt{2}", "1.41421356237309") == 1.0
    assert reward(r"\sqrt{2}", "1.41421356237308") == 0.0
    assert reward(r"\sqrt{2}", "1.41421") == 0.0
    assert reward("0.5", "0.50000000000001") == 0.0  # a number that ends has only one value


def test_the_answer_of_a_text():
    failed = []
    for row in rows("math_texts.jsonl"):
        earned = verify(row["text"], {"gold": row["gold"]}).reward
        if earned != float(row["expected"]):
            failed.append((row["gold"], row["text"], earned))
    assert not failed


def test_a_pole_has_no_value_and_raises_nothing():
    for pole in (
        r"(-\sqrt{4}\cdot\frac{1}{2}-1)!",
        r"\tan\frac{\pi}{2}",
        r"(\sin\frac{\pi}{2}-2)!",
        r"\ln(\sqrt{2}-\sqrt{2})",
    ):
        assert reward("5", pole) == 0.0


EXTRACTS = [
    ("\\fbox{7}", "boxed", "7"),
    ("a \\boxed{a \\boxed{b}}", "boxed", "a \\boxed{b}"),
    ("\\boxed{ {x } then \\boxed{5}", "boxed", "5"),
    ("<answer>1</answer> ... <answer>5</answer>", "answer_tag", "5"),
    ("I have no idea", "answer_tag", None),
    ("We calculate 6 * 7.</think>\nThe final answer is 42.", "answer_tag", None),
    ("first \\boxed{1} then \\boxed{99}", "answer_tag", "99"),
    ("answer: \\boxed{-3}", "answer_tag", "-3"),
    ("<reasoning>maybe \\boxed{1}</reasoning><answer>\\boxed{8}</answer>", "answer_tag", "8"),
    ("Some reasoning ####   123.45  ", "hash", "123.45"),
    ("####", "hash", ""),
    ("", "hash", None),
    ("no box", "boxed", None),
    ("First I compute 10, so the answer is 42.", "auto", "42"),
    ("We saw 10 then 20 then 30.", "auto", None),  # three numbers that form no list
    ("no numbers in this sentence", "auto", None),
    ("<answer>\\boxed{ 7 }</answer>", "answer_tag", "7"),
    ("the answer is \\boxed{\\frac{1}{2}}", "auto", "\\frac{1}{2}"),
    ("<reasoning>The answer is 42.</reasoning>", "answer_tag", None),
    ("The answer is 42", "auto", "42"),
    ("$16", "auto", "$16"),
]


@pytest.mark.parametrize(("text", "rule", "expected"), EXTRACTS)
def test_extraction(text, rule, expected):
    assert extract(text, rule) == expected


def test_an_unknown_rule_names_the_rules():
    with pytest.raises(ValueError, match="answer_tag"):
        extract("5", "best")


def test_verdicts_name_their_reason():
    cases = [
        ("5", "\\boxed{5}", "correct", "string", 1.0),
        ("0.5", "\\boxed{1/2}", "correct", "number", 1.0),
        ("0.5", "\\boxed{1/3}", "wrong", "number", 0.0),
        (r"x^2-1", "\\boxed{(x-1)(x+1)}", "correct", "modular", 1.0),
        (r"\sqrt{8}", r"\boxed{2\sqrt{2}}", "correct", "numeric", 1.0),
        ("5", "", "no_answer", "extract", 0.0),
        ("5", r"\boxed{5^{5^{5^{5^5}}}}", "budget", "digits", 0.0),
        ("", "\\boxed{5}", "gold_unusable", "gold", None),
        (r"\frac{1}{", "\\boxed{5}", "gold_unusable", "gold", None),
    ]
    for gold, text, name, stage, earned in cases:
        verdict = verify(text, {"gold": gold})
        assert (verdict.verdict, verdict.stage, verdict.reward) == (name, stage, earned)


def test_of_several_golds_any_will_do():
    assert verify("\\boxed{42}", {"gold": ["1", "42"]}).reward == 1.0
    assert verify("\\boxed{42}", {"gold": ["1", "2"]}).reward == 0.0


def test_equal_numbers_share_a_canonical_form():
    forms = {verify(f"\\boxed{{{form}}}", {"gold": "1"}).canonical for form in ("1/2", "0.5", ".50", r"\frac{2}{4}")}
    assert forms == {"1/2"}


def test_the_answer_is_read_after_the_thinking_and_an_endless_thought_has_none():
    flood = "so \\boxed{5} " * 20000  # the opening tag lies far before what is searched
    assert verify(f"<think>{flood}", {"gold": "5"}).verdict == "no_answer"
    assert verify(f"<think>{flood}</think> \\boxed{{5}}", {"gold": "5"}).reward == 1.0


def test_verify_answers_from_a_worker():
    assert grade_pair(r"\frac{\sqrt{2}}{2}", r"$\boxed{\frac{1}{\sqrt{2}}}$", deadline=60.0).reward == 1.0
