"""The table of kinds: every verifier is called in one way. tests/test_extending.py adds a new kind."""

import pytest

from r1jax.rewards.kinds import GENERAL, KINDS, example_of, function
from r1jax.rewards.math import grade_pair
from r1jax.rewards.verdict import VERDICTS

VERIFIERS = [name for name, kind in KINDS.items() if kind.verifier]
EXAMPLES = {
    "math": ("4", {"gold": "4"}),
    "choice": ("B", {"gold": "B"}),
    "countdown": ("2+2", {"numbers": [2, 2], "target": 4}),
    "format": ("<think>a</think><answer>b</answer>", {}),
    "language": ("four", {"target": "en"}),
}


@pytest.mark.parametrize("name", VERIFIERS)
def test_a_verifier_with_its_arguments_swapped_raises(name):
    text, example = EXAMPLES.get(name, ("x", {}))
    with pytest.raises(TypeError, match=r"verify\(text, example\).*dict and str"):
        function(KINDS[name].verifier)(example, text)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_verifier_takes_a_text_and_an_example(name):
    verdict = function(KINDS[name].verifier)(*EXAMPLES[name])
    assert verdict.verdict in VERDICTS and verdict.reward == 1.0


def test_two_answers_are_compared_by_a_function_of_another_name():
    assert grade_pair("1/2", "0.5").reward == 1.0
    with pytest.raises(TypeError, match="a string and a mapping"):
        grade_pair("0.5", {"gold": "1/2"})


@pytest.mark.parametrize("name", KINDS)
def test_every_function_that_the_table_names_is_there(name):
    kind = KINDS[name]
    for path in filter(None, (kind.verifier, kind.grader, kind.defects)):
        assert callable(function(path))
    assert (kind.gold is None) == (kind.domain == "")
    assert bool(kind.verifier) == (name != GENERAL)


def test_the_example_of_a_verifier_is_the_gold_where_that_is_a_mapping():
    assert example_of({"tests": []}) == {"tests": []}
    assert example_of("4") == {"gold": "4"} and example_of(None) == {"gold": None}
