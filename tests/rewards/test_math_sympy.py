"""The maths verifier against SymPy, which writes each value in other forms and says which values differ."""

import random

import pytest

from r1jax.rewards.math import verify

sympy = pytest.importorskip("sympy")
FORMS = (sympy.expand, sympy.factor, sympy.simplify, sympy.together, sympy.radsimp)


def value(rng: random.Random, letters: str):
    """A sum of a few products of fractions, roots and letters, over another one now and then."""

    def product():
        found = sympy.Rational(rng.randint(-9, 9) or 1, rng.randint(1, 9))
        for letter in letters:
            found *= sympy.Symbol(letter) ** rng.randint(0, 2)
        return found * rng.choice([1, sympy.sqrt(rng.randint(2, 12)), sympy.pi, 1])

    total = sum(product() for _ in range(rng.randint(1, 3))) + rng.randint(-3, 3)
    return total / (product() + rng.randint(2, 5)) if rng.random() < 0.3 else total


def reward(gold, answer) -> float | None:
    return verify(f"\\boxed{{{sympy.latex(answer)}}}", {"gold": sympy.latex(gold)}).reward


@pytest.mark.parametrize("letters", ["", "x", "xy"])
def test_a_value_is_right_in_every_form_and_another_is_wrong(letters):
    failed = []
    for seed in range(60):
        rng = random.Random(f"{letters} {seed}")
        gold = value(rng, letters)
        for form in FORMS:
            if reward(gold, form(gold)) != 1.0:
                failed.append((gold, form(gold), "should be right"))
        other = gold + sympy.Rational(rng.choice([-1, 1]), rng.randint(1, 50))
        if sympy.simplify(other - gold) != 0 and reward(gold, other) != 0.0:
            failed.append((gold, other, "should be wrong"))
    assert not failed
