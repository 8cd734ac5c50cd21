"""Makes the table of results by stage with confidence intervals (`table`), and the tiles above it (`headline`)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from r1jax.report.stages_data import Stages, finite, mapping
from r1jax.report.svg import html_text, number

LOWER_IS_BETTER = ("padding", "truncated", "no_verdict")
ALWAYS_BY_KIND = ("pass@1", "accuracy", "helpful", "harmless")
TITLES = {
    "pass@1": "Accuracy, pass@1",
    "accuracy": "Accuracy",
    "format": "Well formed",
    "language": "In the question’s language",
    "length": "Length",
    "helpful": "Helpful",
    "harmless": "Harmless",
    "padding": "Stock phrases",
    "reflective_words": "Reflective words",
    "truncated": "Truncated",
}
KNOWN = ("helpful", "harmless", "padding")  # ground truth from the nano generator, not from a judge


class Cell(NamedTuple):
    """A mean with its 95 % interval [low, high] over n problems; n is 0 if unknown."""

    mean: float
    low: float
    high: float
    n: int


class Row(NamedTuple):
    """A row of the table: one measured quantity on one group of problems.

    Attributes:
        figure: the name of the measured quantity, such as "pass@1".
        group: the group of problems, such as a task.
        unit: the unit of the values; "share" for shares in [0, 1].
        paper: the name of the paper's comparable benchmark; empty if there is none.
        cells: the value of each stage, by the stage's name.
    """

    figure: str
    group: str
    unit: str
    paper: str
    cells: dict[str, Cell]


def rows_of(stages: Stages) -> list[Row]:
    """Returns the rows of the table of results, from the entry "table" of stages.json.

    Entries that cannot be read are left out. A value without an interval gets an interval of zero width.
    """
    found = []
    for entry in stages.table:
        cells = {}
        for name, value in mapping(entry.get("values")).items():
            value = mapping(value)
            if (mean := finite(value.get("mean"))) is not None:
                low, high = finite(value.get("low")), finite(value.get("high"))
                cells[name] = Cell(
                    mean, mean if low is None else low, mean if high is None else high, int(finite(value.get("n")) or 0)
                )
        if cells:
            figure, group, unit = (str(entry.get(key) or "") for key in ("figure", "group", "unit"))
            found.append(Row(figure, group, unit, str(entry.get("paper") or ""), cells))
    return found


def blocks_of(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Groups rows by the quantity that they measure (`Row.figure`), such as "pass@1".

    Returns a list of (figure, rows of this figure), in the order in which the figures first appear.
    """
    blocks: dict[str, list[Row]] = {}
    for row in rows:
        blocks.setdefault(row.figure, []).append(row)
    return list(blocks.items())


def mean_of(cells: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Averages results that were measured on different problems. Returns (mean, low, high).

    The returned low is mean − √(Σ dᵢ²) / n for n results, where dᵢ is mean − low of result i. The returned high is
    computed in the same way.

    Args:
        cells: (mean, low, high) of each result, where [low, high] is the interval.
    """
    mean = math.fsum(middle for middle, _, _ in cells) / len(cells)
    down, up = (
        math.sqrt(math.fsum(width * width for width in widths)) / len(cells)
        for widths in ([m - low for m, low, _ in cells], [high - m for m, _, high in cells])
    )
    return mean, mean - down, mean + up


def mean_row(rows: Sequence[Row], ruled: Collection[str] = ()) -> Row | None:
    """Averages rows of the same figure over their groups of problems. Returns the row of means.

    Every group counts equally. A stage without a value for one of the averaged groups gets no mean. Returns None if
    there are fewer than two groups to average, or if no stage gets a mean.

    Args:
        rows: the rows of a figure, one per group.
        ruled: groups whose problems have a verifier. If `rows` has rows of such groups, only those rows are averaged.
    """
    rows = [row for row in rows if row.group in ruled] or rows
    if len(rows) < 2:
        return None
    cells = {}
    for name in rows[0].cells:
        mine = [row.cells[name] for row in rows if name in row.cells]
        if len(mine) == len(rows):
            cells[name] = Cell(*mean_of([cell[:3] for cell in mine]), sum(cell.n for cell in mine))
    return Row(rows[0].figure, f"mean of {len(rows)} kinds", rows[0].unit, "", cells) if cells else None


def ruled_of(rows: Sequence[Row]) -> set[str]:
    """Returns the groups of problems that have a verifier: those with a row for "accuracy" or "pass@1"."""
    return {row.group for row in rows if row.figure in ("pass@1", "accuracy")}


def shown(value: float, unit: str) -> str:
    """Formats a number for a cell: with two decimals if the unit is "share", else with about three digits."""
    if unit == "share":
        return f"{value:.2f}"
    return number(round(value, 1) if abs(value) >= 10 else value)


def _marks(row: Row) -> dict[str, str]:
    """Returns a mark for each stage of a row: "best" for the best mean, "near" if the interval reaches the best mean.

    Other stages get "". The result is empty if neither a high nor a low value is better, or if all means are equal.
    """
    if (row.unit != "share" and row.figure not in LOWER_IS_BETTER) or len(row.cells) < 2:
        return {}
    sign = -1 if row.figure in LOWER_IS_BETTER else 1
    best = max(sign * cell.mean for cell in row.cells.values())
    if all(sign * cell.mean == best for cell in row.cells.values()):
        return {}
    return {
        name: "best" if sign * cell.mean == best else "near" if max(sign * cell.low, sign * cell.high) >= best else ""
        for name, cell in row.cells.items()
    }


def _cells(row: Row, names: Sequence[str]) -> str:
    top = 1.0 if row.unit == "share" else max(cell.high for cell in row.cells.values()) or 1.0
    marks, out = _marks(row), []
    for name in names:
        cell = row.cells.get(name)
        if cell is None:
            out.append('<td class="none">–</td>')
            continue
        at = [min(100.0, max(0.0, 100 * value / top)) for value in (cell.low, cell.mean, cell.high)]
        range_ = "" if cell.low == cell.high else f"{shown(cell.low, row.unit)}–{shown(cell.high, row.unit)}"
        count = f"{cell.n:,} problems" if cell.n else ""
        out.append(
            f'<td class="{marks.get(name, "")}" title="{html_text(" · ".join(filter(None, (name, range_, count))))}">'
            f"<b>{shown(cell.mean, row.unit)}</b><small>{range_}</small>"
            f'<i style="--l:{at[0]:.1f}%;--m:{at[1]:.1f}%;--h:{at[2]:.1f}%"></i></td>'
        )
    return "".join(out)


def _label(row: Row, text: str, what: str = "") -> str:
    paper = f' <small title="the paper’s counterpart">↔ {html_text(row.paper)}</small>' if row.paper else ""
    below = f'<small class="what">{html_text(what)}</small>' if what else ""
    return f"<th scope=row>{html_text(text)}{paper}{below}</th>"


def table(stages: Stages) -> str:
    """Returns, as HTML, the table of results by stage, with the paper's results below.

    The text is empty if there are no results.
    """
    rows, names = rows_of(stages), [part.name for part in stages.parts]
    paper = {str(key): mapping(values) for key, values in stages.paper.items() if mapping(values)}
    if not rows and not paper:
        return ""
    bodies = []
    for figure, members in blocks_of(rows):
        title, unit = TITLES.get(figure, figure.replace("_", " ")), members[0].unit
        unit = f" <small>{html_text(unit)}</small>" if unit and unit != "share" else ""
        mean = mean_row(members, ruled_of(rows))
        if mean is None and len(members) == 1:
            group = "" if members[0].group in ("", "all") else members[0].group
            what = ", ".join(filter(None, (group, "by the generator’s ground truth" if figure in KNOWN else "")))
            bodies.append(
                f"<tbody class=one><tr>{_label(members[0], title, what)}{_cells(members[0], names)}</tr></tbody>"
            )
            continue
        folded = "" if figure in ALWAYS_BY_KIND else " data-fold"
        head = _cells(mean, names) if mean else f'<td colspan="{len(names)}"></td>'
        what = mean.group if mean else f"{len(members)} kinds"
        kinds = "".join(f"<tr>{_label(row, row.group)}{_cells(row, names)}</tr>" for row in members)
        bodies.append(
            f'<tbody class=head><tr><th scope=row>{html_text(title)}{unit} <small class="what">{what}</small></th>'
            f"{head}</tr></tbody>"
            f"<tbody class=kinds{folded}>{kinds}</tbody>"
        )
    if paper:
        bodies.append(_paper(paper, names))
    head = "".join(f"<th scope=col>{html_text(name)}</th>" for name in names)
    counted = [cell.n for row in rows for cell in row.cells.values() if cell.n]
    problems = (
        ""
        if not counted
        else f"{min(counted):,} problems a cell"
        if min(counted) == max(counted)
        else (f"{min(counted):,} to {max(counted):,} problems a cell")
    )
    note = "; ".join(filter(None, (problems, "small figures: 95 % intervals")))
    caption = f"Held out: {note}. Shaded: the best of a row; fainter: those whose interval reaches the best."
    return (
        f'<p class="rule-text">{caption}</p>'
        f'<div class="scroll"><table class="stages"><thead><tr><th scope=col></th>{head}</tr></thead>'
        f"{''.join(bodies)}</table></div>"
    )


def _paper(paper: Mapping[str, Mapping], names: Sequence[str]) -> str:
    rows = [
        f'<tr class="title"><th scope=rowgroup colspan="{len(names) + 1}">The paper, by stage '
        "<small>Table 3; DeepSeek-V3-Base, 671B: other benchmarks and another size, for the shape of the story</small>"
        "</th></tr>"
    ]
    for benchmark, values in paper.items():
        known = {name: v for name in names if (v := finite(values.get(name))) is not None}
        best = max(known.values(), default=None)
        cells = "".join(
            f'<td class="{"best" if known[name] == best else ""}"><b>{known[name]:.1f}</b></td>'
            if name in known
            else '<td class="none">–</td>'
            for name in names
        )
        rows.append(f"<tr><th scope=row>{html_text(benchmark)}</th>{cells}</tr>")
    return f'<tbody class="paper">{"".join(rows)}</tbody>'


def headline(stages: Stages) -> str:
    """Returns, as HTML, one tile per measured quantity, such as pass@1.

    A tile compares the first and the last measured stage on the way from the base model to R1. A small curve shows all
    measured stages on this way. Distilled students and further base models are left out.
    """
    line = [part.name for part in stages.parts[:1]]  # the base; further bases are left out
    line += [part.name for part in stages.parts[1:] if part.folder and not part.folder.startswith("distill")]
    tiles = []
    for figure, members in blocks_of(rows_of(stages)):
        row = mean_row(members, ruled_of(rows_of(stages))) or members[0]
        measured = [name for name in line if name in row.cells]
        if len(measured) < 2:
            continue
        first, last = row.cells[measured[0]], row.cells[measured[-1]]
        kinds = f"{len(members)} kinds of problem" if len(members) > 1 else ""
        change = (
            f"{last.mean - first.mean:+.3f}".replace("-", "−")
            if row.unit == "share"
            else (f"× {last.mean / first.mean:.2f}" if first.mean > 0 else "")
        )
        under = ", ".join(filter(None, (row.unit if row.unit != "share" else "", change, kinds if not tiles else "")))
        tiles.append(
            f'<div class="tile{"" if tiles else " first"}"><dt>'
            f"{html_text(TITLES.get(figure, figure).removesuffix(', pass@1'))}"
            f"{f', {html_text(measured[0])} to {html_text(measured[-1])}' if not tiles else ''}</dt><dd>"
            f'<span class="from">{number(first.mean)}</span><span class="arrow" aria-label="to">→</span>'
            f'<span class="to">{number(last.mean)}</span>{_way([row.cells[name].mean for name in measured])}'
            f'<span class="change">{html_text(under)}</span></dd></div>'
        )
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _way(values: Sequence[float]) -> str:
    """Draws the values as a sparkline, a small curve without axes. Returns SVG."""
    low, high = min(values), max(values)
    points = [
        (2 + 60 * i / (len(values) - 1), 18 - 14 * ((v - low) / (high - low) if high > low else 0.5))
        for i, v in enumerate(values)
    ]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    x, y = points[-1]
    return (
        f'<svg class="way" viewBox="0 0 66 22" aria-hidden="true"><path d="M{line}"/><circle cx="{x:.1f}" '
        f'cy="{y:.1f}" r="2.4"/></svg>'
    )
