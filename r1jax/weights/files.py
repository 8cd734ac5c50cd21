"""What the safetensors files of a directory hold, read from their headers and checked before anything is allocated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from r1jax.model.config import ModelConfig
from r1jax.weights.names import copies, leaves

INDEX = "model.safetensors.index.json"
IGNORED = ("rotary_emb.inv_freq",)  # a function of the config that old exports carry along
SCALE = "_scale_inv"  # DeepSeek's fp8 blocks: weight = fp8 · weight_scale_inv, block by block


class Tensor(NamedTuple):
    file: Path
    dtype: str  # of the safetensors header: F32, BF16, F8_E4M3, ..
    shape: tuple[int, ...]


def tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a directory by name.

    Raises:
        ValueError: no files, an index that names a file or tensor that is not there, a header that cannot be read, a
            file cut short.
    """
    index = directory / INDEX
    if index.exists():
        try:
            where = {name: directory / file for name, file in json.loads(index.read_text())["weight_map"].items()}
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise ValueError(f"--weights={directory}: {INDEX} cannot be read ({error!r})") from error
        files = sorted(set(where.values()))
    else:
        where, files = None, sorted(directory.glob("*.safetensors"))
        if not files:
            raise ValueError(f"--weights={directory} holds no .safetensors file")
    found: dict[str, Tensor] = {}
    for file in files:
        if not file.exists():
            raise ValueError(
                f"--weights={directory}: the shard {file.name} is missing; {INDEX} names it. Download it again"
            )
        found |= header(file)
    if where is None:
        return found
    for name, file in where.items():
        if name not in found:
            raise ValueError(f"--weights={directory}: {INDEX} places {name} in {file.name}, which does not hold it")
    return {name: found[name] for name in where}


def header(file: Path) -> dict[str, Tensor]:
    """The tensors of one file. Raises ValueError where it is cut short or no safetensors file."""
    cut = f"--weights={file.parent}: {file.name} cannot be read; is it cut short?"
    try:
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            length = file.stat().st_size
            if not 2 <= size <= length - 8:
                raise ValueError(f"{cut} It has {length} bytes, its header alone {8 + size}")
            entries = json.loads(stream.read(size))
        entries.pop("__metadata__", None)
        ends = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        held = {name: Tensor(file, entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{cut} ({error!r})") from error
    if 8 + size + ends != length:
        raise ValueError(f"{cut} It has {length} bytes, its header promises {8 + size + ends}")
    return held


def check(cfg: ModelConfig, found: dict[str, Tensor], directory: Path) -> None:
    """Raises ValueError unless the tensors are those of the model: all of them, in their shapes, and no other."""
    known = set(copies(cfg)) | {"lm_head.weight", "score.weight"}  # a tied lm_head is a copy; a head may be replaced
    for leaf in leaves(cfg):
        want = leaf.theirs(cfg)
        for name in leaf.all_keys(cfg):
            known |= {name, name + SCALE}
            if name not in found:
                if name == "score.weight":
                    continue  # a reward head begins at zero
                raise ValueError(f"--weights={directory}: tensor {name} is missing; is a shard missing?")
            if found[name].shape != want:
                raise ValueError(
                    f"--weights={directory}: {name} has shape {found[name].shape}, config.json says {want}"
                )
    strange = sorted(name for name in found if name not in known and not name.endswith(IGNORED))
    if strange:
        raise ValueError(
            f"--weights={directory}: {strange[0]} (of {len(strange)} such) has no place in the model of config.json"
        )
