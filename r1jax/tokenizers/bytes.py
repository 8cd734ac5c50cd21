"""Defines a tokenizer whose tokens are UTF-8 bytes, without training or files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class Bytes:
    """A tokenizer without training or files: token id b + 3 is the UTF-8 byte b; 0 is padding, 1 ends a text.

    Decoding an encoded text returns exactly this text.
    """

    vocab_size, pad_id, eos_id, stop_ids = 259, 0, 1, (1,)

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        return [b + 3 for b in text.encode()]

    def save(self, directory: Path) -> None:
        """Writes nothing: this tokenizer has no state."""

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(int(i) - 3 for i in ids if 3 <= i < self.vocab_size).decode(errors="replace")
