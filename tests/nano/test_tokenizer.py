"""The SentencePiece tokenizer: an exact round trip, pieces that arithmetic can use, and the one that ships."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from r1jax.nano import corpus
from r1jax.prompts import R1_ZERO
from r1jax.runs.hashing import file_sha256
from r1jax.tokenizers.sentencepiece import TAGS, SentencePiece, train_tokenizer
from r1jax.weights import bundled

SPACE = "\u2581"  # how SentencePiece writes a space


@pytest.fixture(scope="module")
def small():
    return train_tokenizer((corpus.document(1, i) for i in range(1000)), 640)


@pytest.fixture(scope="module", params=["nano", "nano-small"])
def shipped(request):
    return bundled.DIRECTORY / request.param


@pytest.fixture(scope="module", params=["trained here", "shipped"])
def pieces(request):
    if request.param == "trained here":
        return request.getfixturevalue("small")
    return SentencePiece.load(bundled.directory("nano") / bundled.TOKENIZER)


# A module's tokenizer does not change between examples.
@settings(max_examples=300, deadline=None)
@given(
    text=st.text()
    | st.text(alphabet=" \n\t<>/0123456789thinkanswer等试")
    | st.lists(st.sampled_from([*TAGS, " ", "1", "\n", "等等"])).map("".join)
)
@example(text="")
@example(text="  two  spaces,\n\n a tab\t and a trailing space ")
@example(text="\u2581 is how SentencePiece writes a space, \ufffd how a broken character is shown")
@example(text="<unk> <s> </s> <pad> <0x41> are texts, not tokens")
@example(text="\x00\x7f\u200b\ufeff\r\n 𓀀 👩‍👩‍👧 é e\u0301 ﬁ ① Ａ")
def test_any_text_comes_back_as_it_was(pieces, text):
    assert pieces.decode(pieces.encode(text)) == text


def test_documents_come_back_as_they_were(pieces):
    documents = [corpus.document(5, i) for i in range(300)]
    # Every wrapper and kind is among them.
    signs = (R1_ZERO[:40], "<｜Assistant｜>", "\\boxed{", "```python", "reflect and verify", "Translated:", "Solution:")
    for sign in (*signs, "\nUser: "):
        assert any(sign in text for text in documents), sign
    for text in documents:
        assert pieces.decode(pieces.encode(text)) == text


def test_each_digit_is_a_piece_of_its_own(pieces):
    written = [pieces.piece(i) for i in pieces.encode("12345+678*90")]
    assert [piece for piece in written if any(c.isdigit() for c in piece)] == list("1234567890")
    for i in range(pieces.vocab_size):
        piece = pieces.piece(i)
        digits = [c for c in piece if c.isdecimal()]
        assert len(piece) == 1 or not digits or piece.startswith("<0x") or piece == f"{SPACE}{digits[0]}", piece


def test_each_tag_is_one_piece_wherever_it_stands(pieces):
    for tag in TAGS:
        assert [pieces.piece(i) for i in pieces.encode(tag)] == [tag]
        for around in (" {} ", "x{}x", "\n{}\n", "1{}1", "等{}等", "<{}>"):
            assert [pieces.piece(i) for i in pieces.encode(around.format(tag))].count(tag) == 1


def test_no_piece_spans_a_space(pieces):
    """A space opens a piece or stands in a run of spaces; a newline is in no piece with other characters."""
    for i in range(pieces.vocab_size):
        piece = pieces.piece(i)
        assert SPACE not in piece[1:] or set(piece) == {SPACE}, piece
        assert " " not in piece


def test_a_character_never_seen_falls_back_to_its_bytes(pieces):
    text = "𓀀"  # an Egyptian hieroglyph
    assert [pieces.piece(i) for i in pieces.encode(text)] == [f"<0x{b:02X}>" for b in text.encode()]


def test_a_cut_character_is_shown_as_broken_and_control_tokens_as_nothing(pieces):
    assert pieces.decode(pieces.encode("𓀀")[:2]).strip("\ufffd") == ""
    assert pieces.decode([*pieces.encode("so 7"), pieces.eos_id, pieces.pad_id]) == "so 7"
    assert len({pieces.eos_id, pieces.pad_id, *pieces.encode("<think>")}) == 3


def test_training_is_deterministic(small):
    again = train_tokenizer((corpus.document(1, i) for i in range(1000)), 640)
    assert again.model == small.model


def test_the_shipped_files_are_those_of_the_card(shipped):
    card = json.loads((shipped / "card.json").read_text())
    names = {path.name for path in shipped.iterdir() if path.name != "card.json"}
    assert names == card["sha256"].keys() >= {"model.safetensors", "config.json", bundled.TOKENIZER}
    assert {name: file_sha256(shipped / name) for name in names} == card["sha256"]
    assert card.keys() >= {"recipe", "seed", "scores", "phenomena", "versions", "parameters"}


def test_the_shipped_config_and_tokenizer_agree(shipped):
    config = json.loads((shipped / "config.json").read_text())
    tokenizer = SentencePiece.load(shipped / bundled.TOKENIZER)
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["vocab_size"] == tokenizer.vocab_size
    assert (config["eos_token_id"], config["pad_token_id"]) == (tokenizer.eos_id, tokenizer.pad_id)
    # With a question and an answer the template fits the default recipe's rows of 512 slots.
    assert len(tokenizer.encode(R1_ZERO)) <= 230


def test_both_bases_have_one_tokenizer():
    small, large = (bundled.DIRECTORY / name / bundled.TOKENIZER for name in ("nano-small", "nano"))
    assert small.read_bytes() == large.read_bytes()


def test_all_shipped_bases_together_stay_within_8_megabytes():
    assert sum(path.stat().st_size for path in bundled.DIRECTORY.rglob("*") if path.is_file()) <= 8_000_000
