"""Handles paths that users name, on this machine or in a bucket (gs://BUCKET/.., s3://BUCKET/..).

A local path is a `pathlib.Path`. A path in a bucket is an `epath.Path`, which has the same methods. An object store has
no append, no rename and no fsync: an object is written as a whole, or not at all. So a log is a local file that is
uploaded to the bucket again and again (`spool`, `put`). Code that needs a local file, such as the readers of parquet
and safetensors, reads a local copy (`fetch`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

# Before etils looks: it would take TensorFlow's file system if TensorFlow happens to be installed, which has no s3://.
os.environ.setdefault("EPATH_USE_TF", "false")


class Store(NamedTuple):
    """An object store.

    Attributes:
        modules: the Python modules that must be installed: fsspec's client for this store, and Orbax's client if it is
            a different module.
        extra: the extra of r1jax that installs these modules.
        driver: the store's name in fsspec.
    """

    modules: tuple[str, ...]
    extra: str
    driver: str


STORES = {
    "gs": Store(("gcsfs", "google.cloud.storage"), "gs", "gcs"),
    "s3": Store(("s3fs",), "s3", "s3"),
}


def path_of(path: str | os.PathLike[str], flag: str = "") -> Path:
    """Returns a path that a user named: a local path as a `pathlib.Path`, a path in a bucket as an `epath.Path`.

    Args:
        flag: the flag that gave `path`, such as "--workdir", for errors. With a flag, this function also checks that
            the bucket can be reached. Give "" for a path that was checked before; errors then name the path alone.

    Raises:
        ValueError: `path` is a URL of an unknown scheme, its bucket is missing or cannot be reached, or the store's
            client is not installed.
    """
    scheme, separator, rest = os.fspath(path).partition("://")
    if not separator:
        return Path(path)
    shown = f"{flag}={os.fspath(path)}" if flag else os.fspath(path)
    if scheme not in STORES:
        known = " or ".join(f"{name}://" for name in STORES)
        raise ValueError(f"{shown}: {scheme}:// is not supported; use a bucket of {known}, or a local path")
    if not rest.partition("/")[0]:
        raise ValueError(f"{shown} names no bucket: write {scheme}://BUCKET/PATH")
    store = STORES[scheme]
    if missing := [name for name in store.modules if not is_installed(name)]:
        raise ValueError(
            f"{shown}: {scheme}:// needs {' and '.join(missing)}, which must be installed: "
            f"pip install 'r1jax[{store.extra}]', or name a local path"
        )
    import fsspec.config
    from etils import epath

    # Orbax writes behind fsspec's back, so that what fsspec remembers of a folder may be out of date.
    fsspec.config.conf.setdefault(store.driver, {}).setdefault("use_listings_cache", False)
    found = epath.Path(path)
    if flag:
        try:
            found.exists()
        except Exception as error:  # clients have errors of their own for a missing key or right
            raise ValueError(
                f"{shown} cannot be reached: {error}. Check the bucket, the network and your keys"
            ) from error
    return found


def is_installed(module: str) -> bool:
    """Returns whether a module, given by its dotted name, can be imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package around it is missing
        return False


def scheme_of(path: str | os.PathLike[str]) -> str:
    """Returns the scheme of a path in a bucket, such as "gs"; "" for a local path."""
    scheme, separator, _ = os.fspath(path).partition("://")
    return scheme if separator else ""


def require_local(path: str | os.PathLike[str], flag: str, why: str) -> Path:
    """Returns a path that has to be local. Raises ValueError if it is a URL.

    Args:
        flag: the flag that gave `path`, for the error.
        why: text for the error, which says why the path has to be local and what else the user can do.
    """
    if scheme_of(path):
        raise ValueError(f"{flag}={os.fspath(path)} must be a local path: {why}")
    return Path(path)


def absolute(path: Path) -> Path:
    """Returns a local path made absolute. A path in a bucket is absolute already."""
    return path if scheme_of(path) else path.absolute()


def make_folder(path: Path) -> None:
    """Creates a folder and its parents. Does nothing in a bucket, which has no folders."""
    if not scheme_of(path):
        path.mkdir(parents=True, exist_ok=True)


def remove_tree(path: Path) -> None:
    """Removes a folder and all that is in it."""
    if scheme_of(path):
        path.rmtree(missing_ok=True)
    else:
        shutil.rmtree(path)


def list_files(folder: Path) -> list[Path]:
    """Returns all files below a folder, sorted."""
    if scheme_of(folder):
        return sorted(folder / name for name in _list_objects(folder))
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Moving files


def put(file: Path, path: Path) -> None:
    """Uploads a local file to a bucket as one object. Readers see the old object or the new one, never a part."""
    _client(path).put_file(str(file), os.fspath(path))


def put_folder(folder: Path, path: Path, last: Collection[str] = ()) -> None:
    """Uploads the files below a local folder to a bucket.

    Args:
        last: names, relative to the folder, of files that are uploaded after all others, such as a file that marks the
            folder as complete.
    """
    names = [file.relative_to(folder).as_posix() for file in list_files(folder)]
    for name in sorted(names, key=lambda name: name in last):
        put(folder / name, path / name)


def spool(path: Path) -> Path:
    """Copies an object of a bucket into a temporary local file, and returns the file. The caller removes it.

    If there is no such object, the file is empty.
    """
    handle, name = tempfile.mkstemp(prefix="r1jax-", suffix=f"-{path.name}")
    os.close(handle)
    try:
        _client(path).get_file(os.fspath(path), name)
    except FileNotFoundError:
        Path(name).touch()  # gcsfs has removed it
    return Path(name)


def fetch(path: Path, *, deep: bool = False) -> Path:
    """Returns a local path with the content of `path`: the path itself if it is local, else a copy.

    Copies lie in ~/.cache/r1jax/buckets (or below $XDG_CACHE_HOME), at SCHEME/BUCKET/PATH of the URL. A file is copied
    again if its size or its entity tag in the bucket has changed.

    Args:
        path: a file, or a folder.
        deep: whether the subfolders of a folder are copied, too. If False, only the files directly in the folder are
            copied.

    Raises:
        FileNotFoundError: there is nothing at `path`.
    """
    if not scheme_of(path):
        return path
    held = cache() / "buckets" / scheme_of(path) / os.fspath(path).partition("://")[2]
    objects = _list_objects(path, deep=deep)
    if not objects:
        _fetch_file(path, held, _client(path).info(os.fspath(path)))
        return held
    for name, about in objects.items():
        _fetch_file(path / name, held / name, about)
    for file in list_files(held):  # a file that is gone from the bucket, such as a shard of an earlier export
        name = file.relative_to(held).as_posix()
        if name not in objects and not file.name.startswith(".") and (deep or "/" not in name):
            file.unlink(missing_ok=True)
    return held


def _fetch_file(path: Path, held: Path, about: dict[str, Any]) -> None:
    """Copies an object to the local file `held`, unless `held` is a copy of it. about: what the store says of it."""
    tag = next((about[key] for key in ("ETag", "etag", "generation", "md5Hash") if about.get(key)), "")
    stamp = hashlib.sha256(f"{about.get('size')} {tag}".encode()).hexdigest()
    note = held.with_name(f".{held.name}.tag")
    whole = held.exists() and held.stat().st_size == about.get("size")
    if tag and whole and note.exists() and note.read_text() == stamp:
        return
    held.parent.mkdir(parents=True, exist_ok=True)
    part = held.with_name(f".{held.name}.{os.getpid()}.part")  # other processes may fetch it, too
    try:
        _client(path).get_file(os.fspath(path), str(part))
        os.replace(part, held)
    finally:
        part.unlink(missing_ok=True)
    note.write_text(stamp)


def _list_objects(folder: Path, *, deep: bool = True) -> dict[str, dict[str, Any]]:
    """Returns {name relative to `folder`: what the store says of it} of the objects below a folder in a bucket."""
    client = _client(folder)
    top = client._strip_protocol(os.fspath(folder)).rstrip("/") + "/"
    found = client.find(os.fspath(folder), maxdepth=None if deep else 1, detail=True)
    return {
        name.removeprefix(top): about
        for name, about in found.items()
        if name.startswith(top) and name != top and about.get("type") == "file" and not name.endswith("/")
    }


def _client(path: Path) -> Any:
    """Returns fsspec's client of a bucket."""
    import fsspec

    return fsspec.filesystem(STORES[scheme_of(path)].driver)


def cache() -> Path:
    """Returns the cache folder: ~/.cache/r1jax, or r1jax below $XDG_CACHE_HOME. All that it holds can be made again."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "r1jax"
