"""Stages 1 and 3 and distillation, two steps each, on a base of two layers; and their records."""

import dataclasses
import json
import sys
from pathlib import Path
from unittest import mock

import pytest

from experiments import distill, r1_1_cold_start, r1_3_rejection_sft, r1_zero
from r1jax.data import questions
from r1jax.recipes import RunOptions
from r1jax.runs import checkpoint
from r1jax.sft_data import records
from r1jax.sft_data.collect import settings_of
from r1jax.sft_data.filters import Filters
from r1jax.sft_data.llm import Endpoint
from support.tuning import LEARNT, SMALL, guesses, options

QUESTIONS = 16  # of four letters one is right now and then


def manifest(workdir: Path) -> dict:
    return json.loads((workdir / "manifest.json").read_text())


@pytest.fixture(scope="module")
def cold(walk, zero, tmp_path_factory):
    """Stage 1 after a review."""
    home = tmp_path_factory.mktemp("cold")
    recipe = dataclasses.replace(r1_1_cold_start.NANO, **SMALL)
    asked = r1_1_cold_start.Collecting(zero=str(zero), questions=QUESTIONS, samples=4, sample_tokens=48)
    where = options(home / "run", walk.base)
    assert r1_1_cold_start.train(recipe, where, dataclasses.replace(asked, review=True)) is None
    assert not (home / "run").exists()
    found = records.read(home / "run_data/cold_start.jsonl")
    kept = [i for i, record in enumerate(found) if record["keep"]]
    assert len(kept) >= 2, "nothing was kept: the tests would see nothing"
    found[kept[0]] |= {"keep": False, "reason": "a person's"}
    records.write(home / "run_data/cold_start.jsonl", found)
    r1_1_cold_start.train(recipe, where, asked)
    return home / "run"


def test_cold_start_trains_the_base_on_what_the_review_left(cold, walk, zero):
    found, told = records.read(f"{cold}_data/cold_start.jsonl"), manifest(cold)
    assert told["stage"] == "r1_1_cold_start" and told["parent"]["path"] == str(walk.base)
    assert told["data"]["counts"]["kept"] == len(records.select_kept(found)) == told["data"]["records"][0]
    assert told["data"]["counts"]["reason"]["a person's"] == 1
    assert told["data"]["sources"]["r1_zero"] == [{"path": str(zero), "sha256": checkpoint.sha256(zero)}]


def test_every_cold_record_tells_its_route_its_source_and_its_edits(cold):
    found = records.read(f"{cold}_data/cold_start.jsonl")
    assert [record["route"] for record in found] == [
        route for route in r1_1_cold_start.ROUTES for _ in range(4 * QUESTIONS)
    ]
    for record in found:
        assert isinstance(record["raw"], str) and record["source"]["sha256"] and isinstance(record["tokens"], int)
        assert record["keep"] == (not record["reason"])
        if record["keep"]:
            assert record["right"] is True and record["response"].startswith(" <think> ")
            assert record["edits"]["solution"]["by"] in ("base", "annotator") and record["rewritten_by"]
            # The raw text stays beside the edited one, and lends it every character of the thought.
            thought = record["response"].partition("</think>")[0].removeprefix(" <think> ").strip()
            assert thought in record["raw"] or record["edits"].get("thought")


def test_a_question_of_another_run_or_seed_is_collected_anew_or_refused(cold, walk):
    recipe = dataclasses.replace(r1_1_cold_start.NANO, **SMALL)
    other = r1_1_cold_start.Collecting(zero=str(walk.base), questions=QUESTIONS, samples=4, sample_tokens=48)
    with pytest.raises(ValueError, match=r"holds samples of other settings.*sampled was"):
        r1_1_cold_start.train(recipe, options(cold, walk.base, resume=True), dataclasses.replace(other, zero=str(cold)))


def test_a_worked_example_is_another_question_of_the_same_task_in_one_language():
    from r1jax.nano import tasks
    from r1jax.rewards.language import consistency

    for i in range(20):
        row = tasks.prompt(0, i, "reasoning")
        text = r1_1_cold_start.worked_example(row, 0)
        assert text.startswith("User: ") and " Assistant: <think> " in text and text.endswith("\n")
        assert row["problem"] not in text
        assert consistency(text.partition("<think>")[2].partition("</think>")[0], row["language"]) in (None, 1.0)
        assert text == r1_1_cold_start.worked_example(row, 0)


def test_prompts_from_a_file_need_a_worked_example_of_their_own(tmp_path):
    rows = [{"problem": "Why?"}]
    with pytest.raises(ValueError, match="--worked-example= cannot be read"):
        r1_1_cold_start.prompts_of("few_shot", rows, False, "", 0)
    (tmp_path / "worked.txt").write_text("User: q Assistant: <think> t </think> a\n")
    (prompt,) = r1_1_cold_start.prompts_of("few_shot", rows, False, str(tmp_path / "worked.txt"), 0)
    assert prompt == "User: q Assistant: <think> t </think> a\nUser: Why? Assistant:"


@pytest.mark.parametrize("first", [0, 5, 1 << 20])
def test_a_file_gives_as_many_questions_as_it_has_from_anywhere(tmp_path, first):
    rows = [{"id": str(i), "problem": f"{i}+{i}?", "gold": str(2 * i), "kind": "math"} for i in range(7)]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for count in (3, 7, 20):
        found = [row["id"] for row in questions.distinct_questions(str(tmp_path / "some.jsonl"), 0, first, count)]
        assert len(set(found)) == len(found) == min(count, 7)


def test_records_do_not_depend_on_where_a_server_is_or_how_long_one_waits_for_it():
    here, there = (
        r1_1_cold_start.Collecting(zero=name, endpoint=Endpoint(f"http://{name}/v1", "m", timeout_s=seconds))
        for name, seconds in (("a", 9.0), ("b", 99.0))
    )
    assert settings_of(here) == settings_of(there)
    assert settings_of(here) != settings_of(dataclasses.replace(here, endpoint=Endpoint("http://a/v1", "n")))


@pytest.fixture(scope="module")
def reasoner(walk, tmp_path_factory):
    """A policy that guesses in R1's form, as a run of stage 2 would write."""
    home = tmp_path_factory.mktemp("reasoner")
    recipe = dataclasses.replace(distill.NANO, **LEARNT)
    return distill.train(recipe, options(home / "run", walk.base), str(guesses(home / "records.jsonl", 60)))


def test_rejection_trains_the_base_again_on_right_answers_of_the_reasoner(walk, reasoner, tmp_path):
    recipe = dataclasses.replace(r1_3_rejection_sft.NANO, **SMALL)
    asked = r1_3_rejection_sft.Collecting(
        reasoner=str(reasoner), questions=16, samples=4, general_questions=4, general_samples=2, sample_tokens=32
    )
    workdir = r1_3_rejection_sft.train(recipe, options(tmp_path / "run", walk.base), asked)
    told, found = manifest(workdir), records.read(f"{workdir}_data/rejection.jsonl")
    assert told["parent"]["path"] == str(walk.base), "stage 3 begins with the base again"
    assert told["data"]["sources"]["rejection"] == [{"path": str(reasoner), "sha256": checkpoint.sha256(reasoner)}]
    reasoning = [record for record in found if record["route"] == "rejection"]
    assert len(reasoning) == 16 * 4 and len(found) - len(reasoning) in range(2, 9)
    kept = records.select_kept(reasoning)
    assert kept and all(record["right"] and f"\\boxed{{{record['gold']}}}" in record["response"] for record in kept)
    counts = told["data"]["counts"]
    assert counts["reason_by_domain"]["stem"]["wrong"] >= 1 and counts["domain"]["stem"] == len(kept)
    assert sum(counts["reason"].values()) + counts["kept"] == counts["records"] == len(found)


def test_general_replies_have_an_empty_thought_and_the_best_is_kept():
    asked = {"gold": {"right": ["Paris"], "rivals": ["Rome"], "reply": "Paris."}, "kind": "general", "set": "helpful"}
    said = ["Great question! Happy to help! Paris.", "Rome.", "Great question! Paris.", "Paris."]
    rows = [
        asked
        | {
            "id": str(i),
            "example": "g",
            "problem": "?",
            "response": text,
            "right": text != "Rome.",
            "reason": "",
            "verdict": "correct" if text != "Rome." else "wrong",
            "language": "en",
        }
        for i, text in enumerate(said)
    ]
    from r1jax.sft_data.filters import apply_filters

    found = apply_filters(
        r1_3_rejection_sft.sort_best_first(r1_3_rejection_sft.plain(rows, always=True)), r1_3_rejection_sft.GENERAL
    )
    assert [(row["response"], row["reason"]) for row in found] == [
        (" <think> </think> Paris.", ""),
        (" <think> </think> Great question! Paris.", "enough of this problem"),
        (" <think> </think> Great question! Happy to help! Paris.", "enough of this problem"),
        (" <think> </think> Rome.", "wrong"),
    ]


def test_what_another_author_thinks_about_a_general_prompt_is_kept():
    rows = [{"response": text} for text in (" <think> a capital </think> Paris.", "Paris.")]
    kept = [row["response"] for row in r1_3_rejection_sft.plain(rows, always=False)]
    assert kept == [" <think> a capital </think> Paris.", " <think> </think> Paris."]
    gone = [row["response"] for row in r1_3_rejection_sft.plain(rows, always=True)]
    assert gone == [" <think> </think> Paris."] * 2


def test_the_same_student_learns_by_reinforcement_for_the_comparison(walk, tmp_path):
    from support.walk import FLAGS

    recipe = dataclasses.replace(distill.NANO_RL, **{k: v for k, v in FLAGS.items() if k != "mesh"} | {"steps": 1})
    workdir = distill.by_rl(recipe, RunOptions(workdir=str(tmp_path / "run"), weights=str(walk.base), mesh="1x1"))
    told = manifest(workdir)
    assert told["stage"] == "distill_rl" and told["parent"]["path"] == str(walk.base)


def test_the_recipes_are_the_papers():
    paper = r1_1_cold_start.PAPER
    assert (paper.epochs, paper.learning_rate, paper.final_learning_rate) == (2.0, 5e-5, 5e-6)
    assert (paper.row_length, paper.batch_rows) == (32_768, 128)
    assert paper == r1_3_rejection_sft.PAPER
    # Table 6; cosine to a tenth; batch 64
    rates = {
        "qwen-1.5b": 1e-4,
        "qwen-7b": 8e-5,
        "qwen-14b": 7e-5,
        "qwen-32b": 6e-5,
        "llama-8b": 5e-5,
        "llama-70b": 2e-5,
    }
    for name, rate in rates.items():
        recipe = distill.RECIPES[name]
        assert (recipe.learning_rate, recipe.final_learning_rate, recipe.batch_rows) == (rate, rate / 10, 64)
    assert distill.RECIPES.keys() == {"nano", *rates}
    assert r1_3_rejection_sft.REASONING.judged and not r1_3_rejection_sft.REASONING.code_blocks
    assert Filters(judged=True, least_language=0.0, most_each=2) == r1_1_cold_start.READABLE
    # v2, B.4.1: "the learning rate to 2e-6", "over 10K steps"
    assert distill.COMMANDS["qwen-32b"].rl == dataclasses.replace(r1_zero.PAPER, learning_rate=2e-6, steps=10_000)
    assert distill.COMMANDS["nano"].rl == dataclasses.replace(r1_zero.NANO, **r1_zero.BRIEF, steps=40)
    for name in ("nano", "qwen-7b"):
        command = distill.COMMANDS[name]
        assert command.on_policy == dataclasses.replace(
            command.rl, kl_coef=1.0, ref_every=0, accuracy_weight=0.0, format_weight=0.0
        )
    for module in (r1_1_cold_start, r1_3_rejection_sft):
        assert module.COMMANDS["paper"].collecting.sample_tokens == paper.max_tokens == 32_768
        assert module.COMMANDS["nano"].collecting == module.COLLECTING


@pytest.mark.parametrize(
    "module, flags, said",
    [
        (r1_1_cold_start, [], "--zero=DIR is missing"),
        (r1_3_rejection_sft, [], "--reasoner=DIR is missing"),
        (r1_1_cold_start, ["--zero=nowhere"], "--zero=nowhere: there is nothing at"),
        (r1_3_rejection_sft, ["--reasoner=nowhere"], "--reasoner=nowhere: there is nothing at"),
        (r1_3_rejection_sft, ["--reasoner=x", "--general-share=1"], "--general-share=1.0"),
        (r1_3_rejection_sft, ["--reasoner=x", "--recipe=paper"], "--general-prompts=FILE is missing"),
        (distill, [], "--records=FILE is missing"),
        (distill, ["--recipe=gpt"], "--recipe=gpt is unknown"),
        (distill, ["--by=rl", "--records=x"], "--records is for --by=sft"),
        (distill, ["--by=rl", "--shares", "1", "2"], "--shares is for --by=sft"),
        (distill, ["--by=on_policy", "--teacher=nowhere"], "--teacher=nowhere: there is nothing at"),
        (distill, ["--by=rl", "--learning-rate=1e-5"], "--by=rl has its hyperparameters under --rl"),
        (distill, ["--by=rl", "--teacher=x"], "--by=rl learns from rewards"),
        (distill, ["--by=on_policy", "--epochs=1"], "--by=on_policy has its hyperparameters under --on-policy"),
        (distill, ["--by=on_policy", "--teacher=x", "--top=4"], "--top and --teacher-share are for --by=sft"),
        (distill, ["--by=on_policy"], "--teacher=DIR is missing"),
    ],
)
def test_a_command_without_what_it_needs_says_so(module, flags, said, tmp_path):
    arguments = ["x", f"--workdir={tmp_path / 'run'}", *flags]
    with mock.patch.object(sys, "argv", arguments), pytest.raises(SystemExit) as left:
        module.main()
    assert said in str(left.value.code)
