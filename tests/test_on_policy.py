"""Distillation on what the student samples: its gradient, what it does to a student, and what it refuses."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import distill, nano_base
from r1jax import jsonl
from r1jax.model import transformer
from r1jax.model.config import ModelConfig
from r1jax.recipes import RunOptions
from r1jax.rl import on_policy_distillation
from r1jax.runs import checkpoint
from r1jax.runs.policies import load_policy
from r1jax.sharding import make_mesh
from r1jax.training.objectives import minibatch_loss
from r1jax.training.packing import Minibatch
from support.walk import FLAGS, MODEL

RECIPE = dataclasses.replace(
    distill.NANO_ON_POLICY, **{k: v for k, v in FLAGS.items() if k != "mesh"}, warmup_steps=0, learning_rate=3e-3
)


def test_the_expected_gradient_is_that_of_the_divergence_from_the_teacher():
    rng = np.random.default_rng(0)
    student, teacher = (x - np.log(np.exp(x).sum()) for x in rng.standard_normal((2, 7)))

    def loss(logits):  # every token once, as often as the student samples it
        logp = jax.nn.log_softmax(logits)[None]
        zeros = jnp.zeros_like(logp)
        batch = Minibatch(
            None,
            weight=jnp.exp(student)[None],
            advantage=zeros,
            rollout_logp=jnp.float32(student)[None],
            old_logp=jnp.float32(student)[None],
            ref_logp=jnp.float32(teacher)[None],
        )
        return minibatch_loss(logp, zeros, batch, clip_eps=0.2, kl_coef=distill.NANO_ON_POLICY.kl_coef)[0]

    found = jax.grad(loss)(jnp.float32(student))
    np.testing.assert_allclose(found, np.exp(student) - np.exp(teacher), atol=1e-6)  # of sum p_teacher log p_student


@pytest.fixture(scope="module")
def spoiled(walk, tmp_path_factory):
    """The teacher with every number a little off."""
    home = tmp_path_factory.mktemp("spoiled")
    policy, params, _ = load_policy(RunOptions(weights=str(walk.base)), make_mesh("1x1"))
    rng = np.random.default_rng(2)
    off = jax.tree.map(lambda x: np.asarray(x) * (1 + 0.2 * rng.standard_normal(x.shape).astype(np.float32)), params)
    nano_base.export(home, policy.cfg, off, policy.tokenizer)
    return home


@pytest.fixture(scope="module")
def small(walk, tmp_path_factory):
    """A student of one layer and the teacher's tokenizer, that knows nothing."""
    home = tmp_path_factory.mktemp("small")
    pieces = load_policy(RunOptions(weights=str(walk.base)), make_mesh("1x1"))[0].tokenizer
    cfg = ModelConfig(vocab_size=pieces.vocab_size, **MODEL | {"layers": 1, "width": 24})
    nano_base.export(home, cfg, jax.tree.map(np.asarray, transformer.init(cfg, jax.random.key(1))), pieces)
    return home


def test_a_student_comes_nearer_to_its_teacher_and_goes_on_where_it_stopped(walk, spoiled, tmp_path):
    options = RunOptions(workdir=str(tmp_path / "run"), weights=str(spoiled), template="r1_zero", mesh="1x1")
    whole = distill.on_policy(RECIPE, options, str(walk.base))
    lines = jsonl.read(whole / "metrics.jsonl")
    assert lines[0]["kl"] > 0.01 and lines[-1]["kl"] < 0.7 * lines[0]["kl"]
    told = json.loads((whole / "manifest.json").read_text())
    assert told["stage"] == "distill_on_policy" and told["status"] == "complete"
    assert not any("reward" in warning["text"] for warning in told["warnings"])
    teacher = load_policy(RunOptions(weights=str(walk.base)), make_mesh("1x1"), frozen=True)[2]
    assert told["data"]["sources"]["teacher"] == [teacher]
    stopped = tmp_path / "stopped"
    shutil.copytree(whole, stopped)
    shutil.rmtree(stopped / "checkpoints" / "6")
    shutil.rmtree(stopped / "checkpoints" / "4")
    distill.on_policy(RECIPE, dataclasses.replace(options, workdir=str(stopped), resume=True), str(walk.base))
    assert checkpoint.sha256(stopped) == checkpoint.sha256(whole)


@pytest.mark.weekly
@pytest.mark.slow
def test_a_student_may_be_of_another_shape(walk, small, tmp_path):
    options = RunOptions(workdir=str(tmp_path / "run"), weights=str(small), template="r1_zero", mesh="1x1")
    first = jsonl.read(
        distill.on_policy(dataclasses.replace(RECIPE, steps=1), options, str(walk.base)) / "metrics.jsonl"
    )
    assert first[0]["kl"] > 1 and first[0]["grad_norm"] > 0


def test_who_is_its_own_teacher_has_nothing_to_learn(walk, tmp_path):
    options = RunOptions(workdir=str(tmp_path / "run"), weights=str(walk.base), template="r1_zero", mesh="1x1")
    recipe = dataclasses.replace(RECIPE, steps=1)
    first = jsonl.read(distill.on_policy(recipe, options, str(walk.base)) / "metrics.jsonl")[0]
    assert first["kl"] < 1e-9 and first["grad_norm"] < 1e-4


def test_a_teacher_of_other_tokens_is_refused(walk):
    mesh = make_mesh("1x1")
    policy, params, _ = load_policy(RunOptions(weights=str(walk.base)), mesh)

    class Backwards(type(policy.tokenizer)):
        def decode(self, ids):
            return super().decode(ids)[::-1]

    other = policy._replace(tokenizer=Backwards(policy.tokenizer.model))
    with pytest.raises(ValueError, match="--teacher=DIR has other tokens than the student"):
        on_policy_distillation.make_referee(other, params, "DIR", mesh)(None, policy)


@pytest.mark.parametrize(
    ("changed", "teacher", "said"),
    [
        ({}, "", "--teacher=DIR is missing"),
        ({"kl_coef": 0.0}, "x", "--on-policy.kl-coef=0.0 must be above 0"),
        ({"ref_every": 40}, "x", "--on-policy.ref-every=40 must be 0"),
    ],
)
def test_a_recipe_without_a_teacher_is_refused(changed, teacher, said):
    with pytest.raises(ValueError, match=said):
        distill.on_policy(dataclasses.replace(RECIPE, **changed), RunOptions(), teacher)
