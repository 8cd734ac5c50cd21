"""Reads the lineage of all stages from their manifests.

`edges` finds which stage was made from which, and `hashes_of` finds the hashes of the stages' weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import NamedTuple

from r1jax.report.stages_data import Part, Stages, mapping

# The lineage in the paper's recipe, drawn faint until a manifest confirms it. "" is the base.
PLANNED_PARENTS = {
    "0_r1_zero": "",
    "1_cold_start": "",
    "2_reasoning_rl": "1_cold_start",
    "3_rejection_sft": "",
    "4_all_scenarios_rl": "3_rejection_sft",
}
PLANNED_DATA = {"1_cold_start": ("0_r1_zero",), "3_rejection_sft": ("2_reasoning_rl",)}
LAST = "4_all_scenarios_rl"


class Edge(NamedTuple):
    """A dependency: the stage `target` was made from the stage `source`.

    Attributes:
        source, target: the stages' folders; "" is the base model. If the source is not a stage, `source` is "/"
            followed by the hash of the source's weights, or by the path of the weights if the hash is unknown.
        kind: "parent" (target began with source's weights), "data" (target learned from source's samples) or "reward"
            (source is target's reward model).
        sha256: hash of source's weights, if `kind` is "parent"; empty if the hash is unknown or for another kind.
        planned: whether the dependency is in the paper's recipe, but no manifest confirms it yet.
        wrong: whether `sha256` is contradicted: stages.json, or a stage other than the target, gives another hash of
            source's weights. False if `sha256` is empty.
    """

    source: str
    target: str
    kind: str
    sha256: str = ""
    planned: bool = False
    wrong: bool = False


def _place(path: object, folders: Mapping[str, Part]) -> str | None:
    """Returns the stage's folder that a path in a manifest points into; None if the path lies in no stage's folder.

    A path into the records of a stage (FOLDER_data) counts as a path into FOLDER.
    """
    for piece in reversed(PurePath(str(path)).parts):
        if (name := piece.removesuffix("_data")) in folders:
            return name
    return None


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str):
        yield value


def edges(stages: Stages) -> tuple[list[Edge], dict[str, str]]:
    """Returns (the dependencies between stages, the names of the parents outside the lineage).

    A parent is outside if it is neither a stage nor the lineage's own base model. The second result is a dict
    {`Edge.source` of a parent outside: the name to show}. Such a source begins with "/".
    """
    folders = {part.folder: part for part in (*stages.parts, *stages.models) if part.folder}
    models = {part.folder for part in stages.models}
    base = _base(stages, folders)
    found, outside = [], {}
    for part in folders.values():
        parent = mapping(part.run.manifest.get("parent"))
        source = None
        if parent:
            path, sha256 = str(parent.get("path") or ""), str(parent.get("sha256") or "")
            source = _place(path, folders)
            if source is None:
                source = "" if (sha256 or path) == base else f"/{sha256 or path}"
            if source.startswith("/"):
                outside[source] = PurePath(path).name or "other base"
            found.append(Edge(source, part.folder, "parent", sha256))
        elif not part.run.manifest and part.folder in PLANNED_PARENTS:
            source = PLANNED_PARENTS[part.folder]
            found.append(Edge(source, part.folder, "parent", planned=True))
        named = {
            place
            for key in ("data", "recipe")
            for text in _texts(part.run.manifest.get(key))
            if (place := _place(text, folders))
        }
        for other in sorted(named - {source, part.folder}):
            found.append(Edge(other, part.folder, "reward" if other in models else "data"))
        for other in PLANNED_DATA.get(part.folder, ()):
            if other not in named:
                found.append(Edge(other, part.folder, "data", planned=True))
    if LAST in folders:
        known = {(edge.source, edge.target) for edge in found}
        found += [Edge(model, LAST, "reward", planned=True) for model in sorted(models) if (model, LAST) not in known]
    keys = {"", *folders, *outside}
    found = [edge for edge in found if edge.source in keys]
    return [edge._replace(wrong=_disagree(edge, found, folders)) for edge in found], outside


def _base(stages: Stages, folders: Mapping[str, Part]) -> str:
    """Returns what identifies the base: the sha256 (or without one the path) of the first parent that is no stage.

    Stages are searched in their order. Empty if no stage has such a parent.
    """
    for part in stages.parts:
        parent = mapping(part.run.manifest.get("parent"))
        if parent and _place(parent.get("path"), folders) is None:
            return str(parent.get("sha256") or parent.get("path") or "")
    return ""


def _disagree(edge: Edge, found: list[Edge], folders: Mapping[str, Part]) -> bool:
    """Returns whether the hash of a parent edge is contradicted.

    That is so if another stage gives a different hash for the same parent, or if stages.json does.

    Args:
        found: all edges.
        folders: the stages by folder.
    """
    hashes = {
        other.sha256 for other in found if other.source == edge.source and other.kind == "parent" and other.sha256
    }
    if edge.source in folders and folders[edge.source].sha256:
        hashes.add(folders[edge.source].sha256)
    return edge.kind == "parent" and bool(edge.sha256) and len(hashes) > 1


def hashes_of(stages: Stages, found: Sequence[Edge]) -> dict[str, str]:
    """Returns {`Edge.source`: sha256 of the weights} of each stage or other parent whose hash is known.

    The hash of a stage is read from the manifests of the stages that began with its weights or learned from its
    samples.

    Args:
        found: the dependencies, as `edges` returns them.
    """
    folders = {part.folder: part for part in (*stages.parts, *stages.models) if part.folder}
    named = {}
    for part in folders.values():
        for source in _sources(mapping(part.run.manifest.get("data")).get("sources")):
            if (place := _place(source["path"], folders)) is not None:
                named[place] = str(source["sha256"])
    return named | {edge.source: edge.sha256 for edge in reversed(found) if edge.kind == "parent" and edge.sha256}


def _sources(value: object) -> Iterator[Mapping]:
    if isinstance(value, Mapping):
        if {"path", "sha256"} <= value.keys():
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _sources(inner)
