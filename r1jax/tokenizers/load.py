"""Loads the tokenizer of a Hugging Face directory or of a run."""

from __future__ import annotations

from pathlib import Path

from r1jax.tokenizers.protocol import Tokenizer
from r1jax.tokenizers.sentencepiece import MODEL, SentencePiece


def load_tokenizer(directory: Path) -> Tokenizer:
    """Loads the tokenizer of a Hugging Face directory or of a run.

    Reads tokenizer.json if the directory has one, otherwise the SentencePiece model (tokenizer.model).

    Raises:
        ValueError: the directory has neither file, or the file cannot be read.
    """
    if (directory / "tokenizer.json").exists():
        from r1jax.tokenizers.hugging_face import TokenizerJson

        return TokenizerJson.load(directory)
    try:
        return SentencePiece.load(directory / MODEL)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"{directory} has no tokenizer.json, and its {MODEL} cannot be read ({error}). "
            f"Copy the model's tokenizer.json or {MODEL} into this directory"
        ) from error
