"""Every family against transformers itself, on random tiny models: logits, greedy decoding, routing, files."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from r1jax.model import transformer
from r1jax.model.attention import attend_full, causal
from r1jax.sampling import sampler
from r1jax.sampling.keys import row_keys
from r1jax.weights import export, from_hf, read_config
from support import families
from support.families import FAMILIES, TOKENS, torch, transformers
from support.tiny import hidden

STEPS = 64
NEVER = (10**6,)


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory, one):
    """(their model, the directory it wrote, our config, our parameters) of each family."""
    model = families.model(request.param)
    directory = tmp_path_factory.mktemp("hf")
    model.save_pretrained(directory)
    return model, directory, *from_hf(directory, one)


def our_logits(cfg, params, tokens=TOKENS):
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    mask = np.tril(np.ones((1, tokens.shape[1], tokens.shape[1]), bool))
    return np.asarray(transformer.logits(cfg, params, hidden(cfg, params, tokens, positions, mask)))


def test_the_logits_are_those_of_transformers(saved):
    model, _, cfg, params = saved
    want = families.logits(model)
    assert np.ptp(want) > 1  # a model of flat logits would agree with anything
    assert abs(our_logits(cfg, params) - want).max() <= 1e-5 * abs(want).max()


def test_greedy_decoding_is_that_of_transformers_and_reports_its_logprobs(saved, one):
    model, _, cfg, params = saved
    with torch.no_grad():
        model.generation_config.eos_token_id = None
        want = model.generate(torch.from_numpy(TOKENS), max_new_tokens=STEPS, do_sample=False, pad_token_id=0).numpy()
    rollout = sampler.sample(
        cfg,
        sampler.sync(params, one),
        TOKENS.tolist(),
        row_keys(0, 0, [0, 1], [0, 0]),
        one,
        sampler.Sampling(STEPS, temperature=0.0, stop_ids=NEVER),
    )
    np.testing.assert_array_equal(rollout.tokens, want[:, TOKENS.shape[1] :])
    logits = families.logits(model, want).astype(np.float64)[:, TOKENS.shape[1] - 1 : -1]
    logp = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    chosen = np.take_along_axis(logp, rollout.tokens[..., None].astype(int), axis=-1)[..., 0]
    np.testing.assert_allclose(rollout.logp, chosen, atol=2e-5)


@pytest.mark.parametrize("family", ["qwen3 moe", "deepseek v2", "deepseek v2, groups", "deepseek v3"])
def test_every_token_visits_the_experts_that_transformers_sends_it_to(family, tmp_path, one):
    model = families.model(family)
    model.save_pretrained(tmp_path)
    cfg, params = from_hf(tmp_path, one)
    theirs = []
    for layer in model.model.layers[cfg.experts.dense_layers :]:
        layer.mlp.gate.register_forward_hook(lambda _module, _inputs, out: theirs.append(out[2].numpy()))
    families.logits(model)
    positions = jnp.broadcast_to(jnp.arange(TOKENS.shape[1]), TOKENS.shape)
    attend = attend_full(causal(TOKENS.shape[1]))
    routes = jax.jit(lambda params: transformer.forward(cfg, params, jnp.asarray(TOKENS), positions, attend)[2])(params)
    chosen = np.asarray(routes).reshape(len(theirs), TOKENS.size, -1)
    np.testing.assert_array_equal(np.sort(chosen), np.sort(theirs))
    assert len(np.unique(chosen)) > cfg.experts.per_token + 1  # tokens differ in whom they visit


def tensors(directory):
    return {k: v for file in directory.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_exported_model_has_their_bits_and_transformers_loads_it(saved, one, tmp_path, dtype):
    model, directory, cfg, params = saved
    number = np.float32 if dtype == "float32" else ml_dtypes.bfloat16
    # About four files: the whole is 30 to 120 kB in float32.
    export(tmp_path, cfg, params, number, shard_bytes=20_000 if dtype == "float32" else 10**9)
    assert (
        (len(list(tmp_path.glob("*.safetensors"))) > 1)
        == (dtype == "float32")
        == (tmp_path / "model.safetensors.index.json").exists()
    )
    ours, theirs = tensors(tmp_path), tensors(directory)
    assert ours.keys() == theirs.keys() - ({"lm_head.weight"} if cfg.tie_embeddings else set())
    for name, tensor in ours.items():
        exact = np.float32 if "e_score" in name else number
        np.testing.assert_array_equal(tensor, theirs[name].astype(exact), err_msg=name)
    assert read_config(tmp_path) == cfg
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert str(again.dtype) == f"torch.{dtype}"
    if dtype == "float32":
        np.testing.assert_array_equal(families.logits(again), families.logits(model))
        _, back = from_hf(tmp_path, one)
        jax.tree.map(np.testing.assert_array_equal, back, params)
    else:
        for name, p in again.state_dict().items():
            if name in ours:
                np.testing.assert_array_equal(p.float().numpy(), ours[name].astype(np.float32), err_msg=name)


def test_the_config_in_the_keys_of_transformers_four_means_the_same(saved):
    _, directory, cfg, _ = saved
    new = json.loads((directory / "config.json").read_text())
    old = {k: v for k, v in new.items() if k not in ("rope_parameters", "dtype", "layer_types")} | {
        "torch_dtype": "float32"
    }
    rope = new["rope_parameters"]
    far = rope.get("full_attention", rope)
    old["rope_theta"] = far["rope_theta"]
    if far["rope_type"] != "default":
        kind = {"rope_type": far["rope_type"]} if far["rope_type"] == "llama3" else {"type": far["rope_type"]}
        old["rope_scaling"] = {k: v for k, v in far.items() if k not in ("rope_type", "rope_theta")} | kind
    if "sliding_attention" in rope:
        old["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        old["sliding_window_pattern"] = 3
    (directory / "config.json").rename(directory / "new.json")
    try:
        (directory / "config.json").write_text(json.dumps(old))
        assert read_config(directory) == cfg
    finally:
        (directory / "new.json").rename(directory / "config.json")
