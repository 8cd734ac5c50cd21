"""Draws a chart of curves as inline SVG: `chart`.

The drawing is a square of 1000 x 1000 units, stretched to the available space. Strokes keep their width
(`non-scaling-stroke`), and labels are HTML beside the drawing, so that text keeps its size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from r1jax.report.curve import Curve, Thinned, smooth, thin, wilson

_CONTROLS = (
    {c: 0x2400 + c for c in range(32) if c not in (9, 10)}
    | {0x7F: 0x2421}
    | {c: f"‹U+{c:04X}›" for c in (*range(0x80, 0xA0), 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
)


def html_text(text: str) -> str:
    """Escapes text for HTML and attributes; control characters and direction marks become visible."""
    return escape(text.translate(_CONTROLS), quote=True)


class Series(NamedTuple):
    """A curve in a chart, and how the curve is drawn.

    Attributes:
        label: the curve's name in the legend.
        color: the name of a CSS custom property, without the dashes.
        dots: whether to draw dots joined by a thin line (for evaluations) instead of a line (for training).
        counts: for shares, the number of problems over which each value was measured. The chart then shows 95 %
            intervals.
        others: the same curve of the runs to compare with.
        base: whether to draw the value at step 0 as a dotted horizontal line across the chart.
        raw: whether to draw values as logged instead of smoothed, as for schedules and for values whose peaks matter.
    """

    label: str
    color: str
    curve: Curve
    dots: bool = False
    counts: list[float | None] | None = None
    others: Sequence[Curve] = ()
    base: bool = False
    raw: bool = False


def ticks(low: float, high: float, about: int = 4, whole: bool = False) -> list[float]:
    """Returns roughly `about` round numbers in [low, high], spaced by 1, 2, 2.5 or 5 times a power of ten.

    Args:
        whole: whether to return only integers.
    """
    if not high > low:
        return [low]
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    if whole:
        step = max(1.0, float(round(step)))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float) -> str:
    """Formats a number with about three significant digits.

    The page's script formats the numbers under the pointer in the same way.
    """
    size = abs(value)
    if size == 0:
        return "0"
    if size < 0.001 or size >= 1e7:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    if size >= 1000:
        return f"{value:,.0f}"
    if float(value).is_integer():
        return str(int(value))
    decimals = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 1 else 3
    return f"{value:.{decimals}f}"


def tick_labels(values: Sequence[float]) -> list[str]:
    """Formats the tick values of one axis as labels with a common unit: k, M, G or none."""
    largest = max(map(abs, values))
    if largest >= 10_000:
        unit, name = next((u, n) for u, n in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= u)
        return [f"{v / unit:g}{name}" if v else "0" for v in values]
    if 0 < largest < 0.001:
        return [f"{v:.2g}".replace("e-0", "e-") if v else "0" for v in values]
    exact = (d for d in range(7) if all(abs(round(v, d) - v) < 1e-9 for v in values))
    decimals = next(exact, 7)
    return [f"{v:.{decimals}f}" for v in values]


class Axes(NamedTuple):
    """The ranges of a chart; `x` and `y` map steps and values to the 1000 x 1000 units of the drawing."""

    x_high: float
    low: float
    high: float
    log: bool

    def x(self, step: float) -> float:
        return 1000 * step / self.x_high

    def y(self, value: float) -> float:
        if self.log:
            value = math.log10(value)
        return 1000 - 1000 * (value - self.low) / (self.high - self.low)


def axes_of(series: Sequence[Series], x_high: float, share: bool, from_zero: bool, log: bool) -> Axes:
    """Returns the ranges of a chart's axes. The arguments are those of `chart`."""
    curves = [c for s in series for c in (s.curve, *s.others)]
    values = [v for c in curves for v in c.values if v is not None]
    if log and min(values) > 0:
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return Axes(x_high, low, max(high, low + 1), True)
    low, high = min(values), max(values)
    if low == high == 0:
        return Axes(x_high, 0, 1, False)
    if share and low >= 0 and 0.4 < high <= 1.001:
        return Axes(x_high, 0, 1, False)
    if from_zero and low >= 0:
        low = 0.0
    elif from_zero and high <= 0:
        high = 0.0
    pad = 0.08 * (high - low) or abs(high) * 0.1 or 1.0
    return Axes(x_high, low if low == 0 else low - pad, high if high == 0 and low else high + pad, False)


def _path(steps: Sequence[float], values: Sequence[float | None], axes: Axes) -> str:
    """Returns the SVG path data of a line through the values. None is a gap; a value between two gaps becomes a dot."""
    out, pen, alone = [], False, False
    for step, value in zip(steps, values, strict=True):
        if value is None:
            if alone:
                out.append("h.1")
            pen = alone = False
            continue
        out.append(f"{'L' if pen else 'M'}{axes.x(step):.1f} {axes.y(value):.1f}")
        alone = not pen
        pen = True
    if alone:
        out.append("h.1")
    return "".join(out)


def _band(thinned: Thinned, axes: Axes) -> str:
    """Returns the SVG path data of the area between least and greatest values, a polygon for each part without gaps."""
    out: list[str] = []
    run: list[tuple[float, float, float]] = []
    for point in [*zip(thinned.steps, thinned.low, thinned.high, strict=True), (0.0, None, None)]:
        step, low, high = point
        if low is not None and high is not None:
            run.append((axes.x(step), axes.y(low), axes.y(high)))
        elif run:
            there = "L".join(f"{x:.1f} {top:.1f}" for x, _, top in run)
            back = "L".join(f"{x:.1f} {bottom:.1f}" for x, bottom, _ in reversed(run))
            out.append(f"M{there}L{back}Z")
            run = []
    return "".join(out)


def draw(series: Series, axes: Axes) -> str:
    """Returns, as SVG, the curve of `series`, drawn on top of the curves `series.others` of the compared runs."""
    marks = []
    for other in series.others:
        thinned = thin(other)
        bold = thinned.mean if series.dots or series.raw else smooth(thinned.mean)
        line = _path(thinned.steps, bold, axes)
        marks.append(f'<path class="other" d="{line}"/>')
    thinned = thin(series.curve)
    if series.dots:
        if series.counts:
            for step, value, count in zip(*series.curve, series.counts, strict=True):
                if value is not None and count and thinned.width == 1:
                    low, high = (axes.y(v) for v in wilson(value, count))
                    line = f"M{axes.x(step):.1f} {low:.1f}V{high:.1f}"
                    marks.append(f'<path class="whisker" d="{line}"/>')
        marks.append(f'<path class="join" d="{_path(thinned.steps, thinned.mean, axes)}"/>')
        dots = "".join(
            f"M{axes.x(x):.1f} {axes.y(y):.1f}h.1"
            for x, y in zip(thinned.steps, thinned.mean, strict=True)
            if y is not None
        )
        marks.append(f'<path class="dot" d="{dots}"/>')
        if series.base and series.curve.steps[0] == 0 and series.curve.values[0] is not None:
            y = axes.y(series.curve.values[0])
            marks.insert(0, f'<path class="rule" d="M0 {y:.1f}H1000"/>')
            marks.append(f'<path class="hole" d="M{axes.x(0):.1f} {y:.1f}h.1"/>')
    else:
        bold = thinned.mean if series.raw else smooth(thinned.mean)
        if thinned.width > 1:
            marks.append(f'<path class="band" d="{_band(thinned, axes)}"/>')
        elif bold != thinned.mean:
            faint = _path(thinned.steps, thinned.mean, axes)
            marks.append(f'<path class="faint" d="{faint}"/>')
        marks.append(f'<path class="line" d="{_path(thinned.steps, bold, axes)}"/>')
    return f'<g style="--c:var(--{series.color})">{"".join(marks)}</g>'


def readout(curve: Curve) -> dict:
    """Returns the numbers that the page shows under the pointer, for one curve.

    The keys are "x" (steps, thinned), "y" (values to five digits) and "w" (number of steps merged into a point).
    """
    thinned = thin(curve)
    return {
        "x": [int(x) if x == int(x) else x for x in thinned.steps],
        "y": [None if y is None else float(f"{y:.5g}") for y in thinned.mean],
        "w": thinned.width,
    }


class Caption(NamedTuple):
    """The words of a chart: its title, the unit of its values, a note below it, and what the horizontal axis counts."""

    title: str
    unit: str = ""
    note: str = ""
    axis: str = "step"


def chart(
    series: Sequence[Series],
    caption: Caption,
    *,
    x_high: int,
    share: bool = False,
    from_zero: bool = True,
    log: bool = False,
    large: bool = False,
) -> tuple[str, dict]:
    """Returns a chart with axes and legend as HTML, and the numbers that the page shows under the pointer.

    Args:
        series: the curves, with at least one value among them.
        caption: the words of the chart.
        x_high: last step of the horizontal axis, common to all charts of a page; the first step is 0.
        share: whether the values are shares. For shares, the vertical axis runs from 0 to 1 if the largest exceeds 0.4.
        from_zero: whether to extend a linear vertical axis to 0.
        log: whether to make the vertical axis logarithmic. If a value is 0 or less, the axis is linear all the same.
        large: whether the chart is two columns wide.
    """
    title, unit, note, word = caption
    axes = axes_of(series, max(1, x_high), share, from_zero, log)
    if axes.log:
        powers = list(range(int(axes.low), int(axes.high) + 1))
        powers = powers[:: math.ceil(len(powers) / 6)]
        superscript = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
        marks = [
            (1000 - 1000 * (p - axes.low) / (axes.high - axes.low), "10" + str(p).translate(superscript))
            for p in powers
        ]
    else:
        at = ticks(axes.low, axes.high, 5 if large else 4)
        marks = [(axes.y(v), label) for v, label in zip(at, tick_labels(at), strict=True)]
    grid = "".join(f"M0 {y:.1f}H1000" for y, _ in marks)
    rows = "".join(f'<span class="y" style="top:{y / 10:.2f}%">{t}</span>' for y, t in marks)
    at = ticks(0, axes.x_high, 8 if large else 4, whole=True)
    columns = "".join(
        f'<span class="x" style="left:{axes.x(v) / 10:.2f}%">{label}</span>'
        for v, label in zip(at, [f"{word} 0", *tick_labels(at)[1:]], strict=True)
    )
    drawn = "".join(draw(s, axes) for s in reversed(series))  # the first series on top
    rules = [
        (axes.y(s.curve.values[0]) / 10, s)
        for s in series
        if s.base and s.curve.steps[0] == 0 and s.curve.values[0] is not None
    ]
    # Two rules may be close together, so the label of the lower one goes below it.
    lowest = max(top for top, _ in rules) if len(rules) > 1 else None
    bases = "".join(
        f'<span class="base{" below" if top == lowest else ""}" '
        f'style="top:{top:.2f}%;--c:var(--{s.color})">'
        f"base {number(s.curve.values[0])}</span>"
        for top, s in rules
    )
    legend = []
    for s in series:
        last = next((v for v in reversed(s.curve.values) if v is not None), None)
        legend.append(
            f'<li style="--c:var(--{s.color})" class="{"dots" if s.dots else "solid"}">'
            f"{html_text(s.label)} <b>{'–' if last is None else number(last)}</b>"
            "<small></small></li>"
        )
    spoken = "; ".join(
        f"{s.label}: {number(s.curve.values[i])} at {word} {s.curve.steps[i]}"
        for s in series
        for i in sorted({0, len(s.curve.steps) - 1})
        if s.curve.values[i] is not None
    )
    head = f"<h3>{html_text(title)}</h3>"
    if unit:
        head += f'<span class="unit">{html_text(unit)}</span>'
    html = (
        f'<figure class="chart{" large" if large else ""}"><figcaption>{head}'
        f'<output></output><ul class="legend">{"".join(legend)}</ul></figcaption>'
        '<div class="plot"><svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" '
        f'tabindex="0" aria-label="{html_text(f"{title}. {spoken}")}">'
        f'<path class="grid" d="{grid}"/>{drawn}</svg>{rows}{columns}{bases}</div>'
        + (f'<p class="note">{html_text(note)}</p>' if note else "")
        + "</figure>"
    )
    data = {
        "high": axes.x_high,
        "y": [axes.low, axes.high],
        "log": axes.log,
        "series": [readout(s.curve) | {"c": s.color, "others": [readout(o) for o in s.others]} for s in series],
    }
    return html, data
