"""The report: what is read, what is drawn, and that hostile text stays text."""

import json
import math
import re

import pytest

from r1jax import report
from r1jax.jsonl import JsonLines
from r1jax.report import __main__ as command
from r1jax.report.curve import Curve
from r1jax.report.data import choose_samples, load
from support.pages import HOSTILE, Page


def sample(step=1, **other):
    return {
        "step": step,
        "round": step // 2,
        "id": "countdown3-0001",
        "sample": 0,
        "kind": "countdown3",
        "language": "en",
        "prompt": "User: make 24 Assistant:",
        "problem": "make 24",
        "gold": "24",
        "completion": "<think>wait</think> <answer>4 * 6</answer>",
        "length": 9,
        "truncated": False,
        "reward": {"accuracy": 1.0, "format": 1.0},
        "verdict": "correct",
        "advantage": 0.5,
        "key": [0, 0, "countdown3-0001", 0],
    } | other


def run(folder, *, metrics=(), evals=(), samples=(), manifest=None):
    """A working directory with these logs."""
    for name, rows in (("metrics", metrics), ("eval", evals), ("samples", samples)):
        with JsonLines(folder / f"{name}.jsonl") as lines:
            for row in rows:
                lines.write(row)
    if manifest is not None:
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def figures(path):
    """The titles of the curves drawn."""
    return re.findall(r"<figcaption><h3>([^<]*)</h3>", path.read_text("utf-8"))


def test_a_run_before_its_first_step_has_a_page(tmp_path):
    manifest = {"stage": "r1_zero", "recipe": {"steps": 120}, "seed": 3, "status": "running"}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))  # no log exists yet
    page = Page(report.write(tmp_path))
    assert "No step has been logged yet" in page.text
    assert "seed 3 · 0 of 120 steps · running" in page.text
    assert figures(tmp_path / "report.html") == [] and page.rows == []


def test_a_run_without_a_manifest_has_a_page_too(tmp_path):
    run(tmp_path, metrics=[{"step": 1, "kl": 0.5}])
    (tmp_path / "eval.jsonl").unlink()
    assert figures(report.write(tmp_path)) == ["KL to the reference"]


def test_one_step_is_drawn_as_a_dot_and_a_missing_figure_is_absent(tmp_path):
    run(tmp_path, metrics=[{"step": 1, "entropy": 0.5, "kl": None}])
    path = report.write(tmp_path)
    assert figures(path) == ["Entropy"]
    # A path that only moves and draws a tenth of a unit shows its round cap: a dot.
    assert re.search(r'class="line" d="M1000\.0 [\d.]+h\.1"', path.read_text())


def test_every_figure_that_no_plot_names_is_drawn_under_its_own_name(tmp_path):
    run(tmp_path, metrics=[{"step": 1, "reward/language": 0.5, "new/figure": 2.0, "note": "text"}])
    assert figures(report.write(tmp_path)) == ["reward/language", "new/figure"]


def test_the_headline_is_base_and_final_of_the_manifest(tmp_path):
    results = {
        "base": {"accuracy": 0.25, "length": 60.0},
        "final": {"accuracy": 0.625, "length": 90.0},
    }
    run(tmp_path, manifest={"stage": "r1_zero", "results": results})
    text = Page(report.write(tmp_path)).text
    assert "0.250→0.625+0.375" in re.sub(r"\s", "", text)
    assert "60→90tokens,×1.50" in re.sub(r"\s", "", text)


def test_without_results_the_headline_is_the_first_and_last_evaluation(tmp_path):
    evals = [{"step": 0, "n": 8, "accuracy": 0.25}, {"step": 9, "n": 8, "accuracy": 0.5}]
    run(tmp_path, evals=evals, manifest={"stage": "r1_zero", "results": {}})
    path = report.write(tmp_path)
    assert "0.250→0.500+0.250on8problems" in re.sub(r"\s", "", Page(path).text)
    assert "base 0.250" in path.read_text()  # the dotted rule at step 0
    run(tmp_path, evals=[])
    (tmp_path / "eval.jsonl").write_text('{"step": 9, "n": 8, "accuracy": 0.5}\n')
    text = Page(report.write(tmp_path)).text
    assert "–→0.500" in re.sub(r"\s", "", text)  # the base is unknown: no claim


def test_warnings_of_one_text_are_told_once_with_their_steps(tmp_path):
    warnings = [{"step": s, "text": "<b>truncated</b>"} for s in (4, 5, 9)]
    warnings.append({"step": 6, "text": "x"})
    run(tmp_path, manifest={"stage": "r1_zero", "warnings": warnings})
    text = Page(report.write(tmp_path)).text
    assert "2 warnings" in text
    assert "<b>truncated</b> 3 times, steps 4–9" in text and "x step 6" in text


def test_other_runs_are_thin_lines_and_rows_of_a_table(tmp_path):
    for seed in range(3):
        run(
            tmp_path / f"seed{seed}",
            manifest={"stage": "r1_zero", "seed": seed},
            metrics=[{"step": 1, "kl": 0.1}, {"step": 2 + seed, "kl": 0.2}],
            evals=[{"step": 0, "n": 8, "accuracy": 0.125 * seed}],
        )
    path = report.write(tmp_path / "seed0", compare=[tmp_path / "seed1", tmp_path / "seed2"])
    page = path.read_text()
    text = Page(path).text
    # Two runs, in three places: KL, pass@1, and the held-out accuracy beside the reward.
    assert page.count('class="other"') == 2 * 3
    assert all(f"seed{seed} seed {seed}" in text for seed in range(3))
    assert not (tmp_path / "seed1" / "report.html").exists()


def test_the_same_logs_give_the_same_bytes(tmp_path):
    run(tmp_path, metrics=[{"step": 1, "kl": 0.1}], samples=[sample()], manifest={"stage": "x"})
    first = report.write(tmp_path).read_bytes()
    assert report.write(tmp_path).read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "eval.jsonl",
        "manifest.json",
        "metrics.jsonl",
        "report.html",
        "samples.jsonl",
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_wherever_it_comes_from(tmp_path, text):
    manifest = {
        "stage": text,
        "status": text,
        "seed": 0,
        "recipe": {text: text},
        "parent": {"path": text},
        "warnings": [{"step": 1, "text": text}],
    }
    keys = ("completion", "problem", "gold", "id", "kind", "prompt", "language")
    rows = [sample(**dict.fromkeys(keys, text))]
    metrics = [{"step": 1, text: 1.0}]
    evals = [{"step": 1, "by_kind": {text.replace("/", ""): {"accuracy": 0.5}}}]
    run(tmp_path, manifest=manifest, samples=rows, metrics=metrics, evals=evals)
    page = Page(report.write(tmp_path))
    assert len(page.scripts) == 3  # curves, samples, ours
    assert not {"img", "u", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert (attributes.get("href") or "#").startswith("#")
    assert page.rows[0]["completion"] == text  # whole and unchanged, lone surrogates too
    assert "alert" not in page.scripts[2]
    raw = (tmp_path / "report.html").read_bytes()
    raw.decode("utf-8")
    assert not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", raw)


def test_long_logs_are_thinned_to_a_page_below_five_megabytes(tmp_path):
    metrics = (
        {"step": s, **{f"figure{k}": math.sin(s / 500) + (s * 7919 % 101) / 300 for k in range(20)}}
        for s in range(1, 10_001)
    )
    samples = (sample(s, completion="等等 wait " * 120) for s in range(1, 10_001))
    run(tmp_path, metrics=metrics, samples=samples, manifest={"stage": "r1_zero"})
    path = report.write(tmp_path)
    assert path.stat().st_size < 5_000_000
    page = Page(path)
    steps = [row["step"] for row in page.rows]
    assert len(steps) == 100 and steps[0] == 1 and steps[-1] == 10_000
    assert "100 of 10,000 logged samples" in page.text and "from 100 of 10,000 steps" in page.text
    curve = json.loads(page.scripts[0])["curves"][0]["series"][0]
    assert len(curve["x"]) <= 240 and curve["w"] == 42  # 10,000 / 240, rounded up


def test_samples_that_do_not_fit_are_taken_in_turn_from_each_step(tmp_path):
    rows = [sample(step, sample=i) for step in range(1, 6) for i in range(4)]
    run(tmp_path, samples=rows)
    assert len(choose_samples(tmp_path / "samples.jsonl").rows) == 20
    size = len(json.dumps(rows[0]))
    some = choose_samples(tmp_path / "samples.jsonl", limit=7 * size, steps=3)
    steps = [row["step"] for row in some.rows]
    assert set(steps) == {1, 3, 5}  # evenly spaced, with the first and the last
    counts = [steps.count(step) for step in (1, 3, 5)]
    assert steps == sorted(steps) and max(counts) - min(counts) <= 1
    assert some.total == 20 and some.rule.startswith(f"{len(steps)} of 20 logged samples")


def test_a_very_long_text_loses_its_middle_and_the_page_says_so(tmp_path):
    run(tmp_path, samples=[sample(completion="a" * 50_000 + " wait " + "z" * 50_000)])
    chosen = choose_samples(tmp_path / "samples.jsonl")
    text = chosen.rows[0]["completion"]
    assert text.startswith("aaa") and text.endswith("zzz") and "80,006 characters" in text
    assert chosen.rows[0]["words"] == 1  # counted before the cut
    assert "lost their middle" in chosen.rule


def test_a_gap_is_null_but_a_figure_that_was_not_due_is_no_gap(tmp_path):
    metrics = [
        {"step": 1, "a": 1.0, "b": 1.0},
        {"step": 2, "a": None},
        {"step": 3, "a": 2.0, "b": 3.0},
    ]
    curves = load(run(tmp_path, metrics=metrics)).metrics
    assert curves["a"] == Curve([1, 2, 3], [1.0, None, 2.0])
    assert curves["b"] == Curve([1, 3], [1.0, 3.0])


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_directory_without_a_run_is_an_error_that_says_what_to_name(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    assert command.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error and ("--workdir" in error if content is None else "JSON" in error)
    assert not (tmp_path / "report.html").exists()


def test_the_command_prints_the_page_it_wrote(tmp_path, capsys):
    for name in "ab":
        run(tmp_path / name, metrics=[{"step": 1, "kl": 0.1}])
    assert command.main([str(tmp_path / "a"), "--compare", str(tmp_path / "b")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "a" / "report.html")
