"""Decontamination of training prompts."""

import pytest

from r1jax.data.decontaminate import decontaminate

TEN = "one two three four five six seven eight nine ten"


def kept(train, evaluation, n=10):
    rows = [{"id": str(i), "problem": problem} for i, problem in enumerate(train)]
    good, dropped = decontaminate(rows, [{"problem": problem} for problem in evaluation], n)
    assert len(good) + len(dropped) == len(rows)
    return [row["problem"] for row in good], [gram for _, gram in dropped]


def test_ten_words_in_a_row_are_a_match_and_nine_are_none():
    nine = TEN.removesuffix(" ten")
    assert kept([f"zero {TEN} eleven", f"zero {nine} eleven"], [f"a {TEN} b"]) == (
        [f"zero {nine} eleven"],
        [TEN],
    )


def test_case_punctuation_and_width_do_not_hide_a_match():
    assert kept(["ONE, two; three: (four) five-six\nseven $eight$ ｎｉｎｅ **ten**!"], [TEN]) == (
        [],
        [TEN],
    )


def test_other_numbers_make_another_problem():
    train = "If 3 pens cost 5 coins how much do 7 pens cost"
    assert kept([train], [train.replace("7", "9")]) == ([train], [])


def test_chinese_characters_are_words():
    assert kept(["已知一二三四五六七八九十元"], ["问一二三四五六七八九十。"]) == (
        [],
        ["一 二 三 四 五 六 七 八 九 十"],
    )


def test_a_problem_shorter_than_the_n_gram_meets_only_its_equals():
    assert kept(["What is 1+2?", "What is 1+2 and 3?"], ["what is 1 + 2"]) == (
        ["What is 1+2 and 3?"],
        ["what is 1 2"],
    )


def test_the_rows_come_back_as_they_were_and_in_order():
    rows = [{"problem": str(i), "x": i} for i in range(5)]
    good, dropped = decontaminate(rows, [{"problem": "3"}])
    assert good == rows[:3] + rows[4:] and dropped == [(rows[3], "3")]


def test_an_n_gram_of_no_words_is_refused():
    with pytest.raises(ValueError, match="n=0"):
        decontaminate([], [], 0)
