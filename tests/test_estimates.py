"""pass@k, cons@k and bootstrap intervals against values made by hand."""

import itertools

import numpy as np
import pytest

from r1jax.evaluation.statistics import cons_at_k, interval, pass_at_k


@pytest.mark.parametrize(
    "right, k, expected",
    [
        ([1, 0, 0, 0], 2, 1 / 2),  # 1 - C(3,2)/C(4,2) = 1 - 3/6
        ([1, 0, 1, 0, 0], 3, 9 / 10),  # 1 - C(3,3)/C(5,3) = 1 - 1/10
        ([1, 1, 0, 0], 1, 1 / 2),
        ([0, 0, 0, 0], 4, 0.0),
        ([1, 1, 1, 0], 2, 1.0),  # two of three right and one wrong always hold a right one
        ([1], 1, 1.0),
    ],
)
def test_pass_at_k_is_what_the_formula_gives_by_hand(right, k, expected):
    assert pass_at_k(np.asarray([right], bool), k) == pytest.approx([expected], abs=1e-15)


def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples():
    right = np.random.default_rng(0).random((5, 7)) < 0.3
    for k in range(1, 8):
        chosen = [np.any([right[:, i] for i in c], axis=0) for c in itertools.combinations(range(7), k)]
        np.testing.assert_allclose(pass_at_k(right, k), np.mean(chosen, axis=0), atol=1e-12)


@pytest.mark.parametrize("k", [0, 5])
def test_pass_at_k_needs_k_samples(k):
    with pytest.raises(ValueError, match=rf"k={k} must lie in 1..4"):
        pass_at_k(np.zeros((1, 4), bool), k)


@pytest.mark.parametrize(
    "answers, right, expected",
    [
        (["2", "3", "2", "5"], [1, 0, 1, 0], 1.0),  # two votes against one and one
        (["2", "3", "3", "5"], [1, 0, 0, 0], 0.0),
        (["2", "3"], [1, 0], 0.5),  # a tie: each has half a chance
        (["2", "3", "5", "2", "3", "5"], [0, 1, 0, 0, 1, 0], 1 / 3),
        ([None, None, None, "2"], [0, 0, 0, 1], 1.0),  # who says nothing does not vote
        ([None, None], [0, 0], 0.0),
        (["2"], [1], 1.0),
    ],
)
def test_the_majority_answers_whatever_the_order(answers, right, expected):
    rng = np.random.default_rng(0)
    for _ in range(8):
        order = rng.permutation(len(answers))
        given = cons_at_k([answers[i] for i in order], [float(right[i]) for i in order])
        assert given == pytest.approx(expected, abs=1e-15)


def test_an_interval_is_the_one_of_the_normal_law_where_that_holds():
    # The mean of 400 problems of which 30 % are solved has the standard error sqrt(0.3 * 0.7 / 400) = 0.0229, so 95 %
    # lie within 1.96 of it: [0.2551, 0.3449]. Means are multiples of 1/400, and 20000 draws put an end within 0.002.
    values = np.repeat([1.0, 0.0], [120, 280])
    low, high = interval(values, seed=0, resamples=20_000)
    assert low == pytest.approx(0.2551, abs=0.005)
    assert high == pytest.approx(0.3449, abs=0.005)


def test_an_interval_is_the_quantiles_of_means_drawn_with_replacement():
    values = np.random.default_rng(1).random(9)
    drawn = np.random.default_rng(3).integers(0, 9, (500, 9))
    means = sorted(sum(values[i] for i in row) / 9 for row in drawn)
    # linear between order statistics: place 0.05 * 499 = 24.95
    low = means[24] + 0.95 * (means[25] - means[24])
    high = means[474] + 0.05 * (means[475] - means[474])
    assert interval(values, seed=3, level=0.9, resamples=500) == pytest.approx((low, high), abs=1e-12)


def test_an_interval_leaves_out_problems_without_a_value_and_repeats_itself():
    values = np.asarray([1.0, np.nan, 0.0, 1.0])
    assert interval(values, 5) == interval(values[[0, 2, 3]], 5)
    assert interval(np.full(3, np.nan), 5) is None
    assert interval(np.ones(4), 5) == (1.0, 1.0)
    assert interval(np.asarray([np.nan, 0.25]), 5) == (0.25, 0.25)


def test_blocks_of_draws_do_not_change_how_many_there_are(monkeypatch):
    monkeypatch.setattr("r1jax.evaluation.statistics.BLOCK", 100)
    low, high = interval(np.repeat([1.0, 0.0], 50), seed=0, resamples=999)
    assert 0.35 < low < 0.5 < high < 0.65  # standard error 0.05
