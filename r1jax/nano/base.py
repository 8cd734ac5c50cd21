"""The base model that ships with the package: a Hugging Face directory beside this file.

`experiments/nano_base.py` makes it from scratch; its card tells how, and what it scores.
"""

from __future__ import annotations

from pathlib import Path

DIRECTORY = Path(__file__).parent / "weights"
TOKENIZER = "tokenizer.model"


def directory(name: str = "nano") -> Path:
    """The directory of a shipped base.

    Raises:
        ValueError: there is none of this name.
    """
    path = DIRECTORY / name
    if not (path / "config.json").exists():
        shipped = sorted(p.name for p in DIRECTORY.glob("*") if p.is_dir()) or ["none"]
        raise ValueError(
            f"--model={name} is not shipped; there is {', '.join(shipped)}. Give --weights=DIR to start from another"
        )
    return path
