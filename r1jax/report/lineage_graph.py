"""Draws the lineage of the stages as SVG, with the function `graph`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from r1jax.report.ancestry import LAST, Edge, edges, hashes_of
from r1jax.report.stages_data import Stages
from r1jax.report.svg import html_text

PLACES = {  # column, row
    "": (0, 1),
    "0_r1_zero": (1, 0),
    "1_cold_start": (2, 1),
    "2_reasoning_rl": (3, 1),
    "3_rejection_sft": (4, 2),
    LAST: (5, 2),
}
WIDTH, HEIGHT, APART, DOWN, LEFT, TOP, RIGHT = 150, 66, 206, 108, 2, 14, 30


class Node(NamedTuple):
    """A box of the drawing: a stage, a reward model, or other weights, such as the base model.

    Attributes:
        key: the folder of the stage or reward model. For other weights, the field `source` of an `Edge` that begins at
            the box; "" for the base model.
        name: the box's first line.
        place: (column, row) of the box in the drawing.
        under: the box's second line.
        status: "running" or "complete", from the manifest; "" if there is no manifest yet.
        sha256: hash of the weights; empty if unknown.
    """

    key: str
    name: str
    place: tuple[int, int]
    under: str
    status: str
    sha256: str


def _nodes(stages: Stages, found: list[Edge], outside: Mapping[str, str]) -> dict[str, Node]:
    hashes = hashes_of(stages, found)
    nodes, lanes = {}, {"student": 3, "reward": 3, "outside": 3, "other": 5}
    taken: set[tuple[int, int]] = set()

    def add(key: str, name: str, lane: str, column: int, under: str, status: str, sha256: str) -> None:
        place = PLACES.get(key) if key in PLACES and PLACES[key] not in taken else None
        while place is None or place in taken:
            place = (column, lanes[lane])
            lanes[lane] += 1
        taken.add(place)
        nodes[key] = Node(key, name, place, under, status, sha256)

    for part in stages.parts:
        lane, column = ("student", 3) if part.folder.startswith("distill") else ("other", 0)
        if not part.folder and "" in nodes:
            continue
        add(
            part.folder,
            part.name,
            lane,
            column,
            part.folder or "in the package",
            part.status,
            part.sha256 or hashes.get(part.folder, ""),
        )
    if "" not in nodes and any(edge.source == "" for edge in found):
        add("", "base", "other", 0, "", "complete", hashes.get("", ""))
    for part in stages.models:
        add(part.folder, part.name, "reward", 5, part.folder, part.status, hashes.get(part.folder, ""))
    for key, name in outside.items():
        add(key, name, "outside", 0, "another base", "complete", hashes.get(key, ""))
    return nodes


def _corner(node: Node) -> tuple[int, int]:
    return LEFT + node.place[0] * APART, TOP + node.place[1] * DOWN


def _route(a: Node, b: Node, kind: str) -> tuple[list[tuple[float, float]], tuple[float, float] | None]:
    """Returns the points (x, y) that the edge from `a` to `b` runs through, and the position of the edge's label.

    The position is None if there is no room for a label.

    Args:
        kind: the edge's kind: "parent", "data" or "reward".
    """
    (ax, ay), (bx, by) = _corner(a), _corner(b)
    shift = 0 if kind == "parent" else 12  # so that edges do not overlap
    left, right = ax + WIDTH, bx
    if a.place[1] == b.place[1] and bx > ax:
        y = ay + HEIGHT / 2 + shift
        return [(left, y), (right, y)], ((left + right) / 2, y - 7)
    if a.place[0] == b.place[0]:
        x = ax + WIDTH / 2 + shift
        if abs(a.place[1] - b.place[1]) == 1:
            ends = [(x, ay + HEIGHT), (x, by)] if by > ay else [(x, ay), (x, by + HEIGHT)]
            return ends, (x + 28, (ends[0][1] + ends[1][1]) / 2 + 4)
        x = ax + WIDTH
        points = [(x, ay + HEIGHT / 2), (x + 18, ay + HEIGHT / 2), (x + 18, by + HEIGHT / 2), (x, by + HEIGHT / 2)]
        return points, None
    if kind == "parent" or bx < ax:  # down or up first, then across
        x, y = ax + WIDTH / 2 + (-shift * 2), by + HEIGHT / 2
        start, end = (ay + HEIGHT if by > ay else ay), (bx if bx > ax else bx + WIDTH)
        return [(x, start), (x, y), (end, y)], ((x + end) / 2, y - 7)
    x = bx + WIDTH / 2 + shift * 2
    y = ay + HEIGHT / 2 + shift
    return [(left, y), (x, y), (x, by if by > ay else by + HEIGHT)], ((left + x) / 2, y - 7)


def _path(points: list[tuple[float, float]]) -> str:
    """Returns, as SVG, an arrow with rounded corners through `points`.

    Each point lies straight above, below or beside the next point.
    """
    out = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        near, far = (_towards(here, other, 12) for other in (before, after))
        out.append(f"L{near[0]:g} {near[1]:g}Q{here[0]:g} {here[1]:g} {far[0]:g} {far[1]:g}")
    (x, y), back = points[-1], _towards(points[-1], points[-2], 7)
    out.append(f"L{x:g} {y:g}")
    wide, tall = (y - back[1]) * 0.55, (x - back[0]) * 0.55
    head = f"M{back[0] - wide:g} {back[1] - tall:g}L{x:g} {y:g}L{back[0] + wide:g} {back[1] + tall:g}"
    return f'<path d="{"".join(out)}"/><path class="head" d="{head}"/>'


def _towards(a: tuple[float, float], b: tuple[float, float], most: float) -> tuple[float, float]:
    length = abs(b[0] - a[0]) + abs(b[1] - a[1])
    part = min(most, length / 2) / length if length else 0
    return a[0] + (b[0] - a[0]) * part, a[1] + (b[1] - a[1]) * part


def _label(edge: Edge, nodes: Mapping[str, Node]) -> str:
    if edge.wrong:
        return "not the same weights"
    if edge.kind == "reward":
        return "reward"
    if edge.kind == "data":
        return "records" if edge.target.startswith("distill") else "samples"
    return "fine-tuned from the base again" if (edge.source, edge.target) == ("", "3_rejection_sft") else ""


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _box(node: Node) -> str:
    x, y = _corner(node)
    status = {"complete": "done", "running": "running"}.get(node.status, "waiting")
    words = {"done": "", "running": "running", "waiting": "not yet begun"}[status]
    third = words or (node.sha256[:10] if node.sha256 else "complete")
    title = " · ".join(filter(None, (node.name, node.under, words or "complete", node.sha256)))
    return (
        f'<g class="node {status}"><title>{html_text(title)}</title>'
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
        f'<text class="name" x="{x + 14}" y="{y + 25}">{html_text(_short(node.name, 16))}</text>'
        f'<text class="under" x="{x + 14}" y="{y + 41}">{html_text(_short(node.under, 22))}</text>'
        f'<circle cx="{x + 17}" cy="{y + 53}" r="3.2"/>'
        f'<text class="hash" x="{x + 26}" y="{y + 57}">{html_text(third)}</text></g>'
    )


def graph(stages: Stages) -> str:
    """Returns, as HTML, a drawing of which stage was made from which, with warnings below it.

    A warning names a stage and its parent. It appears if the manifests disagree about the hash of the parent's weights.
    Returns an empty text if there are no stages.
    """
    found, outside = edges(stages)
    nodes = _nodes(stages, found, outside)
    if not nodes:
        return ""
    drawn = []
    for edge in sorted(found, key=lambda edge: (edge.kind == "parent", edge.wrong)):
        points, at = _route(nodes[edge.source], nodes[edge.target], edge.kind)
        again = " again" if (edge.source, edge.target) == ("", "3_rejection_sft") else ""
        state = (" planned" if edge.planned else "") + (" wrong" if edge.wrong else "")
        label = _label(edge, nodes)
        text = f'<text x="{at[0]:g}" y="{at[1]:g}">{label}</text>' if label and at else ""
        drawn.append(f'<g class="edge {edge.kind}{again}{state}">{_path(points)}{text}</g>')
    boxes = "".join(_box(node) for node in nodes.values())
    width = max(_corner(node)[0] for node in nodes.values()) + WIDTH + RIGHT
    height = max(_corner(node)[1] for node in nodes.values()) + HEIGHT + TOP
    spoken = "; ".join(
        f"{nodes[e.target].name} {'from' if e.kind == 'parent' else 'with ' + e.kind + ' of'} {nodes[e.source].name}"
        for e in found
    )
    wrong = sorted({(nodes[e.source].name, nodes[e.target].name) for e in found if e.wrong})
    warning = "".join(
        f"<li>{html_text(f'{child} began with other weights of {parent} than its siblings did.')}</li>"
        for parent, child in wrong
    )
    return (
        f'<div class="scroll drawing"><svg class="lineage" viewBox="0 0 {width} {height}" role="img" '
        f'style="min-width:{round(width * 0.82)}px;max-width:{width}px" aria-label="{html_text("Lineage. " + spoken)}">'
        f"{''.join(drawn)}{boxes}</svg></div>"
        '<p class="keys"><span class="parent">parent weights</span><span class="again">the base again</span><span '
        'class="data">data sampled from it</span>'
        '<span class="reward">reward model</span><span class="planned">planned, in no manifest yet</span></p>'
        + (f'<aside class="warnings"><h3>Parents that do not match</h3><ul>{warning}</ul></aside>' if warning else "")
    )
