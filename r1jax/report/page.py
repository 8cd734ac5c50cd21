"""Builds the report page of a run (`page`) from a headline, warnings, tables and charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from r1jax.evaluation.completions import REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH
from r1jax.report.charts import charts
from r1jax.report.curve import Curve
from r1jax.report.data import Run, Samples, script_json
from r1jax.report.sheet import html_value, sheet
from r1jax.report.svg import number

# Key in eval.jsonl, title, unit. A value without a unit is a share, whose change is shown as a difference. The change
# of other values is shown as a factor.
_HEADLINES = (
    ("accuracy", "Held-out accuracy", ""),
    ("accuracy_if_well_formed", "Accuracy, if well formed", ""),
    ("accuracy_lenient", "Accuracy, lenient", ""),
    ("format", "Well formed", ""),
    ("language", "In the question’s language", ""),
    ("length", "Length", "tokens"),
    ("reflective_words", "Reflective words", "per completion"),
)


def _results(run: Run) -> dict[str, tuple[float | None, float | None]]:
    """Returns a dict: key of a headline -> (value before training, value after training).

    The values come from the manifest or, if it lacks them, from the evaluations; None if neither has a value.
    """
    named = run.manifest.get("results")
    named = named if isinstance(named, Mapping) else {}
    out = {}
    for key, _, _ in _HEADLINES:
        curve = run.evals.get(key, Curve([], []))
        pair = []
        for end, at in (("base", 0), ("final", -1)):
            value = (named.get(end) or {}).get(key)
            if value is None and curve.steps:
                wanted = curve.steps[0] == 0 if end == "base" else curve.steps[-1] > 0
                value = curve.values[at] if wanted else None
            pair.append(value if isinstance(value, (int, float)) else None)
        out[key] = tuple(pair)
    return out


def _headline(run: Run) -> str:
    tiles = []
    for key, title, unit in _HEADLINES:
        base, final = _results(run)[key]
        if base is None and final is None:
            continue
        change = ""
        if base is not None and final is not None:
            if not unit:
                change = f"{final - base:+.3f}".replace("-", "−")
            elif base > 0:
                change = f", × {final / base:.2f}"
        if key == "accuracy" and (n := run.evals.get("judged") or run.evals.get("n")):
            change += f" on {number(n.values[-1] or 0)} problems"
        tiles.append(
            f'<div class="tile{" first" if key == "accuracy" else ""}"><dt>{title}</dt><dd>'
            f'<span class="from">{"–" if base is None else number(base)}</span>'
            f'<span class="arrow" aria-label="to">→</span>'
            f'<span class="to">{"–" if final is None else number(final)}</span>'
            f'<span class="change">{unit}{change}</span></dd></div>'
        )
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if tiles else ""


def _runs(run: Run, others: Sequence[Run]) -> str:
    """Returns, as HTML, the table that compares runs: values before and after training. Empty without other runs."""
    if not others:
        return ""
    keys = [(k, t) for k, t, _ in _HEADLINES if any(any(v is not None for v in _results(r)[k]) for r in (run, *others))]
    head = "".join(f"<th scope=col>{title}</th>" for _, title in keys)
    rows = []
    for r in (run, *others):
        cells = "".join(
            f"<td>{' → '.join('–' if v is None else number(v) for v in _results(r)[key])}</td>" for key, _ in keys
        )
        seed = r.manifest.get("seed")
        label = html_value(r.name) + (f" <small>seed {html_value(seed)}</small>" if seed is not None else "")
        rows.append(f"<tr><th scope=row>{label}</th>{cells}</tr>")
    return (
        '<div class="scroll"><table class="runs"><caption>Runs, base → final. The first is '
        "drawn in full, the others as thin lines.</caption>"
        f"<thead><tr><th scope=col>run</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def _warnings(run: Run) -> str:
    seen: dict[str, list[int]] = {}
    for warning in run.manifest.get("warnings") or []:
        if isinstance(warning, Mapping):
            seen.setdefault(str(warning.get("text", "")), []).append(warning.get("step") or 0)
    if not seen:
        return '<p class="calm">No warnings.</p>' if run.manifest else ""
    items = []
    for text, steps in seen.items():
        where = f"step {steps[0]}" if len(steps) == 1 else (f"{len(steps)} times, steps {min(steps)}–{max(steps)}")
        items.append(f"<li>{html_value(text)} <small>{where}</small></li>")
    rest = f"<details><summary>{len(items) - 8} more</summary><ul>{''.join(items[8:])}</ul></details>"
    count = f"{len(items)} warning{'s' if len(items) > 1 else ''}"
    return (
        f'<aside class="warnings"><h2>{count}</h2><ul>{"".join(items[:8])}</ul>{rest if len(items) > 8 else ""}</aside>'
    )


def _table(title: str, value: Mapping) -> str:
    rows = []

    def add(prefix: str, part: object) -> None:
        if isinstance(part, Mapping) and part:
            for key, inner in part.items():
                add(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            rows.append(f"<div><dt>{html_value(prefix)}</dt><dd>{html_value(part)}</dd></div>")

    add("", value)
    return f"<h3>{title}</h3><dl class=facts>{''.join(rows)}</dl>"


def _facts(run: Run, prompt: str) -> str:
    manifest = run.manifest
    recipe = manifest.get("recipe")
    rest = {k: v for k, v in manifest.items() if k not in ("recipe", "results", "warnings")}
    parts = []
    if isinstance(recipe, Mapping):
        parts.append(_table("Recipe", recipe))
    if rest:
        parts.append(_table("Manifest", rest))
    if prompt:
        parts.append("<h3>A prompt, as the model reads it</h3>")
        parts.append(f"<pre class=prompt>{html_value(prompt[:5000])}</pre>")
    if not parts:
        return ""
    return f'<section id="recipe"><h2>Recipe and manifest</h2>{"".join(parts)}</section>'


def page(run: Run, others: Sequence[Run], samples: Samples, prompt: str) -> str:
    """Returns the whole page of a run as HTML.

    Args:
        others: runs to compare with, drawn as thin lines.
        samples: the samples to show.
        prompt: a full prompt, shown as an example of the template; empty if there is none.
    """
    drawn, anchors, curves = charts(run, others)
    stage = str(run.manifest.get("stage") or "run")
    steps = max((c.steps[-1] for c in run.metrics.values()), default=0)
    recipe = run.manifest.get("recipe")
    planned = recipe.get("steps") if isinstance(recipe, Mapping) else None
    facts = [
        run.name,
        f"seed {run.manifest['seed']}" if "seed" in run.manifest else "",
        f"{steps:,} of {planned:,} steps" if isinstance(planned, int) else f"{steps:,} steps",
        str(run.manifest.get("status") or ""),
    ]
    if samples.rows:
        anchors.append(("samples", "Samples"))
    table = _facts(run, prompt)
    if table:
        anchors.append(("recipe", "Recipe"))
    nav = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title in anchors)
    data = {"curves": curves, "words": [REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH]}
    parts = {
        "title": f"{html_value(stage)} · {html_value(run.name)}",
        "stage": html_value(stage),
        "facts": " · ".join(html_value(fact) for fact in facts if fact),
        "nav": nav,
        "headline": _headline(run),
        "warnings": _warnings(run),
        "runs": _runs(run, others),
        "charts": drawn or '<p class="calm">No step has been logged yet.</p>',
        "recipe": table,
        "hidden": "" if samples.rows else "hidden",
        "rule": html_value(samples.rule),
        "data": script_json(data),
        "samples": script_json(samples.rows),
    }
    return sheet("page.html", ("page.css",), ("sheet.js", "curves.js", "page.js"), parts)
