"""The comparison of objectives: its table, and that a run that is there is not repeated."""

import json

import pytest

from experiments.claims import objectives, runs
from experiments.claims.objectives import Command, compare, read_figures, run_one, table
from experiments.claims.protocol import summarise


def a_run(folder, name, accuracy, steps=16, done=True):
    """The files of a run."""
    place = folder / name
    place.mkdir(parents=True)
    lines = [
        {"step": i + 1, "completion/length_right": 10.0 + i, "completion/length_wrong": None, "entropy": 1.0 / (i + 1)}
        for i in range(steps)
    ]
    (place / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (place / "eval.jsonl").write_text(
        json.dumps({"step": 0, "accuracy": 0.1}) + "\n" + json.dumps({"step": steps, "accuracy": accuracy}) + "\n"
    )
    if done:
        (place / "cost.json").write_text('{"seconds": 60.0, "memory GB": 1.5}')
    return place


def test_the_figures_of_a_run_are_its_last_evaluation_and_the_last_eighth_of_its_steps(tmp_path):
    found = read_figures(a_run(tmp_path, "grpo-0", 0.8))
    assert found["accuracy"] == 0.8 and found["length right"] == 24.5 and found["length wrong"] is None
    assert found["entropy"] == pytest.approx((1 / 15 + 1 / 16) / 2) and found["seconds"] == 60.0


def test_an_interval_is_students_by_hand():
    # Of 1, 2, 3: mean 2, standard deviation 1, so 4.303/√3.
    assert summarise([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.303 / 3**0.5), rel=1e-6)
    assert summarise([None, None]) is None
    assert summarise([5.0, None]).mean == 5.0


def test_runs_that_are_there_are_read_and_not_repeated(tmp_path, monkeypatch, capsys):
    for seed, accuracy in enumerate((0.7, 0.8, 0.9)):
        a_run(tmp_path, f"grpo-{seed}", accuracy)
    monkeypatch.setattr(runs.subprocess, "Popen", lambda *_, **__: pytest.fail("it ran again"))
    monkeypatch.setattr(objectives.manifests, "read", lambda place: object())
    found = compare(Command(losses=("grpo",), workdir=str(tmp_path), steps=16))
    assert [seed["accuracy"] for seed in found["grpo"]] == [0.7, 0.8, 0.9]
    said = capsys.readouterr().out
    assert "| `grpo` | 0.800 ± 0.248 | 24.5 ± 0.0 | – |" in said
    assert said.strip() == table(found)
    with pytest.raises(pytest.fail.Exception):
        run_one(Command(losses=("grpo",), workdir=str(tmp_path), steps=17), "grpo", 0)  # it has not come so far


def test_a_loss_that_is_unknown_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"--losses=trpo .* takes grpo, dr_grpo.* ppo"):
        compare(Command(losses=("trpo",), workdir=str(tmp_path)))
