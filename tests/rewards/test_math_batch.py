"""Batches of checks: order, duplicates, bombs among them, random and mutated LaTeX."""

import json
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from r1jax.rewards.math import extract, grade_pairs, verify
from r1jax.rewards.math._extract import RULES

CASES = Path(__file__).parents[1] / "cases"
REAL = [json.loads(line)["gold"] for line in (CASES / "selfcheck/self.jsonl").read_text(encoding="utf-8").splitlines()]
PIECES = (
    r"\frac \sqrt { } ( ) [ ] ^ _ \left \right \cup \pm ! % \% \text{ | \{ \} , ; : = < \le \in \infty 1 23 0.5 "
    r"x y \pi e i \sin \log + - * / \begin{pmatrix} \end{pmatrix} & \\ \circ \binom or and 9^9 10^{10^ ... ² ， "
    r"° \mathbb{R} f( \overline \approx cm !! - 0 2 n ' ^{-1} ^T \over to C_5 \bmod "
    r"\begin{cases} \end{cases} km/h 分钟 约 不"
).split()
MARKERS = (
    r"\boxed{ \fbox{ \boxed } { <answer> </answer> <think> </think> #### $ $$ \( \) \[ \] ** ` ``` \$ 5 7 x=5 "
    r"\frac12 1,234 not or and 答案 是 不是 : ： is the_answer_is The_final_answer_is Wait <|im_end|> 3:05 % "
    "(B) 42 。 ."
).split()
BOMBS = [
    r"\boxed{9^{9^{9^{9}}}}",
    r"\boxed{(10^9)!}",
    r"\boxed{\binom{10^9}{5\cdot 10^8}}",
    r"\boxed{" + "(" * 3000 + "1" + ")" * 3000 + "}",
    r"\boxed{" + r"\sqrt{" * 500 + "2" + "}" * 501,
    r"\boxed{\sum_{k=1}^{10^{12}}\sin(k^2)}",
]


def test_order_is_kept_duplicates_agree_and_bombs_cost_only_themselves():
    pairs = [(rf"\sqrt{{{i}}}", rf"\boxed{{\sqrt{{{4 * i}}}/{2 + i % 2}}}") for i in range(2, 300)]
    expected = [1.0 - i % 2 for i in range(2, 300)]  # sqrt(4i)/2 = sqrt(i), sqrt(4i)/3 is not
    bombs = [("5", bomb) for bomb in BOMBS]
    verdicts = grade_pairs(pairs + bombs + pairs + [(None, "5"), ("5", None), (5, "5")])
    assert [v.reward for v in verdicts[: len(pairs)]] == expected
    assert [v.reward for v in verdicts[len(pairs) : len(pairs) + len(bombs)]] == [0.0] * len(bombs)
    assert verdicts[len(pairs) + len(bombs) : -3] == verdicts[: len(pairs)]
    assert [v.reward for v in verdicts[-3:]] == [None, 0.0, 1.0]


def test_a_batch_past_its_deadline_says_what_is_open():
    verdicts = grade_pairs([(rf"\sqrt{{{i}}}", r"\boxed{\pi}") for i in range(2, 500)], deadline=0.0)
    assert {v.verdict for v in verdicts} <= {"wrong", "timeout"}
    assert any(v.verdict == "timeout" for v in verdicts)


def latex():
    """Random LaTeX, and real answers with a piece put in or a stretch cut out."""
    random = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
    mutated = st.builds(
        lambda gold, piece, at, cut: gold[: at % (len(gold) + 1)] + piece + gold[at % (len(gold) + 1) + cut :],
        st.sampled_from(REAL),
        st.sampled_from(["", *PIECES]),
        st.integers(0, 60),
        st.integers(0, 3),
    )
    return st.one_of(random, mutated, st.text(max_size=30))


@settings(max_examples=400, deadline=None)
@given(latex(), latex())
def test_any_latex_gets_a_verdict_in_time_and_the_same_both_ways(one, other):
    start = time.process_time()
    forth = verify(f"\\boxed{{{other}}}", {"gold": f"\\boxed{{{one}}}"})
    back = verify(f"\\boxed{{{one}}}", {"gold": f"\\boxed{{{other}}}"})
    assert time.process_time() - start < 2  # seconds of CPU for both; a thousandth of it is usual
    assert (forth.reward == 1.0) == (back.reward == 1.0)


@settings(max_examples=100, deadline=None)
@given(latex())
def test_every_readable_answer_equals_itself(one):
    verdict = verify(f"\\boxed{{{one}}}", {"gold": f"\\boxed{{{one}}}"})
    assert verdict.reward == 1.0 or verdict.verdict in ("no_answer", "gold_unusable")  # braces that do not match


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from([*MARKERS, " ", "\n"]), max_size=40).map(lambda parts: "".join(parts).replace("_", " "))
)
def test_any_text_with_any_markers_gets_a_verdict_in_time(text):
    start = time.process_time()
    verdict = verify(text, {"gold": "5"})
    assert verdict.verdict in ("correct", "wrong", "no_answer", "budget")
    assert all(found is None or isinstance(found, str) for found in (extract(text, rule) for rule in RULES))
    assert time.process_time() - start < 2
