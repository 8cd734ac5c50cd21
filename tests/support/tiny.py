"""Small things that several tests build on."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from r1jax.model import transformer
from r1jax.model.attention import attend_full, causal
from r1jax.model.config import ModelConfig
from r1jax.sampling import sampler
from r1jax.sampling.keys import row_keys

STOPS = tuple(range(8, 24))  # enough stop tokens that rows of a random model end at every length
HEAT = 0.7


def sharp(cfg: ModelConfig, seed: int) -> dict:
    """Random parameters under which logits differ by several nats and every matrix matters."""
    rng = np.random.default_rng(seed)

    def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        spread = 0.1 if "scale" in name else 0.3 if "bias" in name else 0.4 if "embed" in name else 0.25
        return np.float32(("scale" in name) + spread * rng.standard_normal(x.shape))

    shapes = jax.eval_shape(lambda: transformer.init(cfg, jax.random.key(0)))
    return jax.tree.map(jnp.asarray, jax.tree_util.tree_map_with_path(leaf, shapes))


def prompts(count: int = 4, lengths: tuple[int, ...] = (21, 26, 37, 34)) -> list[list[int]]:
    """Prompts of bytes that share their first 18 tokens."""
    rng = np.random.default_rng(0)
    shared = rng.integers(30, 250, 18).tolist()
    return [shared + rng.integers(30, 250, lengths[i % len(lengths)] - 18).tolist() for i in range(count)]


def keys(group_size: int, ids: tuple[int, ...] = (0, 1, 2, 3)) -> np.ndarray:
    """Row keys of prompts by id, question-major."""
    return row_keys(7, 3, np.repeat(ids, group_size), np.tile(np.arange(group_size), len(ids)))


def draw(cfg, weights, mesh, asked, row_keys, finished=None, partial=sampler.WHOLE, **changed):
    """A rollout; what is `changed` are fields of its `Sampling`."""
    sampling = sampler.Sampling(max_tokens=40, temperature=HEAT, stop_ids=STOPS)._replace(**changed)
    return sampler.sample(cfg, weights, asked, row_keys, mesh, sampling, finished, partial)


@functools.partial(jax.jit, static_argnums=0)
def hidden(cfg: ModelConfig, params: dict, tokens: jax.Array, positions: jax.Array, mask: jax.Array) -> jax.Array:
    return transformer.forward(cfg, params, tokens, positions, attend_full(mask))[0]


def dense_logp(cfg: ModelConfig, params: dict, tokens: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """[R, S, V] log-probabilities of the next token after each slot of plain rows: one full forward, all logits."""
    length = tokens.shape[1]
    positions = np.broadcast_to(np.arange(length), tokens.shape)
    states = hidden(cfg, params, tokens, positions, np.asarray(causal(length)))
    logits = np.asarray(states, np.float64) @ np.asarray(transformer.unembedding(params), np.float64)
    logits = (cfg.logit_cap * np.tanh(logits / cfg.logit_cap) if cfg.logit_cap else logits) / temperature
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def in_rows(asked: list[list[int]], rollout, length: int) -> np.ndarray:
    """Each completion after its prompt in a row of its own, padded on the right with 0."""
    rows = np.zeros((len(rollout.lengths), length), np.int32)
    for i, row in enumerate(rows):
        whole = [*asked[i // rollout.group_size], *rollout.tokens[i, : rollout.lengths[i]]]
        row[: len(whole)] = whole
    return rows


def laid(x: jax.Array) -> tuple:
    """The PartitionSpec of an array, without the Nones at its end."""
    spec = list(x.sharding.spec)
    while spec and spec[-1] is None:
        spec.pop()
    return tuple(spec)


CONFIG = ModelConfig(
    vocab_size=64,
    width=16,
    layers=2,
    heads=4,
    kv_heads=2,
    head_width=8,
    mlp_width=32,
    qkv_bias=True,
    qk_norm=True,
    tie_embeddings=False,
)
