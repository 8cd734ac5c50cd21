"""Rewards beyond the rules, from the command line: one's own from a file, the penalties, and decontamination."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from experiments import r1_zero
from r1jax import jsonl
from r1jax.recipes import RLRecipe, RunOptions
from r1jax.runs import manifests
from r1jax.runs.files import hash_files
from support.walk import files, lines, outcome

REWARD = """
def vowels(texts, examples):
    return [sum(letter in "aeiou" for letter in text) / (1 + len(text)) for text in texts]

def wanted(texts, examples):
    found = [float(example["letter"] in text) for text, example in zip(texts, examples)]
    return {"wanted": found, "seen": [1.0] * len(texts)}

calls = []

def sometimes(texts, examples):
    calls.append(len(texts))
    if len(calls) % 2 == 0:
        raise KeyError("even")
    return [0.0] * len(texts)
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(REWARD)
    return path


@pytest.fixture
def bare(tmp_path):
    """Rows that have nothing but a problem and a column of their own."""
    path = tmp_path / "bare.jsonl"
    rows = [{"problem": f"Say the letter {letter}.", "letter": letter} for letter in "ABCD"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_reward_from_a_file_trains_is_evaluated_resumed_and_refused_when_it_has_changed(
    walk, tmp_path, mine, bare, capsys
):
    flags = dict(reward=f"{mine}:wanted=2", prompts=bare, eval_prompts=bare, log_samples=8)
    more = (f"{mine}:vowels",)

    def go(workdir, steps, *extra, **changed):
        return walk.here(workdir, *extra, **flags | changed | {"steps": steps})

    # Flags are --name=value; of several terms the others follow, with spaces between them.
    command = walk.command

    def with_terms(workdir, **changed):
        given = command(workdir, **{name: value for name, value in changed.items() if name != "reward"})
        return [*given, "--reward", str(changed["reward"]), *more]

    walk_command, walk.command = walk.command, with_terms
    try:
        whole = go(tmp_path / "whole", 4)
        metrics = lines(whole, "metrics")
        for line in metrics:
            assert {"reward/wanted", "reward/seen", "reward/vowels"} <= set(line)
            assert "reward/accuracy" not in line and "reward/format" not in line
            assert line["reward/seen"] == 1.0 and line["rows/failed"] == line["rows/invalid"] == 0.0
            mean = 2 * (line["reward/wanted"] + line["reward/seen"]) + line["reward/vowels"]
            assert line["reward/mean"] == pytest.approx(mean)
            assert line["completion/length_right"] is None and line["completion/length"] > 0
        assert any(line["grad_norm"] > 0 for line in metrics)
        samples = jsonl.read(whole / "samples.jsonl")
        assert {tuple(line["reward"]) for line in samples} == {("wanted", "seen", "vowels")}
        assert all(line["verdict"] is None and line["kind"] == "general" for line in samples)
        for line in samples:
            letters = sum(letter in "aeiou" for letter in line["completion"])
            assert line["reward"]["vowels"] == letters / (1 + len(line["completion"]))

        evaluations = lines(whole, "eval")
        assert [line["step"] for line in evaluations] == [0, 3, 4]
        for line in evaluations:
            assert line["accuracy"] is None and line["failed"] == 0 and line["reward/seen"] == 1.0
            mean = 2 * (line["reward/wanted"] + 1) + line["reward/vowels"]
            assert line["reward/mean"] == pytest.approx(mean)
        assert "reward" in (whole / "report.html").read_text()
        (first, second) = json.loads((whole / "manifest.json").read_text())["data"]["rewards"]
        assert (first["name"], first["weight"], first["path"]) == ("wanted", 2.0, str(mine))
        assert first["sha256"] == second["sha256"] and len(first["sha256"]) == 64

        part = go(tmp_path / "part", 2)
        moved = mine.rename(tmp_path / "moved.py")  # the hash counts, not the place
        resumed = f"{moved}:wanted=2"
        more = (f"{moved}:vowels",)
        go(part, 4, resume=True, reward=resumed)
        found, want = outcome(part), outcome(whole)
        found["eval"] = [line for line in found["eval"] if line["step"] != 2]  # the shorter run's end
        for each in (found, want):
            each["data"] = manifests.without_paths(each["data"])
        assert found == want

        before = files(part)
        said = walk.refused(capsys, part, **flags | dict(resume=True, steps=6, reward=f"{moved}:wanted=3"))
        assert f"began with --reward={mine}:wanted=2 (sha256 {first['sha256'][:12]})" in said
        assert "wanted=3" in said and "name a new directory" in said
        moved.write_text(REWARD.replace("aeiou", "xyz"))
        said = walk.refused(capsys, part, **flags | dict(resume=True, steps=6, reward=resumed))
        assert "began with --reward=" in said and files(part) == before
    finally:
        walk.command = walk_command
    said = walk.refused(capsys, part, resume=True, steps=6, prompts=bare, eval_prompts=bare)
    assert "has no kind" in said or "needs" in said  # without a reward of one's own rows need their kind
    assert files(part) == before


def test_rows_that_a_function_fails_on_are_counted_told_of_once_and_stay_out_of_training(walk, tmp_path, mine, capsys):
    workdir = walk.here(tmp_path / "run", reward=f"{mine}:sometimes", steps=6)
    metrics = lines(workdir, "metrics")
    failed = [line["rows/failed"] for line in metrics]
    # The evaluations before step 1 and after step 3 are calls 1 and 5, so that the rounds are calls 2-4 and 6-8.
    assert failed == [1.0, 0.0, 1.0, 1.0, 0.0, 1.0]
    assert [line["rows/invalid"] for line in metrics] == failed
    assert [("reward/sometimes" in line) for line in metrics] == [share == 0 for share in failed]
    assert capsys.readouterr().err.count("raised KeyError: 'even'") == 1
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert any("rows without a verdict" in warning["text"] for warning in manifest["warnings"])


def test_penalties_are_parts_of_the_reward_and_of_the_evaluation(walk, tmp_path):
    flags = dict(overlong_weight=0.5, overlong_cache=20, repetition_weight=2.0, repetition_ngram=1, log_samples=8)
    workdir = walk.here(tmp_path / "run", steps=2, **flags)
    for line in lines(workdir, "metrics"):
        parts = {name: line[f"reward/{name}"] for name in ("accuracy", "format", "overlong", "repetition")}
        assert -1 <= parts["overlong"] < 0 and -1 < parts["repetition"] <= 0
        mean = parts["accuracy"] + parts["format"] + 0.5 * parts["overlong"] + 2.0 * parts["repetition"]
        assert line["reward/mean"] == pytest.approx(mean)
    for line in jsonl.read(workdir / "samples.jsonl"):
        assert line["reward"]["overlong"] == max(-1.0, min(0.0, (24 - 20 - line["length"]) / 20))
    for line in lines(workdir, "eval"):
        assert -1 <= line["reward/overlong"] < 0 and line["accuracy"] is not None and "failed" not in line
    # Rewards alone differ from a run without them: the first round's completions are the same.
    whole = jsonl.read(walk.finished(log_samples=8) / "samples.jsonl")
    found = jsonl.read(workdir / "samples.jsonl")
    assert [line["completion"] for line in found[:8]] == [line["completion"] for line in whole[:8]]
    assert not np.allclose([x["advantage"] for x in found[:8]], [x["advantage"] for x in whole[:8]])


def test_prompts_that_share_ten_words_with_a_benchmark_are_dropped_counted_and_said(walk, tmp_path, capsys):
    rows = [{"id": f"q{i}", "problem": f"Which is A? A {i}", "gold": "A", "kind": "choice"} for i in range(4)]
    tainted = "one two three four five six seven eight nine ten"
    rows += [{"id": "t", "problem": f"Count: {tainted.upper()} eleven", "gold": "A", "kind": "choice"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "benchmark.jsonl").write_text(json.dumps({"problem": f"{tainted}, and then?"}) + "\n")
    flags = dict(prompts=tmp_path / "rows.jsonl", eval_prompts=tmp_path / "rows.jsonl", log_samples=8)
    flags["decontaminate"] = tmp_path / "benchmark.jsonl"
    workdir = walk.here(tmp_path / "run", steps=4, **flags)
    assert "1 of 5 rows of --prompts share 10 words in a row" in capsys.readouterr().err
    assert {line["id"] for line in lines(workdir, "samples")} == {"q0", "q1", "q2", "q3"}
    data = json.loads((workdir / "manifest.json").read_text())["data"]
    assert data["counts"] == {"rows": 4, "dropped": 1}
    assert data["decontaminated"] == hash_files(tmp_path / "benchmark.jsonl")

    before = files(workdir)
    flags["decontaminate"] = shutil.move(flags["decontaminate"], tmp_path / "elsewhere.jsonl")
    walk.here(workdir, resume=True, steps=4, **flags)  # where it lies may change
    assert files(workdir) == before
    del flags["decontaminate"]
    said = walk.refused(capsys, workdir, resume=True, steps=6, **flags)
    assert "gives other questions" in said and files(workdir) == before


@pytest.mark.parametrize(
    "flags, words",
    [
        pytest.param({"reward": "nope"}, ["--reward=nope", "FILE.py:FUNCTION"], id="reward"),
        pytest.param({"reward": "nope.py:f"}, ["--reward=nope.py:f", "cannot be read"], id="reward's file"),
        pytest.param({"overlong_weight": -1.0}, ["--overlong-weight=-1.0", "or more"], id="overlong weight"),
        pytest.param({"repetition_weight": "nan"}, ["--repetition-weight=nan", "or more"], id="repetition weight"),
        pytest.param({"overlong_cache": 8}, ["--overlong-cache=8", "--overlong-weight"], id="cache without weight"),
        pytest.param(
            {"overlong_cache": 25, "overlong_weight": 1.0},
            ["--overlong-cache=25", "--max-tokens=24"],
            id="cache too long",
        ),
        pytest.param({"repetition_ngram": 0}, ["--repetition-ngram=0", "at least 1"], id="n-gram"),
        pytest.param({"decontaminate": "b.jsonl"}, ["--decontaminate", "--prompts=nano"], id="the generator's prompts"),
    ],
)
def test_a_flag_that_cannot_be_used_is_named_with_its_value_and_the_way_out(walk, tmp_path, capsys, flags, words):
    said = walk.refused(capsys, tmp_path / "run", **flags)
    assert [word for word in words if word not in said] == [], said
    assert not (tmp_path / "run").exists()


def test_benchmarks_that_cannot_be_used_are_named(walk, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"id": "a", "problem": "Which is A? A 1", "gold": "A", "kind": "choice"}\n')
    for name, words in (
        ("nowhere.jsonl", "cannot be read"),
        ("nano:all", "names the generator"),
        (rows, "drops all 1"),
    ):
        said = walk.refused(capsys, tmp_path / "run", prompts=rows, eval_prompts=rows, decontaminate=name)
        assert f"--decontaminate={name}" in said and words in said, said


def test_a_run_that_began_before_a_field_was_there_goes_on(walk, tmp_path):
    """Fields with a default: a manifest without them is one of a run that had the default."""
    new = [field.name for field in dataclasses.fields(RLRecipe) if field.default is not dataclasses.MISSING]
    assert {"overlong_weight", "repetition_weight"} <= set(new)
    workdir = tmp_path / "old"
    shutil.copytree(walk.finished(), workdir)
    path = workdir / "manifest.json"
    manifest = json.loads(path.read_text())
    for name in (*new, "reward", "decontaminate"):
        del manifest["recipe"][name]
    path.write_text(json.dumps(manifest))
    walk.here(workdir, resume=True)
    fields = dataclasses.asdict(r1_zero.NANO) | dataclasses.asdict(RunOptions())
    defaults = manifests.defaults_of(r1_zero.NANO, RunOptions())
    there = {name: value for name, value in fields.items() if name not in new}
    assert manifests.differences(there, fields, (), defaults) == []
    (said,) = manifests.differences(there, fields | {"overlong_weight": 1.0}, (), defaults)
    assert said == "overlong_weight was 0.0 and is now 1.0"
    assert manifests.differences({}, {"clip_eps": 0.2}, (), defaults) == ["clip_eps was absent and is now 0.2"]
