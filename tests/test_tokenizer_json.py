"""Tokenizers of Hugging Face directories, against transformers' own reading of the same files."""

import json

import pytest

from r1jax.tokenizers.chat_templates import render
from r1jax.tokenizers.load import load_tokenizer
from support.byte_pairs import TEXT, write_tokenizer
from support.families import transformers

CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m.role + '\\n' + m.content | trim + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)
TALK = [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": "1+1?"}]


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return load_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer"), generation={"eos_token_id": [4, 3]}))


@pytest.mark.parametrize("text", TEXT)
def test_a_text_survives_and_has_the_tokens_of_transformers(pieces, tmp_path, text):
    pieces.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = pieces.encode(text)
    assert ids == theirs(text)["input_ids"]
    assert pieces.decode(ids) == text == theirs.decode(ids, skip_special_tokens=True)


def test_control_tokens_and_ids_beyond_the_vocabulary_leave_no_text(pieces):
    ids = pieces.encode("yes!")
    # Models pad their vocabulary: a policy can sample ids that the tokenizer has never heard of.
    assert pieces.decode([3, *ids, 4, 0, pieces.vocab_size, 10**6]) == "yes!"


def test_the_text_begins_as_the_model_was_trained_to_read_it(tmp_path):
    starting = load_tokenizer(write_tokenizer(tmp_path, starts=True))
    assert starting.encode("42")[0] == 1
    assert starting.encode("42", start=False) == starting.encode("42")[1:]
    assert starting.decode(starting.encode("42")) == "42"


def test_every_stop_that_the_files_name_ends_a_completion(pieces, tmp_path):
    # <|im_end|> is 3, of the tokenizer; <eos> is 4, of the generation config.
    assert pieces.eos_id == 3 and set(pieces.stop_ids) == {3, 4}
    assert load_tokenizer(write_tokenizer(tmp_path)).stop_ids == (3,)
    (tmp_path / "config.json").write_text(json.dumps({"eos_token_id": 4}))
    assert load_tokenizer(tmp_path).stop_ids == (3, 4)


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path):
    bare = load_tokenizer(write_tokenizer(tmp_path, pad=None))
    assert bare.pad_id == bare.eos_id == 3


def test_saved_files_are_the_same_files(pieces, tmp_path):
    pieces.save(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.stop_ids == pieces.stop_ids
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": [4, 3]}


@pytest.mark.parametrize("place", ["config", "file"])
def test_a_chat_has_the_tokens_of_transformers(tmp_path, place):
    write_tokenizer(tmp_path, starts=True, **({"chat_template": CHATML} if place == "config" else {}))
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(CHATML)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = theirs.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert render(CHATML, TALK) == text
    assert load_tokenizer(tmp_path).chat(TALK) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''.__class__ }}{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% for m in messages %}{{ m.update({'role': 'x'}) }}{% endfor %}",
        "{{ raise_exception('roles must alternate') }}",
        "{% if %}",
        "{{ 1 / 0 }}",
        "{{ range(10**9) | list }}",
    ],
)
def test_a_template_that_reaches_out_or_breaks_is_an_error_of_the_user(template):
    with pytest.raises(ValueError, match="chat template"):
        render(template, TALK)


def test_a_base_model_without_a_template_takes_no_chat(pieces):
    with pytest.raises(ValueError, match="no chat template"):
        pieces.chat(TALK)


@pytest.mark.parametrize("damage", ["missing", "cut", "nonsense", "no end"])
def test_a_tokenizer_that_cannot_be_read_is_an_error_that_names_the_directory(tmp_path, damage):
    write_tokenizer(tmp_path, **({"eos_token": None} if damage == "no end" else {}))
    path = tmp_path / "tokenizer.json"
    content = path.read_text()
    path.unlink()
    if damage != "missing":
        path.write_text({"cut": content[: len(content) // 2], "nonsense": "{}", "no end": content}[damage])
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_tokenizer(tmp_path)
