"""Defines the interface of tokenizers, and reads stop tokens from Hugging Face directories."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """The interface that sampling and training need from a tokenizer. `decode(encode(text)) == text` for every text.

    Attributes:
        vocab_size: number of tokens.
        pad_id: id of the token that fills the end of rows. It may equal eos_id, because masks are computed
            from lengths, not from this id.
        eos_id: id of the token that ends a text in training.
        stop_ids: ids of the tokens that end a completion in sampling. They include eos_id.
    """

    vocab_size: int
    pad_id: int
    eos_id: int
    stop_ids: tuple[int, ...]

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        """Returns the token ids of a text.

        Args:
            start: whether to put the beginning-of-text token first, if the model was trained with one.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids. Drops control tokens, and ids that are not in the vocabulary."""
        ...

    def save(self, directory: Path) -> None:
        """Writes the files from which `load_tokenizer` makes this tokenizer again."""
        ...


def read_stop_ids(directory: Path) -> tuple[int, ...]:
    """Returns the ids of the tokens that end a text, from generation_config.json if that file names any, else from
    config.json. Returns () if neither file names any.

    Raises:
        ValueError: one of the files is not a JSON object.
    """
    for name in ("generation_config.json", "config.json"):
        if (directory / name).exists():
            try:
                asked = json.loads((directory / name).read_text(encoding="utf-8")).get("eos_token_id")
            except (ValueError, AttributeError) as error:
                raise ValueError(f"{directory / name} cannot be read ({error}); it must be a JSON object") from error
            if asked is not None:
                return tuple(asked) if isinstance(asked, list) else (asked,)
    return ()
