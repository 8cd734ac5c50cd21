"""Finds checkpoints on disk, checks their files, and restores them onto any mesh. `saver` writes checkpoints.

    checkpoints/
      120/                  the checkpoint of step 120; complete once it contains commit_success.txt
        state/              the pytree, in Orbax's zarr + OCDBT format
        checksums_0.json    SHA-256 of the files that process 0 has hashed, written after commit_success.txt

The files of a checkpoint are divided among the processes. Process i writes the hashes of its files to checksums_i.json.

The checksums detect a flipped byte inside an array, which TensorStore's own checks miss.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from jax.typing import DTypeLike
from orbax.checkpoint import v1 as ocp

from r1jax import storage
from r1jax.distributed import gather_json, is_main
from r1jax.model.config import ModelConfig
from r1jax.runs import manifests
from r1jax.runs.hashing import arrays_sha256, find_damage, read_checksums
from r1jax.sharding import name_of

COMMITTED = "commit_success.txt"  # Orbax, from 0.12.3 on, writes it last
META = "_CHECKPOINT_METADATA"
MODEL = (
    "model.json"  # beside checkpoints/, with the tokenizer's files, so that another run can take this one as --weights
)

log = logging.getLogger(__name__)


def is_committed(path: Path) -> bool:
    """Returns whether a directory is a complete checkpoint, that is, contains commit_success.txt."""
    return (path / COMMITTED).is_file()


def latest(directory: str | Path) -> int | None:
    """Returns the step of the newest complete checkpoint in `directory`, such as `checkpoints/` of a run; None if there
    is no complete checkpoint.
    """
    paths = storage.path_of(directory).glob("*")
    return max((int(p.name) for p in paths if p.name.isdecimal() and is_committed(p)), default=None)


def read_model(home: Path, shown: str | Path, flag: str = "--weights") -> ModelConfig:
    """Reads the model config that a run wrote beside its checkpoints.

    Args:
        home: the directory of the run.
        shown: the value of `flag` as the user typed it, for errors.
        flag: the flag that named the run, for errors.

    Raises:
        ValueError: the file is missing or cannot be read.
    """
    try:
        return ModelConfig.from_dict(json.loads((home / MODEL).read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"{flag}={shown}: {home} lacks a readable {MODEL} ({error}). Name the directory of a run"
        ) from error


def find(path: str | Path, step: int | None = None, flag: str = "--weights") -> Path:
    """Returns the directory of the checkpoint that `path` names.

    Args:
        path: the directory of a run, the `checkpoints` directory in it, or the directory of one checkpoint.
        step: the step of the checkpoint; if None, the newest.
        flag: the flag that gave `path`, for errors.

    Raises:
        ValueError: there is no such checkpoint.
    """
    given = storage.absolute(storage.path_of(path, flag).expanduser())
    if step is None and is_committed(given):
        return given
    folder = given / "checkpoints" if (given / "checkpoints").is_dir() else given
    chosen = latest(folder) if step is None else step
    if chosen is not None and is_committed(folder / str(chosen)):
        return folder / str(chosen)
    way_out = f"{flag} takes the directory of a run, or one checkpoint in its checkpoints/"
    if flag in ("--weights", "--source"):
        way_out += "; a Hugging Face directory; or OWNER/NAME, a model of the Hugging Face Hub"
    if not given.exists():
        raise ValueError(f"{flag}={path}: there is nothing at {given}. {way_out}")
    what = "complete checkpoint" if step is None else f"complete checkpoint of step {step}"
    held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "a file"
    raise ValueError(f"{flag}={path}: no {what} in {folder} (found: {held or 'nothing'}). {way_out}")


def readable(path: Path) -> Path:
    """Returns a directory from which Orbax can read a checkpoint: `path` itself, or a local copy of it.

    Orbax reads gs:// directly, and each process reads only what it needs. Orbax cannot read s3://, so such a checkpoint
    is copied.
    """
    return storage.fetch(path, deep=True) if storage.scheme_of(path) == "s3" else path


def restore(path: str | Path, abstract: Any, step: int | None = None) -> Any:
    """Restores the whole state of a checkpoint: a tree of arrays with the structure (NamedTuples, optax states) and the
    shardings of `abstract`.

    Args:
        path, step: see `find`.
        abstract: the tree with shapes, dtypes and shardings in place of arrays, from `sharding.abstract`.

    Raises:
        ValueError: the checkpoint does not exist, is damaged, or belongs to another model or optimizer.
    """
    found = find(path, step, "--workdir")
    check_files(found, "--workdir")
    check_arrays(found, list_arrays(found, "--workdir"), abstract, "--workdir")
    return load(found, abstract, "--workdir")


def restore_params(path: str | Path, abstract: Any, dtype: DTypeLike | None = None, flag: str = "--weights") -> Any:
    """Restores only the parameters of a checkpoint, for `--weights`. The saved state must have an entry `params`.

    Args:
        path: see `find`.
        abstract: the tree of parameters with shapes, dtypes and shardings in place of arrays. Restored arrays are cast
            to these dtypes.
        dtype: if given, replaces the dtype of all floating-point parameters in `abstract`.
        flag: see `find`.

    Raises:
        ValueError: see `restore`.
    """
    found = find(path, flag=flag)
    check_files(found, flag)
    stored = list_arrays(found, flag)
    kept = {name: x for name, x in stored.items() if name.startswith("params/")}
    check_arrays(found, kept, {"params": abstract}, flag, cast=True)

    def target(x: Any) -> jax.ShapeDtypeStruct:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(x.shape, dtype if dtype and floating else x.dtype, sharding=x.sharding)

    return load(found, {"params": jax.tree.map(target, abstract)}, flag, partial=True)["params"]


def load(path: Path, abstract: Any, flag: str, *, partial: bool = False) -> Any:
    """Reads from disk the arrays that `abstract` describes. Returns them as a tree of the same structure.

    Args:
        path: the directory of the checkpoint.
        abstract: a tree with shapes, dtypes and shardings in place of arrays.
        flag: the flag that named the checkpoint, for errors.
        partial: whether the checkpoint may hold other arrays too. The other arrays are not read.

    Raises:
        ValueError: the checkpoint cannot be read.
    """
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    try:
        with context:
            return ocp.load_checkpointables(readable(path), {"state": abstract})["state"]
    except Exception as err:  # Orbax raises KeyError, ValueError and bare Exception alike
        raise ValueError(
            f"{flag}: the checkpoint {path} cannot be read ({err}). "
            "Name another checkpoint, or move this one away to use an earlier one"
        ) from err


def check_arrays(
    path: Path, stored: Mapping[str, StoredShape], abstract: Any, flag: str, *, cast: bool = False
) -> None:
    """Raises ValueError if names, shapes or dtypes of the arrays on disk differ from those in `abstract`.

    Args:
        path: the directory of the checkpoint, for errors.
        stored: the arrays on disk, from `list_arrays`.
        abstract: a tree with shapes and dtypes in place of arrays.
        flag: the flag that named the checkpoint, for errors.
        cast: whether dtypes may differ, because the arrays will be cast.
    """
    wanted = {name_of(p): describe_array(x) for p, x in jax.tree_util.tree_leaves_with_path(abstract)}
    wrong = sorted(stored.keys() ^ wanted.keys()) + sorted(
        name
        for name in stored.keys() & wanted.keys()
        if stored[name].shape != wanted[name].shape or (stored[name].dtype != wanted[name].dtype and not cast)
    )
    if wrong:
        name, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(
            f"{flag}: the checkpoint {path} belongs to another model or optimizer: {name} is "
            f"{stored.get(name, 'missing')} in the checkpoint and {wanted.get(name, 'missing')} in this command{more}. "
            f"Give the --model and the optimizer of the checkpoint, or another {flag}"
        )


class StoredShape(NamedTuple):
    """Shape and dtype of an array on disk."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def describe_array(x: Any) -> StoredShape:
    """Returns the shape and dtype with which a checkpoint stores the array `x`."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):  # a checkpoint stores the key data of a random key
        x = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return StoredShape(tuple(x.shape), np.dtype(x.dtype).name)


def list_arrays(path: Path, flag: str) -> dict[str, StoredShape]:
    """Returns {path: shape and dtype} of every array in a checkpoint's state. The keys of a path are joined by '/'.

    Args:
        path: the directory of the checkpoint.
        flag: the flag that named the checkpoint, for errors.

    Raises:
        ValueError: the checkpoint cannot be read.
    """
    try:
        state = ocp.checkpointables_metadata(readable(path)).metadata["state"]
    except Exception as err:
        raise ValueError(
            f"{flag}: the checkpoint {path} cannot be read ({err}). "
            "Name another checkpoint, or move this one away to use an earlier one"
        ) from err
    if state is None:  # Orbax logs the reason and raises nothing
        raise ValueError(
            f"{flag}: the checkpoint {path} cannot be read (Orbax finds no arrays in it). "
            "Name another checkpoint, or move this one away to use an earlier one"
        )
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {name_of(p): describe_array(x) for p, x in leaves if hasattr(x, "shape")}


def read_meta(path: str | Path, step: int | None = None) -> dict:
    """Returns `meta` of a checkpoint: the JSON values that `Saver.save` stored beside the state.

    `path` and `step` are the arguments of `find`.
    """
    found = find(path, step, "--workdir")
    check_files(found, "--workdir", [META])
    return ocp.checkpointables_metadata(readable(found)).custom_metadata


def check_files(path: Path, flag: str, only: Collection[str] = ()) -> None:
    """Raises ValueError if a file of a checkpoint differs from its checksum. Logs a warning if there are no checksums.

    Args:
        path: the directory of the checkpoint.
        flag: the flag that named the checkpoint, for errors.
        only: names of the files to check; () checks all.
    """
    held = readable(path)
    sums = read_checksums(held)
    if not sums:
        log.warning("%s has no checksums, so it is read without a check for damage", path)
    if what := find_damage(held, {name: sums[name] for name in sums if not only or name in only}):
        steps = sorted(int(p.name) for p in path.parent.glob("*") if p.name.isdecimal() and is_committed(p))
        earlier = ", ".join(str(step) for step in steps if str(step) != path.name) or "none"
        raise ValueError(
            f"{flag}: the checkpoint {path} is corrupt: {what}. "
            f"Other checkpoints beside it: {earlier}. To continue from an earlier checkpoint, move the corrupt one away"
        )


def sha256(path: str | Path, flag: str = "--weights") -> str:
    """Returns the SHA-256, in hex, that identifies the policy of a checkpoint.

    The hash covers the paths, dtypes, shapes and values of the parameters, as in `hashing.params_sha256`. If the run
    trained LoRA adapters, the result is a hash of two hashes: of the weights that the run began with, and of the
    adapters. The result does not depend on mesh, processes, file layout, step or optimizer. Every process must call
    this function. Process 0 reads the files, piece by piece.

    Args:
        path, flag: see `find`.

    Raises:
        ValueError: the checkpoint does not exist or cannot be read.
    """
    found = find(path, flag=flag)
    names = [name for name in list_arrays(found, flag) if name.startswith("params/")]
    digest, wrong = "", ""
    if is_main():
        try:
            held = readable(found)
            digest = arrays_sha256((name.removeprefix("params/"), StoredArray(held, name)) for name in names)
        except ValueError as err:
            wrong = f"{flag}: the checkpoint {found} cannot be read: {err}"
    digest, wrong = gather_json([digest, wrong])[0]
    if wrong:
        raise ValueError(wrong)
    manifest = manifests.read(found.parent.parent)
    if manifest is None or not manifest.recipe.get("lora_rank") or manifest.parent is None:
        return digest
    return hashlib.sha256(f"{manifest.parent['sha256']} {digest}".encode()).hexdigest()


class StoredArray:
    """One array of a checkpoint on disk. Indexing it with a slice reads only this slice."""

    def __init__(self, path: Path, name: str):
        kvstore = {
            "driver": "ocdbt",
            "base": (path / "state").as_uri(),
            "path": name.replace("/", ".") + "/",
        }
        self._array = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}, open=True, read=True).result()
        self.shape, self.dtype = self._array.shape, self._array.dtype.numpy_dtype

    def __getitem__(self, index: slice) -> np.ndarray:
        return self._array[index].read().result()

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self._array.read().result()
