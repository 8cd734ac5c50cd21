"""Warnings: after how many rounds each is given, and that it is given once while its condition lasts."""

import pytest

from r1jax.runs.health import ALARMS, Alarms

FINE = {
    "group/one_completion": 0.0,
    "group/zero_variance": 0.5,
    "completion/truncated": 0.1,
    "entropy": 1.0,
    "reward/max": 1.0,
    "rows/invalid": 0.0,
    "kl": 0.01,
    "clip_fraction": 0.1,
    "log_ratio/max": 3.0,
    "sampler_gap/k3": 1e-6,
    "reward/largest_share": 0.6,
}
# The metric at fault, the words of the warning, the round in which it is given.
BAD = [
    ("group/one_completion", 0.05, "the same text", 1),
    ("group/zero_variance", 1.0, "rewards differed for 3 rounds", 3),
    ("completion/truncated", 0.5, "more than 50% of the completions are cut off", 1),
    ("entropy", 0.019, "entropy is below 0.02", 1),
    ("reward/max", 0.0, "all rewards are zero for 3 rounds", 3),
    ("rows/invalid", 0.01, "rows without a verdict", 1),
    ("kl", 0.0, "the KL is exactly 0 for 3 steps", 3),
    ("clip_fraction", 0.5, "more than 50% of the tokens are clipped for 3 steps", 3),
    ("clip_fraction", 0.0, "none is clipped", 3),
    ("sampler_gap/k3", 1e-3, "sampler and trainer differ by more than 0.001 nats", 1),
    ("reward/largest_share", 0.95, "one part of the reward explains more than 95%", 3),
]


@pytest.mark.parametrize("key, value, words, first", BAD)
def test_a_warning_is_given_once_after_its_patience_and_again_after_a_good_round(key, value, words, first):
    alarms, bad = Alarms(kl=True), FINE | {key: value}
    given = [alarms.check(metrics) for metrics in (*[bad] * 5, FINE, *[bad] * 5)]
    assert [number for number, texts in enumerate(given, 1) if texts] == [first, 6 + first]
    assert all(words in text for texts in given for text in texts) and max(map(len, given)) == 1


@pytest.mark.parametrize("key, value, words, first", BAD)
def test_without_rewards_nothing_is_said_of_them_and_all_else_is(key, value, words, first):
    alarms = Alarms(rewarded=False, kl=True)
    given = [text for _ in range(5) for text in alarms.check(FINE | {key: value})]
    assert len(given) == (key not in ("group/zero_variance", "reward/max", "reward/largest_share"))


def test_without_a_kl_term_a_kl_of_zero_is_right_and_a_clip_without_work_is_too():
    assert not [text for _ in range(5) for text in Alarms().check(FINE | {"kl": 0.0})]
    assert not [text for _ in range(5) for text in Alarms().check(FINE | {"clip_fraction": 0.0, "log_ratio/max": 0.9})]


def test_a_gap_is_right_where_an_older_policy_sampled():
    gap = FINE | {"sampler_gap/k3": 1e-2}
    assert not Alarms().check(gap | {"staleness/max": 1.0}) and Alarms().check(gap | {"staleness/max": 0.0})


def test_metrics_that_are_not_there_warn_of_nothing():
    assert not [text for _ in range(5) for text in Alarms().check(dict.fromkeys(FINE))]
    assert not Alarms().check({}) and len(ALARMS) == len(BAD)


def test_a_step_that_trained_no_token_has_no_entropy_to_warn_of():
    assert not Alarms().check(FINE | {"entropy": 0.0}) and Alarms().check(FINE | {"entropy": 1e-9})


def test_several_warnings_of_a_round_come_in_the_order_of_the_table():
    bad = FINE | {key: value for key, value, _, _ in BAD}
    alarms = Alarms(kl=True)
    assert [len(alarms.check(bad)) for _ in range(4)] == [5, 0, 5, 0]  # a clip is never both idle and busy
