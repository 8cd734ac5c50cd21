"""Two pretrained models from GGUF files of the package registry, against transformers' own reading of the same files.

Left out, by name, where the packages are not installed: README, "A real model", says how to install them.
"""

import copy
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from r1jax import weights
from r1jax.model import transformer
from r1jax.model.attention import attend_full, causal
from r1jax.recipes import RunOptions
from r1jax.runs.policies import load_policy
from r1jax.sampling import sampler
from r1jax.sampling.keys import row_keys
from r1jax.sharding import make_mesh
from r1jax.weights import bundled
from support import slow_bpe
from support.families import torch, transformers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
gguf = pytest.importorskip("gguf", reason="GGUF files want the extra 'gguf'")
TEXTS = [
    "The capital of France is Paris, and the capital of Italy is",
    "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return",
    "Natalia sold 48 clips in April, and half as many in May. Altogether she sold 48 + 24 =",
    "1 + 1 = 2\n2 + 2 = 4\n4 + 4 =",
    "Der Himmel ist blau, weil",
    "Once upon a time, in a small village by the sea, there lived",
    "SELECT name FROM users WHERE age >",
    "<think> 12 * 12 is 144 </think> <answer>",
    "Q: What is 7 times 8?\nA:",
    "«Bonjour», dit-il. «Comment",
]
TEXTS += [f"{text} {text.upper()}" for text in TEXTS]


@pytest.fixture(scope="module", params=["smollm2", "gemma3-270m"])
def name(request):
    try:
        bundled.packaged_file(request.param)
    except ValueError as error:
        pytest.skip(str(error))
    return request.param


@pytest.fixture(scope="module")
def ours(name):
    return load_policy(RunOptions(model=name), make_mesh("1x1"))[:2]


@pytest.fixture(scope="module")
def theirs(name):
    path = bundled.packaged_file(name)
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def metadata(name):
    reader = gguf.GGUFReader(bundled.packaged_file(name))
    return {key: field.contents() for key, field in reader.fields.items()}


def test_every_tensor_is_that_of_transformers(ours, theirs):
    policy, params = ours
    state = theirs.state_dict()
    mine = weights.to_hf(policy.cfg, params, np.float32)
    assert mine.keys() == state.keys() - {"lm_head.weight"}
    for key, tensor in mine.items():
        np.testing.assert_array_equal(tensor, state[key].numpy(), err_msg=key)


def test_logits_are_those_in_float64(ours, theirs):
    policy, params = ours
    exact = copy.deepcopy(theirs).double()
    forward = jax.jit(lambda p, t: logits(policy.cfg, p, t))
    for text in TEXTS:
        tokens = np.asarray([policy.tokenizer.encode(text)])
        padded = np.pad(tokens, ((0, 0), (0, -tokens.shape[1] % 64)))
        with torch.no_grad():
            want = exact(torch.from_numpy(tokens)).logits.numpy()
        got = np.asarray(forward(params, jnp.asarray(padded)))[:, : tokens.shape[1]]
        assert abs(got - want).max() <= 1e-4 * abs(want).max(), text


def logits(cfg, params, tokens):
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    hidden = transformer.forward(cfg, params, tokens, positions, attend_full(causal(tokens.shape[1])))[0]
    return transformer.logits(cfg, params, hidden)


def strings() -> list[str]:
    rng = random.Random(0)
    letters = "aebcdxyzTHQ 0123456789  .,;:!?()[]{}<>=+-*/\\'\"_#\n\téüßñ中文日本語한국🙂€½∑ѣ"
    made = ["".join(rng.choices(letters, k=rng.randrange(1, 60))) for _ in range(300)]
    words = " ".join(TEXTS).split(" ")
    made += [" ".join(rng.choices(words, k=rng.randrange(1, 25))) for _ in range(180)]
    return [*made, *TEXTS]


def test_five_hundred_strings_have_the_tokens_of_the_definition(name, ours, metadata):
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"]
    if name == "smollm2":
        vocab = {token: i for i, token in enumerate(tokens)}
        special = [token for token, of in zip(tokens, types, strict=True) if of == 3]
        merges = metadata["tokenizer.ggml.merges"]

        def encode(text):
            return slow_bpe.encode(text, vocab, merges, "smollm", special)
    else:
        import sentencepiece

        spelled = ["▁" * len(token) if token and not token.strip(" ") else token for token in tokens]
        ids = dict(unk=3, bos=2, eos=1, pad=0)
        kinds = [2 if i == 3 else of for i, of in enumerate(types)]
        scores = metadata["tokenizer.ggml.scores"]
        model = slow_bpe.sentencepiece_model(spelled, scores, kinds, **ids)
        encode = sentencepiece.SentencePieceProcessor(model_proto=model).encode
    every = strings()
    assert len(every) == 500
    wrong = [text for text in every if ours[0].tokenizer.encode(text, start=False) != encode(text)]
    assert not wrong, f"{len(wrong)} of 500, such as {wrong[0]!r}"
    for text in every:
        assert ours[0].tokenizer.decode(ours[0].tokenizer.encode(text)) == text


def test_a_conversation_is_that_of_transformers(name, ours):
    path = bundled.packaged_file(name)
    reference = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if name != "smollm2":
        assert not reference.chat_template and not ours[0].tokenizer.chat_template
        return
    for talk in (
        [{"role": "user", "content": "Hi! What is 7 x 8?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
    ):
        text = reference.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
        assert ours[0].tokenizer.chat(talk) == ours[0].tokenizer.encode(text, start=False)
        assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_start|>assistant\n")


def greedy(policy, params, texts):
    mesh = make_mesh("1x1")
    asked = [policy.tokenizer.encode(text) for text in texts]
    keys = row_keys(0, 0, np.arange(len(asked)), np.zeros(len(asked), int))
    how = sampler.Sampling(max_tokens=64, temperature=0.0, stop_ids=policy.tokenizer.stop_ids)
    rollout = sampler.sample(policy.cfg, sampler.sync(params, mesh), asked, keys, mesh, how)
    return asked, [row[:n].tolist() for row, n in zip(rollout.tokens, rollout.lengths, strict=True)]


def generate(model, policy, asked):
    """Greedy tokens of transformers."""
    found = []
    for ids in asked:
        out = model.generate(
            torch.tensor([ids]), max_new_tokens=64, do_sample=False, eos_token_id=list(policy.tokenizer.stop_ids)
        )
        found.append(out[0, len(ids) :].tolist())
    return found


def test_sixty_four_greedy_tokens_and_an_export_are_those_of_transformers(name, ours, theirs, tmp_path):
    policy, params = ours
    asked, mine = greedy(policy, params, TEXTS[:3])
    assert mine == generate(theirs, policy, asked)
    weights.export(tmp_path / "out", policy.cfg, params, np.float32, tokenizer=policy.tokenizer)
    back = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    for key, tensor in back.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), theirs.state_dict()[key].numpy(), err_msg=key)
    assert generate(back, policy, asked[:1]) == mine[:1]
    reread = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        assert reread(text)["input_ids"] == policy.tokenizer.encode(text)
