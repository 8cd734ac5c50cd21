"""Programs of the nano world: words, code, example and hidden tests agree, whoever evaluates them."""

import random
import re
from collections import Counter

import pytest

from r1jax.nano import programs
from r1jax.rewards import code
from support.reading import PROGRAM, code_of, computed, numbers_in

WIDE = {"time_s": 30, "wall_s": 120, "memory_mb": 512}  # for a loaded machine


@pytest.fixture(scope="module")
def rows():
    rng = random.Random(0)
    return [programs.program(rng, ("en", "zh")[i % 2]) for i in range(600)]


def test_the_words_the_example_and_every_hidden_test_say_the_same(rows):
    atoms = Counter()
    for row in rows:
        words, argument, result = PROGRAM.fullmatch(row["problem"]).groups()
        asked = code_of(words)
        assert row["canonical"] == f"program {asked}"
        (shown,), wanted = row["gold"]["tests"][0]
        assert numbers_in(argument) == ([shown] if isinstance(shown, int) else shown) and int(result) == wanted
        assert ("[" in argument) == isinstance(shown, list) == (re.match(r"x(?!\[)", asked) is None)
        assert len(row["gold"]["tests"]) == 5 and row["gold"]["entry"] == "f"
        assert [[[x], computed(asked, x)] for [x], _ in row["gold"]["tests"]] == row["gold"]["tests"]
        atoms[re.match(r"[a-z]+\(x\)|x\[-?\d\]|x", asked)[0]] += 1
    assert atoms.keys() == {"x", "sum(x)", "len(x)", "max(x)", "min(x)", "x[0]", "x[-1]"}


def test_a_problem_is_read_back_as_the_program_and_the_argument_it_was_made_of(rows):
    for row in rows:
        asked, x = programs.parse(row)
        assert f"program {asked.code}" == row["canonical"] and [x] == row["gold"]["tests"][0][0]
        assert programs.parse({"canonical": f"program {asked.code}", "gold": row["gold"]})[0] == asked


@pytest.mark.parametrize("atom", programs.ATOMS)
@pytest.mark.parametrize(("factor", "term"), [(1, 0), (1, 7), (1, -7), (9, 0), (2, 40), (3, -1)])
def test_every_form_of_code_is_read_back(atom, factor, term):
    asked = programs.Program(atom, factor, term)
    assert programs.parse({"canonical": f"program {asked.code}", "gold": {"tests": [[[5], 0]]}}) == (asked, 5)
    assert code_of(asked.words("en")) == code_of(asked.words("zh")) == asked.code


def test_the_steps_on_the_example_are_right_small_and_end_at_its_value(rows):
    for row in rows:
        asked, x = programs.parse(row)
        steps = [step.split("=") for step in asked.steps(x).split(",")]
        assert all(computed(left, x) == int(right) and 0 < int(right) <= 99 for left, right in steps)
        assert int(steps[-1][1]) == row["gold"]["tests"][0][1]


def test_a_wrong_program_is_plausible_and_wrong_on_the_example(rows):
    rng = random.Random(1)
    for row in rows:
        asked, x = programs.parse(row)
        other = programs.wrong(asked, x, rng)
        found = computed(other.code, x)
        assert found != row["gold"]["tests"][0][1] and 0 < found <= 99
        parts = ((other.atom, asked.atom), (other.factor, asked.factor), (other.term, asked.term))
        assert sum(a != b for a, b in parts) == 1


@pytest.mark.parametrize("atom", ["x", "sum(x)", "x[-1]"])
def test_the_sandbox_finds_the_answer_right_and_a_wrong_program_wrong(rows, atom):
    row = next(row for row in rows if row["canonical"].startswith(f"program {atom}*"))
    asked, x = programs.parse(row)
    task = row["gold"] | {"limits": WIDE}
    for program, reward in ((asked, 1.0), (programs.wrong(asked, x, random.Random(0)), 0.0)):
        assert code.verify(f"<answer>{programs.text(program)}</answer>", task).reward == reward
        assert code.verify(f"```python\n{programs.text(program)}\n```", task).reward == reward
