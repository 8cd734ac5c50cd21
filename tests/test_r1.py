"""`experiments.r1` at a size for tests: the whole graph, what it skips and refuses, and that no kill changes it."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import r1, r1_stages
from r1jax import cli, jsonl
from r1jax.runs import checkpoint
from r1jax.runs.manifests import Manifest, read, sources, write
from support.two_processes import CLUSTER_VARIABLES
from support.walk import ROOT, count, ended, wait_until

# Whole runs, in processes of their own, where other tests may be beside them.
pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
RL = dict(
    steps=3,
    questions_per_round=8,
    group_size=4,
    max_tokens=24,
    eval_problems=2,
    row_length=320,
    batch_rows=4,
    save_every=2,
    eval_every=0,
    log_samples=2,
    warmup_steps=0,
    learning_rate=3e-4,
    temperature=1.0,
)
SFT = dict(
    epochs=0.0,
    steps=100,
    learning_rate=2e-2,
    final_learning_rate=1e-3,
    warmup_steps=0,
    row_length=128,
    batch_rows=4,
    held_out_problems=0,
    max_tokens=24,
    eval_problems=2,
    log_samples=1,
    save_every=25,
)
REWARDS = dict(epochs=1, items=32, held_out_items=8, batch_items=8, batch_rows=8, max_tokens=64, save_every=1)
SAMPLES = dict(questions=128, samples=1, sample_tokens=32)  # 1 in 4 asks for a letter, 1 in 4 of those for C
NUMBERS = {
    "zero": RL,
    "cold_data": SAMPLES,
    "cold": SFT,
    "reasoning": RL,
    "rejection_data": SAMPLES | dict(general_questions=4, general_samples=1),
    "rejection": SFT,
    "helpful": REWARDS,
    "safety": REWARDS,
    "scenarios": RL | dict(late_from=1),
    "distilled": SFT,
    "student_rl": RL,
    "evaluation": dict(max_tokens=24),
}
FOLDERS = [stage.folder for stage in r1_stages.STAGES]


def flags(base: Path, home: Path, **changed: object) -> list[str]:
    """The command line of a small run, with some flags changed."""
    fields = {f"{part}.{name}": value for part, some in NUMBERS.items() for name, value in some.items()}
    fields |= dict(weights=base, student_weights=base, workdir=home, mesh="1x1", problems=2)
    found = [f"--{name.replace('_', '-')}={value}" for name, value in (fields | changed).items()]
    return [*found, "--tasks", "compare", "general"]


def spawn(base: Path, home: Path, **changed: object) -> subprocess.Popen:
    env = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTER_VARIABLES)} | {
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "experiments.r1", *flags(base, home, **changed)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def here(base: Path, home: Path, **changed: object) -> None:
    """Runs the command in this process."""
    r1.run(cli.parse(r1_stages.Command, flags(base, home, **changed)))


@pytest.fixture(scope="module")
def whole(zero, tmp_path_factory):
    """An uninterrupted run, in a process of its own, which leaves its programs to those that are killed. Read only."""
    home = tmp_path_factory.mktemp("r1") / "whole"
    status, _, err = ended(spawn(zero, home), 1700)
    assert status == 0, err[-3000:]
    return home


def manifests(home: Path) -> dict[str, Manifest]:
    return {folder: read(home / folder) for folder in FOLDERS}


def outcome(home: Path) -> dict:
    """What two runs of one seed have in common: of every stage what was measured and trained; records; samples."""
    kept = {
        name: {"results": made.results, "status": made.status, "params": checkpoint.sha256(home / name)}
        | {"data": made.data["sha256"], "counts": made.data["counts"]}
        for name, made in manifests(home).items()
    }
    files = [*home.glob("*_data/*.jsonl"), *home.glob("evaluation/*/*.jsonl")]
    return kept | {
        str(path.relative_to(home)): [line | {"source": None} for line in jsonl.read(path)] for path in sorted(files)
    }


def test_every_stage_is_trained_and_the_page_shows_them(whole, zero):
    made = manifests(whole)
    assert all(made[folder].status == "complete" for folder in FOLDERS)
    of = {folder: checkpoint.sha256(whole / folder) for folder in FOLDERS}
    # The student is the base here, so that what it learns from the same records is stage 3 again. By RL it is asked
    # what those records are about, programs too, which R1-Zero is not.
    assert of["distill_nano-small"] == of["3_rejection_sft"]
    assert len({checkpoint.sha256(zero), *of.values()}) == 1 + len(FOLDERS) - 1
    asked = {name: made[name].recipe["prompts"] for name in ("0_r1_zero", "distill_nano-small_rl", "3_rejection_sft")}
    assert list(asked.values()) == ["nano", "nano:reasoning", "nano:reasoning"]
    page = (whole / "report.html").read_text()
    assert all(stage.folder in page and stage.result in page for stage in r1_stages.STAGES)


def test_stage_3_begins_with_the_base_again_and_the_last_stage_names_its_reward_models(whole, zero):
    made = manifests(whole)
    of = {name: {"path": str(whole / name), "sha256": checkpoint.sha256(whole / name)} for name in FOLDERS}
    base = {"path": str(zero), "sha256": checkpoint.sha256(zero)}
    parents = {name: {key: manifest.parent[key] for key in ("path", "sha256")} for name, manifest in made.items()}
    expected = {
        "0_r1_zero": base,
        "1_cold_start": base,
        "2_reasoning_rl": of["1_cold_start"],
        "3_rejection_sft": base,
        "reward_helpful": of["3_rejection_sft"],
        "reward_safety": of["3_rejection_sft"],
        "4_all_scenarios_rl": of["3_rejection_sft"],
        "distill_nano-small": base,
        "distill_nano-small_rl": base,
    }
    assert parents == expected
    assert of["0_r1_zero"] in sources(made["1_cold_start"])
    assert of["2_reasoning_rl"] in sources(made["3_rejection_sft"])
    assert made["4_all_scenarios_rl"].data["sources"] == {
        "helpful": [of["reward_helpful"]],
        "safety": [of["reward_safety"]],
    }


def test_what_is_complete_is_skipped(whole, zero, capsys):
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    here(zero, whole)
    said = capsys.readouterr().out
    assert all(f"{folder}: complete, skipped" in said for folder in FOLDERS)
    after = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert {path.name for path in after if before.get(path) != after[path]} == {"stages.json", "report.html"}


@pytest.fixture
def copy(whole, tmp_path):
    """The run in another place, whose files may be changed."""
    shutil.copytree(whole, tmp_path / "whole")
    return tmp_path / "whole"


@pytest.mark.parametrize(
    "parent, child",
    [
        ("1_cold_start", "2_reasoning_rl"),
        ("2_reasoning_rl", "3_rejection_sft"),  # whose records it wrote
        ("reward_safety", "4_all_scenarios_rl"),
    ],
)
def test_another_checkpoint_in_a_parents_place_is_refused(copy, zero, parent, child):
    newest = checkpoint.find(copy / parent)
    shutil.rmtree(newest)  # what is left is an earlier step, as whole as the last one
    before = outcome(copy)
    away = rf"{child}_data and .*{child} away" if child == "3_rejection_sft" else rf"{child} away"
    with pytest.raises(ValueError, match=rf"{child} was made from another {parent}: .*move .*{away}"):
        here(zero, copy)
    assert outcome(copy) == before


def test_another_base_other_numbers_and_another_seed_are_refused(copy, zero, walk):
    with pytest.raises(ValueError, match=r"0_r1_zero was made from another base: .*move .*0_r1_zero away"):
        here(walk.base, copy)
    with pytest.raises(
        ValueError, match=r"1_cold_start was made with other hyperparameters: batch_rows was 4 and is now 8"
    ):
        here(zero, copy, **{"cold.batch_rows": 8})
    with pytest.raises(
        ValueError, match=r"cold_start.jsonl was collected with other settings: questions was 128 and is now 64"
    ):
        here(zero, copy, **{"cold_data.questions": 64})
    with pytest.raises(
        ValueError, match=r"4_all_.* with other hyperparameters: preference_weight was 1.0 and is now 2.0"
    ):
        here(zero, copy, preference_weight=2.0)
    with pytest.raises(ValueError, match=r"0_r1_zero was made with other hyperparameters: seed was 0 and is now 1"):
        here(zero, copy, seed=1)


@pytest.mark.parametrize("stage, file", [("1_cold_start", "cold_start"), ("3_rejection_sft", "rejection")])
def test_records_that_were_edited_after_training_are_refused(copy, zero, stage, file):
    with open(copy / f"{stage}_data/{file}.jsonl", "a") as records:
        records.write("\n")
    with pytest.raises(ValueError, match=rf"{stage} was trained on another .*{file}\.jsonl.*move .*{stage} away"):
        here(zero, copy)


def test_a_review_stops_the_whole(copy, zero):
    shutil.rmtree(copy / "1_cold_start")
    with pytest.raises(SystemExit, match=r"1_cold_start waits for you to review its records"):
        here(zero, copy, **{"cold_data.review": True})
    assert not (copy / "1_cold_start").exists()


def test_an_interrupted_run_goes_on_in_another_place(copy, zero, whole):
    stage = copy / "4_all_scenarios_rl"
    shutil.rmtree(checkpoint.find(stage))
    write(stage, dataclasses.replace(read(stage), status="running"))
    status, _, err = ended(spawn(zero, copy), 1700)  # as the whole run was: other processes may round otherwise
    assert status == 0, err[-3000:]
    assert outcome(copy) == outcome(whole)


@pytest.mark.parametrize("measured", ["4_all_scenarios_rl", "base"])
def test_figures_of_another_checkpoint_are_refused(copy, zero, measured):
    path = copy / f"evaluation/{measured}/manifest.json"
    found = json.loads(path.read_text())
    found["parent"]["sha256"] = "0" * 64
    path.write_text(json.dumps(found))
    with pytest.raises(ValueError, match=rf"measured another {measured}, with the sha256 000000000000. Now {measured}"):
        here(zero, copy)


def test_figures_of_other_problems_are_not_taken_for_those_asked_for(copy, zero):
    with pytest.raises(ValueError, match=r"base holds a run of another recipe: problems was 2 and is now 3"):
        here(zero, copy, problems=3)


def test_a_stage_that_there_is_not_is_named(tmp_path, zero):
    with pytest.raises(ValueError, match=r"--until=3 is not a stage: use 0_r1_zero"):
        here(zero, tmp_path / "new", until=3)


@pytest.mark.weekly
def test_kill_9_in_any_stage_changes_nothing(whole, zero, tmp_path):
    """In the middle of reinforcement learning, of collecting, of fine-tuning, of a reward model, of the evaluation."""
    home = tmp_path / "killed"
    moments = (
        lambda: 0 < count(home / "0_r1_zero", "metrics") < 3,
        lambda: (home / "1_cold_start_data/detailed.jsonl").exists() and not (home / "1_cold_start").exists(),
        lambda: 30 < count(home / "1_cold_start", "metrics") < 95,
        lambda: count(home / "3_rejection_sft_data", "reasoning") > 0 and not (home / "3_rejection_sft").exists(),
        lambda: 0 < count(home / "reward_helpful", "metrics") < 4,
        lambda: (home / "evaluation/1_cold_start/nano_compare.jsonl").exists(),
    )
    for moment in moments:
        process = spawn(zero, home)
        wait_until(moment, process, 1700)
        process.kill()
        ended(process)
        assert (home / "report.html").exists() == (moment is not moments[0])  # from the first whole stage on
    status, _, err = ended(spawn(zero, home), 1700)
    assert status == 0, err[-3000:]
    assert outcome(home) == outcome(whole)
