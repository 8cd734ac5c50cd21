"""Draws a card for each stage with its counts of records, and a card for each reward model with its results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from r1jax.report.stages_data import Part, Stages, counts, finite, mapping
from r1jax.report.svg import html_text, number

TITLES = {
    "route": "Kept, by route",
    "domain": "Kept, by domain",
    "kind": "Kept, by kind",
    "reason": "Dropped, by reason",
    "rewritten_by": "Rewritten by",
    "reason_by_domain": "Dropped, by domain and reason",
}
ORDER = ("route", "domain", "kind", "reason", "rewritten_by", "reason_by_domain")
FIGURES = {
    "accuracy": "held-out accuracy",
    "n": "held-out items",
    "auc": "area under the curve",
    "length_correlation": "correlation with length",
    "phrase_correlation": "correlation with stock phrases",
    "accuracy_chosen_longer": "accuracy, the better is longer",
    "accuracy_chosen_shorter": "accuracy, the better is shorter",
}


def _numbers(value: object) -> dict[str, float]:
    return {str(key): n for key, v in mapping(value).items() if (n := finite(v)) is not None}


def _name(key: str) -> str:
    return {"None": "not rewritten", "null": "not rewritten", "": "unnamed"}.get(key, key.replace("_", " "))


def _bars(title: str, values: Mapping[str, float], dropped: bool) -> str:
    top, total = max(values.values()) or 1.0, sum(values.values()) or 1.0
    rows = "".join(
        f'<div><dt>{html_text(_name(key))}</dt><dd><i style="--m:{100 * value / top:.1f}%"></i><b>{value:,.0f}</b>'
        f"<small>{100 * value / total:.0f} %</small></dd></div>"
        for key, value in sorted(values.items(), key=lambda item: (-item[1], item[0]))
    )
    return f'<div class="bars{" dropped" if dropped else ""}"><h4>{html_text(title)}</h4><dl>{rows}</dl></div>'


def _matrix(title: str, value: Mapping[str, Mapping[str, float]]) -> str:
    total: Counter[str] = Counter()
    for row in value.values():
        total.update(row)
    columns = sorted(total, key=lambda column: (-total[column], column))
    head = "".join(f"<th scope=col>{html_text(_name(column))}</th>" for column in columns)
    body = "".join(
        f"<tr><th scope=row>{html_text(_name(key))}</th>"
        + "".join(f"<td>{row[c]:,.0f}</td>" if c in row else '<td class="none">–</td>' for c in columns)
        + "</tr>"
        for key, row in value.items()
    )
    return (
        f'<div class="matrix"><h4>{html_text(title)}</h4><div class="scroll"><table><thead><tr><th scope=col></th>'
        f"{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></div>"
    )


def _card(part: Part) -> str:
    """Returns, as HTML, the card with the counts of a stage's records; empty if the stage's manifest has no counts."""
    found = counts(part)
    bars, tables = [], []
    for key in sorted(found, key=lambda k: (ORDER.index(k) if k in ORDER else len(ORDER), k)):
        title = TITLES.get(key, key.replace("_", " "))
        if values := _numbers(found[key]):
            bars.append(_bars(title, values, key == "reason"))
        elif nested := {str(k): n for k, v in mapping(found[key]).items() if (n := _numbers(v))}:
            tables.append(_matrix(title, nested))
    if not bars and not tables:
        return ""
    records, kept = finite(found.get("records")), finite(found.get("kept"))
    said = []
    if records is not None:
        said.append(f"{records:,.0f} records")
    if kept is not None:
        said.append(f"{kept:,.0f} kept" + (f" ({100 * kept / records:.0f} %)" if records else ""))
    said += [f"{value:,.0f} {_name(key)}" for key, value in _numbers(found).items() if key not in ("records", "kept")]
    sha256 = str(mapping(part.run.manifest.get("data")).get("sha256") or "")
    mark = f' <code title="sha256 {html_text(sha256)}">{html_text(sha256[:10])}</code>' if sha256 else ""
    return (
        f'<article class="counts"><h3>{html_text(part.name)} <small>{html_text(", ".join(said))}</small>{mark}</h3>'
        f'<div class="columns">{"".join(bars)}</div><div class="tables">{"".join(tables)}</div></article>'
    )


def _model(part: Part) -> str:
    """Returns, as HTML, the card with a reward model's held-out results; empty if there is nothing to show."""
    final = _numbers(mapping(part.run.manifest.get("results")).get("final"))
    said = [f"{value:,.0f} {_name(key)}" for key, value in _numbers(counts(part)).items()]
    rows = "".join(
        f"<div><dt>{html_text(FIGURES.get(key, _name(key)))}</dt><dd>{number(value)}</dd></div>"
        for key, value in sorted(
            final.items(),
            key=lambda item: (list(FIGURES).index(item[0]) if item[0] in FIGURES else len(FIGURES), item[0]),
        )
    )
    if not rows and not said:
        return ""
    return (
        f'<article class="counts model"><h3>{html_text(part.name)} <small>{html_text(", ".join(said))}</small></h3>'
        f'<dl class="pairs">{rows or "<div><dt>not yet measured</dt></div>"}</dl></article>'
    )


def data_counts(stages: Stages) -> str:
    """Returns, as HTML, a card for each stage whose manifest counts its records, then a card for each reward model.

    A stage's card shows the counts of records. A reward model's card shows the model's results on held-out items.
    Returns an empty text if there are no cards.
    """
    cards = "".join(_card(part) for part in stages.parts)
    models = "".join(_model(part) for part in stages.models)
    return cards + (f'<div class="models">{models}</div>' if models else "")
