"""Reward models: one number for a text, by the same import path, against transformers' ForSequenceClassification."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax.model import transformer
from r1jax.weights import export, from_hf
from support import families
from support.families import TOKENS, torch, transformers
from support.tiny import hidden


def our_rewards(cfg, params):
    positions = np.broadcast_to(np.arange(TOKENS.shape[1]), TOKENS.shape)
    mask = np.tril(np.ones((1, TOKENS.shape[1], TOKENS.shape[1]), bool))
    return np.asarray(transformer.rewards(params, hidden(cfg, params, TOKENS, positions, mask)[:, -1]))


def their_rewards(model):
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits[:, 0].numpy()


@pytest.mark.parametrize("family", ["qwen2", "llama 3", "gemma3", "qwen3 moe", "deepseek v3"])
def test_a_reward_model_comes_in_and_goes_out_with_its_numbers(family, tmp_path, one):
    model = families.model(family, "ForSequenceClassification")
    model.save_pretrained(tmp_path / "in")
    cfg, params = from_hf(tmp_path / "in", one)
    assert cfg.reward_head and "unembed" not in params
    want = their_rewards(model)
    assert np.ptp(want) > 0.1
    np.testing.assert_allclose(our_rewards(cfg, params), want, atol=1e-5 * abs(want).max() + 1e-6)
    export(tmp_path / "out", cfg, params, np.float32)
    again = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "out", attn_implementation="eager"
    )
    again.config.pad_token_id = 0  # a model without a tokenizer has none
    np.testing.assert_array_equal(their_rewards(again), want)


def test_a_language_model_becomes_a_reward_model_that_rewards_nothing_yet(tmp_path, one):
    families.model("llama 3").save_pretrained(tmp_path)
    cfg, params = from_hf(tmp_path, one, reward_head=True)
    np.testing.assert_array_equal(our_rewards(cfg, params), 0.0)
    language_cfg, language = from_hf(tmp_path, one)
    assert cfg != language_cfg
    jax.tree.map(np.testing.assert_array_equal, params["layers"], language["layers"])
    # The head learns from the first step: its gradient is the hidden state, whatever it holds.
    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    mask = np.tril(np.ones((1, TOKENS.shape[1], TOKENS.shape[1]), bool))
    last = hidden(cfg, params, TOKENS, np.asarray(positions), mask)[:, -1]
    grads = jax.grad(lambda p: transformer.rewards(p, last).sum())(params)
    np.testing.assert_allclose(grads["reward_head"]["kernel"][:, 0], last.sum(0), rtol=1e-5)
