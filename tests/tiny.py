"""Small things that several tests build on."""

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.model import transformer
from r1jax.model.attention import attend_full, causal
from r1jax.model.config import ModelConfig

STOPS = tuple(range(8, 24))  # enough stop tokens that rows of a random model end at every length


def sharp(cfg: ModelConfig, seed: int) -> dict:
    """Random parameters under which logits differ by several nats and every matrix matters."""
    keys = iter(jax.random.split(jax.random.key(seed), 64))

    def leaf(path: tuple, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        noise = jax.random.normal(next(keys), x.shape)
        if "scale" in name:
            return 1.0 + 0.1 * noise
        if "bias" in name:
            return 0.3 * noise
        if "embed" in name:
            return 0.4 * noise
        return 0.25 * noise

    shapes = jax.eval_shape(lambda: transformer.init(cfg, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def prompts(count: int, lengths: tuple[int, ...] = (21, 26, 37, 34)) -> list[list[int]]:
    """Prompts of bytes that share their first 18 tokens."""
    rng = np.random.default_rng(0)
    shared = rng.integers(30, 250, 18).tolist()
    return [shared + rng.integers(30, 250, lengths[i % len(lengths)] - 18).tolist() for i in range(count)]


def dense_logp(cfg: ModelConfig, params: dict, tokens: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """[R, S, V] log-probabilities of the next token after each slot of plain rows: one full forward, all logits at once."""
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    hidden, _ = transformer.forward(cfg, params, jnp.asarray(tokens), jnp.asarray(positions), attend_full(causal(tokens.shape[1])))
    logits = np.asarray(hidden, np.float64) @ np.asarray(transformer.unembedding(params), np.float64) / temperature
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
