"""Draws the pictures on the page of claims: curves (`Curves`), and rows of dots with intervals (`Dots`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from r1jax.report.curve import Curve
from r1jax.report.svg import Caption, Series, chart, html_text, number, tick_labels, ticks

COLOURS = 8  # --k0 to --k7 of page.css


@dataclasses.dataclass(frozen=True)
class Curves:
    """Curves over a number, such as the step or the number of samples.

    Attributes:
        title, unit: the title of the chart, and the unit of its vertical axis.
        curves: label of a curve -> [[number, value], ..], sorted by number. A value of None is a gap.
        axis: what the horizontal axis counts, in the singular.
        share: whether the values are shares.
    """

    title: str
    unit: str
    curves: Mapping[str, Sequence[Sequence[float | None]]]
    axis: str = "step"
    share: bool = False


@dataclasses.dataclass(frozen=True)
class Dots:
    """A row of dots for each group: a dot for each seed, and the mean with its interval.

    Attributes:
        title, unit: the title of the chart, and the unit of its horizontal axis.
        groups: label of a group -> {"values": a value for each seed, "mean": the mean of the values, "half": half the
            width of the mean's interval, or None if there is no interval}.
    """

    title: str
    unit: str
    groups: Mapping[str, Mapping[str, Any]]


def parse_picture(found: Mapping[str, Any]) -> Curves | Dots:
    """Returns the picture that a dict describes. The dict was made from a picture by `dataclasses.asdict`."""
    return Curves(**found) if "curves" in found else Dots(**found)


def draw_curves(picture: Curves, place: int) -> tuple[str, dict]:
    """Returns the chart as HTML, and the numbers that the page shows under the pointer.

    Args:
        place: index of the chart on the page. The index keeps the charts apart: pointing at one chart shows no numbers
            in other charts.
    """
    series = [
        Series(label, f"k{i % COLOURS}", Curve([x for x, _ in points], [y for _, y in points]), dots=True)
        for i, (label, points) in enumerate(picture.curves.items())
    ]
    last = max(x for one in series for x in one.curve.steps)
    caption = Caption(picture.title, picture.unit, axis=picture.axis)
    html, data = chart(series, caption, x_high=last, share=picture.share)
    return html, data | {"axis": place, "word": picture.axis}


def draw_dots(picture: Dots) -> str:
    """Returns the picture as HTML: a strip for each group, all on one scale that includes 0."""
    ends = [0.0]
    for group in picture.groups.values():
        half = group["half"] or 0.0
        ends += [*group["values"], group["mean"] - half, group["mean"] + half]
    low, high = min(ends), max(ends)
    room = 0.04 * (high - low) or 1.0
    low, high = low - room if low < 0 else low, high + room

    def at(value: float) -> float:
        return 1000 * (value - low) / (high - low)

    marks = ticks(low, high, 5)
    grid = "".join(f"M{at(mark):.1f} 0V100" for mark in marks)
    rows = []
    for label, group in picture.groups.items():
        mean, half = group["mean"], group["half"]
        drawn = f'<path class="grid" d="{grid}"/>'
        if half is not None:
            drawn += f'<path class="whisker" d="M{at(mean - half):.1f} 50H{at(mean + half):.1f}"/>'
        drawn += f'<path class="seed" d="{"".join(f"M{at(value):.1f} 50h.1" for value in group["values"])}"/>'
        drawn += f'<path class="mean" d="M{at(mean):.1f} 15V85"/>'
        said = number(mean) if half is None else f"{number(mean)} ± {number(half)}"
        rows.append(
            f"<div><dt>{html_text(label)}</dt><dd><svg viewBox='0 0 1000 100' preserveAspectRatio='none' role='img' "
            f'aria-label="{html_text(f"{label}: {said}")}">{drawn}</svg><b>{said}</b></dd></div>'
        )
    labels = "".join(
        f'<span style="left:{at(mark) / 10:.2f}%">{label}</span>'
        for mark, label in zip(marks, tick_labels(marks), strict=True)
    )
    return (
        f'<figure class="dotted"><figcaption><h3>{html_text(picture.title)}</h3>'
        f'<span class="unit">{html_text(picture.unit)}</span></figcaption>'
        f"<dl>{''.join(rows)}<div class=scale><dt></dt><dd><i>{labels}</i></dd></div></dl></figure>"
    )
