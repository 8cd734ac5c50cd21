"""Reads, writes and trains SentencePiece models."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from r1jax import storage
from r1jax.tokenizers.protocol import read_stop_ids

MODEL = "tokenizer.model"
SPACE = "\u2581"
TAGS = ("<think>", "</think>", "<answer>", "</answer>", "<｜User｜>", "<｜Assistant｜>", "\\boxed")


class SentencePiece:
    """A SentencePiece tokenizer.

    Args:
        model: the content of a `.model` file.
        stop_ids: ids of stop tokens in addition to the model's end-of-text token.
    """

    def __init__(self, model: bytes, stop_ids: Sequence[int] = ()):
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = self._processor.vocab_size()
        self.eos_id = self._processor.eos_id()
        pad = self._processor.pad_id()
        self.pad_id = pad if pad >= 0 else self.eos_id
        self.stop_ids = tuple(dict.fromkeys((self.eos_id, *stop_ids)))
        # SentencePiece writes a space as ▁, so a literal ▁ in the text is encoded as its bytes.
        self._bar = self._processor.piece_to_id([f"<0x{byte:02X}>" for byte in SPACE.encode()])

    @classmethod
    def load(cls, path: str | Path) -> SentencePiece:
        """Loads a `.model` file. Stop tokens come from the config files in the same directory: see `read_stop_ids`."""
        path = storage.path_of(path)
        return cls(path.read_bytes(), read_stop_ids(path.parent))

    def save(self, directory: Path) -> None:
        (directory / MODEL).write_bytes(self.model)

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        parts = self._processor.encode(text.split(SPACE))
        return functools.reduce(lambda left, right: left + self._bar + right, parts)

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids. Drops control tokens; a cut multi-byte character becomes U+FFFD."""
        return self._processor.decode([int(i) for i in ids if i < self.vocab_size])

    def piece(self, token: int) -> str:
        return self._processor.id_to_piece(int(token))


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> SentencePiece:
    """Trains a BPE tokenizer for which decoding an encoded text returns exactly the text.

    Unknown characters fall back to bytes, digits are split, each of `TAGS` is a single piece, and no piece crosses a
    space. Training is deterministic. Spaces and newlines, also several in a row, survive encoding and decoding.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        split_digits=True,
        user_defined_symbols=list(TAGS),
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        allow_whitespace_only_pieces=True,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
        character_coverage=1.0,
        max_sentence_length=1 << 16,
    )
    return SentencePiece(model.getvalue())
