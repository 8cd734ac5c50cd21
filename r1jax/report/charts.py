"""Selects, orders and draws the charts of a run's report, with the function `charts`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from r1jax.evaluation.completions import REFLECTIVE_WORDS
from r1jax.report.curve import Curve
from r1jax.report.data import Run
from r1jax.report.svg import Caption, Series, chart


class Line(NamedTuple):
    """A curve to draw.

    Attributes:
        label: the curve's name in the legend.
        color: the name of a CSS custom property, without the dashes.
        metric: a name in metrics.jsonl. Its values are drawn as a line.
        held: a name in eval.jsonl, used instead of `metric`. Its values are drawn as dots.
    """

    label: str
    color: str
    metric: str | None = None
    held: str | None = None
    base: bool = False  # draw the value at step 0 as a dotted horizontal line


class Plot(NamedTuple):
    """A chart of the page: its title, the unit of its values, its curves, and a note below the drawing.

    The flags `share`, `from_zero`, `log` and `large` are arguments of `svg.chart`; `raw` is a field of `svg.Series`.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    note: str = ""
    share: bool = False
    from_zero: bool = True
    log: bool = False
    large: bool = False
    raw: bool = False


def _both(metric: str, held: str, color: str = "train") -> tuple[Line, ...]:
    return (Line("training", color, metric), Line("held out", "held", None, held, True))


_HELD_OUT = (
    Plot(
        "Held-out accuracy",
        "share right",
        (
            Line("pass@1", "held", None, "accuracy", True),
            Line("if well formed", "right", None, "accuracy_if_well_formed"),
            Line("lenient extraction", "soft", None, "accuracy_lenient"),
        ),
        "Bars: 95 % intervals over the problems.",
        share=True,
        large=True,
    ),
)
_REWARD = (
    Plot("Accuracy", "share right", _both("reward/accuracy", "accuracy"), share=True),
    Plot("Format", "share well formed", _both("reward/format", "format"), share=True),
    Plot(
        "Reward",
        "mean, largest, and spread within a group",
        (
            Line("mean", "train", "reward/mean"),
            Line("standard deviation", "soft", "reward/std"),
            Line("largest", "right", "reward/max"),
        ),
    ),
    Plot(
        "Groups that teach nothing",
        "share of groups",
        (
            Line("zero variance", "wrong", "group/zero_variance"),
            Line("one completion", "soft", "group/one_completion"),
        ),
        share=True,
    ),
)
_BEHAVIOUR = (
    Plot("Length", "tokens", _both("completion/length", "length")),
    Plot(
        "Length, right and wrong",
        "tokens",
        (
            Line("right", "right", "completion/length_right"),
            Line("wrong", "wrong", "completion/length_wrong"),
            Line("right, held out", "right", None, "length_right", True),
            Line("wrong, held out", "wrong", None, "length_wrong", True),
        ),
    ),
    Plot(
        "Reflective words",
        "per completion",
        _both("completion/reflective_words", "reflective_words"),
        ", ".join(REFLECTIVE_WORDS) + "; Chinese forms too.",
    ),
    Plot("Language", "share in the question's language", _both("completion/language", "language"), share=True),
    Plot("Truncated", "share of completions", _both("completion/truncated", "truncated"), share=True),
)
_POLICY = (
    Plot("Entropy", "nats per token", (Line("entropy", "train", "entropy"),)),
    Plot("KL to the reference", "nats per token", (Line("k3", "train", "kl"),)),
    Plot("Clip fraction", "share of tokens", (Line("clipped", "train", "clip_fraction"),), share=True),
    Plot(
        "Sampler gap",
        "nats",
        (
            Line("largest", "train", "sampler_gap/max"),
            Line("k3", "soft", "sampler_gap/k3"),
        ),
        "Sampler against trainer, log-probability of the sampled tokens.",
        log=True,
    ),
    Plot("Gradient norm", "before clipping", (Line("norm", "train", "grad_norm"),), raw=True),
    Plot("Loss", "", (Line("loss", "train", "loss"),), from_zero=False),
    Plot(
        "Left out",
        "per step",
        (
            Line("rows without a verdict", "soft", "rows/invalid"),
            Line("updates skipped", "wrong", "update/skipped"),
            Line("held out, without a verdict", "held", None, "no_verdict"),
        ),
        raw=True,
    ),
)
_MACHINE = (
    Plot("Speed", "tokens per second", (Line("tokens/s", "train", "perf/tokens_per_s"),), raw=True),
    Plot("Time of a step", "seconds", (Line("seconds", "train", "perf/step_s"),), raw=True),
    Plot(
        "Share of the limit",
        "of the machine's own speed",
        (
            Line("rollout", "train", "perf/decode_fraction"),
            Line("update (MFU)", "soft", "perf/mfu"),
        ),
    ),
)
# Title, prefixes of further logged names that belong here, plots.
_SECTIONS = (
    ("Held out", "eval", _HELD_OUT),
    ("Reward", ("reward/", "group/"), _REWARD),
    ("Behaviour", ("completion/",), _BEHAVIOUR),
    ("Policy", ("sampler_gap/", "rows/", "update/"), _POLICY),
    ("Machine", ("perf/",), _MACHINE),
    ("Other figures", ("",), ()),
)
_NAMED = {
    key for _, _, plots in _SECTIONS for plot in plots for line in plot.lines for key in (line.metric, line.held) if key
} | {"n"}


def _sections(run: Run) -> list[tuple[str, list[Plot]]]:
    """Returns (title, plots) of each section of the page.

    The plots are those of the tables above, followed by a plot for each logged name that is in no table.
    """
    rest = [key for key in run.metrics if key not in _NAMED]
    out = []
    for title, prefixes, plots in _SECTIONS:
        plots = list(plots)
        if prefixes == "eval":
            plots += _by_kind(run)
            plots += [
                Plot(key, "", (Line("held out", "held", None, key),))
                for key in run.evals
                if key not in _NAMED and not key.startswith("by_kind/")
            ]
        else:
            mine = [key for key in rest if key.startswith(prefixes)]
            rest = [key for key in rest if key not in mine]
            plots += [Plot(key, "", (Line(key.rpartition("/")[2], "train", key),)) for key in mine]
        out.append((title, plots))
    return out


def _by_kind(run: Run) -> list[Plot]:
    kinds = sorted({key.split("/")[1] for key in run.evals if key.startswith("by_kind/")})
    return [
        Plot(
            title,
            unit,
            tuple(Line(kind, f"k{i % 8}", None, f"by_kind/{kind}/{figure}") for i, kind in enumerate(kinds)),
            share=share,
        )
        for title, unit, figure, share in (
            ("Accuracy by kind", "held out, share right", "accuracy", True),
            ("Length by kind", "held out, tokens", "length", False),
        )
    ]


def trials_of(run: Run, figure: str) -> dict[int, float | None]:
    """Returns {step: number of held-out problems over which a share was measured at this step}.

    An accuracy is measured only over the problems whose answers could be graded ("judged" in eval.jsonl). Any other
    share is measured over all problems ("n"). If the step's line in eval.jsonl lacks this number, the value is None.

    Args:
        figure: the share's name in eval.jsonl, such as "accuracy" or "format".
    """
    judged = figure.startswith("accuracy") and "judged" in run.evals
    return dict(zip(*run.evals.get("judged" if judged else "n", Curve([], [])), strict=True))


def _series(line: Line, run: Run, others: Sequence[Run], raw: bool) -> Series | None:
    held = line.held is not None
    key = line.held if held else line.metric
    curve = (run.evals if held else run.metrics).get(key)
    if curve is None:
        return None
    # If a chart has several evaluation curves, those of other runs would hide them.
    others = others if line.metric or line.base else ()
    rest = [c for o in others if (c := (o.evals if held else o.metrics).get(key))]
    counts = None
    if key in ("accuracy", "accuracy_lenient", "format"):
        trials = trials_of(run, key)
        counts = [trials.get(step) for step in curve.steps]
    return Series(line.label, line.color, curve, held, counts, rest, line.base, raw)


def charts(run: Run, others: Sequence[Run]) -> tuple[str, list[tuple[str, str]], list[dict]]:
    """Returns (html, anchors, numbers) of all charts of a run's page.

    `anchors` holds (HTML anchor, title) of each section that has a chart. `numbers` holds, for each chart, the data
    that the page shows under the pointer.

    Args:
        others: runs to compare with, drawn as thin lines.
    """
    curves = [c for r in (run, *others) for c in (*r.metrics.values(), *r.evals.values())]
    x_high = max((curve.steps[-1] for curve in curves), default=0)
    html, anchors, data = [], [], []
    for title, plots in _sections(run):
        drawn = []
        for plot in plots:
            found = [s for line in plot.lines if (s := _series(line, run, others, plot.raw))]
            if found:
                figure, numbers = chart(
                    found,
                    Caption(plot.title, plot.unit, plot.note),
                    x_high=x_high,
                    share=plot.share,
                    from_zero=plot.from_zero,
                    log=plot.log,
                    large=plot.large,
                )
                drawn.append(figure)
                data.append(numbers)
        if drawn:
            anchor = title.lower().replace(" ", "-")
            anchors.append((anchor, title))
            grid = f'<div class="grid">{"".join(drawn)}</div>'
            html.append(f'<section id="{anchor}"><h2>{title}</h2>{grid}</section>')
    return "".join(html), anchors, data
