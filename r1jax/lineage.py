"""Where a run comes from: its manifest.json, and whether a working directory may be used."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
from jax.experimental import multihost_utils

PACKAGES = {
    "r1jax": "r1jax", "jax": "jax", "jaxlib": "jaxlib", "flax": "flax", "optax": "optax",
    "orbax": "orbax-checkpoint", "numpy": "numpy",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What `manifest.json` holds. Change it with `dataclasses.replace`.

    Attributes:
        stage: which walk this was, such as "r1_zero".
        recipe: every field of the recipe.
        parent: {path, sha256} of the weights it began with; None for random ones.
        data: {sha256, counts} of what it read; sources {name: [{path, sha256}]} where checkpoints made it, or give
            rewards; files [{path, sha256}] it was read from.
        results: {"base": figures, "final": figures}; None until measured.
        warnings: {step, text} each, as the report shows them.
    """

    stage: str
    recipe: dict[str, Any]
    seed: int
    versions: dict[str, str]
    parent: dict[str, str] | None = None
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    results: dict[str, Any] = dataclasses.field(default_factory=lambda: {"base": None, "final": None})
    warnings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    status: Literal["running", "complete"] = "running"


def write(workdir: str | Path, manifest: Manifest) -> None:
    """Writes `manifest.json` whole or not at all. Process 0 calls it."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False, default=str)
    write_atomically(Path(workdir) / "manifest.json", text + "\n")


def read(workdir: str | Path) -> Manifest | None:
    """The manifest of a working directory; None if there is none.

    Raises:
        ValueError: the file is not a manifest.
    """
    path = Path(workdir) / "manifest.json"
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as err:
        raise ValueError(f"{path} is not a manifest of r1jax: {err}. Use a new --workdir") from err


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file so that a crash leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.with_name(f".{path.name}.tmp")
    with open(torn, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(torn, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename, too, has to reach the disk
    finally:
        os.close(folder)


def versions() -> dict[str, str]:
    """Versions of r1jax and what it stands on, and the devices. Call it after `launch.start`."""
    found = {"python": platform.python_version()}
    for name, package in PACKAGES.items():
        try:
            found[name] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    device = jax.devices()[0]
    found["devices"] = f"{jax.device_count()} x {device.device_kind} ({device.platform})"
    return found


def check_resume(
    workdir: str | Path, recipe: Mapping[str, Any], resume: bool, allowed: Collection[str]
) -> Manifest | None:
    """The manifest of the run to continue; None where a run may begin afresh.

    Every process calls it; none returns, and so none writes, before all have looked.

    Args:
        recipe: the fields of this command's recipe.
        resume: `--resume`.
        allowed: fields that may differ: steps, intervals, mesh.

    Raises:
        ValueError: the directory is in use and `resume` is off, or it holds something else or a run
            of another recipe.
    """
    manifest = usable(Path(workdir), recipe, resume, allowed)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("working directory checked")
    return manifest


def usable(workdir: Path, recipe: Mapping[str, Any], resume: bool, allowed: Collection[str]) -> Manifest | None:
    """`check_resume` of one process."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is not a directory. Name a new one")
    if not workdir.exists() or all(path.name.startswith(".") for path in workdir.iterdir()):
        return None  # what begins with a dot is what a crash has left of a file
    manifest = read(workdir)
    if manifest is None:
        raise ValueError(f"--workdir={workdir} is not empty and holds no run of r1jax. Name a new directory")
    if not resume:
        raise ValueError(
            f"--workdir={workdir} already holds a run ({manifest.stage}, {manifest.status}). "
            f"Continue it with --resume=True, or name a new directory"
        )
    changed = differences(manifest.recipe, recipe, allowed)
    if changed:
        raise ValueError(
            f"--workdir={workdir} holds a run of another recipe: {'; '.join(changed)}. "
            f"Only {', '.join(sorted(allowed))} may change. "
            f"Give the values it was started with, or name a new directory"
        )
    return manifest


def check_parent(workdir: Path, before: Manifest | None, parent: Mapping[str, str] | None) -> None:
    """Raises ValueError where a run that goes on would begin with other weights than it did; where they lie may
    change."""
    if before is not None and (before.parent or {}).get("sha256") != (parent or {}).get("sha256"):
        there, here = (f"{p['path']} ({p['sha256'][:12]})" if p else "none" for p in (before.parent, parent))
        raise ValueError(f"{workdir} began with {there}, not {here}. Restore those weights, or name a new directory")


def check_same(workdir: Path, before: Manifest | None, data: Mapping[str, Any], what: str) -> None:
    """Raises ValueError where a run would go on with other data (`what` says of which kind) than it began with; where
    they lie may change."""
    if before is not None and without_paths(before.data) != without_paths(data):
        raise ValueError(f"{workdir} began with other {what}. Restore them, or name a new directory")


def files(*paths: str | Path) -> list[dict[str, str]]:
    """{path, sha256} of files, for `data` of a manifest."""
    return [{"path": str(path), "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()} for path in paths]


def without_paths(data: Any) -> Any:
    """`data` of a manifest without the places where its sources lie: what has been moved is told by its hash."""
    if isinstance(data, Mapping):
        return {name: without_paths(value) for name, value in data.items() if name != "path"}
    return [without_paths(value) for value in data] if isinstance(data, list | tuple) else data


def differences(there: Mapping[str, Any], here: Mapping[str, Any], allowed: Collection[str] = ()) -> list[str]:
    """What differs between the fields of two recipes, in words; those allowed to differ are left out."""
    there, here = flat(there), flat(json.loads(json.dumps(dict(here), default=str)))
    return [
        f"{name} is {there.get(name, 'absent')} there and {here.get(name, 'absent')} here"
        for name in sorted(there.keys() | here.keys())
        if name.split(".")[0] not in allowed and there.get(name) != here.get(name)
    ]


def sources(manifest: Manifest) -> list[dict[str, str]]:
    """The checkpoints {path, sha256} that made a run's data or give its rewards."""
    return [source for some in manifest.data.get("sources", {}).values() for source in some]


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested fields by their dotted names, values as JSON."""
    out: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = json.dumps(value, ensure_ascii=False)
    return out
