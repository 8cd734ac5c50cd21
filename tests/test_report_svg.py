"""Curves of the report: gaps, thinning, smoothing, intervals, axes."""

import re

import pytest

from r1jax.report.curve import Curve, smooth, thin, wilson
from r1jax.report.svg import Caption, Series, chart, number, tick_labels, ticks


def test_a_line_is_broken_at_a_gap():
    curve = Curve([0, 1, 2, 3, 4], [1.0, 1.0, None, 0.0, 0.0])
    html, _ = chart([Series("a", "train", curve)], Caption("t"), x_high=4)
    (line,) = re.findall(r'class="line" d="([^"]*)"', html)
    # x is 1000 * step / 4; y runs down from 1.08 (8 % of room) to 0: 1 is at 1000 - 1000 / 1.08.
    assert line == "M0.0 74.1L250.0 74.1M750.0 1000.0L1000.0 1000.0"


def test_thinning_keeps_mean_and_extremes():
    curve = Curve(list(range(1, 8)), [1.0, 3.0, None, 5.0, None, None, 7.0])
    out = thin(curve, points=4)  # two steps a point
    assert out.steps == [1.5, 3.5, 5.5, 7] and out.width == 2
    assert out.mean == [2.0, 5.0, None, 7.0]
    assert (out.low, out.high) == ([1.0, 5.0, None, 7.0], [3.0, 5.0, None, 7.0])
    assert thin(curve, points=7).mean == curve.values


def test_smoothing_leaves_constants_short_curves_and_gaps_alone():
    assert smooth([0.0, 9.0] * 11) == [0.0, 9.0] * 11  # 22 values
    assert smooth([2.5] * 100) == [2.5] * 100
    values = [1.0] * 50
    values[20] = None
    assert [i for i, v in enumerate(smooth(values)) if v is None] == [20]
    # 40 values: the mean spans two on each side, weights 1 2 3 2 1: a peak of 9 becomes 9 * 3 / 9.
    peak = [0.0] * 40
    peak[20] = 9.0
    assert smooth(peak)[18:23] == [1.0, 2.0, 3.0, 2.0, 1.0]


def test_the_interval_of_a_share_is_wilsons():
    low, high = wilson(0.5, 100)
    # z² = 3.8415: half width z·sqrt(0.25/100 + z²/40000)/(1 + z²/100) = 0.09617, around 1/2
    assert (low, high) == (pytest.approx(0.40383, abs=1e-5), pytest.approx(0.59617, abs=1e-5))
    low, high = wilson(0.0, 10)
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    assert wilson(1 + 1e-12, 10)[1] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 1, ["0.00", "0.25", "0.50", "0.75", "1.00"]),
        (0, 173, ["0", "50", "100", "150"]),
        (-0.03, 0.03, ["-0.02", "0.00", "0.02"]),
        (0, 3.2e-5, ["0", "1e-5", "2e-5", "3e-5"]),
        (0, 10_000, ["0", "2.5k", "5k", "7.5k", "10k"]),
        (0, 1.3e9, ["0", "0.5G", "1G"]),
        (5, 5, ["5"]),
    ],
)
def test_ticks_are_round_numbers_and_their_labels_agree_in_precision(low, high, labels):
    assert tick_labels(ticks(low, high)) == labels


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.6123, "0.612"),
        (1.239, "1.24"),
        (63.94, "63.9"),
        (161.4, "161"),
        (5185.2, "5,185"),
        (3, "3"),
        (2.1e-6, "2.1e-6"),
        (1.2e9, "1.2e9"),
        (-0.25, "-0.250"),
    ],
)
def test_a_figure_has_about_three_digits(value, text):
    assert number(value) == text


def test_a_log_axis_needs_values_above_zero_and_is_plain_otherwise():
    def axis(*values):
        series = Series("gap", "train", Curve(list(range(len(values))), list(values)))
        return chart([series], Caption("t"), x_high=1, log=True)[1]

    found = axis(2e-6, 3e-5)
    assert (found["log"], found["y"]) == (True, [-6, -4])
    assert axis(0.0, 3e-5)["log"] is False
