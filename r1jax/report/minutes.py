"""Makes the table of planned and measured minutes of the stages: `budget`."""

from __future__ import annotations

import math

from r1jax.report.stages_data import Stages, finite
from r1jax.report.svg import html_text


def budget(stages: Stages) -> str:
    """Returns, as an HTML table, planned and measured minutes of each stage, and their sums.

    Returns an empty string if there are no minutes.
    """
    rows = [(str(e.get("stage") or ""), finite(e.get("planned")), finite(e.get("minutes"))) for e in stages.budget]
    rows = [row for row in rows if row[1] is not None or row[2] is not None]
    if not rows:
        return ""
    names = {part.folder: part.name for part in (*stages.parts, *stages.models) if part.folder}
    top = max(max(planned or 0, measured or 0) for _, planned, measured in rows) or 1.0
    body = []
    for stage, planned, measured in rows:
        over = planned is not None and measured is not None and measured > 1.15 * planned
        label = names.get(stage, stage)
        folder = f" <small>{html_text(stage)}</small>" if stage != label else ""
        bar = (
            f'<i class="{"over" if over else ""}" '
            f'style="--m:{100 * (measured or 0) / top:.1f}%;--p:{100 * (planned or 0) / top:.1f}%"></i>'
        )
        body.append(
            f"<tr><th scope=row>{html_text(label)}{folder}</th><td>{_minutes(planned)}</td><td>"
            f"{_minutes(measured)}</td>"
            f'<td class="bar">{bar}</td></tr>'
        )
    sums = [
        math.fsum(v for row in rows if (v := row[k]) is not None) if any(row[k] is not None for row in rows) else None
        for k in (1, 2)
    ]
    body.append(
        f'<tr class="sum"><th scope=row>together</th><td>{_minutes(sums[0])}</td><td>{_minutes(sums[1])}</td><td></td>'
        f"</tr>"
    )
    return (
        '<div class="scroll"><table class="budget"><thead><tr><th scope=col>minutes</th><th scope=col>planned</th><th '
        "scope=col>measured</th>"
        '<th scope=col class="bar">measured; the stroke is the plan</th></tr></thead><tbody>'
        + "".join(body)
        + "</tbody></table></div>"
    )


def _minutes(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
