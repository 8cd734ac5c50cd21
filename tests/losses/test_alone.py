"""The losses serve any model in JAX: with jax alone, and with flax NNX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from r1jax.losses import group_advantages, policy_loss, row_weights

ROOT = Path(__file__).resolve().parents[2]

ALONE = """
import sys

ALLOWED = {"jax", "jaxlib", "numpy", "scipy", "ml_dtypes", "opt_einsum", "r1jax"} | set(sys.stdlib_module_names)
REFUSED = {"flax", "optax", "orbax", "jaxtyping", "torch", "transformers", "grain", "sympy", "tokenizers"}


class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"{name} is not installed here")


sys.meta_path.insert(0, Block())

import jax
import jax.numpy as jnp

from r1jax.losses import LOSSES, dpo_loss, grpo_loss, group_advantages, policy_loss, row_weights

try:
    import flax
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("flax was there")

# A policy of one state and 5 tokens; token 3 earns 1. Three lines of model, no library.
logits, key = jnp.zeros(5), jax.random.key(0)
for step in range(60):
    key, sub = jax.random.split(key)
    tokens = jax.random.categorical(sub, logits, shape=(8, 3))
    rewards = (tokens == 3).mean(-1)
    advantages = group_advantages(rewards.reshape(2, 4)).reshape(-1)

    def loss(x):
        logp = jax.nn.log_softmax(x)[tokens]
        old = jax.lax.stop_gradient(logp)
        return grpo_loss(logp, old, old, advantages, jnp.ones((8, 3)), clip_eps=0.2, kl_coef=0.0)[0]

    logits = logits - 0.5 * jax.grad(loss)(logits)
probability = jax.nn.softmax(logits)[3]
assert probability > 0.9, probability
outside = {name.partition(".")[0] for name in sys.modules} - ALLOWED
assert not outside & REFUSED, outside
ours = {name for name in sys.modules if name.startswith("r1jax")}
assert all(name in ("r1jax",) or name.startswith("r1jax.losses") for name in ours), ours
print(float(probability), len(LOSSES))
"""


def test_losses_import_and_train_where_nothing_but_jax_is_installed():
    done = subprocess.run([sys.executable, "-c", ALONE], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) > 0.9


class Recurrent(nnx.Module):
    """A GRU of a few units over tokens."""

    def __init__(self, vocabulary: int, width: int, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(vocabulary, width, rngs=rngs)
        self.cell = nnx.GRUCell(width, width, rngs=rngs)
        self.out = nnx.Linear(width, vocabulary, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        state, logits = jnp.zeros((len(tokens), self.out.in_features)), []
        for t in range(tokens.shape[1]):
            state, seen = self.cell(state, self.embed(tokens[:, t]))
            logits.append(self.out(seen))
        return jnp.stack(logits, axis=1)


def test_a_model_in_flax_nnx_learns_by_these_losses():
    model, size = Recurrent(6, 8, rngs=nnx.Rngs(0)), 4
    rng = np.random.default_rng(0)
    start = jnp.zeros((16, 1), jnp.int32)

    def logps(m, tokens):
        logits = m(jnp.concatenate([start, tokens[:, :-1]], axis=1))
        return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]

    @nnx.jit
    def step(m, tokens, weight, advantage):
        def loss(m):
            logp = logps(m, tokens)
            old = jax.lax.stop_gradient(logp)
            return policy_loss(logp, old, old, advantage, weight, clip_eps=0.2, kl_coef=0.0)[0]

        slopes = nnx.grad(loss)(m)
        nnx.update(m, jax.tree.map(lambda p, g: p - 1.0 * g, nnx.state(m, nnx.Param), slopes))

    @nnx.jit
    def sample(m, key):
        tokens = jnp.zeros((16, 0), jnp.int32)
        for t in range(size):
            logits = m(jnp.concatenate([start, tokens], axis=1))[:, -1]
            drawn = jax.random.categorical(jax.random.fold_in(key, t), logits)
            tokens = jnp.concatenate([tokens, drawn[:, None]], axis=1)
        return tokens

    earned = []
    for i in range(80):
        tokens = sample(model, jax.random.key(i))
        lengths = rng.integers(1, size + 1, 16)
        mask = np.arange(size) < lengths[:, None]
        rewards = np.asarray((tokens == 2) * mask).sum(-1) / lengths
        advantage = np.asarray(group_advantages(rewards.reshape(4, 4))).reshape(-1, 1) * np.ones((1, size))
        sizes = dict(rows=16, tokens=int(mask.sum()), max_tokens=size)
        weight = row_weights("dapo", lengths.astype(float), lengths > 0, **sizes)[:, None] * mask
        step(model, tokens, np.float32(weight), np.float32(advantage))
        earned.append(rewards.mean())
    assert np.mean(earned[-10:]) > 0.8 > 0.4 > np.mean(earned[:5])
