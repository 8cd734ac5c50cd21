"""The claim about process reward models: steps and their labels, scores of all steps at once, ranking, verdict."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.claims import process_reward_model, process_rewards
from experiments.claims.process_reward_model import cut_steps, judge_steps, make_reward, score_steps
from experiments.claims.process_rewards import Command
from r1jax.nano import tasks
from r1jax.reward_models.calibration import sigmoid
from r1jax.reward_models.model import RewardModel, safety_input, score
from r1jax.sharding import make_mesh
from support.tiny import sharp

CHAIN = {"kind": "math", "task": "chain", "problem": "What is (14+3)*2?", "gold": "34", "canonical": "chain (14+3)*2"}
COMPARE = {
    "kind": "choice",
    "task": "compare",
    "problem": "Which is largest? A 3+4, B 2*5, C 9-1, D 4+4",
    "gold": "B",
    "canonical": "compare largest ['2*5', '3+4', '4+4', '9-1']",
}
COUNTDOWN = {"kind": "countdown", "task": "countdown3", "gold": {"numbers": [9, 11, 3], "target": 17}}


@pytest.mark.parametrize(
    ("row", "thought", "right"),
    [
        (CHAIN, "14+3=17,17*2=34 so 34", [1, 1]),
        (CHAIN, "我猜 34\n等等,检查: 14+3=17,17*2=34 34? 可以 所以 34", [1, 1, 1]),
        (CHAIN, "i guess 30", [0]),
        (CHAIN, "14+3=17,17*2=34 so 30", [1, 0]),  # a right calculation and a wrong answer
        (CHAIN, "4+3=7,114+3=17,14+3=18,1+1=2,34", [0, 0, 0, 0, 0]),  # right or wrong, none is of the problem
        (COMPARE, "A 3+4=7,B 2*5=10 10>7 B,C 9-1=8 8<10 B,D 4+4=8 8<10 B so B", [1, 1, 1, 1]),
        (COMPARE, "A 3+4=7,B 2*5=10 10>7 A,C 9-1=8 8<10 C", [1, 0, 0]),  # the leader is wrong
        (COUNTDOWN, "try 9+11=20,20-3=17 17? yes", [1, 1]),
        (COUNTDOWN, "try 9+3=12,12+11=23 17? no\nwait, try 11-3=8,8+9=17 17? yes", [0, 0, 1, 1]),
        (COUNTDOWN, "试 9+11=20,20+3=23 17? 不行", [1, 0]),  # the first step could have led to the target
        (COUNTDOWN, "try 11+11=22,22-5=17 17? yes", [0, 0]),  # numbers that are not there
        (COUNTDOWN, "try 9+11=21,20-3=17", [0, 0]),  # a wrong sum, and a number that no step made
    ],
)
def test_a_step_is_right_by_the_truth_of_the_generator(row, thought, right):
    cuts = cut_steps(f" <think> {thought} </think> <answer> 5+5=10 </answer>")
    assert judge_steps(row, [step for _, step in cuts]) == [bool(label) for label in right]


def test_steps_end_where_their_text_ends_and_stand_in_the_chain_of_thought_alone():
    cuts = cut_steps(" <think> 14+3=17,17*2=34 so 34 \nwait,\n</think> 1+1=2 <answer> 34 </answer>")
    assert cuts == [("<think> 14+3=17", "14+3=17"), ("<think> 14+3=17,17*2=34 so 34", "17*2=34 so 34")]
    assert cut_steps("14+3=17 <answer> 17 </answer>") == [] and len(cut_steps("<think> 1,2 <answer> 3")) == 2


@pytest.fixture(scope="module")
def model(cfg, tokenizer):
    head = dataclasses.replace(cfg, reward_head=True)
    return RewardModel(head, sharp(head, seed=1), tokenizer, scale=0.7, offset=0.2)


TEXTS = [
    "<think> 14+3=17,17*2=34 so 34 </think> <answer> 34 </answer>",
    "no thought",
    "<think> i guess 30\nwait, check: 14+3=17,17*2=34 30? no so 34 </think>",
]


def test_one_pass_gives_each_step_the_score_of_the_text_that_ends_with_it(model):
    mesh = make_mesh("data:2")
    found = score_steps(model, ["What is (14+3)*2?"] * 3, TEXTS, mesh)
    assert [len(steps) for steps in found] == [2, 0, 3]
    alone = [safety_input("What is (14+3)*2?", beginning) for text in TEXTS for beginning, _ in cut_steps(text)]
    want = sigmoid(score(model, alone, mesh))
    np.testing.assert_allclose(np.concatenate(found), want, atol=1e-5)
    assert np.ptp(want) > 0.05  # the steps differ, so that one score for all would be seen


def test_the_reward_is_the_sum_or_the_least_of_the_steps_and_nothing_without_steps(model, monkeypatch):
    monkeypatch.setattr(process_reward_model, "load_reward_model", lambda *_: model)
    monkeypatch.setattr(
        process_reward_model, "score_steps", lambda *_: [np.array([0.9, 0.5]), np.zeros(0), np.array([0.25])]
    )
    rows = [{"problem": "What is (14+3)*2?"}] * 3
    assert make_reward("anywhere", "sum")(TEXTS, rows) == pytest.approx([1.4, 0.0, 0.25])
    assert make_reward("anywhere", "min")(TEXTS, rows) == [0.5, 0.0, 0.25]
    assert process_reward_model.steps(TEXTS, rows) == [2.0, 0.0, 3.0]


def test_every_beginning_is_labelled_once(tmp_path):
    row = tasks.prompt(0, 0, "chain")
    wrong = f" <think> i guess {int(row['gold']) + 1} </think>"
    lines = [{"example": row["id"], "problem": row["problem"], "response": wrong}] * 2
    lines.append(lines[0] | {"response": f"<think> i guess {row['gold']}"})
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    path = process_rewards.write_labels(tmp_path / "samples.jsonl", tmp_path / "labels.jsonl")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["response"], line["safe"]) for line in found] == [
        (wrong.removesuffix("</think>").strip(), False),
        (f"<think> i guess {row['gold']}", True),
    ]
    (tmp_path / "samples.jsonl").write_text(json.dumps(lines[0] | {"response": "none"}) + "\n")
    with pytest.raises(ValueError, match="no completion has a step"):
        process_rewards.write_labels(tmp_path / "samples.jsonl", tmp_path / "labels.jsonl")


def test_the_completion_whose_worst_step_is_best_is_chosen(monkeypatch):
    steps = {"a": [0.9, 0.1], "b": [0.6, 0.5], "c": [], "d": [0.3]}
    monkeypatch.setattr(process_rewards, "load_reward_model", lambda *_: None)
    monkeypatch.setattr(
        process_rewards, "score_steps", lambda model, asked, said, mesh: [np.array(steps[text]) for text in said]
    )
    lines = [{"problem": "?", "completion": text, "right": text == "b"} for text in steps]
    assert process_rewards.rank_curve("anywhere", lines, 4) == pytest.approx({1: 0.25, 2: 0.5, 4: 1.0})


@pytest.mark.parametrize(
    ("best", "reward", "accuracy", "verdict"),
    [
        (0.6, 5.0, 0.4, "holds"),
        (0.3, 5.0, 0.4, "does not hold"),  # it ranks no better than chance
        (0.6, 0.5, 0.4, "does not hold"),  # its reward falls
        (0.6, 5.0, 0.8, "does not hold"),  # RL on it is as good as RL on the rule
    ],
)
def test_the_claim_needs_the_gain_of_ranking_and_both_signs_of_hacking(
    tmp_path, monkeypatch, best, reward, accuracy, verdict
):
    def a_run(name, lines):
        place = tmp_path / name
        place.mkdir()
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (place / ("nano_zero.jsonl" if name == "base" else "eval.jsonl")).write_text(text)
        return place

    def line(step, accuracy, reward=1.0):
        return {"step": step, "accuracy": accuracy, "reward/process": reward, "reward/steps": reward, "length": 9.0}

    def train_on_model(command, model, seed):
        return a_run(f"prm{seed}", [line(0, 0.3), line(32, accuracy + seed / 100, reward + seed / 100)])

    def train_zero(command, seed, *words):
        return a_run(f"rule{seed}", [line(0, 0.3), line(32, 0.7 + seed / 100), line(64, 0.1)])

    answers = [{"id": "q", "kind": "math", "answer": str(i), "right": i == 0} for i in range(2)]
    model = tmp_path / "model"
    model.mkdir()
    manifest = {"stage": "", "recipe": {}, "seed": 0, "versions": {}, "results": {"final": {"accuracy": 0.9}}}
    (model / "manifest.json").write_text(json.dumps(manifest))
    for name, made in {
        "train_model": lambda command, seed: model,
        "train_on_model": train_on_model,
        "train_zero": train_zero,
        "evaluate": lambda *_, **__: a_run("base", answers),
        "rank_curve": lambda model, lines, samples: {1: 0.3, 2: best},
    }.items():
        monkeypatch.setattr(process_rewards, name, made)
    found = process_rewards.find(Command(str(tmp_path), samples=2))
    assert found.verdict == verdict
    cells = {row[0]: row[-1] for row in found.table}
    assert cells["accuracy at step 32, rule"] == "0.710 ± 0.025"  # not that of step 64
    assert cells["most frequent of 2 answers"] == "0.500 ± 0.000" and cells["any right of 2 (oracle)"][:5] == "1.000"
