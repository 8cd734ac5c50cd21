"""Multiple choice and programs in the forms their authors publish them."""

import json

import pytest

from r1jax.data.forms import find_question
from r1jax.data.readers import rows
from r1jax.rewards.kinds import KINDS

OPTIONS = "Which?\n\nA) one\nB) two\nC) three"
FORMS = {
    "MMLU by index": ({"question": "Which?", "choices": ["one", "two", "three"], "answer": 2}, OPTIONS, "C"),
    "MMLU by letter": ({"question": "Which?", "choices": ["one", "two", "three"], "answer": "B"}, OPTIONS, "B"),
    "C-Eval": (
        {"question": "Which?", "A": "one", "B": "two", "C": "three", "D": "four", "answer": "D"},
        OPTIONS + "\nD) four",
        "D",
    ),
    "MMLU-Pro": (
        {"question": "Which?", "options": [*"zyxwvutsrq"], "answer": "J", "answer_index": 9},
        "Which?\n\n"
        + "\n".join(f"{letter}) {option}" for letter, option in zip("ABCDEFGHIJ", "zyxwvutsrq", strict=True)),
        "J",
    ),
    "ARC": (
        {"question": "Which?", "choices": {"text": ["one", "two", "three"], "label": [*"123"]}, "answerKey": "2"},
        OPTIONS,
        "B",
    ),
}


def read(tmp_path, record):
    (tmp_path / "form.jsonl").write_text(json.dumps(record) + "\n")
    (row,) = rows(tmp_path / "form.jsonl")
    return row


@pytest.mark.parametrize("record, problem, gold", FORMS.values(), ids=FORMS)
def test_a_choice_lists_its_options_and_knows_the_letter(tmp_path, record, problem, gold):
    row = read(tmp_path, record)
    assert (row["problem"], row["gold"], row["kind"]) == (problem, gold, "choice")


def test_options_that_come_with_the_right_one_first_are_shuffled_by_the_id_alone():
    record = {"question": "Q", "correct answer": "yes", **{f"incorrect answer {i}": f"no {i}" for i in (1, 2, 3)}}
    letters = {find_question(record, str(i)).value["gold"] for i in range(40)}
    assert letters == set("ABCD")
    row = find_question(record, "7").value
    assert row == find_question(record, "7").value
    assert f"{row['gold']}) yes" in row["problem"].splitlines()


def test_ten_options_are_named_in_the_prompt(tmp_path):
    row = read(tmp_path, FORMS["MMLU-Pro"][0])
    assert "LETTER is one of ABCDEFGHIJ." in KINDS["choice"].prompt(row)


def test_ifeval_keeps_the_arguments_that_are_given(tmp_path):
    record = {
        "key": 1000,
        "prompt": "Write without commas.",
        "instruction_id_list": ["punctuation:no_comma", "startend:end_checker"],
        "kwargs": [{"end_phrase": None}, {"end_phrase": "Bye.", "num_words": None}],
    }
    row = read(tmp_path, record)
    assert row["kind"] == "instructions" and row["gold"]["kwargs"] == [{}, {"end_phrase": "Bye."}]
    with pytest.raises(ValueError, match="instructions"):
        read(tmp_path, record | {"instruction_id_list": ["none:such", "punctuation:no_comma"]})


HUMANEVAL = {
    "task_id": "HumanEval/0",
    "prompt": 'def half(x):\n    """Halves."""\n',
    "entry_point": "half",
    "canonical_solution": "    return x / 2\n",
    "test": "def check(candidate):\n    assert candidate(3) == 1.5\n    assert candidate([1]) "
    "is None\n    assert candidate(0) == 0.0\n",
}


def test_humaneval_becomes_calls_with_values_and_no_code(tmp_path):
    row = read(tmp_path, HUMANEVAL)
    assert row["gold"] == {"entry": "half", "tests": [[[3], 1.5], [[0], 0.0]], "float_tolerance": 1e-6}
    assert (row["id"], row["kind"], row["starter"]) == ("HumanEval/0", "code", HUMANEVAL["prompt"])
    with pytest.raises(ValueError, match="no assertion"):
        read(tmp_path, HUMANEVAL | {"test": "def check(candidate):\n    assert candidate(f()) > 1\n"})


PROGRAMS = {
    "APPS on standard input": (
        {"question": "Double.", "input_output": json.dumps({"inputs": ["2\n"], "outputs": ["4\n"]})},
        {"tests": [["2\n", "4\n"]]},
    ),
    "APPS, a function": (
        {"question": "Double.", "input_output": json.dumps({"fn_name": "f", "inputs": [[2]], "outputs": [[4]]})},
        {"entry": "f", "tests": [[[2], 4]]},
    ),
    "LiveCodeBench": (
        {
            "question_content": "Double.",
            "question_id": "x",
            "starter_code": "",
            "metadata": "{}",
            "public_test_cases": json.dumps([{"input": "2", "output": "4", "testtype": "stdin"}]),
            "private_test_cases": json.dumps([{"input": "3", "output": "6", "testtype": "stdin"}]),
        },
        {"tests": [["2", "4"], ["3", "6"]]},
    ),
    "LiveCodeBench, a function": (
        {
            "question_content": "Double.",
            "question_id": "x",
            "starter_code": "class Solution:",
            "metadata": '{"func_name": "f"}',
            "public_test_cases": [{"input": "[1, 2]\n3", "output": "[2]", "testtype": "functional"}],
        },
        {"entry": "f", "tests": [[[[1, 2], 3], [2]]]},
    ),
    "MBPP": (
        {"task_id": 2, "text": "Double.", "test_list": ["assert f(2) == 4", "assert f(1, [3]) == (4,)"]},
        {"entry": "f", "tests": [[[2], 4], [[1, [3]], [4]]]},
    ),
}


@pytest.mark.parametrize("record, gold", PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_has_its_tests(tmp_path, record, gold):
    row = read(tmp_path, record)
    assert json.loads(json.dumps(row["gold"])) == gold and row["kind"] == "code"
    assert row["problem"].startswith("Double.")


def test_tests_that_would_have_to_be_unpickled_are_refused(tmp_path):
    record = {
        "question_content": "Q",
        "question_id": "x",
        "public_test_cases": "[]",
        "private_test_cases": "eJxrYJmaAAATaASd",
    }
    with pytest.raises(ValueError, match=r"form\.jsonl:1 \(id 'x'\).*compressed pickle.*write it as JSON first"):
        read(tmp_path, record)


def test_an_assertion_that_is_more_than_a_call_and_a_value_is_never_run(tmp_path):
    record = {"task_id": 1, "text": "Q", "test_list": ["assert f(__import__('os').getpid()) == 1", "assert f(2) > 3"]}
    with pytest.raises(ValueError, match="has the keys task_id, text, test_list"):
        read(tmp_path, record)
