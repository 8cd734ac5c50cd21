"""Rounds of reinforcement learning on tiny random models of real families: the same on every mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from r1jax.losses import group_advantages
from r1jax.model.attention import attend_full
from r1jax.model.packed_rows import PackedRows, visible
from r1jax.model.transformer import forward
from r1jax.sampling import sampler
from r1jax.sampling.keys import row_keys
from r1jax.sharding import make_mesh, shard_rows
from r1jax.training.logprobs import Network, packed_logprobs
from r1jax.training.objectives import grpo_objective
from r1jax.training.packing import Minibatch, gather, pack, spread, spread_routes
from r1jax.training.step import Learner, start, update
from r1jax.weights import from_hf
from support import families
from support.marks import WEEKLY

ROUNDS, GROUP, TOKENS, ROW = 2, 4, 12, 48
SGD = optax.sgd(0.3)  # one for all: learners of equal parts share their programs
PROMPTS = [[5, 9, 21, 33 + i, *range(40, 40 + i)] for i in range(4)]
STOPS = (3, 7, 11, 13, 17)


def run(directory, spec):
    """Tokens of every round, the largest sampler gap, and the parameters at the end."""
    mesh = make_mesh(spec)
    with jax.set_mesh(mesh):
        cfg, params = from_hf(directory, mesh)
        learner = Learner(Network(cfg), SGD, grpo_objective(0.2, 1e-3))
        state, reference = start(learner, params, mesh), jax.tree.map(jnp.copy, params)
        drawn, gaps = [], []
        for number in range(ROUNDS):
            ids = np.repeat(np.arange(4), GROUP)
            keys = row_keys(5, number, ids, np.tile(np.arange(GROUP), 4))
            rollout = sampler.sample(
                cfg,
                sampler.sync(state.params, mesh),
                PROMPTS,
                keys,
                mesh,
                sampler.Sampling(TOKENS, stop_ids=STOPS),
            )
            batch = minibatch(learner, reference, rollout, mesh)
            state, figures = update(learner, state, [batch])
            drawn.append(rollout.tokens)
            gaps.append(float(figures["sampler_gap/max"]))
        return drawn, max(gaps), jax.tree.map(np.asarray, state.params), jax.tree.map(np.asarray, reference)


def minibatch(learner, reference, rollout, mesh):
    """The rollout packed into eight rows; a completion is rewarded for small tokens."""
    from r1jax.training.step import score

    rewards = np.asarray(
        [np.mean(row[:n] < 34) for row, n in zip(rollout.tokens, rollout.lengths, strict=True)], np.float32
    )
    advantages = np.asarray(group_advantages(rewards.reshape(-1, GROUP))).reshape(-1)
    assert np.ptp(advantages) > 1
    rows, places = pack(
        rollout.prompts, [(i // GROUP, rollout.tokens[i, :n]) for i, n in enumerate(rollout.lengths)], ROW
    )
    shape = rows.tokens.shape
    arrays = {
        "weight": spread([np.full(n, 1 / (16 * n)) for n in rollout.lengths], places, shape),
        "advantage": spread([np.full(n, a) for n, a in zip(rollout.lengths, advantages, strict=True)], places, shape),
        "logp": spread([rollout.logp[i, :n] for i, n in enumerate(rollout.lengths)], places, shape),
    }
    rows, arrays = jax.tree.map(lambda x: np.pad(x, ((0, -len(x) % 8), (0, 0))), (rows, arrays))
    rows, arrays = shard_rows((rows, arrays), mesh)
    ref = score(learner.network, reference, PackedRows(*rows))[0]
    return Minibatch(PackedRows(*rows), arrays["weight"], arrays["advantage"], arrays["logp"], None, ref)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """By family: its directory, and what `run` finds there on one device."""

    @functools.cache
    def found(family):
        directory = tmp_path_factory.mktemp("family")
        families.model(family).save_pretrained(directory)
        return directory, run(directory, "1x1")

    return found


@pytest.mark.parametrize(
    ("family", "spec"),
    [
        pytest.param("llama 3", "4x2", marks=WEEKLY),
        ("deepseek v3", "data:2,fsdp:1,tensor:2,expert:2"),
        pytest.param("qwen2", "4x2", marks=WEEKLY),
        pytest.param("deepseek v3", "4x2", marks=WEEKLY),
        pytest.param("qwen3 moe", "data:1,fsdp:2,tensor:2,expert:2", marks=pytest.mark.slow),
        pytest.param("gemma2", "2x4", marks=WEEKLY),
    ],
)
def test_rounds_on_a_mesh_are_those_of_one_device(alone, family, spec):
    directory, (drawn, gap, params, before) = alone(family)
    other, other_gap, other_params, _ = run(directory, spec)
    for ours, theirs in zip(drawn, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert max(gap, other_gap) <= 2e-5
    moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(before), strict=True)]
    assert max(moved) > 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, other_params)


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory, one):
    directory = tmp_path_factory.mktemp("deepseek")
    families.model("deepseek v3").save_pretrained(directory)
    return from_hf(directory, one)


def replayed(cfg, params, mesh, dtype):
    """|sampler's log-prob - trainer's| of every sampled token, without its routes and with them; and both routes."""
    keys = row_keys(1, 0, np.repeat(np.arange(4), GROUP), np.tile(np.arange(GROUP), 4))
    rollout = sampler.sample(
        cfg,
        sampler.sync(params, mesh, dtype),
        PROMPTS,
        keys,
        mesh,
        sampler.Sampling(24, stop_ids=(10**6,), dtype=dtype, replay=True),
    )
    rows, places = pack(rollout.prompts, [(i // GROUP, row) for i, row in enumerate(rollout.tokens)], 64)
    routes = spread_routes(rollout, [(i // GROUP, i) for i in range(16)], rows, places)
    gaps = []
    for given in (None, jnp.asarray(routes)):
        logp = jax.jit(lambda rows: packed_logprobs(cfg, params, rows)[0])(rows._replace(routes=given))
        theirs = gather(np.asarray(logp), places, rollout.lengths.tolist())
        gaps.append(np.abs(np.concatenate(theirs) - rollout.logp.reshape(-1)))
    attend = attend_full(visible(rows))
    own = jax.jit(
        lambda params: forward(cfg, params, jnp.asarray(rows.tokens), jnp.asarray(rows.positions), attend)[2]
    )(params)
    return *gaps, routes, np.moveaxis(np.asarray(own), 0, 2)


def test_the_sampler_reports_where_the_trainer_would_send_each_token(deepseek, one):
    apart, together, routes, own = replayed(*deepseek, one, jnp.float32)
    known = (routes >= 0).all((-1, -2))
    # 4 prompts of 4 to 7 tokens, once a row or more; 16 completions of 24, whose last token was never fed.
    assert known.sum() >= 22 + 16 * 23
    np.testing.assert_array_equal(np.sort(routes[known]), np.sort(own[known]))
    assert max(apart.max(), together.max()) <= 2e-5


def test_replay_takes_the_choice_of_experts_out_of_the_gap(deepseek, one):
    """A sampler in bfloat16 sends some tokens elsewhere than a float32 trainer would: those make the largest gaps."""
    apart, together, routes, own = replayed(*deepseek, one, jnp.bfloat16)
    known = (routes >= 0).all((-1, -2))
    assert (np.sort(routes[known]) != np.sort(own[known])).any()
    assert together.max() < 0.6 * apart.max()
    assert together.mean() < 0.9 * apart.mean()
