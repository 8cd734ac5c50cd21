"""The one page of R1's stages: `write_stages`."""

from __future__ import annotations

import os
from pathlib import Path

from r1jax.behaviour import REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH
from r1jax.report.data import script_json
from r1jax.report.data_counts import data_counts
from r1jax.report.lineage_graph import graph
from r1jax.report.minutes import budget
from r1jax.report.sheet import html_value, sheet, write
from r1jax.report.stage_curves import stage_curves
from r1jax.report.stage_table import headline, table
from r1jax.report.stages_data import Stages, load_stages, shown_samples


def write_stages(workdir: str | os.PathLike[str]) -> Path:
    """Writes `report.html` beside stages.json and returns its path.

    What is not there yet is left out. The same files give the same bytes.

    Raises:
        ValueError: there is no stages.json, or it or a log of a stage cannot be read.
    """
    return write(Path(workdir), stages_page(load_stages(workdir)))


def _warnings(stages: Stages) -> str:
    """The warnings of all stages, folded: each was told on the stage's own page."""
    found: dict[tuple[str, str], int] = {}
    for part in (*stages.parts, *stages.models):
        warnings = part.run.manifest.get("warnings")
        for warning in warnings if isinstance(warnings, list) else []:
            if isinstance(warning, dict):
                key = (part.name, str(warning.get("text", "")))
                found[key] = found.get(key, 0) + 1
    if not found:
        return ""
    items = "".join(
        f"<li><b>{html_value(name)}</b> {html_value(text)}{f' <small>{count} times</small>' if count > 1 else ''}</li>"
        for (name, text), count in found.items()
    )
    said = f"{len(found)} warning{'s' if len(found) > 1 else ''} of the stages"
    return f'<details class="warned"><summary>{said}</summary><ul>{items}</ul></details>'


def stages_page(stages: Stages) -> str:
    """The whole page."""
    names = [part.name for part in stages.parts]
    drawn, curves = stage_curves(stages)
    samples, rule = shown_samples(stages.samples, names)
    trained = [part for part in stages.parts if part.folder]
    done = sum(part.status == "complete" for part in trained)
    sections = [
        ("lineage", "Lineage", graph(stages)), ("stages", "By stage", table(stages)), ("curves", "Curves", drawn),
        ("records", "Data", data_counts(stages)), ("samples", "Samples", _samples(rule) if samples else ""),
        ("budget", "Budget", budget(stages)),
    ]  # fmt: skip
    titles = {"lineage": "Lineage", "stages": "By stage", "curves": "All stages in a row", "records": "What the "
    "stages were trained on",
              "samples": "The same prompts, every stage", "budget": "Minutes"}  # fmt: skip
    html = "".join(
        f'<section id="{anchor}"><h2>{titles[anchor]}</h2>{part}</section>' for anchor, _, part in sections if part
    )
    facts = [
        stages.name, f"seed {stages.seed}" if stages.seed is not None else "",
        f"{done} of {len(trained)} stages complete" if trained else "no stage yet",
    ]  # fmt: skip
    data = {"curves": curves, "words": [REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH], "stages": names}
    return sheet("stages.html", ("page.css", "stages.css"), ("sheet.js", "curves.js", "stages.js"), {
        "title": f"DeepSeek-R1 · {html_value(stages.name)}",
        "facts": " · ".join(html_value(fact) for fact in facts if fact),
        "headline": headline(stages), "warnings": _warnings(stages),
        "nav": "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, part in sections if part),
        "sections": html or '<p class="calm">No stage has begun yet.</p>',
        "data": script_json(data), "samples": script_json(samples),
    })  # fmt: skip


def _samples(rule: str) -> str:
    """The place where the script shows the samples."""
    return (
        f'<p class="rule-text">{html_value(rule)}Reflective words are marked.</p>'
        '<form id="choice"><label>Kind <select name="kind"></select></label>'
        '<label class="wide">Problem <select name="problem"></select></label>'
        '<span class="steps"><button type="button" id="before" aria-label="The problem before">←</button>'
        '<button type="button" id="next" aria-label="The next problem">→</button></span></form>'
        '<div id="which" role="group" aria-label="Stages shown"></div>'
        '<div id="question"></div><div id="answers" aria-live="polite"></div>'
        '<noscript><p class="calm">The samples need JavaScript; the rest does not.</p></noscript>'
    )
