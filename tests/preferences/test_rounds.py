"""Iterative preference learning: pairs from a policy's own completions, and rounds of them."""

import json
import sys
from unittest import mock

import pytest

from experiments import dpo
from r1jax import jsonl
from r1jax.preferences.own_pairs import choose_pairs
from r1jax.runs import manifests
from support.compare import arrays

FLAGS = {
    "rounds": 2,
    "questions": 12,
    "sampling.samples": 4,
    "sampling.max-tokens": 48,
    "held-out-items": 2,
    "batch-items": 4,
    "batch-rows": 2,
    "max-tokens": 512,
    "warmup-steps": 0,
    "learning-rate": 1e-3,
    "mesh": "1x1",
    "template": "r1_zero",
}
REWARD = "def short(texts, examples):\n    return [-float(len(text)) for text in texts]\n"


def lines_of(*rewards, cut=()):
    return [
        {"example": "q", "sample": i, "problem": "p", "response": f"r{i}", "reward": reward, "truncated": i in cut}
        for i, reward in enumerate(rewards)
    ]


def test_a_pair_is_the_best_and_the_worst_of_a_question():
    (pair,) = choose_pairs(lines_of(0.5, 2.0, None, 2.0, -1.0, -1.0))
    assert pair == {"problem": "p", "chosen": "r1", "rejected": "r4", "reward": [2.0, -1.0]}
    (pair,) = choose_pairs(lines_of(0.5, 2.0, 1.0, cut=(1,)))
    assert (pair["chosen"], pair["rejected"]) == ("r2", "r0")
    assert choose_pairs(lines_of(1.0, 1.0)) == choose_pairs(lines_of(1.0)) == choose_pairs(lines_of(None, 1.0)) == []
    two = choose_pairs([*lines_of(0.0, 1.0), *({**x, "example": "other"} for x in lines_of(3.0, 2.0))])
    assert [pair["chosen"] for pair in two] == ["r1", "r0"]
    same = [{**line, "response": "the same text"} for line in lines_of(0.0, 1.0)]
    assert choose_pairs(same) == []


def command(*extra, **changed):
    words = [f"--{name}={value}" for name, value in (FLAGS | changed).items()]
    with mock.patch.object(sys, "argv", ["dpo", *words, *extra]):
        return dpo.main()


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"rounds": -1}, "--rounds=-1 must be 0"),
        ({"data": "x.jsonl"}, "--rounds=2 makes its own pairs: leave --data=x.jsonl out"),
        ({"rounds": 0, "reward-model": "RUN"}, "--reward-model=RUN ranks the completions of --rounds"),
        ({"rounds": 0, "prompts": "nano:chain"}, "--prompts=nano:chain is for reinforcement learning.*give --rounds"),
        ({"late-prompts": "x"}, "--late-prompts=x is for reinforcement learning.*Leave the flag out"),
        ({"questions": 1}, "--questions=1 must be at least 2"),
        ({"sampling.samples": 1}, "--sampling.samples=1 leaves nothing to compare"),
        ({"sampling.temperature": 0}, "--sampling.temperature=0.0 must be above 0"),
        ({"reward": "accuracy", "reward-model": "RUN"}, "--reward-model=RUN and --reward=accuracy both rank"),
        ({"reward": "nothing"}, "--reward=nothing names no reward"),
    ],
)
def test_flags_that_do_not_go_with_rounds_are_refused_by_a_dry_run_too(changed, words):
    with pytest.raises(SystemExit, match=f"(?i){words}"):
        command("--dry-run", **changed)


def test_a_dry_run_plans_one_round(capsys):
    command("--dry-run", questions=12)
    said = capsys.readouterr().out
    assert "the plan is of one round of 2, without its sampling" in said
    assert "steps                                       3\n" in said  # twelve pairs by four


@pytest.mark.slow
def test_rounds_learn_from_their_own_pairs_and_go_on_where_they_were_stopped(walk, tmp_path):
    (tmp_path / "mine.py").write_text(REWARD)
    flags = {"weights": walk.base, "reward": f"{tmp_path / 'mine.py'}:short", "prompts": "nano:compare"}
    command(workdir=tmp_path / "whole", **flags)
    first, second = (tmp_path / "whole" / f"round-{n}" for n in (1, 2))
    pairs = jsonl.read(first / "pairs" / "pairs.jsonl")
    assert len(pairs) >= 2 and all(len(pair["chosen"]) < len(pair["rejected"]) for pair in pairs)
    asked = [{line["problem"] for line in jsonl.read(x / "pairs" / "samples.jsonl")} for x in (first, second)]
    assert not asked[0] & asked[1]
    there = [manifests.read(x / "dpo") for x in (first, second)]
    assert [manifest.status for manifest in there] == ["complete"] * 2
    assert there[1].parent["path"] == str(first / "dpo") == manifests.read(second / "pairs").parent["path"]
    assert there[0].parent["path"] == str(walk.base) and there[0].results["final"]["step"] > 0
    # The same command leaves what is there alone, and one round more begins from the last.
    before = json.dumps(jsonl.read(second / "pairs" / "samples.jsonl"))
    with mock.patch.object(dpo, "train", side_effect=KeyboardInterrupt), pytest.raises(SystemExit, match="the same"):
        command(workdir=tmp_path / "cut", **flags)
    command(workdir=tmp_path / "cut", **flags)
    for name, array in arrays(second / "dpo").items():
        assert (array == arrays(tmp_path / "cut" / "round-2" / "dpo")[name]).all(), name
    command(workdir=tmp_path / "whole", **flags)
    assert json.dumps(jsonl.read(second / "pairs" / "samples.jsonl")) == before
    with pytest.raises(SystemExit, match="learning_rate"):
        command(workdir=tmp_path / "whole", **flags | {"learning-rate": 0.5})
