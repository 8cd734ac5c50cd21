"""Figures of reward models, by hand."""

import numpy as np
import pytest

from r1jax.reward_models.calibration import (
    auc,
    calibration_error,
    correlation,
    of_labels,
    of_pairs,
    platt,
    sigmoid,
    standard,
)


def test_standard_values_have_mean_zero_and_deviation_one():
    found = standard(np.asarray([1.0, 3.0]))  # mean 2, deviation 1
    assert found == pytest.approx({"scale": 1.0, "offset": -2.0})
    assert standard(np.asarray([5.0, 5.0]))["offset"] == pytest.approx(-5e6)  # equal values stay equal, and finite


def test_platt_finds_the_scale_and_offset_that_made_the_labels():
    rng = np.random.default_rng(0)
    values = 40.0 + 5.0 * rng.standard_normal(50_000)
    labels = rng.random(50_000) < sigmoid(0.3 * values - 11.0)
    found = platt(values, labels)
    # the deviation of a slope fitted to n labels is about 1/(sd·sqrt(n/5)) = 0.002; the offset's is 40 times that
    assert found["scale"] == pytest.approx(0.3, abs=0.01)
    assert found["offset"] == pytest.approx(-11.0, abs=0.4)
    assert calibration_error(sigmoid(found["scale"] * values + found["offset"]), labels) < 0.01


def test_platt_is_finite_where_a_threshold_parts_the_labels_and_where_all_are_alike():
    parted = platt(np.asarray([-2.0, -1.0, 1.0, 2.0]), np.asarray([False, False, True, True]))
    # symmetric, so no offset; the targets are 3/4 and 1/4
    assert parted["scale"] > 0 and np.isfinite(parted["scale"]) and parted["offset"] == pytest.approx(0.0, abs=1e-6)
    alike = platt(np.asarray([1.0, 2.0, 4.0]), np.asarray([True, True, True]))
    # every target is 4/5, whatever the value: the logit is log 4
    assert alike["scale"] == pytest.approx(0.0, abs=1e-4) and alike["offset"] == pytest.approx(np.log(4.0), abs=1e-3)


def test_auc_counts_ordered_couples_and_half_of_ties():
    # (3 > 1), (3 > 3 is a tie), (0 < 1), (0 < 3): 1.5 of 4
    assert auc(np.asarray([3.0, 0.0, 1.0, 3.0]), np.asarray([True, True, False, False])) == 0.375
    assert auc(np.asarray([1.0]), np.asarray([True])) is None
    assert auc(np.ones(5), np.asarray([True, True, False, False, False])) == 0.5


def test_calibration_error_weighs_the_gap_of_each_bin():
    # bin 9: said 0.95, true in 1 of 2, gap 0.45; bin 2: said 0.25, never true, gap 0.25; half of the rows in each
    assert calibration_error(np.asarray([0.95, 0.95, 0.25, 0.25]), np.asarray([1, 0, 0, 0])) == pytest.approx(0.35)


def test_correlation_of_what_does_not_vary_is_none():
    assert correlation(np.ones(3), np.arange(3)) is None
    assert correlation(np.arange(3), -np.arange(3)) == pytest.approx(-1.0)


def test_pairs_are_measured_by_who_is_longer_and_against_the_truth():
    values = np.asarray([2.0, 1.0, 0.0, 3.0, 5.0, 4.0, 1.0, 0.0])  # won, lost, won, won
    lengths = np.asarray([9.0, 1.0, 9.0, 1.0, 1.0, 9.0, 5.0, 5.0])  # chosen longer, longer, shorter, equal
    found = of_pairs(values, lengths, np.zeros(8), truth=[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    assert found["accuracy"] == 0.75 and found["n"] == 4
    assert found["accuracy_chosen_longer"] == 0.5 and found["accuracy_chosen_shorter"] == 1.0
    assert found["length_chosen"] == 6.0 and found["length_rejected"] == 4.0
    # of three pairs whose worth differs the annotator has one right; the model agrees with the truth in the first two
    assert found["annotator_truth"] == pytest.approx(1 / 3) and found["accuracy_truth"] == pytest.approx(2 / 3)
    assert found["phrase_correlation"] is None
    margins = np.asarray([1.0, -3.0, 1.0, 1.0])
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean())
    assert found["calibration"]["scale"] == pytest.approx(1 / values.std())


def test_labels_are_measured_at_the_calibrated_threshold():
    values = np.asarray([10.0, 11.0, 12.0, 13.0, 14.0, 15.0])
    safe = np.asarray([False, False, False, True, True, True])
    found = of_labels(values, safe, np.arange(6), np.zeros(6), truth=[False, False, True, True, True, True])
    assert found["accuracy"] == 1.0 and found["auc"] == 1.0  # though every raw value is above 0
    assert found["accuracy_truth"] == pytest.approx(5 / 6) == found["annotator_truth"]
    assert found["length_correlation"] == pytest.approx(1.0)
    assert found["calibration_error"] < found["calibration_error_before"]
