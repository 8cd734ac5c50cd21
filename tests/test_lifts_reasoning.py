"""The bounds of the R1-Zero claim, one by one."""

import json

import pytest

from experiments.claims.lifts_reasoning import Command, check, find_broken_rules

BEFORE = {
    "accuracy": 0.30,
    "accuracy_if_well_formed": 0.37,
    "accuracy_lenient": 0.33,
    "format": 0.62,
    "length": 40.0,
    "reflective_words": 0.8,
    "language": 0.9,
}
AFTER = {
    "accuracy": 0.61,
    "accuracy_if_well_formed": 0.58,
    "accuracy_lenient": 0.54,
    "format": 0.95,
    "length": 50.0,
    "reflective_words": 1.0,
    "language": 0.8,
}
STEPS = [{"step": 1, "sampler_gap/max": 1e-6}, {"step": 2, "sampler_gap/max": 2e-5}]


def test_a_run_at_every_bound_keeps_them_all():
    assert find_broken_rules([BEFORE, AFTER], STEPS) == []


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("accuracy", 0.59),
        ("accuracy_if_well_formed", 0.56),
        ("accuracy_lenient", 0.52),
        ("format", 0.94),
        ("length", 49.0),
        ("reflective_words", 0.99),
    ],
)
def test_each_figure_short_of_its_bound_breaks_one_rule(name, short):
    assert len(find_broken_rules([BEFORE, AFTER | {name: short}], STEPS)) == 1


def test_one_step_with_a_larger_gap_breaks_the_claim():
    assert find_broken_rules([BEFORE, AFTER], [*STEPS, {"step": 3, "sampler_gap/max": 2.1e-5}]) == [
        "gap of sampler and trainer 2.1e-05 above 2e-05"
    ]


def write(run, evaluations):
    run.mkdir()
    for name, lines in (("eval.jsonl", evaluations), ("metrics.jsonl", STEPS)):
        (run / name).write_text("".join(json.dumps({"step": i, **line}) + "\n" for i, line in enumerate(lines)))
    return str(run)


def test_the_command_says_which_run_breaks_which_rule_and_draws_all(tmp_path, capsys):
    runs = [write(tmp_path / "good", [BEFORE, AFTER]), write(tmp_path / "bad", [BEFORE, AFTER | {"format": 0.9}])]
    assert check(Command((runs[0],))) is True
    assert check(Command(tuple(runs), str(tmp_path / "curves.png"))) is False
    assert "bad: does not hold: format at least 0.95" in capsys.readouterr().out
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_an_unfinished_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"half is not a complete run\. A complete run has an evaluation"):
        check(Command((write(tmp_path / "half", [BEFORE]),)))
