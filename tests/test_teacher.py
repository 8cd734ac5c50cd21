"""Distillation from a teacher's probabilities: what is kept, the student's loss, and that a kill loses nothing."""

import dataclasses
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import distill
from r1jax import jsonl
from r1jax.recipes import RunOptions
from r1jax.runs.policies import load_policy
from r1jax.sft import teacher_logits
from r1jax.sft.documents import document
from r1jax.sft.teacher_logits import Likeliest, Teaching
from r1jax.sft_data import records
from r1jax.sharding import make_mesh
from r1jax.training.logprobs import likeliest_tokens, token_logprobs
from r1jax.training.objectives import sum_cross_entropy
from r1jax.training.packing import SoftBatch
from support.tiny import dense_logp
from support.tuning import guesses

RNG = np.random.default_rng(0)
TOP = Teaching(teacher="set by the test", top=5, teacher_share=0.75)


def test_the_likeliest_tokens_are_those_of_all_logits(monkeypatch):
    monkeypatch.setattr("r1jax.training.logprobs.CHUNK", 4)
    hidden, unembedding = RNG.standard_normal((10, 6)), RNG.standard_normal((6, 33))
    logp, ids = likeliest_tokens(jnp.float32(hidden), jnp.float32(unembedding), 5)
    logits = hidden @ unembedding
    expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    order = np.argsort(-expected, axis=-1)[:, :5]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(logp, np.take_along_axis(expected, order, -1), atol=1e-5)


def test_several_targets_of_a_token_have_the_log_probabilities_of_each_alone():
    hidden, unembedding = jnp.float32(RNG.standard_normal((7, 6))), jnp.float32(RNG.standard_normal((6, 33)))
    targets = jnp.asarray(RNG.integers(0, 33, (7, 3)))
    together, entropy = token_logprobs(hidden, unembedding, targets)
    for k in range(3):
        alone, same = token_logprobs(hidden, unembedding, targets[:, k])
        np.testing.assert_array_equal(together[:, k], alone)
        np.testing.assert_array_equal(entropy, same)


def test_the_loss_is_the_cross_entropy_with_the_mixed_distribution():
    logits, likely = RNG.standard_normal((2, 3, 8)), RNG.standard_normal((2, 3, 8))
    logq = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    p = np.exp(likely) / np.exp(likely).sum(-1, keepdims=True)
    own, weight = RNG.integers(0, 8, (2, 3)), np.float64([[0.1, 0.2, 0], [0.3, 0, 0.4]])
    mixed = 0.25 * np.eye(8)[own] + 0.75 * p
    targets = np.concatenate([own[..., None], np.broadcast_to(np.arange(8), (2, 3, 8))], -1)
    shares = np.concatenate([np.full((2, 3, 1), 0.25), 0.75 * p], -1)
    batch = SoftBatch(None, jnp.float32(weight), jnp.asarray(targets), jnp.float32(shares))
    value, metrics = sum_cross_entropy(jnp.float32(np.take_along_axis(logq, targets, -1)), batch)
    np.testing.assert_allclose(value, -(weight[..., None] * mixed * logq).sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["weight"], weight.sum(), rtol=1e-6)


def test_targets_are_the_own_token_then_the_teachers_with_shares_that_sum_to_one():
    ids, logp = np.arange(12).reshape(4, 3) + 100, np.log(np.float32([[0.5, 0.2, 0.1]] * 4))
    stores = [teacher_logits.tensorstore.array(x) for x in (ids.astype(np.int32), logp)]
    taught = Likeliest(*stores, {}, 0.8)
    targets, shares = taught.targets(np.int32([[7, 8, 9]]), np.int64([[2, 0, 2]]), np.float32([[0.5, 0, 0.5]]))
    np.testing.assert_array_equal(targets[0], [[7, 106, 107, 108], [8, 100, 101, 102], [9, 106, 107, 108]])
    np.testing.assert_allclose(shares[0, 0], [0.2, 0.5, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_array_equal(shares[0, 1], 0)  # of no weight, nobody's place
    np.testing.assert_allclose(shares[0, 2].sum(), 1, rtol=1e-6)


@pytest.fixture(scope="module")
def lessons(walk, tmp_path_factory):
    home = tmp_path_factory.mktemp("lessons")
    options = RunOptions(weights=str(walk.base), template="r1", mesh="1x1")
    mesh = make_mesh("1x1")
    return (
        home,
        options,
        mesh,
        load_policy(options, mesh),
        records.select_kept(records.read(guesses(home / "r.jsonl", 20))),
    )


def kept(lessons, folder, teaching=None) -> Likeliest:
    _, options, mesh, (policy, _, _), rows = lessons
    teaching = teaching or dataclasses.replace(TOP, teacher=options.weights)
    return teacher_logits.find_top_tokens(teaching, policy, rows, 128, options, mesh, folder)


def test_what_is_kept_is_what_the_teacher_expects_and_a_killed_run_goes_on(lessons, tmp_path, monkeypatch):
    _, _, _, (policy, params, _), rows = lessons
    whole = kept(lessons, tmp_path / "whole")
    monkeypatch.setattr(teacher_logits, "TOGETHER", 3)
    again = kept(lessons, tmp_path / "pieces")
    done = tmp_path / "pieces/done.jsonl"
    lines = done.read_bytes().splitlines(keepends=True)
    assert len(lines) == -(-len(rows) // 3)
    done.write_bytes(b"".join(lines[:2]) + b'{"rec')  # killed in its third piece, which may be half written
    again.ids[again.first[rows[6]["problem"], rows[6]["response"]] :].write(-1).result()
    again = kept(lessons, tmp_path / "pieces")
    assert sum(line["records"] for line in jsonl.read(done)) == len(rows)
    for found, expected in zip(again[:2], whole[:2], strict=True):
        np.testing.assert_allclose(found.read().result(), expected.read().result(), atol=1e-5)
    for row in (rows[0], rows[-1]):
        tokens, weights = document(row, policy, 128)
        n = int(np.argmax(weights))
        logp = dense_logp(policy.cfg, params, np.asarray([tokens]))[0, n - 1 : -1]
        start = whole.first[row["problem"], row["response"]]
        some = slice(start, start + len(tokens) - n)
        ids = whole.ids[some].read().result()
        np.testing.assert_allclose(whole.logp[some].read().result(), np.take_along_axis(logp, ids, -1), atol=2e-5)
        np.testing.assert_allclose(np.take_along_axis(logp, ids, -1), -np.sort(-logp, -1)[:, :5], atol=2e-5)


def test_another_teacher_or_other_numbers_are_refused(lessons, tmp_path, monkeypatch):
    kept(lessons, tmp_path / "kept")
    weights = lessons[1].weights
    with pytest.raises(ValueError, match="top was 5 and is now 4"):
        kept(lessons, tmp_path / "kept", Teaching(weights, 4, 0.5))
    with pytest.raises(ValueError, match="--top=0 must lie between 1 and the student's"):
        kept(lessons, tmp_path / "new", Teaching(weights, 0, 0.5))
    with pytest.raises(ValueError, match=r"--teacher-share=0.0 must lie in \(0, 1\]"):
        kept(lessons, tmp_path / "new", Teaching(weights, 4, 0.0))
    policy, params, source = lessons[3]

    class Backwards(type(policy.tokenizer)):
        def encode(self, text, *, start=True):
            return super().encode(text, start=start)[::-1]

    other = policy._replace(tokenizer=Backwards(policy.tokenizer.model))
    monkeypatch.setattr(teacher_logits, "load_policy", lambda *_, **__: (other, params, source))
    with pytest.raises(ValueError, match="the teacher must have the student's tokenizer"):
        kept(lessons, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.weekly
@pytest.mark.slow
def test_a_student_that_is_its_teacher_has_nothing_to_learn(walk, tmp_path):
    file = guesses(tmp_path / "r.jsonl", 40)
    numbers = dict(
        epochs=0.0,
        steps=3,
        learning_rate=1e-3,
        warmup_steps=0,
        row_length=128,
        batch_rows=4,
        held_out_problems=4,
        max_tokens=8,
        eval_problems=2,
        eval_every=0,
        log_samples=1,
        save_every=2,
    )
    recipe = dataclasses.replace(distill.NANO, **numbers)
    options = RunOptions(weights=str(walk.base), template="r1", mesh="1x1", eval_prompts="nano:compare")
    policy = load_policy(options, make_mesh("1x1"))[0]
    norms = {}
    for share in (1.0, 0.5, 0.0):
        teaching = Teaching(str(walk.base), policy.cfg.vocab_size, share) if share else teacher_logits.NOBODY
        where = dataclasses.replace(options, workdir=str(tmp_path / f"run{share}"))
        workdir = distill.train(recipe, where, str(file), teaching=teaching)
        norms[share] = jsonl.read(workdir / "metrics.jsonl")[0]["grad_norm"]
    assert norms[1.0] < 1e-4 * norms[0.0]
    np.testing.assert_allclose(norms[0.5], 0.5 * norms[0.0], rtol=1e-3)
    told = json.loads((tmp_path / "run0.5/manifest.json").read_text())
    assert told["recipe"]["teacher_share"] == 0.5 and told["status"] == "complete"
    shutil.rmtree(tmp_path / "run0.5/checkpoints/3")  # it goes on, without asking the teacher again
    before = (tmp_path / "run0.5_teacher/done.jsonl").stat().st_mtime_ns
    where = dataclasses.replace(options, workdir=str(tmp_path / "run0.5"), resume=True)
    distill.train(recipe, where, str(file), teaching=Teaching(str(walk.base), policy.cfg.vocab_size, 0.5))
    assert (tmp_path / "run0.5_teacher/done.jsonl").stat().st_mtime_ns == before
