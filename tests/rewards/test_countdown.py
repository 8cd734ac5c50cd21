"""Countdown answers."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards.countdown import verify

CASES = Path(__file__).parents[1] / "cases" / "countdown"
ROWS = [json.loads(line) for file in sorted(CASES.glob("*.jsonl")) for line in file.open(encoding="utf-8")]


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_a_countdown_case_gets_the_expected_verdict(row):
    assert verify(row["pred"], row).reward == float(row["expected"])


RIGHT = {
    "precedence": ("1+2*3", [1, 2, 3], 7),
    "left to right division": ("8/2/2", [8, 2, 2], 2),
    "left to right subtraction": ("9-3-2", [9, 3, 2], 4),
    "exact fractions": ("8/(3-8/3)", [8, 3, 8, 3], 24),
    "redundant parentheses": ("(((2)))*((3))", [2, 3], 6),
    "parentheses deeper than Python's stack": ("(" * 1500 + "6" + ")" * 1500, [6], 6),
    "signs": ("-2+3", [2, 3], 1),
    "sign after an operator": ("5--3", [5, 3], 8),
    "sign before parentheses": ("-(2-3)", [2, 3], 1),
    "given negative number": ("5*-3", [5, -3], -15),
    "given decimal": ("1.5*2", [1.5, 2], 3),
    "multiplication sign": ("4×6", [4, 6], 24),
    "division sign": ("24÷6", [24, 6], 4),
    "minus sign U+2212": ("4−6", [4, 6], -2),
    "full width": ("（１＋２）＊３", [1, 2, 3], 9),
    "LaTeX operators": (r"\left(1+2\right)\times 3\div 1", [1, 2, 3, 1], 9),
    "LaTeX fractions": (r"\frac{\frac{8}{2}}{4}", [8, 2, 4], 1),
    "box": (r"\boxed{1+2}", [1, 2], 3),
    "dollars": ("$1+2$", [1, 2], 3),
    "full stop": ("1+2.", [1, 2], 3),
    "equation": ("1+2 = 3", [1, 2], 3),
    "equation with a full stop": ("1+2=3.", [1, 2], 3),
    "negative target": ("2-5=-3", [2, 5], -3),
    "target past the floats": (f"{10**30}+1", [10**30, 1], 10**30 + 1),
    "zero": ("0*5", [0, 5], 0),
    "answer block": ("<think>1*2</think><answer>1+2</answer>", [1, 2], 3),
    "last answer block": (
        "<think>a</think><answer>1*2</answer> no <answer>1+2</answer>",
        [1, 2],
        3,
    ),
    "answer block after the thought": (
        "<think><answer>1*2</answer></think><answer>1+2</answer>",
        [1, 2],
        3,
    ),
}


@pytest.mark.parametrize("text, numbers, target", RIGHT.values(), ids=RIGHT)
def test_an_expression_over_all_numbers_with_the_target_as_value_is_right(text, numbers, target):
    verdict = verify(text, {"gold": {"numbers": numbers, "target": target}})
    assert (verdict.reward, verdict.verdict) == (1.0, "correct")


WRONG = {
    "power": ("3**7", [3, 7], 2187),
    "caret": ("3^2", [3, 2], 9),
    "superscript": ("3²", [3, 2], 9),
    "superscript that NFKC would join": ("3²", [32], 32),
    "floor division": ("7//2", [7, 2], 3),
    "remainder": ("7%4", [7, 4], 3),
    "bitwise not": ("~6", [6], -7),
    "shift": ("1<<3", [1, 3], 8),
    "tower": ("99**98**97", [99, 98, 97], 5),
    "juxtaposition": ("4(6)", [4, 6], 24),
    "juxtaposed parentheses": ("(4)(6)", [4, 6], 24),
    "digits joined over a blank": ("2 3", [23], 23),
    "number split": ("2+3", [23], 5),
    "two lines": ("2*3\n3*2", [2, 3], 6),
    "unused number": ("4*6", [4, 6, 2], 24),
    "number twice": ("4*6*6/6", [4, 6], 24),
    "extra zero": ("4*6+0", [4, 6], 24),
    "extra number inside": ("49*(1/49)", [49, 49], 1),
    "positive for a given negative": ("2+3", [-2, 3], 5),
    "wrong value": ("4+6", [4, 6], 24),
    "near miss": ("10/3*3", [10, 3, 3], 10.0000001),
    "digits of a decimal": ("1.5*2", [1, 5, 2], 3),
    "float collision": (f"{10**30}+1", [10**30, 1], 10**30),
    "wrong equation": ("1+2=4", [1, 2], 3),
    "equation with two signs": ("1+2=3=3", [1, 2], 3),
    "equation to the left": ("3=1+2", [1, 2], 3),
    "equation with steps": ("1+2=2+1", [1, 2], 3),
    "wrong value with the target written": ("1*2=3", [1, 2], 3),
    "only the target": ("3", [1, 2], 3),
    "division by zero": ("1/(2-2)", [1, 2, 2], 0),
    "unbalanced": ("2*3)", [2, 3], 6),
    "unclosed": ("(2*3", [2, 3], 6),
    "inside out": (")2*3(", [2, 3], 6),
    "empty parentheses": ("()2*3", [2, 3], 6),
    "trailing operator": ("2*3+", [2, 3], 6),
    "operator without operand": ("2*/3", [2, 3], 6),
    "hedge": ("2*3 or 3*2", [2, 3], 6),
    "comma": ("2*3, 3*2", [2, 3], 6),
    "comment": ("2*3 # done", [2, 3], 6),
    "Python": ("2 if 3 else 6", [2, 3, 6], 2),
    "call": ("sqrt(16)", [16], 4),
    "import": ("__import__('os').system('true')", [1], 1),
    "hexadecimal": ("0x10", [16], 16),
    "scientific": ("1e3", [1, 3], 1000),
    "leading zero": ("02*3", [2, 3], 6),
    "decimal for an integer": ("2.0*3", [2, 3], 6),
    "underscore": ("1_0+2", [10, 2], 12),
    "Arabic digits": ("٢*3", [2, 3], 6),
    "words": ("two times three", [2, 3], 6),
    "letter x": ("2x3", [2, 3], 6),
}


@pytest.mark.parametrize("text, numbers, target", WRONG.values(), ids=WRONG)
def test_anything_else_is_wrong(text, numbers, target):
    verdict = verify(text, {"numbers": numbers, "target": target})
    assert (verdict.reward, verdict.verdict) == (0.0, "wrong")


@pytest.mark.parametrize("text", ["", "  \n", "<think>1+2", "<think>1+2</think>", "<answer>1+2", "<answer> </answer>"])
def test_a_text_with_tags_and_no_complete_answer_block_holds_no_answer(text):
    assert verify(text, {"numbers": [1, 2], "target": 3}).verdict == "no_answer"


@pytest.mark.parametrize("text", ["<answer>1+2", "<think>so</think>1+2", "<think>so\n1+2"])
def test_a_lenient_example_reads_badly_formed_texts(text):
    assert verify(text, {"numbers": [1, 2], "target": 3, "lenient": True}).reward == 1.0


def test_an_answer_past_the_length_limit_is_refused_before_it_is_read():
    assert verify("9" * 10**6, {"numbers": [1, 2], "target": 3}).verdict == "budget"


UNREADABLE = [
    {},
    None,
    "6",
    {"numbers": [1]},
    {"numbers": [], "target": 1},
    {"numbers": ["x"], "target": 1},
    {"numbers": [1], "target": "1e999999999"},
    {"numbers": [float("nan")], "target": 1},
    {"numbers": [True], "target": 1},
]


@pytest.mark.parametrize("gold", UNREADABLE)
def test_numbers_that_cannot_be_read_give_no_reward_at_all(gold):
    assert verify("1", {"gold": gold})[:2] == (None, "gold_unusable")


def tree(numbers, draw):
    """A random bracketed expression over all numbers and its value; None if it divides by 0."""
    if len(numbers) == 1:
        return str(numbers[0]), Fraction(numbers[0])
    cut = draw(st.integers(1, len(numbers) - 1))
    (left, x), (right, y) = tree(numbers[:cut], draw), tree(numbers[cut:], draw)
    mark = draw(st.sampled_from("+-*/"))
    if x is None or y is None or (mark == "/" and y == 0):
        return f"({left}{mark}{right})", None
    return f"({left}{mark}{right})", {"+": x + y, "-": x - y, "*": x * y, "/": x / (y or 1)}[mark]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_random_expression_is_right_for_its_own_value_and_numbers_only(data):
    numbers = data.draw(st.lists(st.integers(0, 99), min_size=1, max_size=6))
    text, value = tree(data.draw(st.permutations(numbers)), data.draw)
    if value is None:
        assert verify(text, {"numbers": numbers, "target": 1}).verdict == "wrong"
        return

    def reward(answer, given=numbers, target=value):
        return verify(answer, {"numbers": given, "target": target}).reward

    assert reward(text) == reward(text.replace("*", " × ").replace("/", "÷")) == 1.0
    assert reward(text, target=value + 1) == reward(text, given=[*numbers, 7]) == 0.0
    assert reward(f"{text}+0") == reward(f"{text}*1") == reward(f"{text} or {text}") == 0.0
    assert reward(f"{text}={value + 1}") == 0.0
    if value.denominator == 1:
        assert reward(f"{text} = {value}.") == 1.0


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789+-*/()=. \\{}$×÷−frac答<>&", max_size=60))
def test_no_text_raises_and_no_correct_verdict_lacks_a_given_number(text):
    verdict = verify(text, {"numbers": [12, 7], "target": 5})
    assert verdict.verdict in ("correct", "wrong", "no_answer")
    if verdict.reward:
        assert verdict.canonical.count("12") == verdict.canonical.count("7") == 1
