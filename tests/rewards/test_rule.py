"""The rule rewards of completions in R1-Zero's and in R1's form: what each part is, who has it, what a row earns."""

import numpy as np
import pytest

from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool

CHAIN = {"kind": "math", "gold": "14", "language": "en", "problem": "What is 3+4*2?"}
CHOICE = {"kind": "choice", "gold": "B", "language": "en", "problem": "Which is largest? A 1+1, B 3*3"}
COUNTDOWN = {"kind": "countdown", "gold": {"numbers": [3, 4, 2], "target": 14}, "language": "zh"}
WIDE = {"time_s": 30, "wall_s": 120, "memory_mb": 512}  # for a loaded machine
PROGRAM = {"kind": "code", "gold": {"entry": "f", "tests": [[[3], 7]], "limits": WIDE}, "language": "en"}
TALK = {"kind": "general", "gold": {"right": ["You are welcome."]}, "language": "en", "task": "general"}
SAFETY = {"kind": "general", "gold": {"refuse": True}, "task": "general"}


@pytest.fixture(scope="module")
def pool():
    with Pool(1, item_s=30.0) as pool:
        yield pool


@pytest.mark.parametrize(
    ("kind", "text", "strict", "lenient"),
    [
        ("math", "<think> 3 </think> 3+4=7. The answer is \\boxed{14}.", "14", "14"),
        ("math", "<think> \\boxed{3} </think> \\boxed{4} or \\boxed{14}", "14", "14"),  # the summary's last box
        ("math", "<think> \\boxed{14} </think> It is 14.", None, "It is 14."),  # a box in the thought is no answer
        ("math", "<think> 3 </think> \\boxed{ 14", None, "\\boxed{ 14"),
        ("math", "<think> 3 </think> </think> \\boxed{14}", None, "14"),
        ("math", "\\boxed{14}", None, "14"),
        ("math", "<think> 3 </think>  ", None, None),
        ("math", "", None, None),
        ("code", "<think> 3 </think> ```python\nx\n```", "```python\nx\n```", "```python\nx\n```"),
        ("code", "<think> 3 </think> \\boxed{x}", "\\boxed{x}", "\\boxed{x}"),  # a program is never in a box
    ],
)
def test_the_answer_in_r1_s_form_is_what_the_summary_says(kind, text, strict, lenient):
    assert rule.given_answer(text, kind, "r1") == strict
    assert rule.given_answer(text, kind, "r1", lenient=True) == lenient


def test_in_r1_s_form_a_box_a_fence_and_a_talk_are_scored_each_in_its_way(pool):
    rows = [
        ("<think> 3+4=7 </think> 7*2=14. The answer is \\boxed{14}.", CHAIN, 1.0),
        ("<think> 3+4=7 </think> The answer is \\boxed{7}.", CHAIN, 0.0),
        ("<think> 3+4=7 </think> <answer> 14 </answer>", CHAIN, 0.0),  # R1-Zero's form is not R1's
        ("<think> i guess </think> The answer is \\boxed{B}.", CHOICE, 1.0),
        ("<think> 试 </think> 答案是 \\boxed{(3+4)*2}。", COUNTDOWN, 1.0),
        ("<think> 试 </think> 答案是 \\boxed{3*4+2+0}。", COUNTDOWN, 0.0),
        ("<think> try </think> ```python\ndef f(x): return x*2+1\n```", PROGRAM, 1.0),
        ("<think> try </think> ```python\ndef f(x): return x*2\n```", PROGRAM, 0.0),
        ("<think> hm </think> You are welcome.", TALK, np.nan),
        ("", TALK, np.nan),
        ("<think> no </think> You are welcome.", SAFETY, np.nan),
        ("<think> </think> You are welcome.", TALK, np.nan),
        ("<think> </think> The answer is \\boxed{14}.", CHAIN, 1.0),
    ]
    texts, examples, accuracy = zip(*rows, strict=True)
    scores = rule.score(pool, texts, examples, {"accuracy": 1.0, "format": 0.5, "language": 0.25}, "r1")
    assert scores.valid.all()
    np.testing.assert_array_equal(scores.parts["accuracy"], accuracy)
    # Well formed: all but the empty reply, and the problem solved without a thought, which only talk may do without.
    # R1-Zero's answer block passes for a summary.
    formed = [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 0]
    np.testing.assert_array_equal(scores.parts["format"], formed)
    # Each thought is in its question's language or has no word ("3+4=7", ""); only the question of harm names none.
    named = np.array(["language" in example for example in examples])
    np.testing.assert_array_equal(scores.parts["language"], np.where(named, 1.0, np.nan))
    np.testing.assert_allclose(scores.total, np.nan_to_num(accuracy) + 0.5 * np.array(formed) + 0.25 * named)


def test_a_part_without_weight_is_not_taken_and_accuracy_always_is(pool):
    texts, examples = ["<think> 试 3 </think> <answer> 14 </answer>"], [CHAIN]
    assert rule.score(pool, texts, examples, {"accuracy": 1.0}).parts.keys() == {"accuracy"}
    scores = rule.score(pool, texts, examples, {"language": 1.0, "format": 0.0})
    assert scores.parts.keys() == {"accuracy", "language"}
    assert scores.parts["accuracy"] == [1.0] and scores.total == [0.0]


def test_a_row_without_a_verdict_is_not_valid_and_earns_nothing(pool):
    # A gold that cannot be read is nobody's fault: no verdict.
    broken = CHAIN | {"kind": "countdown", "gold": {"numbers": [], "target": None}}
    text = "<think> 3 </think> <answer> 14 </answer>"
    scores = rule.score(pool, [text, text], [broken, CHAIN], {"accuracy": 1.0, "format": 1.0})
    assert scores.valid.tolist() == [False, True] and scores.total.tolist() == [0.0, 2.0]
    assert np.isnan(scores.parts["accuracy"][0]) and scores.verdicts[0].reward is None
    # Where accuracy has no weight, none is due.
    scores = rule.score(pool, [text, text], [broken, CHAIN], {"accuracy": 0.0, "format": 1.0})
    assert scores.valid.tolist() == [True, True] and scores.total.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("text", "language", "share"),
    [
        ("<think> try this and wait </think> 等等", "en", 1.0),  # the thought alone counts
        ("<think> try this and wait </think> wait", "zh", 0.0),
        ("<think> try 试一试 </think>", "en", 1 / 4),  # a word and three characters
        ("<think> 3+4=7 7? </think>", "zh", 1.0),  # no words, none wrong
        ("<think>  </think> 答案", "en", 1.0),
        ("", "zh", 1.0),
        ("试一试 try", "zh", 3 / 4),  # without a thought the whole text
    ],
)
def test_language_consistency_is_the_share_of_the_thought_s_words(text, language, share):
    assert rule.consistency([text], [{"language": language}]) == [share]


def test_a_question_without_a_language_has_no_consistency():
    found = rule.consistency(["<think> try </think>"] * 2, [{}, {"language": "en"}])
    assert np.isnan(found[0]) and found[1] == 1.0


def test_what_a_row_has_not_counts_nothing():
    parts = {"accuracy": np.array([1.0, np.nan, 0.0]), "format": np.array([1.0, 1.0, np.nan])}
    total, valid = rule.combine_parts(parts, {"accuracy": 1.0, "format": 0.5}, np.array([True, True, False]))
    assert total.tolist() == [1.5, 0.5, 0.0] and valid.tolist() == [True, True, False]
