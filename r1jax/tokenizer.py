"""Tokenizers behind one small protocol."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import sentencepiece

SPACE = "\u2581"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")


class Tokenizer(Protocol):
    """What the walks need of a tokenizer. `decode(encode(text)) == text` for every text."""

    vocab_size: int
    pad_id: int
    eos_id: int

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...


class SentencePiece:
    """A SentencePiece model, kept as the bytes of its `.model` file."""

    def __init__(self, model: bytes):
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.vocab_size()
        self.pad_id = self._processor.pad_id()
        self.eos_id = self._processor.eos_id()
        # SentencePiece writes a space as ▁, so a ▁ of the text itself goes in as its bytes.
        self._bar = self._processor.piece_to_id([f"<0x{byte:02X}>" for byte in SPACE.encode()])

    @classmethod
    def load(cls, path: str | Path) -> SentencePiece:
        return cls(Path(path).read_bytes())

    def encode(self, text: str) -> list[int]:
        parts = self._processor.encode(text.split(SPACE))
        return functools.reduce(lambda left, right: left + self._bar + right, parts)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; control tokens are dropped, a cut multi-byte character becomes U+FFFD."""
        return self._processor.decode([int(i) for i in ids])

    def piece(self, token: int) -> str:
        return self._processor.id_to_piece(int(token))


class Bytes:
    """UTF-8 bytes as tokens 3..258: no training, no file, exact on every text."""

    vocab_size, pad_id, eos_id = 259, 0, 1

    def encode(self, text: str) -> list[int]:
        return [b + 3 for b in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(i) - 3 for i in ids if i >= 3).decode(errors="replace")


def train(texts: Iterable[str], vocab_size: int) -> SentencePiece:
    """A BPE tokenizer with an exact round trip: bytes as fallback, digits split, tags whole, no piece across a space.

    Training is deterministic. The four tags are single pieces; spaces, newlines and runs of them survive.
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
