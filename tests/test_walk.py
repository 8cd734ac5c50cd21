"""A whole run from one command: what it leaves behind, and that it repeats."""

import json

import jax
import numpy as np
import pytest

from r1jax import jsonl, weights
from r1jax.nano import tasks
from r1jax.rewards import rule
from r1jax.rewards.isolate import Pool
from r1jax.runs import checkpoint
from r1jax.runs.hashing import params_sha256
from r1jax.sharding import make_mesh
from support.walk import FLAGS, ended, lines, outcome

METRICS = {
    "step",
    "reward/mean",
    "reward/std",
    "reward/max",
    "reward/accuracy",
    "reward/format",
    "completion/length",
    "completion/length_right",
    "completion/length_wrong",
    "completion/truncated",
    "completion/reflective_words",
    "completion/language",
    "group/zero_variance",
    "group/one_completion",
    "rows/invalid",
    "kl",
    "clip_fraction",
    "entropy",
    "sampler_gap/k3",
    "sampler_gap/max",
    "loss",
    "log_ratio/max",
    "grad_norm",
    "update/skipped",
}
EVERY_ROW = {"log_samples": 8}  # 2 questions of 4 completions


def test_a_run_leaves_what_the_house_promises(walk):
    workdir = walk.finished()
    names = {path.name for path in workdir.iterdir() if not path.name.startswith(".")}
    assert names == {
        "metrics.jsonl",
        "eval.jsonl",
        "samples.jsonl",
        "checkpoints",
        "report.html",
        "manifest.json",
        "model.json",
        "tokenizer.model",
    }
    # Saved after 2, 4 and 6 steps; the newest two are kept.
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["4", "6"]


def test_every_step_has_one_line_of_metrics(walk):
    found = jsonl.read(walk.finished() / "metrics.jsonl")
    assert [line["step"] for line in found] == [1, 2, 3, 4, 5, 6]
    for line in found:
        varied = {"reward/largest_share"} & line.keys()  # there where two parts of the reward vary
        assert {key for key in line if not key.startswith("perf/")} == METRICS | varied
        assert line["perf/step_s"] > 0 and line["perf/tokens_per_s"] > 0


def test_the_base_and_the_last_policy_are_evaluated_and_stand_in_the_manifest(walk):
    workdir = walk.finished()
    evaluations = jsonl.read(workdir / "eval.jsonl")
    assert [line["step"] for line in evaluations] == [0, 3, 6]
    manifest = json.loads((workdir / "manifest.json").read_text())
    for name, line in (("base", evaluations[0]), ("final", evaluations[-1])):
        results = manifest["results"][name]
        assert results == line
        assert all(0 <= results[key] <= 1 for key in ("accuracy", "format", "language"))
        assert 1 <= results["length"] <= FLAGS["max_tokens"] and results["reflective_words"] >= 0
        assert results["n"] == FLAGS["eval_problems"]


def test_the_manifest_says_what_was_run_on_what(walk):
    workdir = walk.finished()
    manifest = json.loads((workdir / "manifest.json").read_text())
    assert manifest["stage"] == "r1_zero" and manifest["status"] == "complete" and manifest["seed"] == 0
    assert manifest["recipe"] == manifest["recipe"] | {k: v for k, v in FLAGS.items()} | {"clip_eps": 10.0}
    assert manifest["parent"]["path"] == str(walk.base) and len(manifest["parent"]["sha256"]) == 64
    assert len(manifest["data"]["sha256"]) == 64
    assert manifest["versions"].keys() >= {"python", "jax", "flax", "optax", "orbax", "numpy", "devices"}


def test_training_moves_the_parameters_and_a_learning_rate_of_zero_does_not(walk, tmp_path):
    base = params_sha256(weights.from_hf(walk.base, make_mesh("1x1", jax.devices()[:1]))[1])
    assert checkpoint.sha256(walk.finished()) != base
    assert checkpoint.sha256(walk.here(tmp_path / "still", learning_rate=0.0, steps=2)) == base


def test_a_sample_tells_its_prompt_rewards_advantage_and_key(walk):
    samples = jsonl.read(walk.finished(**EVERY_ROW) / "samples.jsonl")
    assert len(samples) == 6 * 8
    question = tasks.prompt(0, 0)  # question 0 of seed 0 opens round 0
    first = samples[0]
    assert (first["step"], first["round"], first["sample"], first["id"]) == (1, 0, 0, "zero-0-0")
    assert first["problem"] == question["problem"] and first["gold"] == question["gold"]
    assert first["prompt"].endswith(f"User: {question['problem']} Assistant:")
    assert first["key"] == [0, 0, 0, 0]
    assert [line["key"][3] for line in samples[:8]] == [0, 1, 2, 3, 0, 1, 2, 3]
    assert len({json.dumps(line["key"]) for line in samples}) == len(samples)


def test_answers_judged_while_others_were_sampled_have_the_verdicts_of_the_pool_afterwards(walk):
    samples = jsonl.read(walk.finished(**EVERY_ROW) / "samples.jsonl")
    examples = [tasks.prompt(0, int(line["id"].split("-")[-1])) for line in samples]
    with Pool() as pool:
        want = rule.score(pool, [line["completion"] for line in samples], examples, {"accuracy": 1.0, "format": 1.0})
    assert [line["verdict"] for line in samples] == [verdict.verdict for verdict in want.verdicts]
    for name in ("accuracy", "format"):
        assert [line["reward"][name] for line in samples] == want.parts[name].tolist()
    assert len({line["verdict"] for line in samples}) > 1


def test_logged_advantages_are_those_of_the_logged_rewards(walk):
    workdir = walk.finished(**EVERY_ROW)
    samples, metrics = jsonl.read(workdir / "samples.jsonl"), lines(workdir, "metrics")
    moved = 0
    for step, line in enumerate(metrics):
        rows = samples[8 * step : 8 * step + 8]
        parts = [[row["reward"][name] for name in ("accuracy", "format")] for row in rows]
        assert np.mean(parts, axis=0) == pytest.approx([line["reward/accuracy"], line["reward/format"]])
        for group in (slice(0, 4), slice(4, 8)):
            rewards = np.sum(parts[group], axis=1)
            std = rewards.std()
            want = (rewards - rewards.mean()) / std if std else np.zeros(4)
            assert [row["advantage"] for row in rows[group]] == pytest.approx(list(want), abs=1e-5)
            moved += std > 0
    assert moved, "no group's rewards differed: the test would see nothing"


def test_the_same_seed_gives_the_same_bytes_in_another_process(walk, tmp_path):
    status, _, err = ended(walk.spawn(tmp_path / "again"))
    assert status == 0, err[-3000:]
    assert outcome(tmp_path / "again") == outcome(walk.finished())
    for name in ("samples.jsonl", "eval.jsonl"):
        assert (tmp_path / "again" / name).read_bytes() == (walk.finished() / name).read_bytes()


def test_another_seed_gives_other_prompts_and_other_samples(walk, tmp_path):
    one, other = (lines(path, "samples") for path in (walk.finished(), walk.here(tmp_path / "run", seed=1, steps=2)))
    assert not {line["problem"] for line in one} & {line["problem"] for line in other}
    assert {line["completion"] for line in one[:4]} != {line["completion"] for line in other[:4]}


@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_ends_at_exactly_its_steps_though_a_round_has_two(walk, tmp_path, steps):
    workdir = walk.here(tmp_path / "run", minibatches=2, steps=steps)
    assert [line["step"] for line in lines(workdir, "metrics")] == list(range(1, steps + 1))
    assert checkpoint.latest(workdir / "checkpoints") == steps
    assert lines(workdir, "eval")[-1]["step"] == steps


def test_the_first_minibatch_of_a_round_is_on_policy_and_the_second_is_not(walk):
    metrics = lines(walk.finished(minibatches=2), "metrics")
    for line in metrics:
        assert line["sampler_gap/max"] <= 2e-5 and line["sampler_gap/k3"] >= 0
        assert line["clip_fraction"] == 0  # eps is 10
    first, second = metrics[0::2], metrics[1::2]
    assert all(line["log_ratio/max"] <= 1e-5 for line in first)
    # Old is that of the round's begin, so the first step's change shows in the second.
    assert any(line["log_ratio/max"] > 1e-4 for line in second)


def test_the_samplers_own_logprobs_may_be_old(walk, tmp_path):
    metrics = lines(walk.here(tmp_path / "run", old_logp="sampler", steps=2), "metrics")
    assert [line["sampler_gap/max"] for line in metrics] == [0.0, 0.0]
    assert all(0 < line["log_ratio/max"] <= 2e-5 for line in metrics)


@pytest.mark.parametrize(
    "flags",
    [
        {"loss": "dr_grpo"},
        {"loss": "dapo", "clip_eps": 0.2, "clip_eps_high": 0.28},
        {"loss": "sequence"},
        {"tis_cap": 2.0},
    ],
    ids=lambda flags: "-".join(map(str, flags.values())),
)
def test_every_loss_runs_without_a_kl_term_and_rows_of_equal_reward(walk, tmp_path, flags):
    workdir = walk.here(tmp_path / "run", kl_coef=0.0, steps=2, **flags)
    metrics = lines(workdir, "metrics")
    assert [line["update/skipped"] for line in metrics] == [0, 0]
    assert all(np.isfinite(line["loss"]) for line in metrics)
    assert all(("sampler_gap/truncated" in line) == ("tis_cap" in flags) for line in metrics)


def test_without_a_kl_term_the_reference_is_left_out_of_the_loss(walk, tmp_path):
    # ref_every is 40: after some steps the policy has left the reference. The KL is 0 only where none is asked.
    with_, without = lines(walk.finished(), "metrics"), lines(walk.here(tmp_path / "run", kl_coef=0.0), "metrics")
    assert with_[-1]["kl"] > 1e-6 and all(line["kl"] < 1e-9 for line in without)
    assert all(np.isfinite(line["loss"]) and line["update/skipped"] == 0 for line in without)


def test_questions_come_from_a_file_each_once_an_epoch(walk, tmp_path):
    rows = [{"id": f"q{i}", "problem": f"Which is A? A {i}", "gold": "A", "kind": "choice"} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = {name: tmp_path / "rows.jsonl" for name in ("prompts", "eval_prompts")}
    workdir = walk.here(tmp_path / "run", steps=4, log_samples=8, **flags)
    ids = [line["id"] for line in lines(workdir, "samples")][::4]
    assert sorted(ids[:4]) == sorted(ids[4:]) == ["q0", "q1", "q2", "q3"]
    assert json.loads((workdir / "manifest.json").read_text())["data"]["counts"] == {"rows": 4}
    assert lines(workdir, "eval")[0]["by_kind"].keys() == {"choice"}


def test_a_run_begins_where_the_run_named_by_weights_ended(walk, tmp_path):
    before = walk.finished()
    after = walk.here(tmp_path / "run", weights=before, steps=1)
    told = [json.loads((path / "manifest.json").read_text()) for path in (before, after)]
    assert told[1]["parent"] == {"path": str(before), "sha256": checkpoint.sha256(before), "step": 6}
    final, base = told[0]["results"]["final"], told[1]["results"]["base"]
    assert final | {"step": 0} == base | {"step": 0}
