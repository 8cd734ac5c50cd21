"""What a policy is asked on a benchmark."""

import json
from pathlib import Path

import pytest

from r1jax.data import questions
from r1jax.evaluation.prompts import Benchmark, instructed, load
from r1jax.rewards.prompting import CHOICE, MATH

CASES = Path(__file__).resolve().parent.parent / "cases" / "benchmarks"


def test_the_papers_words_follow_a_problem_of_mathematics():
    found = load(str(CASES / "math500_sample.jsonl"))
    assert [asked.splitlines()[-1] for asked in found.asked] == [MATH] * 3
    assert all(asked.startswith(row["problem"]) for asked, row in zip(found.asked, found.examples, strict=True))
    assert {row["language"] for row in found.examples} == {"en"}
    assert found.name == "math500_sample"


def test_without_instructions_a_problem_is_asked_as_it_stands():
    found = load(str(CASES / "gsm8k_sample.jsonl"), count=1, instruct=False)
    assert found.asked == [found.examples[0]["problem"]]


def test_a_choice_is_told_its_letters_and_a_program_its_form():
    asked = instructed({"problem": "Which?\n\nA) one\nB) two\nC) three", "kind": "choice", "gold": "A"})
    assert asked == CHOICE.replace("{letters}", "ABC") + "\n\nWhich?\n\nA) one\nB) two\nC) three"
    assert "STDOUT" in instructed({"problem": "Double.", "kind": "code", "gold": {"tests": [["1", "2"]]}})
    assert "def f(" in instructed({"problem": "Double.", "kind": "code", "gold": {"entry": "f", "tests": [[[1], 2]]}})
    boxed = {"problem": "Give it in \\boxed{}.", "kind": "math", "gold": "1"}
    assert instructed(boxed) == boxed["problem"]


@pytest.mark.parametrize(
    "name, k", [("aime24", 64), ("GPQA_diamond", 64), ("math500", 16), ("livecodebench_v5", 8), ("gsm8k", 4)]
)
def test_the_papers_number_of_samples_goes_by_the_name(name, k):
    assert Benchmark(name, [], []).samples == k


def test_the_generators_problems_are_asked_in_their_own_words():
    found = load("nano:reasoning", 5)
    assert found.name == "nano_reasoning" and found.asked == [row["problem"] for row in found.examples]
    with pytest.raises(ValueError, match="nano:maths names no mix"):
        load("nano:maths")


def test_a_question_that_names_no_language_is_in_that_of_its_words(tmp_path):
    said = ["求 $x+1=2$ 的解。", "What is the root of $x+1=2$?", "$x+1=2$"]
    rows = [{"id": i, "problem": problem, "answer": "1"} for i, problem in enumerate(said)]
    rows.append(rows[0] | {"id": 3, "language": "en"})
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert [row["language"] for row in load(str(tmp_path / "a.jsonl")).examples] == ["zh", "en", "en", "en"]
    take, _ = questions.stream(str(tmp_path / "a.jsonl"), 0)  # a reward for keeping to it needs one, too
    assert {take(i)["id"]: take(i)["language"] for i in range(4)} == {"0": "zh", "1": "en", "2": "en", "3": "en"}
