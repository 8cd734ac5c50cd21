"""Hugging Face directories that are odd, large or damaged. Parity with transformers is in test_families."""

import dataclasses
import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from r1jax.model.config import ModelConfig
from r1jax.nano import corpus
from r1jax.sharding import param_specs
from r1jax.tokenizers.sentencepiece import SentencePiece
from r1jax.weights import bundled, config_from_hf, export, from_hf, to_hf
from support import families
from support.families import SIZES, TOKENS, torch, transformers
from support.tiny import dense_logp, laid, sharp


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory):
    """A dense directory, for damage."""
    directory = tmp_path_factory.mktemp("qwen3")
    families.model("qwen3").save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory):
    """A DeepSeek-V3 directory: latents, a dense layer, experts, a router's bias."""
    directory = tmp_path_factory.mktemp("deepseek")
    families.model("deepseek v3").save_pretrained(directory)
    return directory


def copied(directory, to, *, config=None, tensors=None):
    """The checkpoint with another config or other tensors."""
    whole = json.loads((directory / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(whole if config is None else config(whole)))
    held = load_file(directory / "model.safetensors")
    save_file(held if tensors is None else tensors(held), to / "model.safetensors", metadata={"format": "pt"})
    return to


@pytest.mark.parametrize("family", ["qwen3", "deepseek"])
def test_weights_come_onto_the_mesh_in_their_places(family, request, eight, one):
    directory = request.getfixturevalue(family)
    _, params = from_hf(directory, eight)
    for (path, x), spec in zip(
        jax.tree_util.tree_leaves_with_path(params),
        jax.tree.leaves(param_specs(params, eight), is_leaf=lambda x: isinstance(x, jax.sharding.PartitionSpec)),
        strict=True,
    ):
        trimmed = tuple(spec)[: max((i + 1 for i, axis in enumerate(spec) if axis), default=0)]
        assert laid(x) == trimmed, jax.tree_util.keystr(path)
    for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(from_hf(directory, one)[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_nano_shape_written_by_us_is_a_qwen3_that_transformers_reads(cfg, tmp_path):
    params = sharp(cfg, seed=4)
    export(tmp_path, cfg, params, np.float32)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    logits = families.logits(model).astype(np.float64)
    want = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    np.testing.assert_allclose(dense_logp(cfg, params, TOKENS), want, atol=3e-5)


@pytest.mark.parametrize("name", ["nano", "nano-small"])
def test_the_shipped_bases_have_the_logits_of_transformers(name, one):
    directory = bundled.directory(name)
    pieces, (cfg, params) = SentencePiece.load(directory / bundled.TOKENIZER), from_hf(directory, one)
    texts = [token for i in range(20) for token in pieces.encode(corpus.document(7, i))]
    tokens = np.asarray(texts[:256]).reshape(2, 128)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float64, attn_implementation="eager"
    )
    logits = families.logits(model, tokens)
    want = logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)
    # Trained logits reach 22, of which float32 has no more than seven digits.
    np.testing.assert_allclose(dense_logp(cfg, params, tokens), want, rtol=0, atol=1e-5 * np.abs(logits).max())


def test_a_directory_that_holds_a_checkpoint_is_not_written_over(cfg, params, tmp_path):
    export(tmp_path, cfg, params, np.float32)
    with pytest.raises(ValueError, match="holds a checkpoint already"):
        export(tmp_path, cfg, params, np.float32)


@pytest.mark.parametrize("name", ["Llama", "Qwen2", "Qwen3", "Mistral", "Gemma2", "Gemma3"])
def test_keys_that_a_config_leaves_out_have_the_defaults_of_transformers(name):
    needed = dict(SIZES, architectures=[f"{name}ForCausalLM"])
    del needed["max_position_embeddings"]
    default = getattr(transformers, "Gemma3TextConfig" if name == "Gemma3" else f"{name}Config")(**SIZES)
    written = config_from_hf(default.to_dict() | {"architectures": [f"{name}ForCausalLM"]})
    assert dataclasses.replace(config_from_hf(needed), max_positions=128) == written


def test_shapes_survive_json(deepseek, one):
    cfg, _ = from_hf(deepseek, one)
    assert ModelConfig.from_dict(json.loads(json.dumps(cfg.as_dict()))) == cfg


def test_fp8_blocks_are_multiplied_out_on_load(deepseek, tmp_path, one):
    """Blocks of 8 x 8 over matrices that they do not divide: the last ones are cut."""
    scales = np.random.default_rng(0)
    want = {}

    def quantised(held):
        out = {}
        for name, x in held.items():
            if not name.endswith("proj.weight"):
                out[name] = want[name] = x
                continue
            small = x.astype(ml_dtypes.float8_e4m3fn)
            rows, columns = (-(-n // 8) for n in x.shape)
            scale = scales.uniform(0.5, 2, (rows, columns)).astype(np.float32)
            want[name] = (
                small.astype(np.float32) * np.kron(scale, np.ones((8, 8), np.float32))[: x.shape[0], : x.shape[1]]
            )
            out |= {name: small, name + "_scale_inv": scale}
        return out

    quantisation = {"quant_method": "fp8", "weight_block_size": [8, 8], "fmt": "e4m3", "activation_scheme": "dynamic"}
    held = quantised(load_file(deepseek / "model.safetensors"))
    assert any("experts.0" in name and name.endswith("_scale_inv") for name in held)
    config = json.loads((deepseek / "config.json").read_text()) | {"quantization_config": quantisation}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_as_torch(held, tmp_path / "model.safetensors")
    cfg, params = from_hf(tmp_path, one)
    ours = to_hf(cfg, params, np.float32)
    assert ours.keys() == want.keys()
    for name, x in want.items():
        np.testing.assert_array_equal(ours[name], x, err_msg=name)


def save_as_torch(held, path):
    """safetensors' NumPy half does not know fp8."""
    from safetensors.torch import save_file as save

    def tensor(x):
        return (
            torch.from_numpy(x.view(np.uint8)).view(torch.float8_e4m3fn)
            if x.dtype == ml_dtypes.float8_e4m3fn
            else torch.from_numpy(x)
        )

    save({name: tensor(np.ascontiguousarray(x)) for name, x in held.items()}, path)


def test_the_multi_token_prediction_layer_comes_in_and_goes_out_again(deepseek, tmp_path, one):
    """As DeepSeek-V3 stores it: one more layer with its own norms, a projection, and copies of embedding and head."""
    rng = np.random.default_rng(1)
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()

    def with_mtp(held):
        last, new = "model.layers.2.", "model.layers.3."
        extra = {
            new + k.removeprefix(last): rng.standard_normal(x.shape).astype(np.float32)
            for k, x in held.items()
            if k.startswith(last)
        }
        vectors = {
            new + k: rng.standard_normal(24).astype(np.float32)
            for k in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight")
        }
        copies = {
            new + "embed_tokens.weight": held["model.embed_tokens.weight"],
            new + "shared_head.head.weight": held["lm_head.weight"],
        }
        return (
            held | extra | vectors | copies | {new + "eh_proj.weight": rng.standard_normal((24, 48)).astype(np.float32)}
        )

    copied(deepseek, source, config=lambda c: c | {"num_nextn_predict_layers": 1}, tensors=with_mtp)
    cfg, params = from_hf(source, one)
    assert cfg.mtp_layers == 1
    export(target, cfg, params, np.float32)
    want, got = load_file(source / "model.safetensors"), load_file(target / "model.safetensors")
    assert got.keys() == want.keys()
    for name, x in want.items():
        np.testing.assert_array_equal(got[name], x, err_msg=name)
    # It is carried, not run: the logits are those of the model without it.
    plain_cfg, plain = from_hf(deepseek, one)
    np.testing.assert_array_equal(dense_logp(cfg, params, TOKENS), dense_logp(plain_cfg, plain, TOKENS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"architectures": ["Gemma3ForConditionalGeneration"]}, "Gemma3ForConditionalGeneration"),
        ({"architectures": None, "model_type": "mamba"}, "mamba"),
        ({"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}}, "longrope"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"hidden_size": ...}, "hidden_size"),
        ({"num_key_value_heads": 3}, "kv_heads=3"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
    ],
)
def test_a_network_that_is_not_ours_is_refused_by_name(qwen3, tmp_path, one, change, message):
    def changed(config):
        return {k: v for k, v in (config | change).items() if v is not ...}

    with pytest.raises(ValueError, match=rf"--weights={tmp_path}.*{message}"):
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
    with pytest.raises(ValueError, match=r"o_proj.bias is not a tensor of the model"):
        from_hf(copied(qwen3, tmp_path, tensors=lambda held: held | extra), one)


@pytest.fixture
def sharded(qwen3, tmp_path):
    """The directory in several files with their index."""
    model = transformers.AutoModelForCausalLM.from_pretrained(qwen3)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    return tmp_path


def test_a_missing_shard_is_named(sharded, one):
    sorted(sharded.glob("*.safetensors"))[1].unlink()
    with pytest.raises(ValueError, match=r"the shard model-00002-of-.* is missing"):
        from_hf(sharded, one)


def test_an_index_that_places_a_tensor_wrongly_is_named(sharded, one):
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.embed_tokens.bias"] = "model-00001-of-00099.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model-00001-of-00099\.safetensors is missing"):
        from_hf(sharded, one)


def test_files_besides_the_index_are_left_alone(sharded, qwen3, one):
    """Mistral's directories hold a consolidated.safetensors with the same weights under other names."""
    save_file({"tok_embeddings.weight": np.ones(3, np.float32)}, sharded / "consolidated.safetensors")
    jax.tree.map(np.testing.assert_array_equal, from_hf(sharded, one)[1], from_hf(qwen3, one)[1])


@pytest.mark.parametrize("left", [0, 4, 200, -1000])
def test_a_file_cut_short_is_an_error_that_names_the_directory(qwen3, tmp_path, one, left):
    path = copied(qwen3, tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match=f"--weights={tmp_path}.*cut short"):
        from_hf(tmp_path, one)


@pytest.mark.parametrize("text", [None, "{"])
def test_a_config_that_cannot_be_read_is_an_error_that_names_the_directory(qwen3, tmp_path, one, text):
    copied(qwen3, tmp_path)
    (tmp_path / "config.json").unlink() if text is None else (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"--weights={tmp_path}"):
        from_hf(tmp_path, one)
