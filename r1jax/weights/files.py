"""Reads the headers of a directory's safetensors files, and checks the tensors before anything is allocated."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax

from r1jax.distributed import gather_json
from r1jax.model.config import ModelConfig
from r1jax.weights.names import copies, leaves

INDEX = "model.safetensors.index.json"
IGNORED = ("rotary_emb.inv_freq",)  # old checkpoints contain this tensor, but it follows from the config
SCALE = "_scale_inv"  # DeepSeek's fp8 blocks: weight = fp8 · weight_scale_inv, block by block


def is_hugging_face(directory: Path) -> bool:
    """Returns whether a directory holds a Hugging Face model or a PEFT adapter, rather than a training run of r1jax."""
    return any((directory / name).exists() for name in ("config.json", "adapter_config.json"))


class Tensor(NamedTuple):
    """A tensor of a safetensors file, as the header of the file describes it.

    Attributes:
        file: the file that holds the tensor.
        dtype: dtype as safetensors writes it, such as F32, BF16 or F8_E4M3.
        shape: shape of the tensor.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]


def hash_weights(directory: Path, flag: str = "--weights") -> str:
    """Returns a SHA-256, in hex, that identifies the weights of a directory.

    It is the hash of the names and hashes of config.json and of each safetensors file. Every process must call this
    function; each file is read by one process.

    Args:
        flag: the flag that named the directory, for errors.

    Raises:
        ValueError: the safetensors files cannot be used, as in `tensors`.
    """
    files = sorted({directory / "config.json", *(tensor.file for tensor in tensors(directory, flag).values())})
    mine = files[jax.process_index() :: jax.process_count()]
    sums: dict[str, str] = {}
    for part in gather_json({file.name: file_sha256(file) for file in mine}):
        sums |= part
    return hashlib.sha256("".join(f"{name} {sums[name]}\n" for name in sorted(sums)).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tensors(directory: Path, flag: str = "--weights") -> dict[str, Tensor]:
    """Returns {name: description} of every tensor in a directory's safetensors files. Reads only the headers of the
    files.

    Args:
        flag: the flag that named the directory, for errors.

    Raises:
        ValueError: there is no safetensors file; `INDEX` cannot be read, or names a file or tensor that is missing; a
            header cannot be read; or a file is cut short.
    """
    index = directory / INDEX
    if index.exists():
        try:
            where = {name: directory / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"{flag}={directory}: {INDEX} cannot be read ({error!r}). Download it again") from error
        files = sorted(set(where.values()))
    else:
        where, files = None, sorted(directory.glob("*.safetensors"))
        if not files:
            raise ValueError(f"{flag}={directory} holds no .safetensors file: download the weights there")
    found: dict[str, Tensor] = {}
    for file in files:
        if not file.exists():
            raise ValueError(
                f"{flag}={directory}: the shard {file.name} is missing, although {INDEX} names it. Download this shard"
            )
        found |= header(file, flag)
    if where is None:
        return found
    for name, file in where.items():
        if name not in found:
            raise ValueError(
                f"{flag}={directory}: {INDEX} says that {file.name} holds {name}, but it does not. Download both again"
            )
    return {name: found[name] for name in where}


def header(file: Path, flag: str) -> dict[str, Tensor]:
    """Returns {name: description} of the tensors of one safetensors file.

    Args:
        flag: the flag that named the directory of the file, for errors.

    Raises:
        ValueError: the file is cut short, or is not a safetensors file.
    """
    cut = f"{flag}={file.parent}: {file.name} cannot be read; is it cut short? Download it again."
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            length = file.stat().st_size
            if not 2 <= size <= length - 8:
                raise ValueError(f"{cut} It has {length} bytes, but its header alone should have {8 + size}")
            entries = json.loads(stream.read(size))
        entries.pop("__metadata__", None)
        ends = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        held = {name: Tensor(file, entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{cut} ({error!r})") from error
    if 8 + size + ends != length:
        raise ValueError(f"{cut} It has {length} bytes, but its header states {8 + size + ends}")
    return held


def check(cfg: ModelConfig, found: dict[str, Tensor], directory: Path, flag: str = "--weights") -> None:
    """Raises ValueError if a tensor of the model is missing, a tensor is not part of the model, or a shape is wrong.

    Args:
        cfg: the model config, from config.json.
        found: the tensors of the directory, from `tensors`.
        directory, flag: the directory and the flag that named it, for errors.
    """
    known = set(copies(cfg)) | {
        "lm_head.weight",
        "score.weight",
    }  # a tied lm_head repeats the embedding; the other head may be replaced
    for leaf in leaves(cfg):
        want = leaf.theirs(cfg)
        for name in leaf.all_keys(cfg):
            known |= {name, name + SCALE}
            if name not in found:
                if name == "score.weight":
                    continue  # a reward head begins at zero
                raise ValueError(
                    f"{flag}={directory}: tensor {name} is missing. Download the missing .safetensors file"
                )
            if found[name].shape != want:
                raise ValueError(
                    f"{flag}={directory}: {name} has shape {found[name].shape}, config.json says {want}. "
                    "Download config.json and the weights of the same model"
                )
    strange = sorted(name for name in found if name not in known and not name.endswith(IGNORED))
    if strange:
        raise ValueError(
            f"{flag}={directory}: {strange[0]} is not a tensor of the model that config.json describes (number of such "
            f"tensors: {len(strange)}). Download config.json and the weights of the same model"
        )
