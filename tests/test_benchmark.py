"""Samples of a benchmark: how each is judged, and what they come to."""

import numpy as np
import pytest

from experiments.evaluate import show
from r1jax.evaluation.benchmark import by_problem, extract_final_answer, figures, format_table, make_lines
from r1jax.rewards.isolate import Pool
from r1jax.sampling.complete import Wave

SUM = {"id": "a", "problem": "What is 3+4?", "kind": "math", "gold": "7", "language": "en"}
PICK = {"id": "b", "problem": "Which is it? A) this B) that", "kind": "choice", "gold": "B", "language": "en"}


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


def judged(pool, *pairs, style="r1"):
    texts, examples = zip(*pairs, strict=True)
    n = len(texts)
    wave = Wave(list(examples), [0] * n, list(texts), np.arange(1, n + 1), np.ones(n, bool))
    return make_lines(pool, style)(wave)


@pytest.mark.parametrize(
    "text, kind, expected",
    [
        (r"<think> 1 </think> so \boxed{7}", "math", "7"),
        (r"no tags, \boxed{6} then \boxed{7}", "math", "7"),
        (r"<think> \boxed{6} </think> <answer> 7 </answer>", "math", "7"),
        (r"<think> \boxed{7} and on and on", "math", None),  # cut off while thinking
        ("<think> 1 </think> it is 7", "math", None),  # said, not announced
        ("<think> 1 </think> ANSWER: B", "choice", "ANSWER: B"),
        ("```python\nx\n```", "code", "```python\nx\n```"),
        ("<think> 1 </think>", "code", None),
    ],
)
def test_the_announced_answer(text, kind, expected):
    assert extract_final_answer(text, kind) == expected


def test_a_right_answer_counts_in_any_form_and_the_form_apart(pool):
    lines = judged(
        pool,
        (r"<think> three and four </think> It is \boxed{7}.", SUM),
        (r"It is \boxed{7}.", SUM),
        (r"<think> three and four </think> It is \boxed{8}.", SUM),
        ("<think> three and four", SUM),
        ("<think> this or that </think> some words\nANSWER: B", PICK),
    )
    assert [line["right"] for line in lines] == [True, True, False, False, True]
    assert [line["right_in_form"] for line in lines] == [True, False, False, False, False]  # a choice's form is a box
    assert [line["format"] for line in lines] == [1, 0, 1, 0, 1]
    assert [line["verdict"] for line in lines] == ["correct", "correct", "wrong", "no_answer", "correct"]
    assert [line["answer"] for line in lines] == ["7", "7", "8", None, "B"]


def line(right, answer, length=10, **more):
    verdict = {True: "correct", False: "wrong" if answer else "no_answer", None: None}[right]
    plain = dict(
        format=1.0, language=None, truncated=False, reflective_words=0.0, helpful=None, harmless=None, padding=None
    )
    return (
        {
            "kind": "math",
            "task": "chain",
            "right": right,
            "right_in_form": right,
            "answer": answer,
            "verdict": verdict,
            "length": length,
        }
        | plain
        | more
    )


LINES = [
    line(True, "7", 4),
    line(True, "7", 6),
    line(False, "8", 20),
    line(False, None, 30),  # the majority is right
    line(False, "1", task="compare"),
    line(False, "1", task="compare"),
    line(True, "2", task="compare"),
    line(False, "3", task="compare"),
]


def test_what_two_problems_come_to_is_what_a_hand_finds():
    found = by_problem(LINES, 4)
    np.testing.assert_allclose(found["pass@1"], [2 / 4, 1 / 4])
    np.testing.assert_allclose(found["pass@2"], [1 - 1 / 6, 1 - 3 / 6])  # C(2,2)/C(4,2), C(3,2)/C(4,2)
    np.testing.assert_allclose(found["pass@4"], [1, 1])
    np.testing.assert_allclose(found["cons@4"], [1, 0])
    np.testing.assert_allclose(found["length"], [15, 10])
    np.testing.assert_allclose(found["length_right"], [5, 10])
    np.testing.assert_allclose(found["length_wrong"], [25, 10])
    np.testing.assert_allclose(found["no_answer"], [1 / 4, 0])
    assert np.isnan(found["language"]).all()


def test_figures_are_means_over_problems_with_intervals_and_by_task():
    found = figures(LINES, 4, seed=0)
    assert found["n"] == 2 and found["samples"] == 4
    assert found["pass@1"] == {"mean": pytest.approx(0.375), "low": 0.25, "high": 0.5}
    assert "language" not in found and "helpful" not in found
    assert found["by_task"]["chain"]["cons@4"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["by_task"]["compare"]["n"] == 1


def test_general_prompts_have_no_accuracy_but_the_generators_truth():
    lines = [line(None, None, kind="general", helpful=0.5, harmless=1.0, padding=2.0)] * 2
    found = figures(lines, 2, seed=0)
    assert found["helpful"]["mean"] == 0.5 and found["harmless"]["mean"] == 1.0
    assert not {"pass@1", "cons@2", "no_answer"} & set(found)


def test_programs_do_not_vote():
    assert "cons@2" not in figures([line(True, None, kind="code"), line(False, None, kind="code")], 2, seed=0)


def test_no_figure_of_the_table_is_cut_off(capsys):
    rows = [[f"figure {i}" for i in range(12)], ["100.0 [96.2, 100.0]"] * 12]
    show(rows)
    said = capsys.readouterr().out
    assert "…" not in said and said.count("100.0 [96.2, 100.0]") == 12


def test_the_table_has_a_row_for_every_benchmark_and_task_and_no_empty_column():
    rows = format_table({"mine": figures(LINES, 4, seed=0)})
    assert rows[0] == [
        "benchmark",
        "problems",
        "k",
        "pass@1",
        "pass@k",
        "cons@k",
        "in form",
        "format",
        "tokens",
        "cut off",
        "no answer",
    ]
    assert [row[0] for row in rows[1:]] == ["mine", "  chain", "  compare"]
    assert rows[1][1:4] == ["2", "4", "37.5 [25.0, 50.0]"]
