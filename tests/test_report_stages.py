"""The page of all stages: what it reads, what it draws, and that hostile text stays text."""

import hashlib
import json
import shutil

import pytest

from r1jax import report
from r1jax.jsonl import JsonLines
from r1jax.report import __main__ as command
from r1jax.report.ancestry import edges
from r1jax.report.charts import trials_of
from r1jax.report.data import load
from r1jax.report.stage_curves import spans
from r1jax.report.stage_table import mean_row, rows_of, ruled_of
from r1jax.report.stages_data import load_stages, shown_samples
from support.chromium import CHROMIUM, Chromium
from support.pages import HOSTILE, Page

BASE, SMALL = (hashlib.sha256(name.encode()).hexdigest() for name in ("base", "small"))
NAMES = {
    "base": "",
    "R1-Zero": "0_r1_zero",
    "Dev1": "1_cold_start",
    "Dev2": "2_reasoning_rl",
    "Dev3": "3_rejection_sft",
    "R1": "4_all_scenarios_rl",
    "Student": "distill_small",
}
COUNTS = {
    "records": 100,
    "kept": 60,
    "route": {"few_shot": 20, "r1_zero": 40},
    "domain": {"math": 60},
    "reason": {"wrong": 30, "mixed language": 10},
    "reason_by_domain": {"math": {"wrong": 30, "mixed language": 10}},
}


def stage(home, folder, parent, *, data=None, recipe=None, seconds=1.0, steps=4, metrics=None, **other):
    """A stage's folder with a manifest and logs."""
    manifest = {
        "stage": folder,
        "recipe": recipe or {},
        "seed": 0,
        "versions": {},
        "data": data or {},
        "status": "complete",
        "parent": {"path": str(parent[0]), "sha256": parent[1]} if parent else None,
    } | other
    (home / folder).mkdir(parents=True, exist_ok=True)
    (home / folder / "manifest.json").write_text(json.dumps(manifest))
    with JsonLines(home / folder / "metrics.jsonl") as lines:
        for step in range(1, steps + 1):
            lines.write(
                {"step": step, "perf/step_s": seconds} | (metrics or {"reward/accuracy": 0.5, "reward/mean": 1.0})
            )
    with JsonLines(home / folder / "eval.jsonl") as lines:
        for step in (0, steps):
            lines.write({"step": step, "n": 512, "accuracy": 0.25, "helpful": 0.5})


def document(home, **changes):
    """stages.json of all stages."""
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 512}
    whole = {
        "seed": 7,
        "budget": [
            {"stage": "0_r1_zero", "planned": 10, "minutes": 12.5},
            {"stage": "evaluation", "planned": 7, "minutes": None},
        ],
        "stages": [{"name": name, "folder": folder} for name, folder in NAMES.items()],
        "table": [
            {"figure": "pass@1", "group": "chain", "unit": "share", "paper": "AIME24"}
            | {"values": dict.fromkeys(NAMES, cell)}
        ],
        "paper": {"AIME24 pass@1": {"R1-Zero": 77.9, "R1": 79.8}},
        "samples": [
            {
                "id": "chain-1",
                "problem": "1 + 1?",
                "kind": "chain",
                "gold": "2",
                "completions": {
                    "base": {"text": "3", "verdict": "wrong"},
                    "R1": {"text": "2", "verdict": "correct"},
                },
            }
        ],
    } | changes
    (home / "stages.json").write_text(json.dumps(whole))


@pytest.fixture
def home(tmp_path):
    base = ("r1jax/nano/nano", BASE)
    stage(tmp_path, "0_r1_zero", base)
    zero = [{"path": str(tmp_path / "0_r1_zero"), "sha256": "a" * 64}]
    stage(tmp_path, "1_cold_start", base, data={"counts": COUNTS, "sources": {"r1_zero": zero}}, metrics={"loss": 1.5})
    stage(tmp_path, "2_reasoning_rl", (tmp_path / "1_cold_start", "1" * 64))
    dev2 = [{"path": str(tmp_path / "2_reasoning_rl"), "sha256": "2" * 64}]
    stage(tmp_path, "3_rejection_sft", base, data={"sources": {"rejection": dev2}}, metrics={"loss": 1.25})
    stage(tmp_path, "reward_helpful", (tmp_path / "3_rejection_sft", "3" * 64), stage="reward_model_helpful")
    stage(
        tmp_path,
        "4_all_scenarios_rl",
        (tmp_path / "3_rejection_sft", "3" * 64),
        metrics={"reward/helpful": 1.0},
        recipe={"helpful": str(tmp_path / "reward_helpful"), "late_from": 2},
    )
    records = str(tmp_path / "3_rejection_sft_data/rejection.jsonl")
    stage(tmp_path, "distill_small", ("r1jax/nano/nano-small", SMALL), data={"files": [records]}, metrics={"loss": 1.0})
    document(tmp_path)
    return tmp_path


def test_the_lineage_is_what_the_manifests_say_and_dev3_comes_from_the_base(home):
    found, outside = edges(load_stages(home))
    assert {(e.source, e.target, e.kind) for e in found} == {
        ("", "0_r1_zero", "parent"),
        ("", "1_cold_start", "parent"),
        ("1_cold_start", "2_reasoning_rl", "parent"),
        ("", "3_rejection_sft", "parent"),
        ("3_rejection_sft", "4_all_scenarios_rl", "parent"),
        ("3_rejection_sft", "reward_helpful", "parent"),
        (f"/{SMALL}", "distill_small", "parent"),
        ("0_r1_zero", "1_cold_start", "data"),
        ("2_reasoning_rl", "3_rejection_sft", "data"),
        ("3_rejection_sft", "distill_small", "data"),
        ("reward_helpful", "4_all_scenarios_rl", "reward"),
    }
    assert outside == {f"/{SMALL}": "nano-small"}
    assert not any(edge.planned or edge.wrong for edge in found)
    page = Page(report.write_stages(home))
    for text in ("fine-tuned from the base again", BASE[:10], "1" * 10, "2" * 10, "3" * 10, SMALL[:10]):
        assert text in page.text


def test_a_dev3_from_another_parent_is_drawn_from_there(home):
    stage(home, "3_rejection_sft", (home / "2_reasoning_rl", "2" * 64))
    found, _ = edges(load_stages(home))
    assert [e.source for e in found if e.target == "3_rejection_sft" and e.kind == "parent"] == ["2_reasoning_rl"]
    assert "fine-tuned from the base again" not in Page(report.write_stages(home)).text


def test_two_hashes_of_one_parent_are_a_warning(home):
    stage(home, "4_all_scenarios_rl", (home / "3_rejection_sft", "4" * 64))  # the reward model began with 333...
    assert {e.target for e in edges(load_stages(home))[0] if e.wrong} == {"4_all_scenarios_rl", "reward_helpful"}
    assert "R1 began with other weights of Dev3" in Page(report.write_stages(home)).text


def test_the_page_shows_table_counts_samples_and_budget(home):
    page = Page(report.write_stages(home))
    assert "seed 7" in page.text and "6 of 6 stages complete" in page.text
    for text in ("0.40–0.60", "↔ AIME24", "77.9", "100 records, 60 kept (60 %)", "Dropped, by reason", "12.5"):
        assert text in page.text
    for title in ("Accuracy", "General prompts", "Loss of fine-tuning", "The reward models say: R1"):
        assert title in page.text
    data, rows, _ = page.scripts
    assert [len(json.loads(rows)), json.loads(rows)[0]["completions"]["R1"]["text"]] == [1, "2"]
    # One readout for each chart, in their order: the script pairs them by number.
    assert len(json.loads(data)["curves"]) == sum("chart" in (a.get("class") or "").split() for _, a in page.tags)


@pytest.mark.parametrize("missing", ["stages", "table", "paper", "samples", "budget", "seed"])
@pytest.mark.parametrize("value", ["absent", None, [None, 3], "text"])
def test_a_part_that_is_missing_or_odd_leaves_a_page(home, missing, value):
    whole = json.loads((home / "stages.json").read_text())
    whole.pop(missing)
    (home / "stages.json").write_text(json.dumps(whole if value == "absent" else whole | {missing: value}))
    assert Page(report.write_stages(home)).text


def test_the_headline_goes_from_the_base_to_r1_whatever_students_follow(home):
    names = {name: folder for name, folder in NAMES.items() if name != "Student"} | {"Student base": ""} | NAMES
    values = {name: {"mean": 0.1 * i, "low": 0.0, "high": 1.0, "n": 512} for i, name in enumerate(names)}
    document(
        home,
        stages=[{"name": name, "folder": folder} for name, folder in names.items()],
        table=[{"figure": "pass@1", "group": "chain", "unit": "share", "values": values}],
    )
    page = report.write_stages(home).read_text(encoding="utf-8")
    assert "Accuracy, base to R1</dt>" in page and '<span class="to">0.500</span>' in page


def test_an_empty_document_and_every_prefix_of_a_run_has_a_page(home):
    document(home, table=[], paper={}, samples=[], budget=[])
    for folder in ("distill_small", "4_all_scenarios_rl", "reward_helpful", *reversed(list(NAMES.values())[1:5])):
        shutil.rmtree(home / folder)
        found, _ = edges(load_stages(home))
        assert all(edge.planned for edge in found if edge.target == folder)
        assert "not yet begun" in Page(report.write_stages(home)).text
    (home / "stages.json").write_text("{}")
    assert "No stage has begun yet." in Page(report.write_stages(home)).text


def test_the_same_files_give_the_same_bytes(home):
    first = report.write_stages(home).read_bytes()
    assert report.write_stages(home).read_bytes() == first


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text_wherever_it_comes_from(home, text):
    cell = {"mean": 0.5, "low": 0.4, "high": 0.6}
    stage(
        home,
        "1_cold_start",
        (text, text),
        status=text,
        warnings=[{"text": text}],
        data={"sha256": text, "counts": {text: {text: 3}, "reason": {text: 2}, "rewritten_by": {text: {text: 1}}}},
    )
    stage(home, "reward_helpful", (text, text), stage=f"reward_model_{text}", results={"final": {text: 0.5}})
    sample = {
        "id": text,
        "problem": text,
        "kind": text,
        "gold": text,
        "completions": {text: {"text": text, "verdict": text}},
    }
    document(
        home,
        seed=text,
        samples=[sample],
        paper={text: {text: 50.0}},
        budget=[{"stage": text, "minutes": 1, "planned": 2}],
        stages=[{"name": text, "folder": folder} for folder in NAMES.values()],
        table=[{"figure": text, "group": text, "unit": text, "paper": text, "values": {text: cell}}],
    )
    page = Page(report.write_stages(home))
    assert {tag for tag, _ in page.tags}.isdisjoint({"img", "iframe", "u", "link"})
    assert [tag for tag, _ in page.tags].count("script") == len(page.scripts) == 3
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    said = json.loads(page.scripts[1])[0]["completions"]
    assert [one["text"] for one in said.values()] == [text]


def test_a_page_of_very_long_samples_stays_below_five_megabytes(home):
    long = "<" * 30_000  # six bytes each in the page's JSON, were they kept
    samples = [
        {"id": f"{kind}-{i}", "kind": kind, "problem": "p", "completions": {name: {"text": long} for name in NAMES}}
        for kind in ("a", "b")
        for i in range(40)
    ]
    document(home, samples=samples)
    page = report.write_stages(home)
    assert page.stat().st_size < 5_000_000
    kept, rule = shown_samples(load_stages(home).samples, NAMES)
    # 8,000 characters of six bytes in seven stages are 336 kB a sample, and 3.5 MB hold ten: five of each kind.
    assert [sum(row["kind"] == kind for row in kept) for kind in ("a", "b")] == [5, 5]
    assert rule.startswith("10 of 80") and rule in Page(page).text


def test_the_mean_of_kinds_has_the_interval_of_independent_means(home):
    # Half widths 0.03 and 0.04 of two kinds: sqrt(0.03² + 0.04²) / 2 = 0.025.
    cells = [{"mean": 0.4, "low": 0.37, "high": 0.43}, {"mean": 0.6, "low": 0.56, "high": 0.64}]
    values = [{"R1": cells[0], "base": cells[0]}, {"R1": cells[1]}]
    document(
        home,
        table=[
            {"figure": "pass@1", "group": g, "unit": "share", "values": v} for g, v in zip("ab", values, strict=True)
        ],
    )
    row = mean_row(rows_of(load_stages(home)))
    assert list(row.cells) == ["R1"]  # the base lacks a kind
    assert row.cells["R1"][:3] == pytest.approx((0.5, 0.475, 0.525))


def test_the_mean_is_of_the_kinds_that_a_rule_judges_where_several_have_the_figure(home):
    def row(figure, group, mean):
        return {"figure": figure, "group": group, "unit": "share", "values": {"R1": {"mean": mean}}}

    forms = [row("format", *pair) for pair in (("a", 0.2), ("b", 0.4), ("c", 0.9))]
    document(home, table=[row("pass@1", "a", 1.0), row("pass@1", "b", 1.0), *forms, row("helpful", "c", 0.7)])
    rows = rows_of(load_stages(home))
    assert ruled_of(rows) == {"a", "b"}
    found = mean_row([row for row in rows if row.figure == "format"], ruled_of(rows))
    assert found.cells["R1"].mean == pytest.approx(0.3) and found.group == "mean of 2 kinds"
    text = Page(report.write_stages(home)).text
    assert "mean of 2 kinds" in text and "mean of 3 kinds" not in text


def test_the_page_says_which_problems_a_stage_was_held_to(home):
    base = ("r1jax/nano/nano", BASE)
    stage(home, "0_r1_zero", base, recipe={"eval_prompts": "nano"})
    stage(home, "2_reasoning_rl", base, recipe={"eval_prompts": "somewhere/<b>.jsonl"})
    assert "(nano: R1-Zero; <b>.jsonl: Dev2)" in Page(report.write_stages(home)).text


def test_a_share_of_what_a_rule_judges_has_the_interval_of_so_many(tmp_path):
    for count in (None, 100):
        lines = tmp_path / f"{count}" / "eval.jsonl"
        run = {"step": 0, "n": 512, "accuracy": 0.5, "format": 0.5} | ({"judged": count} if count else {})
        lines.parent.mkdir()
        (lines.parent / "manifest.json").write_text("{}")
        (lines.parent / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
        lines.write_text(json.dumps(run) + "\n")
        found = load(lines.parent)
        assert trials_of(found, "accuracy") == {0: count or 512} and trials_of(found, "format") == {0: 512}


def test_stages_lie_in_a_row_each_as_wide_as_its_training_took(tmp_path):
    # 10 + 30 + 60 seconds over 1000 thousandths, less two gaps of 5: 990 of them.
    for folder, seconds in (("0_r1_zero", 2.5), ("1_cold_start", 7.5), ("2_reasoning_rl", 15.0)):
        stage(tmp_path, folder, ("", BASE), seconds=seconds)
    document(tmp_path)
    found = spans(load_stages(tmp_path).parts)
    assert [(span.begin, span.end) for span in found] == [(0, 99), (104, 401), (406, 1000)]
    assert found[1].x(0) == 104 and found[1].x(4) == 401  # four steps


def test_the_command_chooses_the_page_of_stages_where_stages_json_lies(home, capsys):
    assert command.main([str(home)]) == 0
    assert capsys.readouterr().out.strip() == str(home / "report.html")
    assert "step by step" in (home / "report.html").read_text()
    assert command.main([str(home), "--compare", str(home / "0_r1_zero")]) == 2
    assert "--compare" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_a_directory_without_readable_stages_is_an_error_that_names_it(tmp_path, content):
    if content is not None:
        (tmp_path / "stages.json").write_text(content)
    with pytest.raises(ValueError, match=r"stages\.json"):
        report.write_stages(tmp_path)


def test_a_folder_outside_the_working_directory_is_not_read(home):
    document(home / "1_cold_start", stages=[{"name": "x", "folder": "../0_r1_zero"}])
    assert load_stages(home / "1_cold_start").parts[0].run.manifest == {}


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome")
def test_in_a_browser_samples_can_be_chosen_curves_read_and_nothing_is_asked_for(home):
    hostile = "</script><img src=http://evil.example/x onerror=hacked=1> wait \u202e"
    said = {name: {"text": f"{name}: {hostile}", "verdict": "wrong"} for name in ("base", "R1")}
    document(
        home,
        samples=[
            {"id": str(i), "kind": kind, "problem": f"{kind}?", "completions": said} for i, kind in enumerate("ab")
        ],
    )
    url = report.write_stages(home).as_uri()
    with Chromium() as page:
        page.open(url)
        assert page.run("[...document.querySelectorAll('.answer-of h4 span:first-child')].map(e => e.textContent)") == [
            "base",
            "R1",
        ]
        assert "<img src=http" in page.run("document.querySelector('.answer-of .text').textContent")
        page.run("document.getElementById('next').click()")
        assert page.run("document.querySelector('#question h3').textContent") == "b?"
        page.run("document.querySelector('.chip').click()")
        assert page.run("[...document.querySelectorAll('.answer-of h4 span:first-child')].map(e => e.textContent)") == [
            "R1"
        ]
        page.run("readStep(charts[0].series[0].x[1], 0)")
        assert page.run("charts[0].output.textContent") == "R1-Zero · step 2"
        assert page.run("charts.at(-1).output.textContent") == ""  # another axis
        assert page.run("typeof window.hacked + document.querySelectorAll('img').length") == "undefined0"
        assert page.errors == [] and page.requests == [url]
        page.resize(420, 900)
        assert page.run("document.documentElement.scrollWidth") <= 420
