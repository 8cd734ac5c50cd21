"""Reads and writes manifest.json, the record of how a run was made, and checks whether a directory may be used or
resumed.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from r1jax import storage
from r1jax.distributed import is_main, wait_for_all
from r1jax.runs.files import write_atomically

PACKAGES = {
    "r1jax": "r1jax",
    "jax": "jax",
    "jaxlib": "jaxlib",
    "flax": "flax",
    "optax": "optax",
    "orbax": "orbax-checkpoint",
    "numpy": "numpy",
}


NOTHING: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`. Change it with `dataclasses.replace`.

    Attributes:
        stage: name of the stage, such as "r1_zero".
        recipe: {name: value} of every field of the recipe and the options.
        seed: the value of --seed.
        versions: {name: version} of Python, packages and devices: see `versions`.
        parent: {"path", "sha256"} of the weights that the run began with, and "step" if the weights are a checkpoint.
            The path is absolute, or r1jax/nano/NAME for a base that ships with the package. None for random weights.
        data: a dict that describes what the run learns from. "sha256" and "counts" describe the data as a whole.
            "files" is a list of {"path", "sha256"}, one for each file that holds data. "sources" is {name: [{"path",
            "sha256"}]}, the checkpoints that made the data or that score replies. A name is the route of records that
            a checkpoint made, or the part that it plays, such as "teacher".
        results: {"base": evaluation, "final": evaluation}. "base" is the line of eval.jsonl for the policy before
            training, and "final" the line for the trained policy. A value is None until its policy is evaluated.
        warnings: a {"step", "text"} for each warning that the run gave. The report shows them.
        status: "running" until the last checkpoint is on disk, then "complete".
    """

    stage: str
    recipe: dict[str, Any]
    seed: int
    versions: dict[str, str]
    parent: dict[str, Any] | None = None
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    results: dict[str, Any] = dataclasses.field(default_factory=lambda: {"base": None, "final": None})
    warnings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    status: Literal["running", "complete"] = "running"


def write(workdir: str | Path, manifest: Manifest) -> None:
    """Writes `manifest.json` atomically. Only process 0 may call it."""
    text = json.dumps(dataclasses.asdict(manifest), indent=2, ensure_ascii=False, default=str)
    write_atomically(storage.path_of(workdir) / "manifest.json", text + "\n")


def read(workdir: str | Path) -> Manifest | None:
    """Reads the manifest of a working directory. Returns None if the directory has no manifest.json.

    Raises:
        ValueError: the file is not a manifest.
    """
    path = storage.path_of(workdir) / "manifest.json"
    try:
        return Manifest(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as err:
        raise ValueError(f"{path} is not a manifest of r1jax: {err}. Use a new --workdir") from err


def versions() -> dict[str, str]:
    """Returns {name: version} of Python, r1jax and its dependencies.

    The entry "devices" names the devices and their number. Call this function after `distributed.start`.
    """
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
    workdir: str | Path,
    recipe: Mapping[str, Any],
    resume: bool,
    allowed: Collection[str],
    defaults: Mapping[str, Any] = NOTHING,
) -> Manifest | None:
    """Checks that a run may use a working directory.

    Returns the manifest of the run that is resumed; None for a new run.

    Every process must call this function. The function returns only after all processes have checked, so that no
    process writes before another has checked.

    Args:
        recipe: the fields of this command's recipe and options.
        resume: the value of --resume.
        allowed: names of fields that a resumed run may change, such as steps, intervals and mesh.
        defaults: values of fields that an older manifest may lack: see `defaults_of`.

    Raises:
        ValueError: the directory holds a run although `resume` is False, a run with another recipe, or files that
            belong to no run.
    """
    manifest = check_workdir(storage.path_of(workdir, "--workdir"), recipe, resume, allowed, defaults)
    wait_for_all("working directory checked")
    return manifest


def check_workdir(
    workdir: Path,
    recipe: Mapping[str, Any],
    resume: bool,
    allowed: Collection[str],
    defaults: Mapping[str, Any] = NOTHING,
) -> Manifest | None:
    """Does the work of `check_resume`, with the same arguments, for one process."""
    check_store(workdir, recipe)
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is not a directory. Name a new directory")
    if not workdir.exists() or all(path.name.startswith(".") for path in workdir.iterdir()):
        return None  # files that begin with a dot are incomplete files that a crash left
    manifest = read(workdir)
    if manifest is None:
        raise ValueError(f"--workdir={workdir} is not empty and holds no run of r1jax. Name a new directory")
    if not resume:
        raise ValueError(
            f"--workdir={workdir} already holds a run ({manifest.stage}, {manifest.status}). "
            f"Continue it with --resume=True, or name a new directory"
        )
    changed = differences(manifest.recipe, recipe, allowed, defaults)
    if changed:
        raise ValueError(
            f"--workdir={workdir} holds a run of another recipe: {'; '.join(changed)}. "
            f"Only {', '.join(sorted(allowed))} may change. "
            f"Give the values that the run was started with, or name a new directory"
        )
    return manifest


def check_store(workdir: Path, recipe: Mapping[str, Any]) -> None:
    """Raises ValueError if the working directory is in a bucket that cannot serve the run: any bucket with --track, or
    s3:// with several processes.
    """
    if not (scheme := storage.scheme_of(workdir)):
        return
    if tracker := recipe.get("track"):
        storage.require_local(workdir, "--workdir", f"--track={tracker} appends to files. Otherwise leave --track out")
    if scheme == "s3" and jax.process_count() > 1:
        storage.require_local(
            workdir,
            "--workdir",
            "Orbax cannot write to s3:// from several processes. Otherwise use gs://, or one process",
        )


def check_parent(workdir: Path, before: Manifest | None, parent: Mapping[str, str] | None) -> None:
    """Raises ValueError if a resumed run would begin with other weights than before.

    The same weights at another path are accepted.

    Args:
        before: the manifest of the run that is resumed; None for a new run.
        parent: {"path", "sha256"} of the weights that this command would begin with; None for random weights.
    """
    if before is not None and (before.parent or {}).get("sha256") != (parent or {}).get("sha256"):
        there, here = (f"{p['path']} ({p['sha256'][:12]})" if p else "random weights" for p in (before.parent, parent))
        raise ValueError(
            f"--workdir={workdir} holds a run that began with {there}, not {here}. "
            "Restore the old weights, or name a new directory"
        )


def check_same(workdir: Path, before: Manifest | None, data: Mapping[str, Any], what: str) -> None:
    """Raises ValueError if a resumed run would read other data than before.

    The same files at another path are accepted.

    Args:
        before: the manifest of the run that is resumed; None for a new run.
        data: the entry `data` that this command would write to the manifest.
        what: a noun for the data, such as "records", for the error.
    """
    if before is not None and without_paths(before.data) != without_paths(data):
        raise ValueError(
            f"--workdir={workdir} holds a run that began with other {what} than this command reads. "
            f"Restore the old {what}, or name a new directory"
        )


def without_paths(data: Any) -> Any:
    """Returns a manifest's `data` without the entries named "path".

    Files may have moved, so they are compared by their hashes alone.
    """
    if isinstance(data, Mapping):
        return {name: without_paths(value) for name, value in data.items() if name != "path"}
    return [without_paths(value) for value in data] if isinstance(data, list | tuple) else data


def defaults_of(*settings: Any) -> dict[str, Any]:
    """Returns {field name: default} of all fields that have a default, in the dataclass instances `settings`.

    A resumed run that began before a field existed is treated as if the field had its default. So the default of a new
    field must keep what runs did before the field existed.
    """
    found = {}
    for field in (field for one in settings for field in dataclasses.fields(one)):
        value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        if value is not dataclasses.MISSING:
            found[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value
    return found


def differences(
    there: Mapping[str, Any],
    here: Mapping[str, Any],
    allowed: Collection[str] = (),
    defaults: Mapping[str, Any] = NOTHING,
) -> list[str]:
    """Returns a description of each field in which two recipes differ, except fields in `allowed`.

    Args:
        there: the recipe on disk.
        here: the recipe of this command.
        allowed: names of fields that may differ.
        defaults: values for fields that `there` lacks.
    """
    there, here, defaults = (flat(json.loads(json.dumps(dict(x), default=str))) for x in (there, here, defaults))
    there = {name: value for name, value in defaults.items() if name in here} | there
    return [
        f"{name} was {there.get(name, 'absent')} and is now {here.get(name, 'absent')}"
        for name in sorted(there.keys() | here.keys())
        if name.split(".")[0] not in allowed and there.get(name) != here.get(name)
    ]


def sources(manifest: Manifest) -> list[dict[str, str]]:
    """Returns a list with {"path", "sha256"} of each checkpoint that made data for a run or scores replies in it."""
    return [source for some in manifest.data.get("sources", {}).values() for source in some]


def flat(fields: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flattens nested dictionaries into {name: value as JSON}. A name is the keys that lead to the value, joined by
    dots.

    Args:
        prefix: text to put before all names.
    """
    out: dict[str, str] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            out |= flat(value, f"{prefix}{name}.")
        else:
            out[prefix + name] = json.dumps(value, ensure_ascii=False)
    return out


def settings_path(path: Path) -> Path:
    """Returns the path of the JSON file that records how the samples file `path` was sampled. It lies beside the
    samples file.
    """
    return path.with_name(f"{path.stem}.settings.json")


def claim(path: Path, settings: Mapping) -> None:
    """Records `settings`, the settings of sampling, in a JSON file beside the samples file.

    If the JSON file exists, checks that it holds the same settings. Every process must call this function.

    Args:
        path: the samples file, which may not exist yet.
        settings: {name: value} of everything that determines the samples.

    Raises:
        ValueError: the samples were drawn with other settings, or the JSON file is missing beside existing samples.
    """
    note = settings_path(path)
    if note.exists():
        there = json.loads(note.read_text(encoding="utf-8"))
        if changed := differences(there, settings, ("processes",)):  # which older files name
            raise ValueError(
                f"{path} holds samples of other settings: {'; '.join(changed)}. "
                "Give the settings that they were sampled with, or name a new directory"
            )
    elif path.exists():
        raise ValueError(
            f"{path} is not a file of samples of r1jax, because {note.name} is missing beside it. "
            "Name a new directory for the samples"
        )
    wait_for_all(f"settings of {path.name} read")
    if is_main() and not note.exists():
        write_atomically(note, json.dumps(dict(settings), indent=1, ensure_ascii=False, default=str) + "\n")
