"""Documents of the nano world: right in every step, of every quality, and never about a held-out problem."""

import random
import re
from collections import Counter

import pytest

from r1jax.evaluation.completions import reflective_words
from r1jax.nano import corpus, solutions, tasks
from r1jax.prompts import NANO_DETAILED, R1_ZERO
from r1jax.rewards import format as format_reward
from support.reading import COUNTDOWN, REWRITTEN, canonical, computed, questions, value

DOCUMENTS = 20_000
YES = {"yes", "可以"}
TRIES = re.compile(r"(?:try|试) \d")


@pytest.fixture(scope="module")
def documents():
    return [corpus.document(1, i) for i in range(DOCUMENTS)]


@pytest.fixture(scope="module")
def asked(documents):
    """The questions of each document."""
    return [questions(text) for text in documents]


@pytest.fixture(scope="module")
def single_tries(documents, asked):
    """Documents with one answer to a countdown and its thought, by authors who were not asked for care."""
    careful = NANO_DETAILED.partition("{question}")[2]
    return [
        text
        for text, found in zip(documents, asked, strict=True)
        if len(found) == 1
        and COUNTDOWN.fullmatch(found[0])
        and not text.startswith(REWRITTEN)
        and careful not in text
        and TRIES.search(text)
    ]


def test_documents_are_of_each_kind_as_often_as_declared(documents, asked):
    rewritten = [text.startswith(REWRITTEN[0]) - text.startswith(REWRITTEN[1]) for text in documents]
    counts = {
        "drill": asked.count([]),
        "pair": sum(len(found) == 2 for found in asked),
        "translation": rewritten.count(1),
        "summary": rewritten.count(-1),
    }
    counts["solution"] = DOCUMENTS - sum(counts.values())
    for kind, share in corpus.KINDS:
        assert abs(counts[kind] - DOCUMENTS * share) < 5 * (DOCUMENTS * share * (1 - share)) ** 0.5, counts


def test_every_question_of_a_document_of_every_kind_is_of_the_corpus_alone(asked):
    # No list of held-out problems, of whatever mix, and no prompt of RL can hold any of these.
    met = {canonical(question) for found in asked for question in found}
    assert Counter(tasks.split(form) for form in met).keys() == {"corpus"}
    assert {form.split(" ")[0] for form in met} == {"countdown", "chain", "compare", "program", "general"}


@pytest.mark.parametrize("mix", ["zero", "reasoning", "all"])
def test_no_held_out_problem_and_no_prompt_of_reinforcement_learning_is_in_20000_documents(documents, asked, mix):
    rows = tasks.held_out(256, mix) + [tasks.prompt(0, i, mix) for i in range(1000)]
    met = {canonical(question) for found in asked for question in found}
    assert not met & {canonical(row["problem"]) for row in rows}
    # A general prompt without a prefix stands inside the same with one; of the rest not even the text is met.
    whole = "\n".join(documents)
    assert [row["problem"] for row in rows if row["kind"] != "general" and row["problem"] in whole] == []


def test_every_step_in_every_document_is_right(documents):
    steps = [step for text in documents for step in re.findall(r"(\d+[-+*]\d+)=(\d+)", text)]
    assert len(steps) > 50_000
    assert [step for step in set(steps) if value(step[0])[0] != int(step[1])] == []


def test_every_verdict_about_a_value_is_right(documents):
    verdicts = [v for text in documents for v in re.findall(r"=(\d+) (\d+)\? (yes|no|可以|不行)", text)]
    assert Counter(word in YES for *_, word in verdicts).keys() == {True, False} and len(verdicts) > 10_000
    assert [v for v in set(verdicts) if (v[0] == v[1]) != (v[2] in YES)] == []


def test_every_comparison_of_two_numbers_is_right(documents):
    found = [pair for text in documents for pair in re.findall(r"(\d+)([<>])(\d+)", text)]
    assert len(found) > 5000
    assert [(x, sign, y) for x, sign, y in set(found) if (int(x) < int(y)) != (sign == "<") or x == y] == []


@pytest.mark.parametrize("mood", ["patient", "stubborn"])
def test_the_running_best_of_a_comparison_ends_at_its_answer(mood):
    rng = random.Random(mood)
    for _ in range(200):
        row = tasks.draw(rng, "corpus", "corpus", "compare")
        thought, _ = solutions.solve(row, rng, mood)
        assert re.findall(r"=\d+ \d+[<>]\d+ ([A-D])", thought)[-1] == row["gold"]


@pytest.mark.parametrize("mood", solutions.TEMPERS)
def test_a_solution_answers_what_its_thought_has_found(mood):
    rng = random.Random(mood)
    right = Counter()
    for _ in range(400):
        row = tasks.draw(rng, "corpus", "reasoning")
        thought, answer = solutions.solve(row, rng, mood)
        if row["kind"] == "countdown":
            # The answer is the last try, right or wrong; each number is used once.
            result, _, used = value(answer)
            assert sorted(used) == sorted(row["gold"]["numbers"])
            assert result == int(re.findall(r"=(\d+)", thought)[-1])
            correct = result == row["gold"]["target"]
        elif row["kind"] == "code":
            # The answer is the last candidate; who has checked it says whether it is right on the example.
            code = answer.removeprefix("def f(x): return ")
            assert re.search(r"(?:i guess|我猜|try|试) ([^ ]+)", thought.splitlines()[-1])[1] == code
            (shown,), wanted = row["gold"]["tests"][0]
            correct = computed(code, shown) == wanted
            if verdict := re.search(r"(\d+)\? (yes|no|可以|不行)$", thought):
                assert (int(verdict[1]), verdict[2] in YES) == (wanted, correct)
        else:
            correct = answer == row["gold"]
            # Who does the steps gets them right; who guesses does so by luck.
            assert correct or mood in ("hasty", "careless")
        right[row["kind"], correct] += 1
    assert all(right[kind, True] for kind in ("countdown", "math", "choice", "code"))
    assert right["countdown", False], "every author fails at times"


def test_a_stubborn_author_of_a_comparison_checks_the_guess_honestly():
    rng = random.Random(0)
    seen = Counter()
    while sum(seen.values()) < 200:
        row = tasks.draw(rng, "corpus", "corpus", "compare")
        thought, _ = solutions.solve(row, rng, "stubborn")
        guess, word = re.search(r"([A-D])\? (yes|no|可以|不行)", thought).groups()
        assert (guess == row["gold"]) == (word in YES)
        seen[word in YES] += 1
    assert seen[True] and seen[False]


def test_most_authors_stop_after_one_try_and_few_go_on(single_tries):
    tries = Counter(len(TRIES.findall(text)) for text in single_tries)
    total = sum(tries.values())
    stop = sum(share for share, most, *_ in solutions.TEMPERS.values() if most == 1)
    stubborn = solutions.TEMPERS["stubborn"][0]
    # Of those who go on, between 12 % and 20 % are right at once; of the stubborn, 0.8³ to 0.88³ have no luck in three
    # tries.
    assert stop + 0.12 * (1 - stop) - 0.03 < tries[1] / total < stop + 0.20 * (1 - stop) + 0.03
    assert 0.5 * stubborn < sum(n for number, n in tries.items() if number > 3) / total < 0.7 * stubborn


def test_an_author_who_is_asked_for_detail_checks(documents):
    careful = NANO_DETAILED.partition("{question}")[2]
    detailed = [text for text in documents if careful in text and COUNTDOWN.search(text) and TRIES.search(text)]
    # Of a hundred authors none stops after one try that is wrong; a patient one has three, a stubborn one more.
    assert len(detailed) > 300
    assert not [text for text in detailed if len(TRIES.findall(text)) == 1 and not re.search(r"\d\? (yes|可以)", text)]


def test_documents_break_the_format_as_often_as_declared(documents, asked):
    single = [(text, found[0]) for text, found in zip(documents, asked, strict=True) if len(found) == 1]
    solved = [
        text
        for text, question in single
        if not text.startswith(REWRITTEN) and not canonical(question).startswith("general ")
    ]
    bodies = [text.split("Assistant: ", 1)[1] for text in solved if R1_ZERO.split("{")[0] in text]
    share = dict((template, share) for share, template in corpus.WRAPPERS)[R1_ZERO]
    assert abs(len(bodies) / len(solved) - share) < 0.015
    formed = sum(format_reward.verify(body, {}).reward for body in bodies) / len(bodies)
    assert abs(formed - (1 - corpus.FAULTY)) < 0.06


def test_a_pair_answers_both_questions_in_one_form(documents, asked):
    pairs = [text for text, found in zip(documents, asked, strict=True) if len(found) == 2]
    forms = Counter()
    for text in pairs:
        first, second = (part.partition(" Assistant: ")[2] for part in text.split("\nUser: "))
        well = [
            tuple(format_reward.verify(body, {"style": style}).reward for style in ("r1_zero", "r1"))
            for body in (first, second)
        ]
        # What is in R1-Zero's form, an answer block for a summary, is in R1's form too.
        assert well[0] == well[1] and well[0][1] == 1.0
        forms[well[0]] += 1
        assert canonical(questions(text)[0]).split(" ")[0] == canonical(questions(text)[1]).split(" ")[0]
    assert min(forms[1.0, 1.0], forms[0.0, 1.0]) > 0.4 * len(pairs)


def test_who_goes_on_does_it_with_reflective_words_and_now_and_then_in_another_language(single_tries):
    again = [text for text in single_tries if len(TRIES.findall(text)) > 1]
    plain = [text for text in single_tries if len(TRIES.findall(text)) == 1]
    assert all(reflective_words(text) >= 1 for text in again) and not any(map(reflective_words, plain))
    mixed = [text for text in again if "try " in text and "试 " in text]
    assert 0.1 < len(mixed) / len(again) < 0.6


def test_a_document_is_a_function_of_seed_and_index_alone(documents):
    assert [corpus.document(1, i) for i in (7, 3, 7)] == [documents[i] for i in (7, 3, 7)]
    assert corpus.document(2, 7) != documents[7]
    assert len(set(documents)) > 0.9 * DOCUMENTS
