"""Rewriting deletes and translates, and never reasons: what is checked, and what happens to what fails."""

import time

import pytest

from r1jax.nano import programs
from r1jax.rewards.isolate import Pool
from r1jax.sft_data import rewrite
from r1jax.sft_data.llm import Writer
from r1jax.sft_data.nano_annotator import nano_annotator
from r1jax.sft_data.rewrite import (
    adds_nothing,
    computations,
    correctness,
    fault_of_thought,
    judge_with_reference,
    rewrite_records,
)

RAW = "try 3+4=7,7*2=14 20? no\n等等,试 3*4=12,12+2=14 so 14"


@pytest.mark.parametrize(
    "text, found",
    [
        ("3+4=7,7*2=14 20? no", {"3+4=7", "7*2=14"}),
        ("3 + 4 = 7", {"3+4=7"}),
        ("$3 \\times 4 = 12$, 8 ÷ 2 = 4", {"3*4=12", "8/2=4"}),
        ("B 20-2=18 18<38 A", {"20-2=18", "18<38"}),
        ("x[0]=4,4*3=12 sum(x)=9", {"x[0]=4", "4*3=12", "sum(x)=9"}),
        ("(3+4)*2=14", {"(3+4)*2=14"}),
        ("1/2+1/3=5/6", {"1/2+1/3=5/6"}),
        ("so 14. The answer is \\boxed{14}", set()),
        ("", set()),
    ],
)
def test_computations_are_read_whatever_their_spelling(text, found):
    assert computations(text) == found


@pytest.mark.parametrize(
    "text", ["1+" * 40_000, "9" * 80_000, "(" * 80_000, "a" * 80_000, "x[1]+" * 16_000, "f(1" * 27_000]
)
def test_no_text_takes_long_to_read(text):
    began = time.process_time()
    computations(text)
    assert time.process_time() - began < 60


@pytest.mark.parametrize(
    "edited, why",
    [
        pytest.param("try 3+4=7,7*2=14 20? no\nwait, try 3*4=12,12+2=14 so 14", "", id="translated"),
        pytest.param("try 3*4=12,12+2=14 so 14", "", id="a failed try deleted: half of the steps are there"),
        pytest.param("3 * 4 = 12 so 14", "rewriting lost the work", id="one step of four is left"),
        pytest.param("try 3*4=12,12+2=14 so 14, check: 14-2=12", "rewriting added a step", id="a check of its own"),
        pytest.param("try 3+4=8,7*2=14,3*4=12", "rewriting added a step", id="a step changed"),
        pytest.param("", "nothing rewritten", id="nothing"),
        pytest.param("3+4=7,7*2=14 </think> 14", "nothing rewritten", id="tags inside"),
        pytest.param("try 3+4=7,7*2=14 等等,试 so", "rewriting mixed languages", id="still mixed"),
    ],
)
def test_an_edit_of_a_thought_is_refused_for_what_it_does(edited, why):
    assert fault_of_thought(RAW, edited, "en") == why


def test_an_edit_that_states_a_comparison_the_other_way_round_adds_a_step():
    assert adds_nothing("18<38 so A", "18<38 所以 A") and not adds_nothing("18<38 so A", "18>38 so B")


def record(number: int, thought: str, **changed) -> dict:
    whole = f" <think> {thought} </think> <answer> 14 </answer>"
    return {
        "id": f"r/{number}",
        "example": f"q{number}",
        "kind": "math",
        "task": "chain",
        "language": "en",
        "gold": "14",
        "problem": "What is (3+4)*2?",
        "response": whole,
        "raw": whole,
        "route": "r1_zero",
        "keep": True,
        "reason": "",
        "rewritten_by": None,
    } | changed


CLEAN = "3+4=7,7*2=14 so 14"
MIXED = "3+4=7,7*2=14 所以 14"
GOOD = "3+4=7, 7*2=14. The answer is \\boxed{14}."


def scripted(thought: str, solution: str) -> Writer:
    """A model that gives one answer to every translation and another to every summary; it notes what it was asked."""
    asked = []

    def answers(prompts, path):
        asked.append((path.name, list(prompts)))
        return [thought if path.stem == "translated" else solution for _ in prompts]

    model = Writer("model", answers)
    model.answers.asked = asked
    return model


@pytest.fixture(scope="module")
def pool():
    with Pool() as pool:
        yield pool


def test_a_mixed_thought_is_translated_and_every_record_gets_a_solution(pool, tmp_path):
    model = scripted(CLEAN, GOOD)
    dropped = record(2, CLEAN, keep=False, reason="wrong")
    one, two, three = rewrite_records(
        [record(0, CLEAN), record(1, MIXED), dropped], model, rewrite.NANO, pool, tmp_path
    )
    assert one["response"] == two["response"] == f" <think> {CLEAN} </think> {GOOD}"
    assert one["rewritten_by"] == two["rewritten_by"] == "model" and one["raw"] == record(0, CLEAN)["raw"]
    assert three == dropped
    (name, translations), (_, summaries) = model.answers.asked
    assert name == "translated.jsonl" and len(translations) == 1 and MIXED in translations[0]
    assert translations[0].startswith("Translate the thinking process to the same language as the question.")
    assert len(summaries) == 2 and all(CLEAN in text for text in summaries), "the solution is of the edited thought"
    assert two["edits"] == {
        "thought": {"by": "model", "prompt": rewrite.NANO.translate},
        "solution": {"by": "model", "prompt": rewrite.NANO.solution},
    }
    assert set(one["edits"]) == {"solution"}


@pytest.mark.parametrize(
    "solution, why",
    [
        ("7*2=14, 14+0=14. The answer is \\boxed{14}.", "rewriting added a step"),
        ("3+4=7, 7*2=14. The answer is \\boxed{15}.", "rewriting lost the answer"),
        ("3+4=7, 7*2=14.", "rewriting lost the answer"),
        ("<think> hm </think> \\boxed{14}", "nothing rewritten"),
        ("", "nothing rewritten"),
    ],
)
def test_a_bad_solution_is_dropped_with_its_reason_or_the_annotators_is_taken(pool, tmp_path, solution, why):
    model = scripted(CLEAN, solution)
    (found,) = rewrite_records([record(0, CLEAN)], model, rewrite.NANO, pool, tmp_path)
    assert (found["keep"], found["reason"]) == (False, why)
    people = nano_annotator("r1_zero")
    (found,) = rewrite_records([record(0, CLEAN)], model, rewrite.NANO, pool, tmp_path, annotator=people)
    assert found["keep"] and found["rewritten_by"] == "annotator"
    assert found["response"] == f" <think> {CLEAN} </think> 3+4=7, 7*2=14. The answer is \\boxed{{14}}."
    assert found["edits"]["solution"] == {"by": "annotator", "prompt": None}


def test_a_bad_translation_is_dropped_with_its_reason_or_the_annotators_is_taken(pool, tmp_path):
    model = scripted("3+4=7,7*2=14,14/2=7 so 14", GOOD)
    (found,) = rewrite_records([record(0, MIXED)], model, rewrite.NANO, pool, tmp_path)
    assert (found["keep"], found["reason"]) == (False, "rewriting added a step")
    (found,) = rewrite_records(
        [record(0, MIXED)], model, rewrite.NANO, pool, tmp_path, annotator=nano_annotator("r1_zero")
    )
    assert found["keep"] and found["rewritten_by"] == "annotator+model"
    assert found["response"] == f" <think> {CLEAN} </think> {GOOD}"


def test_a_model_is_not_asked_what_is_too_long_for_it(pool, tmp_path):
    model = scripted(CLEAN, GOOD)
    people = nano_annotator("r1_zero")
    (found,) = rewrite_records(
        [record(0, CLEAN)], model, rewrite.NANO, pool, tmp_path, annotator=people, fits=lambda prompt: False
    )
    assert found["rewritten_by"] == "annotator" and model.answers.asked == []


@pytest.mark.parametrize(
    "thought, answer, kind, does",
    [
        ("7*2=14 so 14", "14", "math", True),
        ("7*2=14 so 140", "40", "math", False),
        ("x = 1.5", "5", "math", False),
        ("it is one half", "\\frac{1}{2}", "math", True),
        ("A 9, B 5 5<9 B so B", "B", "choice", True),
        ("A 9, B 5 5<9 B so B", "A", "choice", False),
        ("i guess", "A", "choice", False),
        ("try x*3", "def f(x): return x*3", "code", True),
    ],
)
def test_an_answer_that_the_thought_does_not_come_to_is_found(thought, answer, kind, does):
    assert rewrite.concludes(thought, answer, kind) is does


def test_a_right_answer_after_a_thought_that_concludes_otherwise_is_dropped(pool, tmp_path):
    people = nano_annotator("r1_zero")
    some = [record(0, "3+4=7,7*2=15 so 15")]
    (found,) = rewrite_records(some, scripted("", ""), rewrite.NANO, pool, tmp_path, annotator=people)
    assert (found["keep"], found["reason"]) == (False, "the thought concludes otherwise")


def test_an_annotator_keeps_the_program_that_was_sampled(pool, tmp_path):
    asked = programs.Program("x", 3, 5)
    row = record(
        0,
        "try x*3+5 2*3=6,6+5=11 11? yes",
        kind="code",
        task="program",
        problem="Write Python f(x): x times 3 plus 5. f(2)=11",
        gold={"entry": "f", "tests": [[[2], 11], [[4], 17]]},
    )
    row["response"] = row["response"].replace("<answer> 14 </answer>", f"<answer> {programs.text(asked)} </answer>")
    (found,) = rewrite_records(
        [row], scripted("", ""), rewrite.NANO, pool, tmp_path, annotator=nano_annotator("r1_zero")
    )
    assert found["keep"], found["reason"]
    assert found["response"].endswith("</think> ```python\ndef f(x): return x*3+5\n```")


def test_nothing_to_rewrite_asks_nobody(pool, tmp_path):
    model = scripted("", "")
    assert rewrite_records([], model, rewrite.NANO, pool, tmp_path) == []
    assert model.answers.asked == []


@pytest.mark.parametrize(
    "text, right",
    [
        ('{"analysis": "fine", "correctness": "correct"}', True),
        ('Some words.\n```json\n{"analysis": "it says {x}", "correctness": "incorrect"}\n```', False),
        ('{"analysis": "a "quoted" word", "correctness": "correct"}', True),
        ('{"correctness": "**Correct**"}', True),
        ('{"correctness": "perhaps"}', None),
        ('{"correctness": {"a": 1}}', None),
        ("correct", None),
        ("{" * 1000, None),
        ("", None),
    ],
)
def test_the_judges_json_is_read_and_anything_else_is_no_verdict(text, right):
    assert correctness(text) is right


def test_records_without_a_rule_are_judged_by_a_model_that_reads_the_reference(tmp_path):
    asked = []

    def answers(prompts, path):
        asked.extend(prompts)
        return ['{"correctness": "correct"}', "no json"]

    rows = [
        {"id": "1", "problem": "Who?", "gold": "Turing", "response": "<think> t </think> Alan Turing", "right": None},
        {"id": "2", "problem": "Who?", "gold": "7", "response": "<think> t </think> 7", "right": True},
        {"id": "3", "problem": "Why?", "gold": "Because", "response": "x", "right": None},
        {"id": "4", "problem": "How?", "gold": {"right": ["so"]}, "response": "x", "right": None},
        {"id": "5", "problem": "When?", "gold": "now", "response": "<think> on", "right": None, "truncated": True},
    ]
    found = judge_with_reference(rows, Writer("judge", answers), tmp_path / "judged.jsonl")
    assert [row["right"] for row in found] == [True, True, None, None, None]
    assert found[0]["judged_by"] == "judge" and "judged_by" not in found[2]
    assert len(asked) == 2 and "## Reference Answer\nTuring\n## Answer to be Evaluated\nAlan Turing\n" in asked[0]
