"""Rewritten texts: one language, the same computations, the answer where R1's form wants it."""

import random
import re
from collections import Counter

import pytest

from r1jax.nano import solutions, tasks
from r1jax.nano.rewriting import in_one_language, solution
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from support.reading import value

WORK = re.compile(r"[^\s,?]*\d[^\s,?]*")  # numbers, steps, code with a number: whatever is computed


@pytest.fixture(scope="module")
def thoughts():
    """(row, thought, answer) of authors who go on, and so change the language at times."""
    rng = random.Random(0)
    rows = [tasks.draw(rng, "corpus", "reasoning") for _ in range(1500)]
    return [(row, *solutions.solve(row, rng, rng.choice(("stubborn", "patient")))) for row in rows]


@pytest.mark.parametrize("language", tasks.LANGUAGES)
def test_a_mixed_chain_of_thought_becomes_one_of_one_language(thoughts, language):
    mixed = [
        thought
        for row, thought, _ in thoughts
        if re.search("[\u4e00-\u9fff]", thought) and re.search(r"\b(?:try|wait|no|yes|so|i guess)\b", thought)
    ]
    assert len(mixed) > 100
    for thought in mixed:
        said = in_one_language(thought, language)
        assert rule.consistency([f"<think> {said} </think>"], [{"language": language}]) == [1.0], said
        before = rule.consistency([f"<think> {thought} </think>"], [{"language": language}])
        assert 0 < before < 1


@pytest.mark.parametrize("language", tasks.LANGUAGES)
def test_rewriting_adds_drops_and_changes_no_computation(thoughts, language):
    for _, thought, _ in thoughts:
        said = in_one_language(thought, language)
        assert WORK.findall(said) == WORK.findall(thought) and said.count("\n") == thought.count("\n")
        assert in_one_language(said, language) == said
        # Each phrase has one translation, so nothing is lost on the way there and back.
        again = in_one_language(in_one_language(said, "en"), "zh")
        assert again == in_one_language(said, "zh")


def test_a_chain_of_thought_in_one_language_stays_as_it_is(thoughts):
    for row, thought, _ in thoughts:
        if rule.consistency([f"<think> {thought} </think>"], [row]) == [1.0]:
            assert in_one_language(thought, row["language"]) == thought


@pytest.mark.parametrize(
    ("thought", "language", "said"),
    [
        ("try 3+4=7 14? no\n等等, 试 7*2=14 14? 可以", "en", "try 3+4=7 14? no\nwait, try 7*2=14 14? yes"),
        ("try 3+4=7 14? no\nhmm, wait, try 7*2=14 14? yes", "zh", "试 3+4=7 14? 不行\n嗯,等等, 试 7*2=14 14? 可以"),
        ("i guess 5\n等等,检查: 2+3=5 5? 可以 所以 5", "en", "i guess 5\nwait, check: 2+3=5 5? yes so 5"),
        ("重试: 试 len(x)*2", "en", "retry: try len(x)*2"),
        ("now, also snow: nowhere", "zh", "now, also snow: nowhere"),  # phrases inside words
    ],
)
def test_phrases_of_the_world_are_translated_whole(thought, language, said):
    assert in_one_language(thought, language) == said


def test_a_solution_boxes_the_answer_and_the_verifier_finds_it_right():
    rng = random.Random(1)
    counts, cases = Counter(), []
    while min(counts[kind, right] for kind in ("countdown", "math", "choice") for right in (True, False)) < 12:
        row = tasks.draw(rng, "corpus", "zero")
        thought, answer = solutions.solve(row, rng)
        wanted = row["gold"]["target"] if row["kind"] == "countdown" else row["gold"]
        right = value(answer)[0] == wanted if row["kind"] == "countdown" else answer == wanted
        counts[row["kind"], right] += 1
        text = f"<think> {thought} </think> {solution(row, thought, answer)}"
        assert rule.given_answer(text, row["kind"], "r1") == answer
        assert rule.score_format([text], [row], "r1") == [1.0]
        cases.append((text, row, right))
    with Pool(1, item_s=30.0) as pool:
        verdicts = rule.verify(pool, [text for text, *_ in cases], [row for _, row, _ in cases], "r1")
    assert [verdict.reward for verdict in verdicts] == [float(right) for *_, right in cases]


def test_a_solution_of_a_program_is_the_program_in_a_fence():
    rng = random.Random(2)
    row = tasks.draw(rng, "corpus", "reasoning", "program")
    thought, answer = solutions.solve(row, rng)
    said = solution(row, thought, answer)
    assert said == f"```python\n{answer}\n```"
    assert rule.given_answer(f"<think> {thought} </think> {said}", "code", "r1") == said


@pytest.mark.parametrize(
    ("kind", "thought", "answer", "said"),
    [
        ("countdown", "try 3+4=7,7-2=5 14? no\nwait, try 3+4=7,7*2=14 14? yes", "(3+4)*2", "3+4=7, 7*2=14. "),
        ("math", "2+3=5,5*2=10 so 10", "10", "2+3=5, 5*2=10. "),
        ("math", "i guess 9\nlet me check: 2+3=5,5*2=10 9? no so 10", "10", "2+3=5, 5*2=10. "),
        ("choice", "A 1+2=3,B 20-2=18 18>3 B,C 2*2=4 4<18 B so B", "B", "A 1+2=3, B 20-2=18 18>3 B, C 2*2=4 4<18 B. "),
        ("math", "i guess 9", "9", ""),  # no work to tell of
    ],
)
def test_a_solution_tells_the_steps_that_led_to_the_answer_and_no_other(kind, thought, answer, said):
    for language, end in (("en", f"The answer is \\boxed{{{answer}}}."), ("zh", f"答案是 \\boxed{{{answer}}}。")):
        assert solution({"kind": kind, "language": language}, thought, answer) == said + end
