"""The loop learns: sampler, advantages and update together, from random weights."""

import dataclasses

import numpy as np
import optax

from r1jax.losses import group_advantages
from r1jax.model import transformer
from r1jax.sampling import sampler
from r1jax.sampling.keys import row_keys
from r1jax.sharding import shard_rows
from r1jax.training.logprobs import Network
from r1jax.training.objectives import grpo_objective
from r1jax.training.packing import Minibatch, pack, spread
from r1jax.training.step import Learner, score, start, update

B, G, T = 2, 16, 8


def test_the_reward_on_a_trivial_task_rises_from_random_weights(cfg, one):
    """The reward of a completion is its share of even tokens; a random policy earns 1/2, a wrong sign less."""
    import jax

    cfg = dataclasses.replace(cfg, layers=1)
    learner = Learner(Network(cfg, remat="none"), optax.adam(1e-2), grpo_objective(clip_eps=0.2, kl_coef=0.0))
    state = start(learner, jax.jit(lambda key: transformer.init(cfg, key))(jax.random.key(0)), one)
    prompts = [[30, 31, 32], [40, 41, 42, 43]]
    earned = []
    for round_ in range(25):
        keys = row_keys(0, round_, np.repeat([0, 1], G), np.tile(np.arange(G), B))
        rollout = sampler.sample(
            cfg,
            sampler.sync(state.params, one),
            prompts,
            keys,
            one,
            sampler.Sampling(T, stop_ids=(1,)),
        )
        completions = [(i // G, rollout.tokens[i, :n]) for i, n in enumerate(rollout.lengths)]
        rewards = np.asarray([np.mean(tokens % 2 == 0) for _, tokens in completions])
        earned.append(rewards.mean())
        advantages = np.asarray(group_advantages(rewards.reshape(B, G))).reshape(-1)
        rows, places = pack(prompts, completions, 160)
        rows, padding = jax.tree.map(lambda x: np.pad(x, ((0, 4 - len(x)), (0, 0))), rows), (4, 160)
        weight = spread([np.full(n, 1 / (n * B * G)) for n in rollout.lengths], places, padding)
        advantage = spread([np.full(n, a) for n, a in zip(rollout.lengths, advantages, strict=True)], places, padding)
        rows, weight, advantage = shard_rows((rows, weight, advantage), one)
        old = score(learner.network, state.params, rows)[0]
        state, metrics = update(learner, state, [Minibatch(rows, weight, advantage, old, old, old)])
        assert metrics["skipped"] == 0
    # 32 completions of 8 tokens: the mean of a random policy lies within 0.5 ± 4·0.5/√256.
    assert abs(earned[0] - 0.5) < 0.125
    assert np.mean(earned[-3:]) > 0.9
