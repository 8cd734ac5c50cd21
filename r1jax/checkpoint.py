"""Checkpoints on disk: found, checked, restored onto any mesh. `saver` writes them.

    checkpoints/
      120/                  a step; a checkpoint once commit_success.txt is in it
        state/              the pytree, in Orbax's zarr + OCDBT
        checksums_0.json    SHA-256 of every file, written after the commit

TensorStore's own checks miss a flipped byte inside an array; the checksums do not.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore
from jax.typing import DTypeLike
from orbax.checkpoint import v1 as ocp

from r1jax.digest import arrays_sha256, damage, read_checksums
from r1jax.model.config import ModelConfig
from r1jax.sharding import name_of

COMMITTED = "commit_success.txt"  # written last, since Orbax 0.12.3
META = "_CHECKPOINT_METADATA"
MODEL = "model.json"  # beside the checkpoints, with the tokenizer's files, so that a run can be another run's --weights

log = logging.getLogger(__name__)


def is_committed(path: Path) -> bool:
    return (path / COMMITTED).is_file()


def latest(directory: str | Path) -> int | None:
    """The newest committed step in a directory of checkpoints; None if there is none."""
    paths = Path(directory).glob("*")
    return max((int(p.name) for p in paths if p.name.isdecimal() and is_committed(p)), default=None)


@contextlib.contextmanager
def behind(flag: str) -> Iterator[None]:
    """What reads the weights of a run or a directory calls them --weights: here they were given behind another flag,
    which its errors name."""
    try:
        yield
    except ValueError as error:
        raise ValueError(str(error).replace("--weights", flag)) from error


def read_model(home: Path, shown: str | Path) -> ModelConfig:
    """The shapes that a run wrote beside its checkpoints.

    Args:
        shown: what the user typed behind --weights, for the error.

    Raises:
        ValueError: it wrote none, or none that can be read.
    """
    try:
        return ModelConfig.from_dict(json.loads((home / MODEL).read_text()))
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"--weights={shown}: {home} lacks a readable {MODEL} ({error})") from error


def find(path: str | Path, step: int | None = None, flag: str = "--weights") -> Path:
    """The checkpoint that a run's directory, its `checkpoints`, or a checkpoint itself stands for.

    Args:
        step: which one; the newest by default.
        flag: what the user typed `path` behind, for the error.

    Raises:
        ValueError: there is none.
    """
    given = Path(path).expanduser().absolute()
    if step is None and is_committed(given):
        return given
    folder = given / "checkpoints" if (given / "checkpoints").is_dir() else given
    chosen = latest(folder) if step is None else step
    if chosen is not None and is_committed(folder / str(chosen)):
        return folder / str(chosen)
    way_out = f"{flag} takes the directory of a run, or one checkpoint in its checkpoints/"
    if not given.exists():
        raise ValueError(f"{flag}={path}: there is nothing at {given}. {way_out}")
    what = "committed checkpoint" if step is None else f"committed checkpoint of step {step}"
    held = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) if folder.is_dir() else "a file"
    raise ValueError(
        f"{flag}={path}: no {what} in {folder} (found: {held or 'nothing'}). {way_out}"
    )


def restore(path: str | Path, abstract: Any, step: int | None = None) -> Any:
    """A whole state, on the mesh of `abstract`, with its containers (NamedTuples, optax states).

    Args:
        path: as for `find`.
        abstract: shapes, dtypes and shardings, from `sharding.abstract`.

    Raises:
        ValueError: no checkpoint, a damaged one, or one of another model or optimizer.
    """
    found = find(path, step, "--workdir")
    check_files(found, "--workdir")
    check_arrays(found, stored_arrays(found, "--workdir"), abstract, "--workdir")
    return load(found, abstract, "--workdir")


def restore_params(path: str | Path, abstract: Any, dtype: DTypeLike | None = None) -> Any:
    """The parameters alone of a checkpoint whose state has `params`: what `--weights` reads.

    Args:
        path: as for `find`.
        abstract: of the parameters, as for `restore`; they are cast to its dtypes.
        dtype: cast floating parameters to this instead.

    Raises:
        ValueError: as for `restore`.
    """
    found = find(path)
    check_files(found, "--weights")
    stored = stored_arrays(found, "--weights")
    kept = {name: x for name, x in stored.items() if name.startswith("params/")}
    check_arrays(found, kept, {"params": abstract}, "--weights", cast=True)

    def target(x: Any) -> jax.ShapeDtypeStruct:
        floating = jnp.issubdtype(x.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(
            x.shape, dtype if dtype and floating else x.dtype, sharding=x.sharding
        )

    return load(found, {"params": jax.tree.map(target, abstract)}, "--weights", partial=True)[
        "params"
    ]


def load(path: Path, abstract: Any, flag: str, *, partial: bool = False) -> Any:
    """What `abstract` describes, from a checkpoint that holds it; `partial` where it holds more."""
    context = ocp.Context()
    context.pytree.loading.partial_load = partial
    try:
        with context:
            return ocp.load_checkpointables(path, {"state": abstract})["state"]
    except Exception as err:  # Orbax raises KeyError, ValueError and bare Exception alike
        raise ValueError(f"{flag}: the checkpoint {path} cannot be read: {err}") from err


def check_arrays(
    path: Path, stored: Mapping[str, Described], abstract: Any, flag: str, *, cast: bool = False
) -> None:
    """Raises ValueError where the arrays stored are not those of `abstract`, `cast` or not."""
    wanted = {name_of(p): described(x) for p, x in jax.tree_util.tree_leaves_with_path(abstract)}
    wrong = sorted(stored.keys() ^ wanted.keys()) + sorted(
        name
        for name in stored.keys() & wanted.keys()
        if stored[name].shape != wanted[name].shape
        or (stored[name].dtype != wanted[name].dtype and not cast)
    )
    if wrong:
        name, more = wrong[0], f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ValueError(
            f"{flag}: the checkpoint {path} is of another model or optimizer: {name} is "
            f"{stored.get(name, 'missing')} there and {wanted.get(name, 'missing')} here{more}. "
            f"Give the --model and the optimizer it was made with, or another {flag}"
        )


class Described(NamedTuple):
    """What the disk knows of an array."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"


def described(x: Any) -> Described:
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):  # lies on disk as its key data
        x = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(x.shape, x.dtype))
    return Described(tuple(x.shape), np.dtype(x.dtype).name)


def stored_arrays(path: Path, flag: str) -> dict[str, Described]:
    """(shape, dtype) of every array of a checkpoint's state by its '/'-joined path."""
    try:
        state = ocp.checkpointables_metadata(path).metadata["state"]
    except Exception as err:
        raise ValueError(f"{flag}: the checkpoint {path} cannot be read: {err}") from err
    if state is None:  # Orbax only logs why
        raise ValueError(f"{flag}: the checkpoint {path} cannot be read: it has no readable state")
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {name_of(p): described(x) for p, x in leaves if hasattr(x, "shape")}


def read_meta(path: str | Path, step: int | None = None) -> dict:
    """The `meta` a checkpoint was saved with; `path` as for `find`."""
    found = find(path, step, "--workdir")
    check_files(found, "--workdir", [META])
    return ocp.checkpointables_metadata(found).custom_metadata


def check_files(path: Path, flag: str, only: Collection[str] = ()) -> None:
    """Raises ValueError where a file (one of `only`, if given) differs from its checksum."""
    sums = read_checksums(path)
    if not sums:
        log.warning("%s has no checksums, so damage to it would go unnoticed", path)
    if what := damage(path, {name: sums[name] for name in sums if not only or name in only}):
        steps = sorted(
            int(p.name) for p in path.parent.glob("*") if p.name.isdecimal() and is_committed(p)
        )
        earlier = ", ".join(str(step) for step in steps if str(step) != path.name) or "none"
        raise ValueError(
            f"{flag}: the checkpoint {path} is corrupt: {what}. "
            f"Other checkpoints beside it: {earlier}. To go on from the one before, move it away"
        )


def sha256(path: str | Path) -> str:
    """SHA-256 of a checkpoint's parameters: their paths, dtypes, shapes and values, nothing else.

    It depends neither on mesh, processes and file layout nor on step and optimizer, and equals
    `digest.params_sha256` of the parameters. Read from disk a piece at a time, by any one process,
    without a device.

    Raises:
        ValueError: no checkpoint at `path` (as for `find`), or one that cannot be read.
    """
    found = find(path)
    names = [name for name in stored_arrays(found, "--weights") if name.startswith("params/")]
    try:
        return arrays_sha256(
            (name.removeprefix("params/"), StoredArray(found, name)) for name in names
        )
    except ValueError as err:
        raise ValueError(f"--weights: the checkpoint {found} cannot be read: {err}") from err


class StoredArray:
    """One array of a checkpoint, read where it is sliced."""

    def __init__(self, path: Path, name: str):
        kvstore = {
            "driver": "ocdbt",
            "base": (path / "state").as_uri(),
            "path": name.replace("/", ".") + "/",
        }
        self._array = tensorstore.open(
            {"driver": "zarr3", "kvstore": kvstore}, open=True, read=True
        ).result()
        self.shape, self.dtype = self._array.shape, self._array.dtype.numpy_dtype

    def __getitem__(self, index: slice) -> np.ndarray:
        return self._array[index].read().result()

    def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
        return self._array.read().result()
