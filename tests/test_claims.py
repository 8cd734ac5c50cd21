"""The claims: their protocol, the runs they share, what each makes of its files, and the page of all."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.claims import (
    __main__ as page,
)
from experiments.claims import (
    chain_does_work,
    cold_start_speeds,
    distillation_beats_rl,
    language_mixing,
    length_growth,
    lifts_reasoning,
    objectives,
    reward_hacking,
    reward_overoptimisation,
    runs,
    samples_and_thought,
    sft_form_rl_skill,
    sharpens_base,
)
from experiments.claims.protocol import Bench, Finding, decide, estimate, summarise
from experiments.claims.table import CLAIMS
from r1jax.report.claim_pictures import Curves

ROOT = Path(__file__).resolve().parent.parent
LINE = {"accuracy": 0.5, "language": 0.9, "format": 0.9, "length": 50.0, "length_right": 40.0, "length_wrong": 60.0}


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def a_run(folder, *lines, every=4):
    """A directory with an eval.jsonl; each line is what differs from `LINE`."""
    write_lines(folder / "eval.jsonl", [{"step": every * i} | LINE | line for i, line in enumerate(lines)])
    return folder


# ---- the protocol


def test_the_interval_of_seeds_is_students_and_a_single_seed_has_none():
    found = summarise([1.0, 2.0, 3.0])
    assert (found.low, found.high) == pytest.approx((2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))
    assert found.text(1, "+") == "+2.0 ± 2.5" and summarise([5.0]).text() == "5.000"
    with pytest.raises(ValueError, match="raise --problems or --steps"):
        estimate([1.0, None])


def test_a_verdict_needs_two_seeds_and_every_rule():
    assert decide(True, True) == "holds" and decide(True, False) == "does not hold"
    assert decide(True, seeds=1) == "cannot be shown here"


def test_every_file_with_a_claim_has_a_line_in_the_table_and_in_the_docs():
    files = (ROOT / "experiments/claims").glob("[a-z]*.py")
    claims = {file.stem for file in files if re.search(r"^def find\(", file.read_text(), re.MULTILINE)}
    assert claims == set(CLAIMS)
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/claims.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert listed == list(CLAIMS)


# ---- the runs


def test_a_run_is_shared_by_its_words_skipped_when_complete_and_resumed_when_not(tmp_path, monkeypatch):
    said = []

    def call(words, log):
        place = Path(next(w for w in words if w.startswith("--workdir=")).partition("=")[2])
        said.append(words)
        place.mkdir(parents=True, exist_ok=True)
        status = "complete" if len(said) != 2 else "running"  # the second is killed before its end
        manifest = {"stage": "r1_zero", "recipe": {}, "seed": 0, "versions": {}, "status": status}
        (place / "manifest.json").write_text(json.dumps(manifest))

    monkeypatch.setattr(runs, "call", call)
    bench = Bench(str(tmp_path), steps=2, problems=8, flags=("--group-size=4",))
    first = runs.train_zero(bench, 0)
    assert runs.train_zero(bench, 0) == first and len(said) == 1
    assert {"--seed=0", "--steps=2", "--eval-problems=8", "--group-size=4"} <= set(said[0])
    other = runs.train_zero(bench, 1)
    assert other != first and runs.train_zero(bench, 1) == other
    assert len(said) == 3 and "--resume=True" in said[2] and "--resume=True" not in said[1]


def test_a_run_that_fails_is_an_error_with_the_end_of_its_output(tmp_path):
    with pytest.raises(ValueError, match=r"(?s)failed:.*no such thing"):
        runs.call(["-c", "raise SystemExit('no such thing')"], tmp_path / "log")


def test_a_curve_is_the_mean_of_the_runs_and_has_a_gap_where_one_lacks_a_value(tmp_path):
    places = [
        a_run(tmp_path / "a", {}, {"accuracy": 0.7}),
        a_run(tmp_path / "b", {"accuracy": 0.3}, {"accuracy": None}),
    ]
    assert runs.mean_curve(places, "accuracy") == [[0, 0.4], [4, None]]


# ---- each claim


def trained(monkeypatch, module, make):
    """Has a claim's runs of R1-Zero made by `make(seed, words)`."""
    monkeypatch.setattr(module, "train_zero", lambda bench, seed, *words: make(seed, words))


@pytest.mark.parametrize(("wrong", "verdict"), [((90, 92, 91), "holds"), ((61, 55, 62), "does not hold")])
def test_length_growth_compares_wrong_answers_of_the_two_losses(tmp_path, monkeypatch, wrong, verdict):
    def make(seed, words):
        length = 60 if "--loss=dr_grpo" in words else wrong[seed]
        return a_run(tmp_path / f"{seed}{len(words)}", {}, {"length_wrong": float(length)})

    trained(monkeypatch, length_growth, make)
    found = length_growth.find(Bench(str(tmp_path)))
    assert found.verdict == verdict
    assert found.table[-1][-1].startswith("+31.0" if verdict == "holds" else "-0.7")


def test_language_mixing_needs_the_fall_and_the_cure_and_names_the_price(tmp_path, monkeypatch):
    fall = 0.1

    def make(seed, words):
        last = {"language": 0.99, "accuracy": 0.78} if words else {"language": 0.9 - fall, "accuracy": 0.8}
        return a_run(tmp_path / f"{seed}{len(words)}{fall}", {}, {name: v + seed / 1000 for name, v in last.items()})

    trained(monkeypatch, language_mixing, make)
    found = language_mixing.find(Bench(str(tmp_path)))
    assert found.verdict == "holds" and "-0.020 ± 0.000" in found.figure
    fall = 0.0
    assert language_mixing.find(Bench(str(tmp_path))).verdict == "does not hold"


def test_steps_to_an_accuracy_are_read_on_a_straight_line():
    lines = [{"step": step, "accuracy": accuracy} for step, accuracy in ((0, 0.3), (4, 0.5), (8, 0.4), (12, 0.8))]
    assert cold_start_speeds.steps_to(lines, 0.4) == pytest.approx(2.0)
    assert cold_start_speeds.steps_to(lines, 0.75) == pytest.approx(11.5)
    assert cold_start_speeds.steps_to(lines, 0.2) == 0.0 and cold_start_speeds.steps_to(lines, 0.9) is None
    assert cold_start_speeds.largest_fall(lines) == pytest.approx(0.1)


def test_cold_start_speeds_counts_a_run_that_never_arrives_with_its_last_step(tmp_path, monkeypatch):
    def make(seed, words):
        cold = "--template=r1" in words
        after = [{"accuracy": 0.8}] * 2 if cold else [{"accuracy": 0.6}, {"accuracy": 0.7}]
        return a_run(tmp_path / f"{seed}{cold}", {"accuracy": 0.7 if cold else 0.3}, *after)

    trained(monkeypatch, cold_start_speeds, make)
    monkeypatch.setattr(cold_start_speeds, "cold_starts", lambda bench: [tmp_path] * 3)
    found = cold_start_speeds.find(cold_start_speeds.Command(str(tmp_path)))
    assert found.verdict == "holds"
    assert found.table[1][2] == "8.0 ± 0.0 (3 of 3 never)" and found.table[2][2] == "2.0 ± 0.0"


def test_distillation_beats_rl_of_the_kept_results_with_programs_and_not_surely_without():
    found = distillation_beats_rl.find(Bench())
    cells = {row[0]: row for row in found.table}
    # 0.783 and 0.735 in docs/results.md, 7; 0.060, 0.043, 0.039 ahead
    assert cells["all tasks"][1][:5] == "0.783" and cells["all tasks"][2][:5] == "0.735"
    assert float(cells["all tasks"][3].split()[0]) == pytest.approx(np.mean([0.060, 0.043, 0.039]), abs=1e-3)
    assert found.verdict == "does not hold"  # without programs the interval includes 0
    mean, _, half = cells["without programs"][3].split()
    assert float(mean) - float(half) < 0


def test_the_base_is_grouped_by_its_share_of_right_answers():
    right = {name: np.arange(20) < count for name, count in {"a": 0, "b": 1, "c": 10, "d": 11}.items()}
    assert sharpens_base.group_by_base(right) == {
        "0 of 20": ["a"],
        "up to 10 %": ["b"],
        "10 to 50 %": ["c"],
        "above 50 %": ["d"],
    }


@pytest.mark.parametrize(
    ("after_lacking", "base_lacking", "verdict"),
    [(0.0, 0.0, "holds"), (0.2, 0.0, "does not hold"), (0.0, 0.5, "cannot be shown here")],
)
def test_sharpens_base_needs_a_task_that_the_base_never_solves(
    tmp_path, monkeypatch, after_lacking, base_lacking, verdict
):
    def make(seed, words):
        return a_run(tmp_path / f"{seed}{len(words)}", {}, {"accuracy": after_lacking})

    def evaluate(bench, weights, *words, samples, problems=0):
        place = tmp_path / f"evaluation{Path(weights).name}{len(words)}"
        rights = {"a": 0, "b": 4 if weights else 2, "c": 4}
        lines = [{"id": name, "right": i < right} for name, right in rights.items() for i in range(samples)]
        write_lines(place / "nano_zero.jsonl", lines)
        found = {"pass@1": {"mean": base_lacking / 4}, f"pass@{samples}": {"mean": base_lacking}}
        (place / "results.json").write_text(json.dumps({"benchmarks": {sharpens_base.LACKING: found}}))
        return place

    trained(monkeypatch, sharpens_base, make)
    monkeypatch.setattr(sharpens_base, "evaluate", evaluate)
    found = sharpens_base.find(sharpens_base.Command(str(tmp_path), samples=8, asked=4))
    assert found.verdict == verdict
    cells = {row[0]: row[1:] for row in found.table}
    assert cells["0 of 8"] == ["1", "0.000", "0.000 ± 0.000"] and cells["10 to 50 %"][1:] == ["0.375", "0.500 ± 0.000"]
    rows = [json.loads(line) for line in (tmp_path / "questions/products_train.jsonl").read_text().splitlines()]
    assert len(rows) == 512 and all(eval(row["problem"][8:-1]) == row["gold"] > 99 for row in rows)


def test_only_well_formed_texts_become_records_right_or_wrong(tmp_path):
    texts = ["<think> 1+1=3 </think> <answer> 3 </answer>", "i guess 2", "<think> x </think> 2"]
    write_lines(tmp_path / "samples.jsonl", [{"id": "q", "problem": "1+1?", "response": text} for text in texts])
    path = sft_form_rl_skill.write_well_formed(tmp_path / "samples.jsonl", tmp_path / "records.jsonl")
    (kept,) = [json.loads(line) for line in path.read_text().splitlines()]
    assert kept == {"id": "q", "problem": "1+1?", "response": texts[0], "keep": True}
    write_lines(tmp_path / "samples.jsonl", [{"id": "q", "problem": "1+1?", "response": texts[1]}])
    with pytest.raises(ValueError, match="no completion is well formed"):
        sft_form_rl_skill.write_well_formed(tmp_path / "samples.jsonl", tmp_path / "records.jsonl")


@pytest.mark.parametrize(("skill", "verdict"), [(0.36, "holds"), (0.82, "does not hold")])
def test_fine_tuning_on_its_own_texts_is_to_teach_form_and_not_skill(tmp_path, monkeypatch, skill, verdict):
    figures = {"": (0.34, 0.62), "tuned": (skill, 0.98), "zero": (0.80, 0.99)}
    trained(monkeypatch, sft_form_rl_skill, lambda seed, words: Path("zero"))
    monkeypatch.setattr(sft_form_rl_skill, "tune", lambda command, seed: Path("tuned"))
    monkeypatch.setattr(sft_form_rl_skill, "evaluate", lambda bench, weights, *words: Path(str(weights) or "base"))
    monkeypatch.setattr(
        sft_form_rl_skill,
        "read_results",
        lambda place, name: dict(
            zip(("pass@1", "format"), ({"mean": v} for v in figures[str(place).replace("base", "")]), strict=True)
        ),
    )
    assert sft_form_rl_skill.find(sft_form_rl_skill.Command(str(tmp_path))).verdict == verdict


def test_votes_are_counted_over_disjoint_sets_of_samples():
    answers = [("5", 1), ("5", 1), ("7", 0), ("8", 0)]  # as one set of four: 5; as two of two: 5, and a tie of 7 and 8
    lines = [{"kind": "math", "answer": answer, "right": bool(right)} for answer, right in answers]
    assert samples_and_thought.cons_curve(lines, 4) == {1: 0.5, 2: 0.5, 4: 1.0}


def test_thinking_is_cut_at_the_budget_or_goes_on_with_wait_twice():
    asked = []

    def write(rows, beginnings, most):
        asked.append((rows, beginnings, most))
        if beginnings[0].endswith("<answer>"):
            return [" 7 </answer>" for _ in rows]
        return ["a b c d e f g </think> <answer> 1" if row == 0 else " x </think>" for row in rows]

    encode, decode = str.split, " ".join  # a word is a token
    long, short = samples_and_thought.force(write, encode, decode, 2, 5)
    assert long == "a b c d e </think> <answer> 7 </answer>"
    assert short.count("wait,") == 2 and short.endswith("</think> <answer> 7 </answer>")
    assert [rows for rows, _, _ in asked[:2]] == [[0, 1], [1]] and asked[-1][2] == samples_and_thought.ANSWER_TOKENS
    assert all("</think>" not in text for _, texts, _ in asked[:-1] for text in texts)


def test_a_claim_that_needs_checkpoints_cannot_be_shown_without_them(tmp_path):
    assert reward_hacking.find(Bench(str(tmp_path))).verdict == "cannot be shown here"
    kept = tuple(str(ROOT / f"docs/r1/seed{seed}") for seed in range(3))
    with pytest.raises(ValueError, match="seed0 has no 3_rejection_sft"):
        reward_hacking.find(Bench(str(tmp_path), runs=kept))
    with pytest.raises(ValueError, match="names 1 directories for 3 --seeds"):
        runs.trained_stages(Bench(runs=kept[:1]))


def test_lifting_is_checked_in_every_run_and_a_broken_rule_is_named(tmp_path, monkeypatch):
    before = {"accuracy": 0.3, "accuracy_if_well_formed": 0.4, "accuracy_lenient": 0.3, "format": 0.6, "length": 40.0}
    after = {"accuracy": 0.8, "accuracy_if_well_formed": 0.8, "accuracy_lenient": 0.8, "format": 0.99, "length": 90.0}

    def make(seed, words):
        last = after | {"reflective_words": 2.5, "format": 0.99 - (seed == broken) / 2}
        place = a_run(tmp_path / f"{seed}-{broken}", before | {"reflective_words": 0.9}, last)
        write_lines(place / "metrics.jsonl", [{"step": 1, "sampler_gap/max": 1e-6}])
        return place

    trained(monkeypatch, lifts_reasoning, make)
    broken = None
    found = lifts_reasoning.find(Bench(str(tmp_path)))
    assert found.verdict == "holds" and "pass@1 rises by 0.500 ± 0.000" in found.figure
    broken = 1
    found = lifts_reasoning.find(Bench(str(tmp_path)))
    assert found.verdict == "does not hold" and "seed 1: not format at least 0.95" in found.figure


@pytest.mark.parametrize(("spoiled", "verdict"), [(0.01, "holds"), (0.5, "does not hold")])
def test_the_chain_does_work_if_a_wrong_result_in_it_makes_the_answer_wrong(tmp_path, monkeypatch, spoiled, verdict):
    trained(monkeypatch, chain_does_work, lambda seed, words: tmp_path / str(seed))
    said = {"chains": 8, "control": 0.9, "spoiled": spoiled}
    monkeypatch.setattr(chain_does_work, "measure", lambda command: said | {"control": 0.9 + command.seed / 100})
    found = chain_does_work.find(Bench(str(tmp_path)))
    assert found.verdict == verdict and found.table[-1][:4] == ["chains", "8", "8", "8"]

    def refuse(command):
        raise SystemExit("none of the chains has two steps")

    monkeypatch.setattr(chain_does_work, "measure", refuse)
    found = chain_does_work.find(Bench(str(tmp_path)))
    assert found.verdict == "cannot be shown here" and "two steps" in found.figure


def test_a_loss_ahead_of_grpo_by_more_than_its_interval_breaks_the_claim(tmp_path, monkeypatch):
    gain = 0.0

    def run_one(command, loss, seed):
        assert "--eval-problems=512" in command.flags and command.steps == 64
        place = a_run(tmp_path / f"{loss}{seed}{gain}", {}, {"accuracy": 0.8 + seed / 100 + gain * (loss == "rloo")})
        (place / "cost.json").write_text(json.dumps({"seconds": 60.0, "memory GB": 1.0}))
        write_lines(place / "metrics.jsonl", [{"step": 1, "entropy": 0.3}])
        return place

    monkeypatch.setattr(objectives, "run_one", run_one)
    assert objectives.find(Bench(str(tmp_path))).verdict == "holds"
    gain = 0.05
    found = objectives.find(Bench(str(tmp_path)))
    assert found.verdict == "does not hold" and "rloo +0.050 ± 0.000" in found.figure


@pytest.mark.parametrize(("worth", "verdict"), [((0.74, 0.83, 0.70), "holds"), ((0.74, 0.83, 0.83), "does not hold")])
def test_overoptimisation_needs_the_rise_of_the_reward_and_the_fall_of_the_worth(tmp_path, monkeypatch, worth, verdict):
    def measure(command):
        return [
            {"n": n, "reward": 0.2 * n + command.seed / 100, "worth": w - command.seed / 1000, "phrases": 1.0}
            for n, w in zip((1, 4, 16), worth, strict=True)
        ]

    monkeypatch.setattr(reward_overoptimisation, "measure", measure)
    monkeypatch.setattr(reward_overoptimisation, "trained_stages", lambda bench, *stages: [tmp_path] * 3)
    found = reward_overoptimisation.find(Bench(str(tmp_path), runs=("a", "b", "c")))
    assert found.verdict == verdict and [row[0] for row in found.table] == ["best of", "1", "4", "16"]


@pytest.mark.parametrize(("longest", "verdict"), [(0.8, "holds"), (0.3, "does not hold")])
def test_samples_and_thought_asks_for_gains_of_both(tmp_path, monkeypatch, longest, verdict):
    def evaluate(bench, weights, *words, samples, problems):
        place = tmp_path / f"evaluation{weights}"
        answers = [("5", True), ("5", True), ("7", False), ("8", False)]
        lines = [{"id": "a", "kind": "math", "answer": a, "right": right} for a, right in answers]
        write_lines(place / "nano_zero.jsonl", lines)
        return place

    trained(monkeypatch, samples_and_thought, lambda seed, words: str(seed))
    monkeypatch.setattr(samples_and_thought, "evaluate", evaluate)
    monkeypatch.setattr(
        samples_and_thought,
        "think",
        lambda zero, seed, budgets, count: {16: 0.3 + seed / 100, 256: longest + seed / 100},
    )
    found = samples_and_thought.find(samples_and_thought.Command(str(tmp_path), samples=4, budgets=(16, 256)))
    assert found.verdict == verdict and "+0.500 ± 0.000" in found.figure  # cons@4 is 1, pass@1 is 1/2
    cells = {row[0]: row[-1] for row in found.table}
    assert cells["pass@1"] == "0.500 ± 0.000" and cells["pass@2"].startswith("0.833")  # 1 - C(2,2)/C(4,2)


def test_reward_hacking_reads_the_reward_and_the_worth_of_each_run(tmp_path, monkeypatch):
    def run(bench, module, words):
        seed = int(next(word for word in words if word.startswith("--seed="))[7:])
        place = tmp_path / f"run{seed}"
        worth = (0.5, 0.6 + seed / 100, 0.3)
        shown = {"padding": 1.0, "harmless": 1.0, "accuracy": 0.2}
        write_lines(place / "eval.jsonl", [{"step": i, "helpful": w} | shown for i, w in enumerate(worth)])
        write_lines(place / "metrics.jsonl", [{"step": i, "reward/helpful": i + seed / 100} for i in (1, 2)])
        return place

    monkeypatch.setattr(reward_hacking, "run", run)
    monkeypatch.setattr(reward_hacking, "trained_stages", lambda bench, *stages: [tmp_path / stages[0]] * 3)
    found = reward_hacking.find(Bench(str(tmp_path), runs=("a", "b", "c")))
    assert found.verdict == "holds" and "+1.000 ± 0.000" in found.figure and "-0.310" in found.figure


# ---- all claims, and their page


def test_all_claims_are_skipped_when_done_and_one_that_fails_stops_no_other(tmp_path, monkeypatch, capsys):
    asked = []

    def find(bench):
        asked.append(bench)
        if bench.steps == 13:
            raise ValueError("no luck")
        picture = Curves("Accuracy", "share", {"<b>": [[0, 0.1], [4, 0.9]]}, "sample", share=True)
        return Finding("holds", "It is <1>.", "Much.", [["", "a & b"], ["x", "1"]], [picture])

    table = {name: CLAIMS[name]._replace(find=find, command=Bench) for name in ("length_growth", "language_mixing")}
    table["distillation_beats_rl"] = CLAIMS["distillation_beats_rl"]
    monkeypatch.setattr(page, "CLAIMS", table)
    command = page.Command(str(tmp_path), claims=tuple(table))
    assert set(page.run(command).values()) == {"holds", "does not hold"} and len(asked) == 2
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "It is &lt;1&gt;." in html and "a &amp; b" in html and "<b>" not in re.sub(r"<b>[^<]*</b>", "", html)
    data = json.loads(re.search(r'id="data">(.+?)</script>', html)[1])
    assert len(data["curves"]) == html.count('class="chart') == 2
    assert [curve["axis"] for curve in data["curves"]] == [0, 1] and data["curves"][0]["word"] == "sample"
    assert html.count('class="dotted"') == 1 and ">sample 0<" in html

    page.run(command)
    assert len(asked) == 2 and capsys.readouterr().out.count("complete, skipped") == 3
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html
    failed = page.run(dataclasses.replace(command, steps=13, claims=("length_growth", "distillation_beats_rl")))
    assert failed["length_growth"] == "failed: no luck" and failed["distillation_beats_rl"] == "does not hold"
    with pytest.raises(ValueError, match="nothing: there is no such claim"):
        page.run(dataclasses.replace(command, claims=("nothing",)))


@pytest.mark.weekly
@pytest.mark.slow
@pytest.mark.timeout(3000)  # some four CPU minutes, in eleven processes
def test_claims_run_their_commands_from_end_to_end_at_toy_size(tmp_path, monkeypatch):
    small = {
        "sharpens_base": dict(samples=2, asked=4),
        "samples_and_thought": dict(samples=2, asked=4, budgets=(4, 8), thought_about=4),
        "sft_form_rl_skill": dict(
            records=32,
            tuning=("--steps=2", "--row-length=256", "--batch-rows=2", "--warmup-steps=0", "--max-tokens=32"),
        ),
        "process_rewards": dict(questions=4, samples=2, asked=4, tuning=("--epochs=1", "--held-out-items=8")),
    }
    flags = ("--questions-per-round=2", "--group-size=4", "--max-tokens=32", "--row-length=256", "--batch-rows=2")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name, more in small.items():
        claim = CLAIMS[name]
        found = claim.find(claim.command(str(tmp_path), seeds=(0,), steps=1, problems=8, flags=flags, **more))
        assert found.verdict == "cannot be shown here" and found.table, name  # one seed, or the base solves nothing
    shared = [path for path in tmp_path.glob("r1_zero-*") if path.is_dir()]  # beside each lies its log
    assert len(shared) == 3  # R1-Zero is shared; the lacking task and the process reward model have their own
