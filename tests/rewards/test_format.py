"""The format reward and the parts of a completion."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards.format import answer, graded, lenient_answer, think, verify

CASES = Path(__file__).parents[1] / "cases" / "format"
ROWS = [json.loads(line) for line in (CASES / "r1_format.jsonl").open(encoding="utf-8")]
PEERS = [json.loads(line) for line in (CASES / "peers_format.jsonl").open(encoding="utf-8")]
STYLES = {"trl_think": "r1", "openr1_format": "r1_zero"}


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_a_format_case_gets_the_expected_verdict(row):
    assert verify(row["completion"], row).reward == float(row["expected"])


@pytest.mark.parametrize("row", [r for r in PEERS if r["style"] in STYLES], ids=lambda row: row["id"])
def test_a_peers_case_agrees_except_that_an_empty_thought_is_none(row):
    empty_thought = "<think></think>" in row["completion"]
    expected = bool(row["expected"]) and not empty_thought
    assert verify(row["completion"], {"style": STYLES[row["style"]]}).reward == float(expected)


ZERO = {
    "newlines": ("<think>\na\n</think>\n\n<answer>\n42\n</answer>\n", True),
    "other tags inside": ("<think>a <b>x</b> < 3</think><answer>x<y</answer>", True),
    "tags in capitals are text": ("<think>a <THINK> b</think><answer>4</answer>", True),
    "blank thought": ("<think> \n</think><answer>4</answer>", False),
    "blank answer": ("<think>a</think><answer>\n</answer>", False),
    "invisible thought": ("<think>\u200b\u2060\ufeff</think><answer>4</answer>", False),
    "text before": ("So <think>a</think><answer>4</answer>", False),
    "text between": ("<think>a</think>so<answer>4</answer>", False),
    "text after": ("<think>a</think><answer>4</answer>!", False),
    "answer first": ("<answer>4</answer><think>a</think>", False),
    "thoughts twice": ("<think>a</think><think>b</think><answer>4</answer>", False),
    "answers twice": ("<think>a</think><answer>4</answer><answer>4</answer>", False),
    "answer within the thought": ("<think>a<answer>4</answer></think>", False),
    "closing before opening": ("</think><think>a<answer>4</answer>", False),
    "crossed": ("<think>a<answer></think>4</answer>", False),
    "closing tag named in the answer": ("<think>a</think><answer>write </think></answer>", False),
    "cut off": ("<think>a</think><answer>4</answ", False),
}


@pytest.mark.parametrize("text, right", ZERO.values(), ids=ZERO)
def test_r1_zero_wants_one_think_and_one_answer_block_and_nothing_else(text, right):
    assert verify(text, {}).reward == float(right)


ONE = {
    "summary": ("<think>a</think>\n\nThe answer is 4.", True),
    "answer tags are text": ("<think>a</think><answer>4</answer>", True),
    "blank summary": ("<think>a</think> \n", False),
    "no summary": ("<think>a</think>", False),
    "blank thought": ("<think>\n\n</think>Hello!", False),
    "no thought": ("Hello!", False),
    "text before": ("Hi <think>a</think>Hello!", False),
    "unclosed": ("<think>a Hello!", False),
    "twice": ("<think>a</think>b<think>c</think>d", False),
}


@pytest.mark.parametrize("text, right", ONE.values(), ids=ONE)
def test_r1_wants_one_think_block_and_a_summary(text, right):
    assert verify(text, {"style": "r1"}).reward == float(right)


def test_a_row_without_thinking_wants_the_block_empty():
    row = {"style": "r1", "think": "none"}
    assert verify("<think>\n\n</think>\n\nHello!", row).reward == 1.0
    assert verify("<think>a</think>Hello!", row).reward == 0.0
    assert verify("Hello!", row).reward == 0.0


def test_a_prefilled_tag_counts_as_written():
    assert verify("a</think><answer>4</answer>", {"prefilled_think": True}).reward == 1.0
    assert verify("<think>a</think><answer>4</answer>", {"prefilled_think": True}).reward == 0.0
    assert verify("a</think><answer>4</answer>", {}).reward == 0.0


@pytest.mark.parametrize("example", [{"style": "r2"}, {"think": "little"}])
def test_an_unknown_style_is_an_error_that_names_the_value(example):
    with pytest.raises(ValueError, match=r"r2|little"):
        verify("", example)


# text -> chain of thought, answer, lenient answer
PARTS = {
    "<think> a </think> <answer> 4 </answer>": ("a", "4", "4"),
    "a</think><answer>4</answer>": ("a", "4", "4"),
    "<think>a <answer>3</answer></think><answer>4</answer>": ("a <answer>3</answer>", "4", "4"),
    "<think>a</think><answer>3</answer><answer>4</answer>": ("a", "4", "4"),
    "<think>a</think><answer><answer>4</answer></answer>": ("a", "4", "4"),
    "<think>a</think><answer>4": ("a", None, "4"),
    "<think>a<answer>4</answer>": ("a", "4", "4"),
    "<think>a</think>so 4": ("a", None, "so 4"),
    "<think>a\nb": ("a\nb", None, "b"),
    "so\n4\n\n": (None, None, "4"),
    "": (None, None, None),
    "<think> </think>": ("", None, None),
}


@pytest.mark.parametrize("text", PARTS)
def test_the_parts_of_a_completion(text):
    assert (think(text), answer(text), lenient_answer(text)) == PARTS[text]


def test_what_is_graded_is_the_answer_block_or_a_text_without_tags():
    assert graded("<think>a</think><answer>4</answer>") == "4"
    assert graded(" 4 ") == "4"
    assert graded("<think>a</think>4") is None
    assert graded("<think>a</think>4", lenient=True) == "4"


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "a", " ", "\u200b"]),
        max_size=12,
    )
)
def test_a_right_form_is_exactly_the_two_blocks(pieces):
    text = "".join(pieces)
    for part in (think(text), answer(text), lenient_answer(text)):
        assert part is None or part == part.strip()
    if verify(text, {}).reward:
        tags = [piece for piece in pieces if piece.startswith("<")]
        assert tags == ["<think>", "</think>", "<answer>", "</answer>"]
        assert "a" in think(text) and "a" in answer(text)
