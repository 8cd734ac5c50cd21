"""Tokenizers behind one small protocol."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

MODEL = "tokenizer.model"
SPACE = "\u2581"
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<｜User｜>", "<｜Assistant｜>", "\\boxed")


class Tokenizer(Protocol):
    """What the walks need of a tokenizer. `decode(encode(text)) == text` for every text.

    Attributes:
        pad_id: fills the end of rows; it may equal eos_id, for masks come from lengths.
        eos_id: ends a text that is trained on.
        stop_ids: end a completion that is sampled; eos_id is one of them.
    """

    vocab_size: int
    pad_id: int
    eos_id: int
    stop_ids: tuple[int, ...]

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        """Token ids; with the token that begins a text, if the model was trained with one, unless `start` is False."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; control tokens and ids beyond the vocabulary are dropped."""
        ...

    def save(self, directory: Path) -> None:
        """Writes the files that `load` reads."""
        ...


def load(directory: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face directory or of a run: its tokenizer.json, else its SentencePiece model.

    Raises:
        ValueError: neither is there, or it cannot be read.
    """
    if (directory / "tokenizer.json").exists():
        from r1jax.tokenizer_json import TokenizerJson

        return TokenizerJson.load(directory)
    try:
        return SentencePiece.load(directory / MODEL)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{directory} has no tokenizer.json, and its {MODEL} cannot be read ({error})") from error


def asked_stops(directory: Path) -> tuple[int, ...]:
    """The ids that end a text by a directory's generation_config.json, else by its config.json; () where neither says.

    Raises:
        ValueError: the file is no JSON object.
    """
    for name in ("generation_config.json", "config.json"):
        if (directory / name).exists():
            try:
                asked = json.loads((directory / name).read_text(encoding="utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{directory / name} cannot be read ({error})") from error
            if asked is not None:
                return tuple(asked) if isinstance(asked, list) else (asked,)
    return ()


class SentencePiece:
    """A SentencePiece model, kept as the bytes of its `.model` file.

    Args:
        stop_ids: besides the model's own end of text.
    """

    def __init__(self, model: bytes, stop_ids: Sequence[int] = ()):
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.vocab_size()
        self.eos_id = self._processor.eos_id()
        pad = self._processor.pad_id()
        self.pad_id = pad if pad >= 0 else self.eos_id
        self.stop_ids = tuple(dict.fromkeys((self.eos_id, *stop_ids)))
        # SentencePiece writes a space as ▁, so a ▁ of the text itself goes in as its bytes.
        self._bar = self._processor.piece_to_id([f"<0x{byte:02X}>" for byte in SPACE.encode()])

    @classmethod
    def load(cls, path: str | Path) -> SentencePiece:
        path = Path(path)
        return cls(path.read_bytes(), asked_stops(path.parent))

    def save(self, directory: Path) -> None:
        (directory / MODEL).write_bytes(self.model)

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        parts = self._processor.encode(text.split(SPACE))
        return functools.reduce(lambda left, right: left + self._bar + right, parts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; control tokens are dropped, a cut multi-byte character becomes U+FFFD."""
        return self._processor.decode([int(i) for i in ids if i < self.vocab_size])

    def piece(self, token: int) -> str:
        return self._processor.id_to_piece(int(token))


class Bytes:
    """UTF-8 bytes as tokens 3..258: no training, no file, exact on every text."""

    vocab_size, pad_id, eos_id, stop_ids = 259, 0, 1, (1,)

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        return [b + 3 for b in text.encode()]

    def save(self, directory: Path) -> None:
        """Nothing: there is nothing to know."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(i) - 3 for i in ids if 3 <= i < self.vocab_size).decode(errors="replace")


def train(texts: Iterable[str], vocab_size: int) -> SentencePiece:
    """A BPE tokenizer with an exact round trip: bytes as fallback, digits split, tags whole, no piece across a space.

    Training is deterministic. The tags are single pieces; spaces, newlines and runs of them survive.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=vocab_size,
        byte_fallback=True, split_digits=True, user_defined_symbols=list(TAGS), normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=False, allow_whitespace_only_pieces=True,
        hard_vocab_limit=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, num_threads=1, minloglevel=2,
        character_coverage=1.0, max_sentence_length=1 << 16,
    )  # fmt: skip
    return SentencePiece(model.getvalue())
