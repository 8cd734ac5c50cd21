"""Multiple-choice answers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards.choice import verify

# texts apart by semicolon or line
RIGHT = (
    r"""
B;(B);b;(b);[B];B.;B。;B);**B**;`B`;"B";\text{B};\boxed{B};$B$;\boxed{\text{(B)}};\mathbf{B};\(B\)
（Ｂ）;Ⓑ;B) 42;B. 12+7;B: x^2/2 + C;B. a dog;Option B;Answer: B;**Answer:** B;Final answer: B
The answer is B.;the answer is (B);The answer is: **B. 14**;The correct option is B;I think B
B is the largest;It is B because it is larger;Therefore, option B.;The answer is $\boxed{B}$
<think>A or B</think><answer>B</answer>;<answer> B </answer>
If we choose A we fail. The answer is B.
Option A is wrong because 3<4. Option C too. The answer is B.;<answer>So, B</answer>
选B;选择B;B选项;应选B项;答案是B;答案：B。;答案: B. 12+7;正确答案为（B）;故选B。;不选A，选B
选项A错误。因此选B。
A项太小。故选：B;<think>选A？</think><answer>选 B</answer>
""".strip()
    .replace("\n", ";")
    .split(";")
)

NOT_RIGHT = (
    r"""
A;D;AB;BC;ABCD;A or B;B or A;(A) or (B);A, B;B,C;A/B;B/C;A B;(B)(C);B and C;either B or C;b or c
B or 42 or C;B) C;B? C?;B, but maybe C;\boxed{A} \boxed{B};\boxed{B, C};\boxed{B \text{ or } C}
\boxed{B
The answer is B or C;The answer is (B) or (C);The answer is A. The answer is B.;not B
All of the above
The answer is not B;Banana;The answer is a banana;<answer>A</answer><answer>B or C</answer>
<answer>B
<think>B</think>;不选B;答案是A或B;选A或B;选B、C;选B和C;答案可能是B也可能是C;答案不是B;全部
""".strip()
    .replace("\n", ";")
    .split(";")
)


@pytest.mark.parametrize("text", [*RIGHT, "B\n", "3 > 2\nso\n\nB"])
def test_a_text_that_settles_on_the_gold_letter_is_right(text):
    assert verify(text, {"gold": "B"}).reward == 1.0


@pytest.mark.parametrize("text", [*NOT_RIGHT, "B | C", "", "   "])
def test_another_letter_several_letters_or_none_is_not_right(text):
    assert verify(text, {"gold": "B"}).reward == 0.0


@pytest.mark.parametrize("text", RIGHT)
def test_a_text_that_settles_on_one_letter_is_wrong_for_another_gold(text):
    assert verify(text, {"gold": "C"})[:2] == (0.0, "wrong")


def test_the_article_is_no_option():
    assert verify("The answer is a dog, B", {"gold": "A"}).reward == 0.0
    assert verify("A", {"gold": "(A)"}).reward == 1.0


@pytest.mark.parametrize("gold", ["", "12", "AB", "A or B", "A. dog", None])
def test_a_gold_that_is_no_letter_gives_no_reward_at_all(gold):
    assert verify("A", {"gold": gold})[:2] == (None, "gold_unusable")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="ABb() .,/or\\boxed{}答案是选$<>answer\n", max_size=50))
def test_no_text_raises_and_no_text_is_right_for_two_letters(text):
    assert sum(verify(text, {"gold": letter}).reward for letter in "ABCD") <= 1
