"""Hugging Face checkpoints in and out, against transformers itself on random tiny models."""

import json
import os
import sys

import jax
import numpy as np
import pytest
from tiny import dense_logp, hidden, laid, sharp

from r1jax.sharding import param_specs
from r1jax.weights import config_from_hf, config_to_hf, from_hf, read_config, to_hf

if os.environ.get("CI") == "true" and sys.version_info[:2] == (3, 11):
    import torch
    import transformers
else:
    torch = pytest.importorskip("torch", reason="parity wants the extra 'parity'")
    transformers = pytest.importorskip("transformers", reason="parity wants the extra 'parity'")

from safetensors.numpy import load_file, save_file

SIZES = dict(
    vocab_size=67, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=128, bos_token_id=None, eos_token_id=1, pad_token_id=0,
)  # fmt: skip
FAMILIES = {
    "llama": ("Llama", dict(tie_word_embeddings=False, rms_norm_eps=1e-5)),
    "llama, tied, wide heads": ("Llama", dict(tie_word_embeddings=True, head_dim=10)),
    "qwen2": ("Qwen2", dict(tie_word_embeddings=True)),
    "qwen3": ("Qwen3", dict(tie_word_embeddings=False, head_dim=8)),
    "qwen3, tied": ("Qwen3", dict(tie_word_embeddings=True, head_dim=8)),
}
TOKENS = np.random.default_rng(0).integers(0, 67, (2, 20))


def theirs(family: str) -> "transformers.PreTrainedModel":
    """A random model in which every tensor matters: transformers' own start leaves biases at 0 and norms at 1."""
    name, extra = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**SIZES, **extra, rope_theta=5e3)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{name}ForCausalLM")(config).float().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.normal_(1.0 if "norm" in key else 0.0, 0.15, generator=generator)
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """(their model, the directory it wrote) of each family."""
    model = theirs(request.param)
    directory = tmp_path_factory.mktemp("hf")
    model.save_pretrained(directory)
    return model, directory


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """A directory of the family that has the most kinds of tensors, for damage."""
    directory = tmp_path_factory.mktemp("qwen3")
    theirs("qwen3").save_pretrained(directory)
    return directory


def copied(directory, to, *, config=None, tensors=None):
    """The checkpoint with another config or other tensors."""
    whole = json.loads((directory / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(whole if config is None else config(whole)))
    held = load_file(directory / "model.safetensors")
    save_file(held if tensors is None else tensors(held), to / "model.safetensors", metadata={"format": "pt"})
    return to


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS)).logits.numpy()


def our_logits(cfg, params) -> np.ndarray:
    positions = np.broadcast_to(np.arange(TOKENS.shape[1]), TOKENS.shape)
    mask = np.tril(np.ones((1, TOKENS.shape[1], TOKENS.shape[1]), bool))
    matrix = params["unembed"]["kernel"] if "unembed" in params else params["embed"]["embedding"].T
    return np.asarray(hidden(cfg, params, TOKENS, positions, mask)) @ np.asarray(matrix)


def test_the_logits_are_those_of_transformers(saved, one):
    model, directory = saved
    cfg, params = from_hf(directory, one)
    want = their_logits(model)
    assert np.ptp(want) > 1  # a model of flat logits would agree with anything
    np.testing.assert_allclose(our_logits(cfg, params), want, atol=1e-5)


def test_weights_written_back_are_theirs_bit_for_bit_and_transformers_loads_them(saved, one, tmp_path):
    model, directory = saved
    cfg, params = from_hf(directory, one)
    tensors = to_hf(cfg, params, np.float32)
    held = load_file(directory / "model.safetensors")
    assert tensors.keys() == held.keys()
    for name, tensor in held.items():
        np.testing.assert_array_equal(tensors[name], tensor, err_msg=name)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = config_to_hf(cfg, eos_id=1, pad_id=0, max_positions=128, dtype="float32")
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    np.testing.assert_array_equal(their_logits(again), their_logits(model))
    assert read_config(tmp_path) == cfg


def test_weights_come_onto_the_mesh_in_their_places(qwen3, eight, one):
    cfg, params = from_hf(qwen3, eight)
    for (path, x), spec in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree.leaves(param_specs(params, eight), is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)),
        strict=True,
    ):
        trimmed = tuple(spec)[: max((i + 1 for i, axis in enumerate(spec) if axis), default=0)]
        assert laid(x) == trimmed, jax.tree_util.keystr(path)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(from_hf(qwen3, one)[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_nano_shape_written_by_us_is_a_qwen3_that_transformers_reads(cfg, tmp_path):
    params = sharp(cfg, seed=4)
    save_file(to_hf(cfg, params, np.float32), tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = config_to_hf(cfg, eos_id=1, pad_id=0, max_positions=512, dtype="float32")
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        logits = model(torch.from_numpy(TOKENS)).logits.double().numpy()
    want = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    np.testing.assert_allclose(dense_logp(cfg, params, TOKENS), want, atol=3e-5)


def test_a_config_of_transformers_four_means_the_same(saved):
    _, directory = saved
    new = json.loads((directory / "config.json").read_text())
    old = {k: v for k, v in new.items() if k not in ("rope_parameters", "dtype")}
    old |= {"rope_theta": new["rope_parameters"]["rope_theta"], "rope_scaling": None, "torch_dtype": "float32"}
    assert config_from_hf(old) == config_from_hf(new)
    assert config_from_hf(new).rope_theta == 5e3


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3"])
def test_keys_that_a_config_leaves_out_have_the_defaults_of_transformers(name):
    needed = dict(SIZES, architectures=[f"{name}ForCausalLM"], rms_norm_eps=1e-6)
    del needed["max_position_embeddings"]
    default = getattr(transformers, f"{name}Config")(**SIZES)
    ours = config_from_hf(needed)
    assert ours.tie_embeddings == default.tie_word_embeddings
    assert ours.head_width == getattr(default, "head_dim", None) or 24 // 4
    assert ours.rope_theta == default.rope_parameters["rope_theta"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": None, "model_type": "mamba"}, "mamba"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "linear"),
        ({"attention_bias": True}, "attention_bias"),
        ({"use_sliding_window": True}, "sliding window"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"hidden_size": ...}, "hidden_size"),
    ],
)
def test_a_network_that_is_not_ours_is_refused_by_name(qwen3, tmp_path, one, change, message):
    def changed(config):
        return {k: v for k, v in (config | change).items() if v is not ...}

    with pytest.raises(ValueError, match=message):
        from_hf(copied(qwen3, tmp_path, config=changed), one)


def test_a_missing_tensor_is_named(qwen3, tmp_path, one):
    lost = "model.layers.1.mlp.up_proj.weight"
    broken = copied(qwen3, tmp_path, tensors=lambda held: {k: v for k, v in held.items() if k != lost})
    with pytest.raises(ValueError, match=f"{lost} is missing"):
        from_hf(broken, one)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(qwen3, tmp_path, one):
    broken = copied(qwen3, tmp_path, tensors=lambda held: held | {"model.norm.weight": np.ones(23, np.float32)})
    with pytest.raises(ValueError, match=r"model.norm.weight has shape \(23,\), config.json says \(24,\)"):
        from_hf(broken, one)


def test_a_tensor_without_a_place_is_named(qwen3, tmp_path, one):
    extra = {"model.layers.0.self_attn.o_proj.bias": np.ones(24, np.float32)}
    with pytest.raises(ValueError, match=r"o_proj.bias .* has no place"):
        from_hf(copied(qwen3, tmp_path, tensors=lambda held: held | extra), one)


@pytest.mark.parametrize("left", [4, 200, -1000])
def test_a_file_cut_short_is_an_error_that_names_the_directory(qwen3, tmp_path, one, left):
    path = copied(qwen3, tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"--weights={tmp_path}"):
        from_hf(tmp_path, one)


@pytest.mark.parametrize("text", [None, "{"])
def test_a_config_that_cannot_be_read_is_an_error_that_names_the_directory(qwen3, tmp_path, one, text):
    copied(qwen3, tmp_path)
    (tmp_path / "config.json").unlink() if text is None else (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"--weights={tmp_path}"):
        from_hf(tmp_path, one)
