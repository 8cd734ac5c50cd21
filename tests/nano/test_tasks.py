"""Problems of the nano world: their answers are right, and no held-out one is met before."""

import functools
import itertools
import os
import random
import re
import subprocess
import sys
from collections import Counter

import pytest

from r1jax.nano import tasks
from support.reading import GENERAL, canonical, numbers_in, value

PROMPTS = 5000


@functools.cache
def reachable(numbers: tuple[int, ...]) -> frozenset[int]:
    """The values in 1..99 that all the numbers make: each split in two parts, each part made in every way."""
    if len(numbers) == 1:
        return frozenset(numbers)
    found = set()
    for size in range(1, len(numbers)):
        for chosen in itertools.combinations(range(len(numbers)), size):
            left = tuple(sorted(numbers[i] for i in chosen))
            right = tuple(sorted(n for i, n in enumerate(numbers) if i not in chosen))
            for x, y in itertools.product(reachable(left), reachable(right)):
                found |= {x + y, x - y, x * y}
    return frozenset(v for v in found if 0 < v <= 99)


@pytest.fixture(scope="module")
def prompts():
    return [tasks.prompt(0, i) for i in range(PROMPTS)]


@pytest.fixture(scope="module")
def held_out():
    return tasks.held_out(512)


def test_every_countdown_can_be_solved_and_its_text_says_what_its_gold_says(prompts, held_out):
    rows = [row for row in prompts + held_out if row["kind"] == "countdown"]
    assert {len(row["gold"]["numbers"]) for row in rows} == {3, 4}
    for row in rows:
        numbers, target = row["gold"]["numbers"], row["gold"]["target"]
        assert target in reachable(tuple(sorted(numbers))), row
        assert numbers_in(row["problem"]) == [*numbers, target]
        assert target not in numbers, "one number alone would do"


@pytest.mark.parametrize("size", [2, 3, 4])
def test_the_ways_to_combine_numbers_are_all_of_them_and_right(size):
    rng = random.Random(size)
    for _ in range(40):
        numbers = tuple(rng.randint(1, 12) for _ in range(size))
        ways = tasks.attempts(numbers)
        assert {way.value for way in ways} == reachable(tuple(sorted(numbers)))
        assert len({way.expression for way in ways}) == len(ways)
        for way in ways:
            result, on_the_way, used = value(way.expression)
            assert result == way.value and sorted(used) == sorted(numbers)
            assert all(0 < v <= tasks.LIMIT for v in on_the_way)
            assert len(way.steps) == size - 1
            steps = [step.split("=") for step in way.steps]
            assert all(value(left)[0] == int(right) for left, right in steps)
            assert sorted(on_the_way) == sorted(int(right) for _, right in steps)


def test_every_chain_has_the_value_its_gold_says(prompts, held_out):
    rows = [row for row in prompts + held_out if row["task"] == "chain"]
    lengths = Counter()
    for row in rows:
        expression = re.search(r"[0-9()+*-]{5,}", row["problem"])[0]
        result, on_the_way, _ = value(expression)
        assert str(result) == row["gold"], row
        assert all(0 < v <= 99 for v in on_the_way)
        lengths[len(on_the_way)] += 1
    assert lengths.keys() == {3, 4, 5}


def test_every_comparison_has_one_answer_and_it_is_the_gold(prompts, held_out):
    rows = [row for row in prompts + held_out if row["task"] == "compare"]
    golds = Counter()
    for row in rows:
        options = dict(re.findall(r"([A-D]) (\d+[-+*]\d+)", row["problem"]))
        values = {letter: value(expression)[0] for letter, expression in options.items()}
        assert list(values) == list("ABCD") and len(set(values.values())) == 4
        most = "largest" in row["problem"] or "最大" in row["problem"]
        assert most or "smallest" in row["problem"] or "最小" in row["problem"]
        assert row["gold"] == (max if most else min)(values, key=values.get), row
        golds[row["gold"]] += 1
    # Each letter is right equally often: of 1300 rows 325 ± 5 standard deviations (15.6).
    assert all(abs(n - len(rows) / 4) < 5 * (len(rows) * 3 / 16) ** 0.5 for n in golds.values())


@pytest.mark.parametrize("mix", ["zero", "reasoning", "countdown", "all", "scenarios"])
def test_prompts_mix_tasks_and_languages_as_declared(prompts, mix):
    rows = prompts if mix == "zero" else [tasks.prompt(0, i, mix) for i in range(1000)]
    assert abs(sum(tasks.MIX[mix]) - 1) < 1e-9
    for field, names, shares in (("task", tasks.TASKS, tasks.MIX[mix]), ("language", tasks.LANGUAGES, (0.5, 0.5))):
        counts = Counter(row[field] for row in rows)
        for name, share in zip(names, shares, strict=True):
            deviation = (len(rows) * share * (1 - share)) ** 0.5
            assert abs(counts[name] - len(rows) * share) <= 5 * deviation, (name, counts)
    chinese = [bool(re.search(r"[\u4e00-\u9fff]", row["problem"])) for row in rows]
    assert chinese == [row["language"] == "zh" for row in rows]


@pytest.mark.parametrize("task", tasks.TASKS)
def test_the_name_of_a_task_is_a_mix_of_it_alone(task):
    rows = [tasks.prompt(0, i, task) for i in range(5)] + tasks.held_out(5, task)
    assert {row["task"] for row in rows} == {task}


@pytest.mark.parametrize("mix", ["zero", "reasoning", "all"])
def test_the_canonical_form_is_what_the_text_asks(mix):
    rows = [tasks.prompt(1, i, mix) for i in range(500)] + tasks.held_out(100, mix)
    assert [row["canonical"] for row in rows] == [canonical(row["problem"]) for row in rows]


def test_a_family_that_runs_dry_ends_its_list_alone_and_gives_way_in_a_mix():
    # (42 facts in 3 wordings, 64 sentences, 32 things to do, 32 harms) in 2 languages with 4 prefixes, 5 topics of
    # small talk in 2 languages and 3 wordings.
    assert len(GENERAL) == (42 * 3 + 64 + 32 + 32) * 2 * 4 + 5 * 2 * 3
    held = {form for form in GENERAL.values() if tasks.split(form) == "eval"}
    alone = [row["canonical"] for row in tasks.held_out(600, "general")]
    assert len(set(alone)) == len(alone) < 600 and set(alone) <= held
    # It gives up after 1,000 draws without a new one. The rarest, sentences, come each with 0.15/512·4 = 0.0012:
    # of k left none comes with exp(-1.2 k), 1 in 400 for k = 5.
    assert len(alone) >= len(held) - 5
    with_chains = tasks.held_out(40, "all")
    assert {row["task"] for row in with_chains} > {"general", "chain"}


def test_the_512_held_out_problems_are_distinct_and_of_their_own_split(held_out):
    assert len({row["canonical"] for row in held_out}) == len({row["id"] for row in held_out}) == 512
    assert {tasks.split(row["canonical"]) for row in held_out} == {"eval"}
    asked = {task for task, share in zip(tasks.TASKS, tasks.MIX["zero"], strict=True) if share}
    assert {row["task"] for row in held_out} == asked


def test_no_held_out_problem_is_among_the_prompts_of_reinforcement_learning(prompts, held_out):
    assert {tasks.split(row["canonical"]) for row in prompts} == {"rl"}
    for key in ("canonical", "problem", "id"):
        assert not {row[key] for row in held_out} & {row[key] for row in prompts}


def test_the_canonical_form_knows_neither_order_nor_language():
    # The same problem in every order and both languages falls into the same split.
    rng = random.Random(0)
    forms = {}
    for _ in range(3000):
        row = tasks.countdown(rng, rng.choice(tasks.LANGUAGES), 3)
        forms.setdefault((tuple(sorted(row["gold"]["numbers"])), row["gold"]["target"]), set()).add(row["canonical"])
    assert all(len(found) == 1 for found in forms.values()) and len(forms) < 3000
    english, chinese = (tasks.compare(random.Random(7), language) for language in tasks.LANGUAGES)
    assert english["problem"] != chinese["problem"] and english["canonical"] == chinese["canonical"]
    english, chinese = (tasks.chain(random.Random(7), language) for language in tasks.LANGUAGES)
    assert english["problem"] != chinese["problem"] and english["canonical"] == chinese["canonical"]


@pytest.mark.parametrize(("family", "held"), [("countdown", 2), ("general", 4)])
def test_splits_hold_the_shares_they_declare(family, held):
    # Of 16 buckets `held` and 4 more; five standard deviations of 16,000 draws are at most 5·√(16,000/4) = 316.
    counts = Counter(tasks.split(f"{family} {i}") for i in range(16_000))
    for name, share in (("eval", held * 1000), ("rl", 4000), ("corpus", (12 - held) * 1000)):
        assert abs(counts[name] - share) < 316, counts


def test_a_prompt_is_a_function_of_seed_and_index_alone():
    again = [tasks.prompt(3, i) for i in (5, 4, 5)]
    assert again[0] == again[2] != again[1] and tasks.prompt(4, 5)["problem"] != again[0]["problem"]
    assert tasks.held_out(20) == tasks.held_out(40)[:20]
    code = "from r1jax.nano import tasks; print(tasks.prompt(3, 5), tasks.held_out(20)[-1])"
    env = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    elsewhere = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert elsewhere == f"{again[0]} {tasks.held_out(20)[-1]}\n"
