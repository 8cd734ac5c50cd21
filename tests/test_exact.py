"""What is computed in float64 on CPUs so that sampler and trainer agree, against NumPy and against float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.model.layers import RMSNorm, inverse_rms
from r1jax.nano import tasks
from r1jax.recipes import RunOptions
from r1jax.runs.policies import load_policy
from r1jax.sampling import sampler
from r1jax.sampling.complete import Draws, complete
from r1jax.sharding import make_mesh
from r1jax.training.logprobs import Reading, packed_logprobs
from r1jax.training.packing import gather, pack

EPS = 1e-6


def test_the_inverse_root_mean_square_is_rounded_once():
    x = np.random.default_rng(0).normal(0, 3, (64, 192)).astype(np.float32)
    want = (1 / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True) + EPS)).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(lambda x: inverse_rms(x, EPS))(x), want)


def test_a_norm_has_the_same_bits_in_a_batch_of_any_shape():
    x = np.random.default_rng(1).normal(0, 3, (512, 192)).astype(np.float32)
    norm = RMSNorm(EPS, jnp.float32)
    apply = jax.jit(lambda x: norm.apply({"params": {"scale": jnp.linspace(0.5, 2.0, 192)}}, x))
    whole = apply(x)
    np.testing.assert_array_equal(np.concatenate([apply(x[i : i + 64, None])[:, 0] for i in range(0, 512, 64)]), whole)


@pytest.mark.parametrize("plus_one", (False, True))
def test_the_gradient_of_a_norm_is_that_of_its_formula(plus_one):
    rng = np.random.default_rng(2)
    x, scale, pull = (rng.standard_normal(shape).astype(np.float32) for shape in ((5, 24), (24,), (5, 24)))
    norm = RMSNorm(EPS, jnp.float32, plus_one)

    def formula(x, scale):
        return jnp.sum(x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + EPS) * (scale + plus_one)[None] * pull)

    def ours(x, scale):
        return jnp.sum(norm.apply({"params": {"scale": scale}}, x) * pull)

    for got, want in zip(jax.grad(ours, (0, 1))(x, scale), jax.grad(formula, (0, 1))(x, scale), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


@pytest.mark.slow
def test_sampler_and_trainer_agree_on_the_shipped_base_to_the_last_rounding_of_a_log_probability():
    """float32 log-probabilities below 8 are 4.8e-7 apart: 2e-6 is four of them. Read in float32 the same rows differ by
    more."""
    mesh = make_mesh("1x1")
    policy, params, _ = load_policy(RunOptions(), mesh)
    examples = [tasks.prompt(0, index) for index in range(16)]
    largest = {}
    for attention in ("exact", "xla"):
        rollout, _ = complete(
            policy,
            sampler.sync(params, mesh),
            examples,
            Draws(8, seed=0, round_=0),
            mesh,
            sampler.Sampling(96, attention=attention),
        )
        completions = [(i // 8, rollout.tokens[i, : rollout.lengths[i]]) for i in range(128)]
        rows, places = pack(rollout.prompts, completions, 256)
        reading = Reading(row_shards=1, attention=attention)
        score = jax.jit(lambda p, r, reading=reading: packed_logprobs(policy.cfg, p, r, 1.0, reading)[0])
        scored = gather(np.asarray(score(params, rows)), places, [len(c) for _, c in completions])
        largest[attention] = max(np.abs(s - rollout.logp[i, : len(s)]).max() for i, s in enumerate(scored))
    assert largest["exact"] <= 2e-6 < largest["xla"], largest


def test_rows_alone_have_the_bits_that_they_have_among_many():
    """Two questions of one row each, where products with weights would be of two rows, and the same among 64."""
    mesh = make_mesh("1x1")
    policy, params, _ = load_policy(RunOptions(), mesh)
    weights = sampler.sync(params, mesh)
    setting = Draws(1, seed=0, round_=0), mesh, sampler.Sampling(40, attention="exact")
    examples = [tasks.prompt(0, index) for index in range(64)]
    many, few = (complete(policy, weights, some, *setting)[0] for some in (examples, examples[:2]))
    np.testing.assert_array_equal(few.tokens, many.tokens[:2])
    np.testing.assert_array_equal(few.logp[:, 1:], many.logp[:2, 1:])
    np.testing.assert_allclose(few.logp, many.logp[:2], atol=1e-6)  # of the first, the log of the sum is float32


def test_a_short_beginning_that_prompts_share_has_the_bits_that_it_has_where_they_do_not():
    """Two prompts that begin with the same 32 tokens, alone and among 62 that do not."""
    mesh = make_mesh("1x1")
    policy, params, _ = load_policy(RunOptions(), mesh)
    policy = policy._replace(template="{question}")
    weights = sampler.sync(params, mesh)
    setting = Draws(1, seed=0, round_=0), mesh, sampler.Sampling(24, attention="exact")
    others = [tasks.prompt(0, index) for index in range(64)]
    alike = [example | {"problem": "3+4=7 " * 6 + str(i)} for i, example in enumerate(others[:2])]
    few, many = (complete(policy, weights, some, *setting)[0] for some in (alike, alike + others[2:]))
    assert 16 <= sampler.shared_prefix(few.prompts) < 64 and sampler.shared_prefix(many.prompts) == 0
    np.testing.assert_array_equal(few.tokens, many.tokens[:2])
    np.testing.assert_array_equal(few.logp[:, 1:], many.logp[:2, 1:])
