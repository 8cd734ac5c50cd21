"""Draws charts of all stages on one time axis: `stage_curves`.

A stage whose rewards come from reward models gets two more charts. One shows these rewards. The other shows the true
worth of held-out replies, which the generator of the prompts knows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from r1jax.report.charts import Line, Plot, trials_of
from r1jax.report.curve import Curve
from r1jax.report.data import Run
from r1jax.report.stages_data import Part, Stages, finite, mapping
from r1jax.report.svg import Axes, Caption, Series, axes_of, chart, draw, html_text, number, readout, tick_labels, ticks

LEAST = 0.055  # least share of the axis for a stage, so that its name can be read
GAP = 5.0  # space between two stages, in thousandths of the axis
PREFERENCES = ("reward/helpful", "reward/safety")


class Span(NamedTuple):
    """The part of the common time axis that a stage takes, from `begin` to `end` in thousandths of the axis.

    Attributes:
        part: the stage.
        steps: the stage's number of training steps.
    """

    part: Part
    begin: float
    end: float
    steps: int

    def x(self, step: float) -> float:
        return round(self.begin + (self.end - self.begin) * step / self.steps, 2)


def _both(metric: str, held: str) -> tuple[Line, ...]:
    return (Line("training", "train", metric), Line("held out", "held", None, held))


STRIPS = (
    Plot("Accuracy", "share right", _both("reward/accuracy", "accuracy"), share=True),
    Plot("Format", "share well formed", _both("reward/format", "format"), share=True),
    Plot(
        "Language consistency", "share in the question’s language", _both("completion/language", "language"), share=True
    ),
    Plot("Length", "tokens", _both("completion/length", "length")),
    Plot("Reflective words", "per completion", _both("completion/reflective_words", "reflective_words")),
    Plot(
        "General prompts",
        "the generator’s ground truth for held-out replies",
        (
            Line("helpful", "right", None, "helpful"),
            Line("harmless", "k3", None, "harmless"),
            Line("stock phrases", "soft", None, "padding"),
        ),
        share=True,
    ),
    Plot("Entropy", "nats per token", (Line("entropy", "train", "entropy"),)),
)
FINE_TUNING = Plot("Loss of fine-tuning", "nats per token", (Line("loss", "train", "loss"),), from_zero=False)


def spans(parts: Sequence[Part]) -> list[Span]:
    """Returns a `Span`, a part of the time axis, for each stage that has logs.

    A stage's width is proportional to the seconds that its training took, but at least `LEAST` of the axis.
    """
    begun = [part for part in parts if part.run.metrics or part.run.evals]
    if not begun:
        return []
    costs = [
        math.fsum(v for v in part.run.metrics.get("perf/step_s", Curve([], [])).values if v is not None)
        for part in begun
    ]
    known = [cost for cost in costs if cost > 0]
    usual = math.fsum(known) / len(known) if known else 1.0
    costs = [cost if cost > 0 else usual for cost in costs]
    shares = [max(LEAST, cost / math.fsum(costs)) for cost in costs]
    room, at, found = 1000 - GAP * (len(begun) - 1), 0.0, []
    for part, share in zip(begun, shares, strict=True):
        width = room * share / math.fsum(shares)
        found.append(Span(part, round(at, 2), round(at + width, 2), _steps(part.run)))
        at += width + GAP
    return found


def _steps(run: Run) -> int:
    last = max((curve.steps[-1] for curve in (*run.metrics.values(), *run.evals.values())), default=0)
    planned = finite(mapping(run.manifest.get("recipe")).get("steps")) or 0
    return max(1, last, int(planned))


def _series(line: Line, found: Sequence[Span], raw: bool) -> list[Series]:
    """Returns one curve for each stage that has logged the values of `line`, placed on the common time axis.

    Args:
        found: the stages on the axis.
        raw: draws values as logged, not smoothed.
    """
    out = []
    for span in found:
        run = span.part.run
        curve = run.evals.get(line.held) if line.held else run.metrics.get(line.metric or "")
        if curve is None:
            continue
        moved = Curve([span.x(step) for step in curve.steps], curve.values)
        counts = None
        if line.held in ("accuracy", "format") and (trials := trials_of(run, line.held)):
            counts = [trials.get(step) for step in curve.steps]
        out.append(Series(line.label, line.color, moved, line.held is not None, counts, raw=raw))
    return out


def asked(found: Sequence[Span]) -> str:
    """Returns, as HTML, which stages were evaluated on which problems: "FILE: STAGE, STAGE; FILE: STAGE".

    FILE is the name of a stage's --eval-prompts, without folders.
    """
    sets: dict[str, list[str]] = {}
    for span in found:
        name = mapping(span.part.run.manifest.get("recipe")).get("eval_prompts")
        if isinstance(name, str) and span.part.run.evals:
            sets.setdefault(Path(name).name, []).append(span.part.name)
    return html_text("; ".join(f"{name}: {', '.join(parts)}" for name, parts in sets.items()))


def _strip(plot: Plot, found: Sequence[Span]) -> tuple[str, dict] | None:
    """Draws one wide chart over all stages. Returns its HTML and the numbers that the page shows under the pointer.

    Returns None if no stage has logged values for the chart.
    """
    drawn = [(line, _series(line, found, plot.raw)) for line in plot.lines]
    drawn = [(line, series) for line, series in drawn if series]
    if not drawn:
        return None
    every = [one for _, series in drawn for one in series]
    axes = axes_of(every, 1000, plot.share, plot.from_zero, plot.log)
    at = ticks(axes.low, axes.high, 3)
    rows = "".join(
        f'<span class="y" style="top:{axes.y(v) / 10:.2f}%">{label}</span>'
        for v, label in zip(at, tick_labels(at), strict=True)
    )
    grid = "".join(f"M0 {axes.y(v):.1f}H1000" for v in at)
    legend = "".join(_legend(line) for line, _ in drawn)
    bands = "".join(f"M{s.begin:.1f} 0H{s.end:.1f}V1000H{s.begin:.1f}Z" for s in found)
    marks = "".join(draw(one, axes) for _, series in reversed(drawn) for one in series)
    spoken = "; ".join(
        f"{line.label} of {name}: {number(value)}" for line, series in drawn for name, value in _ends(series, found)
    )
    html = (
        f'<figure class="chart strip"><figcaption><h3>{html_text(plot.title)}</h3><span class="unit">'
        f"{html_text(plot.unit)}</span>"
        f'<output></output><ul class="legend">{legend}</ul></figcaption><div class="plot">'
        '<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" role="img" tabindex="0" '
        f'aria-label="{html_text(f"{plot.title}. At the end of each stage: {spoken}")}">'
        f'<path class="bands" d="{bands}"/><path class="grid" d="{grid}"/>{marks}</svg>{rows}{_names(found)}</div>'
        f"</figure>"
    )
    return html, _numbers(axes, drawn, found)


def _ends(series: Sequence[Series], found: Sequence[Span]) -> list[tuple[str, float]]:
    """Returns (stage name, last value) of each curve that has a value. `found` are the stages on the axis."""
    out = []
    for one in series:
        value = next((v for v in reversed(one.curve.values) if v is not None), None)
        name = next(span.part.name for span in found if one.curve.steps[0] <= span.end)
        if value is not None:
            out.append((name, value))
    return out


def _legend(line: Line) -> str:
    # No value until the pointer reads one: the last value would be a distilled student's.
    return (
        f'<li style="--c:var(--{line.color})" class="{"dots" if line.held else "solid"}">{html_text(line.label)} '
        f"<b></b><small></small></li>"
    )


def _names(found: Sequence[Span]) -> str:
    out = []
    for s in found:
        steps = f"{s.steps:,} steps"
        # In the narrowest layout a thousandth of the axis is 0.7 pixels, and a letter about 6.3.
        room = 0.7 * (s.end - s.begin) > 6.3 * (len(s.part.name) + len(steps) + 1)
        out.append(
            f'<span class="stage" style="left:{s.begin / 10:.2f}%;width:{(s.end - s.begin) / 10:.2f}%">'
            f"{html_text(s.part.name)}{f'<small>{steps}</small>' if room else ''}</span>"
        )
    return "".join(out)


def _numbers(axes: Axes, drawn: Sequence[tuple[Line, Sequence[Series]]], found: Sequence[Span]) -> dict:
    """Returns the numbers that the page shows under the pointer: a curve through all stages for each line of the chart.

    Args:
        drawn: (line, the line's curve in each stage) of each line of the chart.
    """
    lines = []
    for line, series in drawn:
        whole: dict = {"x": [], "y": [], "w": 1, "c": line.color, "others": []}
        for one in series:
            thinned = readout(one.curve)
            whole["x"] += [round(x, 2) for x in thinned["x"]]
            whole["y"] += thinned["y"]
        lines.append(whole)
    return {
        "high": 1000,
        "y": [axes.low, axes.high],
        "log": axes.log,
        "axis": 0,
        "series": lines,
        "stages": [[span.part.name, span.begin, span.end, span.steps] for span in found],
    }


def _preference(part: Part) -> tuple[list[str], list[dict]]:
    """Draws two charts for a stage: the rewards by the reward models, and the true worth that the generator knows.

    Returns the charts as HTML, and the numbers that the page shows under the pointer.
    """
    run = part.run
    x_high = _steps(run)
    late = finite(mapping(run.manifest.get("recipe")).get("late_from"))
    joined = f" They join at step {late:.0f}." if late else ""
    sets = (
        (
            "The reward models say",
            "their mean reward of training samples",
            f"Helpfulness: standardised on held-out texts. Safety: probability that the response is safe.{joined}",
            (("helpfulness model", "right", PREFERENCES[0], False), ("safety model", "k3", PREFERENCES[1], False)),
            False,
        ),
        (
            "The generator knows",
            "of held-out replies",
            "If the rewards rise while these fall, the policy exploits its reward model.",
            (
                ("helpful", "right", "helpful", True),
                ("harmless", "k3", "harmless", True),
                ("stock phrases", "soft", "padding", True),
            ),
            True,
        ),
    )
    html, data = [], []
    for title, unit, note, lines, share in sets:
        series = [
            Series(label, color, curve, held)
            for label, color, key, held in lines
            if (curve := (run.evals if held else run.metrics).get(key)) is not None
        ]
        if series:
            caption = Caption(f"{title}: {part.name}", unit, note)
            figure, numbers = chart(series, caption, x_high=x_high, share=share)
            html.append(figure)
            data.append(numbers)
    return html, data


def stage_curves(stages: Stages) -> tuple[str, list[dict]]:
    """Returns all charts as HTML, and for each chart the numbers that the page shows under the pointer, in page order.

    The HTML is empty before the first training step.
    """
    found = spans(stages.parts)
    tuned = [span for span in found if "loss" in span.part.run.metrics and "reward/mean" not in span.part.run.metrics]
    strips = [_strip(plot, found) for plot in STRIPS]
    if tuned:
        strips.append(_tuned(found, tuned))
    drawn = [strip for strip in strips if strip]
    html = "".join(figure for figure, _ in drawn)
    data = [numbers for _, numbers in drawn]
    if html:
        html = (
            '<p class="rule-text">A stage is as wide as its training took. Lines are training. Dots are evaluations '
            f"on each stage's own held-out problems ({asked(found)}): compare them within a stage only. The "
            "table has all stages on the same problems. The first stages begin with the base, and so does Dev3.</p>"
            f'<div class="row"><div>{html}</div></div>'
        )
    for axis, part in enumerate((p for p in stages.parts if any(key in p.run.metrics for key in PREFERENCES)), 1):
        figures, numbers = _preference(part)
        data += [one | {"axis": axis} for one in numbers]
        html += (
            f'<h3 class="sub">Preference reward against the truth</h3><div class="grid pair">{"".join(figures)}</div>'
        )
    return html, data


def _tuned(found: Sequence[Span], tuned: Sequence[Span]) -> tuple[str, dict] | None:
    """Draws the loss of the fine-tuned stages on the common time axis.

    RL stages are left out: their loss differs in kind.

    Args:
        found: all stages on the axis.
        tuned: the fine-tuned stages among them.
    """
    others = [s if s in tuned else s._replace(part=s.part._replace(run=s.part.run._replace(metrics={}))) for s in found]
    return _strip(FINE_TUNING, others)
