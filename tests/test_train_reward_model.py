"""The walk of a reward model, and the reward of R1's last stage that is made of two of them."""

import dataclasses
import json
import shutil
import sys
from unittest import mock

import jax
import numpy as np
import pytest

from experiments import nano_base, r1_zero, train_reward_model
from experiments.train_reward_model import NANO, PAPER
from r1jax import jsonl, train_rl
from r1jax.model.config import ModelConfig
from r1jax.nano import corpus
from r1jax.recipes import RunOptions
from r1jax.reward_models.data import choose_items, judgements, texts_of
from r1jax.reward_models.load import load_reward_model
from r1jax.reward_models.model import RewardModel, helpful_input, safety_input, score, summary_of
from r1jax.reward_models.preference_files import completion_of, read
from r1jax.rewards.isolate import Pool
from r1jax.rl.all_scenarios_reward import make_all_scenarios_reward
from r1jax.runs import checkpoint, manifests
from r1jax.runs.policies import load_policy
from r1jax.tokenizers.sentencepiece import train_tokenizer
from r1jax.train_reward_model import train
from support.tiny import sharp

SMALL = dataclasses.replace(
    NANO,
    epochs=1,
    items=44,
    held_out_items=24,
    batch_items=16,
    batch_rows=8,
    save_every=1,
    warmup_steps=0,
    learning_rate=3e-3,
)
COUNTS = (SMALL.items, SMALL.held_out_items)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random base of two layers with a tokenizer of its own."""
    directory = tmp_path_factory.mktemp("base")
    pieces = train_tokenizer((corpus.document(1, i) for i in range(200)), 500)
    cfg = ModelConfig(
        vocab_size=pieces.vocab_size, width=32, layers=2, heads=2, kv_heads=1, head_width=16, mlp_width=64, qk_norm=True
    )
    nano_base.export(directory, cfg, jax.tree.map(np.asarray, sharp(cfg, seed=0)), pieces)
    return directory


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """Both reward models, trained for three steps. Read only."""
    home = tmp_path_factory.mktemp("rewards")
    return {
        kind: train(SMALL, RunOptions(workdir=str(home / kind), weights=str(base), mesh="1x1"), kind)
        for kind in ("helpful", "safety")
    }


def test_the_numbers_are_the_papers():
    paper = {"batch_items": 256, "learning_rate": 6e-6, "epochs": 1, "max_tokens": 8192, "items": 66_000}
    assert {name: getattr(PAPER, name) for name in paper} == paper


@pytest.mark.parametrize("kind", ["helpful", "safety"])
def test_a_reward_model_is_trained_measured_and_calibrated(kind, finished, one):
    workdir, manifest = finished[kind], manifests.read(finished[kind])
    assert manifest.status == "complete" and manifest.stage == f"reward_model_{kind}"
    assert manifest.data["counts"] == {"items": 44, "too_long": 0, "held_out": 24}
    assert [line["step"] for line in jsonl.read(workdir / "metrics.jsonl")] == [1, 2, 3]  # 44 items by 16
    assert {"base": None, "final": manifest.results["final"]} == manifest.results
    model, fitted = load_reward_model(workdir, kind, one), manifest.results["final"]["calibration"]
    assert (model.scale, model.offset) == (fitted["scale"], fitted["offset"])
    from r1jax.nano import preferences

    made = preferences.pairs if kind == "helpful" else preferences.labels
    values = score(model, [text for item in made(0, 24, "held out") for text in texts_of(item, kind)], one)
    if kind == "helpful":
        np.testing.assert_allclose([values.mean(), values.std()], [0.0, 1.0], atol=1e-4)
        assert manifest.results["final"]["accuracy"] == np.mean(values[0::2] > values[1::2])
    else:
        safe = np.asarray([item["safe"] for item in made(0, 24, "held out")])
        assert manifest.results["final"]["accuracy"] == np.mean((values > 0) == safe)
        # Platt's fit has the mean probability of its (smoothed) targets: (19·20/21 + ...)/24 is within 0.05 of the
        # share
        assert abs((1 / (1 + np.exp(-values))).mean() - safe.mean()) < 0.06


def test_a_killed_run_goes_on_and_ends_as_one_that_was_not(base, finished, tmp_path):
    killed = tmp_path / "killed"
    shutil.copytree(finished["helpful"], killed)
    shutil.rmtree(killed / "checkpoints" / "3")  # killed in the third step, its line in the log already
    manifest = manifests.read(killed)
    manifests.write(killed, dataclasses.replace(manifest, results={"base": None, "final": None}, status="running"))
    options = RunOptions(workdir=str(killed), weights=str(base), mesh="1x1", resume=True)
    once = dataclasses.replace(SMALL, save_every=0)  # the last step is saved always
    train(once, options, "helpful")
    assert checkpoint.sha256(killed) == checkpoint.sha256(finished["helpful"])
    after, whole = manifests.read(killed), manifests.read(finished["helpful"])
    assert after.results == whole.results and after.status == "complete"
    assert [line["loss"] for line in jsonl.read(killed / "metrics.jsonl")] == [
        line["loss"] for line in jsonl.read(finished["helpful"] / "metrics.jsonl")
    ]
    train(once, options, "helpful")  # complete: nothing to do
    assert manifests.read(killed) == after


def test_a_reward_model_is_refused_where_the_other_is_wanted(finished, one, tmp_path):
    with pytest.raises(
        ValueError, match=r"--helpful=.*not a complete helpful reward model.*reward_model_safety.*--kind=helpful"
    ):
        load_reward_model(finished["safety"], "helpful", one)
    with pytest.raises(ValueError, match="found: nothing"):
        load_reward_model(tmp_path, "safety", one)


def test_a_reward_model_is_no_policy_but_another_reward_models_beginning(finished, one, tmp_path):
    """It has no logits: whoever would sample it is told so, and only the training of a reward model goes on from it."""
    options = RunOptions(workdir=str(tmp_path / "run"), weights=str(finished["helpful"]), mesh="1x1")
    with pytest.raises(
        ValueError, match=r"--weights=.*helpful is a reward model.*give the run of a policy.*--helpful and --safety"
    ):
        load_policy(options, one)
    with pytest.raises(ValueError, match="is a reward model"):
        train_rl.train(r1_zero.NANO, options, "r1_zero")
    assert not (tmp_path / "run").exists()
    workdir = train(SMALL, options, "helpful")
    assert manifests.read(workdir).parent == {
        "path": str(finished["helpful"]),
        "sha256": checkpoint.sha256(finished["helpful"]),
        "step": 3,
    }


@pytest.mark.weekly
@pytest.mark.slow
def test_a_file_of_ones_own_is_trained_on_and_must_not_change(base, tmp_path):
    path = tmp_path / "pairs.jsonl"
    lines = [{"prompt": f"q{i}", "chosen": f"yes {i}", "rejected": "no" * (1 + 200 * (i == 7))} for i in range(20)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    options = RunOptions(workdir=str(tmp_path / "run"), weights=str(base), mesh="4x2", resume=True)
    recipe = dataclasses.replace(SMALL, max_tokens=128, held_out_items=100)
    workdir = train(recipe, options, "helpful", data=str(path))
    counts = manifests.read(workdir).data["counts"]
    assert counts["held_out"] == 4 and counts["items"] + counts["too_long"] == 16  # a fifth of 20 at most
    assert "accuracy_truth" not in manifests.read(workdir).results["final"]
    path.write_text(path.read_text().replace("yes 3", "yes, 3"))
    with pytest.raises(ValueError, match="other judgements"):
        train(recipe, options, "helpful", data=str(path))


def test_no_problem_of_a_file_is_both_trained_on_and_held_out(tmp_path):
    lines = [{"problem": f"q{i % 12}", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(96)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for seed in range(3):
        trained, held_out = judgements("helpful", seed, COUNTS, str(tmp_path / "pairs.jsonl"), "")
        assert len(held_out) == 16 and len(trained) == 80  # two problems of eight pairs: no more than a fifth
        assert not {item["problem"] for item in trained} & {item["problem"] for item in held_out}
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line | {"problem": "q"}) + "\n" for line in lines))
    with pytest.raises(ValueError, match="--data holds items of only one problem"):
        judgements("helpful", 0, COUNTS, str(tmp_path / "pairs.jsonl"), "")


@pytest.mark.parametrize(
    "kind, text, words",
    [
        ("helpful", '{"prompt": "q", "chosen": "a"}', "line 2 lacks the key rejected"),
        ("helpful", '{"prompt": "q", "chosen": "a", "rejected": "a"}', "line 2.*same text"),
        ("helpful", '{"chosen": "b", "rejected": "a"}', "line 2 lacks the key problem"),
        ("helpful", '{"problem": "q", "chosen": "b", "rejected": 5}', "line 2: rejected is 5"),
        ("helpful", "[1]", "line 2 is not a JSON object"),
        ("helpful", "{", "line 2 is not JSON"),
        ("safety", '{"prompt": "q", "response": "a", "safe": "yes"}', "line 2: safe is 'yes'.*true or false"),
        ("safety", '{"prompt": "q", "response": "a", "safe": 2}', "line 2: safe is 2"),
        ("safety", "", "holds 1 items"),
    ],
)
def test_a_line_that_is_no_judgement_is_named(kind, text, words, tmp_path):
    good = {
        "helpful": '{"prompt": "q", "chosen": "a", "rejected": "b"}',
        "safety": '{"prompt": "q", "response": "a", "safe": 0}',
    }
    path = tmp_path / "judged.jsonl"
    path.write_text(f"{good[kind]}\n{text}\n")
    with pytest.raises(ValueError, match=words):
        read(str(path), kind)


@pytest.mark.parametrize(
    "change, more, words",
    [
        ({"batch_rows": 7}, {}, "--batch-rows=7 must be even"),
        ({"batch_rows": 6}, {"mesh": "4x2"}, "--batch-rows=6 must be a multiple of the 4 row shards"),
        ({"epochs": 0}, {}, "--epochs=0"),
        ({"items": 0}, {}, "--items=0"),
        ({"max_tokens": 3}, {}, "--max-tokens=3 is less than every item needs"),
        ({}, {"data": "/nowhere.jsonl"}, "--data=/nowhere.jsonl cannot be read"),
        ({}, {"sampled": "/nowhere.jsonl"}, "--sampled=/nowhere.jsonl cannot be read"),
        ({}, {"data": "a", "sampled": "b"}, "--sampled=b .*--data=a"),
        ({}, {"kind": "kind"}, "--kind=kind must be helpful or safety"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(change, more, words, base, tmp_path):
    options = RunOptions(workdir=str(tmp_path / "run"), weights=str(base), mesh=more.pop("mesh", "1x1"))
    with pytest.raises(ValueError, match=words):
        train(dataclasses.replace(SMALL, **change), options, more.pop("kind", "helpful"), **more)
    assert not (tmp_path / "run").exists()


def test_replies_to_prompts_of_a_file_are_none_that_the_nano_annotator_can_judge(base, tmp_path):
    record = {"id": "1", "problem": "Hello?", "kind": "general", "task": "general", "set": "helpful", "gold": None}
    said = "".join(json.dumps(record | {"response": text}) + "\n" for text in ("Hi.", "Yes?"))
    (tmp_path / "said.jsonl").write_text(said)
    for kind in ("helpful", "safety"):
        with pytest.raises(ValueError, match="holds no reply to nano's general prompts"):
            judgements(kind, 0, COUNTS, "", str(tmp_path / "said.jsonl"))


def test_a_flag_of_policies_is_refused():
    for flag in ("--prompts=a.jsonl", "--template=r1_zero"):
        with mock.patch.object(sys, "argv", ["x", flag]), pytest.raises(SystemExit, match=f"{flag} is for policies"):
            train_reward_model.main()


def test_a_bare_reply_is_a_summary_and_a_completion_stays_what_it_is():
    assert summary_of(completion_of("Paris.")) == "Paris."
    for completion in ("<think> a </think> b", "<think> a", "a </think>"):
        assert completion_of(completion) == completion
    pair = {"problem": "q", "chosen": "<think> secret </think> b", "rejected": "c"}
    assert texts_of(pair, "helpful") == ["<｜User｜>q<｜Assistant｜> b", "<｜User｜>q<｜Assistant｜> c"]
    label = {"problem": "q", "response": "<think> secret </think> b", "safe": True}
    assert texts_of(label, "safety") == ["<｜User｜>q<｜Assistant｜> <think> secret </think> b"]


def test_every_item_is_read_once_an_epoch_in_an_order_of_its_own():
    epochs = [[i for step in range(3 * e, 3 * e + 3) for i in choose_items(20, step, 8, seed=1)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(20)) and epochs[0] != epochs[1]
    assert len(choose_items(20, 2, 8, seed=1)) == 4


MATH = {"id": "m", "kind": "math", "problem": "1+1?", "gold": "2", "language": "en"}
HELP = {"id": "h", "kind": "general", "problem": "Capital of France?", "gold": None, "set": "helpful", "language": "en"}
SAFE = {"id": "s", "kind": "general", "problem": "How do I steal?", "gold": None, "set": "safety", "language": "en"}
WEIGHTS = {"accuracy": 1.0, "format": 1.0, "language": 1.0}
TEXTS = ["<think> one and one </think> \\boxed{2}", "<think> a </think> Paris.", "<think> a </think> no", "Paris."]
EXAMPLES = [MATH, HELP, SAFE, HELP]


@pytest.fixture(scope="module")
def scored(cfg, tokenizer, one):
    """What the reward of stage 4 says of TEXTS at a step; and the models it asks."""
    head_cfg = dataclasses.replace(cfg, reward_head=True)
    models = [RewardModel(head_cfg, sharp(head_cfg, seed), tokenizer, scale=0.5, offset=0.1) for seed in (3, 4)]
    named = dict(zip(("helpful", "safety"), models, strict=True))
    reward = make_all_scenarios_reward(WEIGHTS, "r1", named, one, preference_weight=2.0, begins=20)
    with Pool() as pool:
        yield lambda step, texts=TEXTS, examples=EXAMPLES: reward(pool, texts, examples, step), models


def test_a_row_of_the_last_stage_earns_rules_or_its_reward_model_and_language(scored, one):
    reward, (helpful, safety) = scored
    found = reward(20)
    wanted = score(helpful, [helpful_input(HELP["problem"], text) for text in (TEXTS[1], TEXTS[3])], one)
    unsafe = score(safety, [safety_input(SAFE["problem"], TEXTS[2])], one)
    nan = np.nan
    np.testing.assert_allclose(found.parts["helpful"], [nan, wanted[0], nan, wanted[1]], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.parts["safety"], [nan, nan, 1 / (1 + np.exp(-unsafe[0])), nan], rtol=1e-4)
    np.testing.assert_array_equal(found.parts["accuracy"], [1.0, nan, nan, nan])
    np.testing.assert_array_equal(found.parts["format"], [1.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(found.parts["language"], [1.0] * 4)
    np.testing.assert_allclose(
        found.total,
        [3.0, 2.0 + 2 * wanted[0], 2.0 + 2 / (1 + np.exp(-unsafe[0])), 1.0 + 2 * wanted[1]],
        rtol=1e-4,
        atol=1e-4,
    )
    assert found.valid.all()


def test_a_reply_without_a_closed_chain_of_thought_is_read_as_no_reply(scored, one):
    reward, (helpful, _) = scored
    silent = score(helpful, [helpful_input(HELP["problem"], "<think> a </think>")], one)[0]
    assert reward(20).parts["helpful"][3] == pytest.approx(silent, rel=1e-4)


def test_reward_models_are_not_asked_before_their_step(scored):
    reward, _ = scored
    found = reward(19)
    assert not {"helpful", "safety"} & found.parts.keys()
    np.testing.assert_allclose(found.total, [3.0, 2.0, 2.0, 1.0])


def test_a_reward_that_is_not_finite_keeps_its_row_out(scored, one):
    _, (helpful, safety) = scored
    models = {"helpful": helpful, "safety": safety._replace(offset=float("nan"))}
    with Pool() as pool:
        reward = make_all_scenarios_reward(WEIGHTS, "r1", models, one, preference_weight=1.0, begins=0)
        found = reward(pool, TEXTS, EXAMPLES, 0)
    assert found.valid.tolist() == [True, True, False, True] and found.total[2] == 0.0


def test_a_set_that_there_is_not_is_an_error(scored):
    reward, _ = scored
    with pytest.raises(ValueError, match=r"example s .*'harm'.*helpful or safety"):
        reward(20, [TEXTS[2]], [SAFE | {"set": "harm"}])
