"""Reflective words: the paper's ten, and their Chinese forms."""

import pytest

from r1jax.evaluation.completions import REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH, reflective_words


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("", 0),
        ("3 + 4 = 7", 0),
        # wait wrong check but error mistake
        ("Wait, that is WRONG. Let me check: but no error, no mistake.", 6),
        ("awaiting buttons, checked, errors, rechecks, wrongly", 0),  # parts of longer words
        ("wait_for error2 2check", 0),  # digits and underscores are parts of words too
        ("wait-wait wait's", 3),
        ("éwait butö", 0),  # an accented letter is a letter
        ("等等，不对。再检查一下，但是没有错误", 5),  # 等等 不对 检查 但是 错误
        ("等等等等", 2),
        ("等等等", 1),  # hits do not overlap
        ("出错误", 1),  # 出错, and what is left is no hit
        ("算wait再check一下", 2),  # Chinese text writes no space around a Latin word
        ("wait等等", 2),
        ("<think>wait</think>", 1),
        ("wait" * 1000, 0),
        ("\x00wait\u202ebut\ud800", 2),
    ],
)
def test_a_hit_is_a_whole_word_in_any_case_or_a_chinese_form_anywhere(text, hits):
    assert reflective_words(text) == hits


def test_each_of_the_words_counts_once():
    for word in REFLECTIVE_WORDS + REFLECTIVE_WORDS_ZH:
        assert reflective_words(word) == 1
        assert reflective_words(f"so {word.capitalize()}, {word.upper()}!") == 2
    assert len(REFLECTIVE_WORDS) == 10  # the paper's ten
