"""Builds the report page of all R1 stages: `write_stages`."""

from __future__ import annotations

import os
from pathlib import Path

from r1jax import storage
from r1jax.evaluation.completions import REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH
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

    Stages that have no files yet are left out. Equal files give an equal page, byte for byte.

    Raises:
        ValueError: stages.json is missing, or stages.json or a stage's log cannot be read.
    """
    return write(storage.path_of(workdir, "--workdir"), stages_page(load_stages(workdir)))


def _warnings(stages: Stages) -> str:
    """Returns, as HTML, the warnings of all stages in a list that is folded away. Empty without warnings."""
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
    """Returns the whole page of all stages as HTML."""
    names = [part.name for part in stages.parts]
    drawn, curves = stage_curves(stages)
    samples, rule = shown_samples(stages.samples, names)
    trained = [part for part in stages.parts if part.folder]
    done = sum(part.status == "complete" for part in trained)
    sections = [
        ("lineage", "Lineage", graph(stages)),
        ("stages", "By stage", table(stages)),
        ("curves", "Curves", drawn),
        ("records", "Data", data_counts(stages)),
        ("samples", "Samples", _samples(rule) if samples else ""),
        ("budget", "Budget", budget(stages)),
    ]
    titles = {
        "lineage": "Lineage",
        "stages": "By stage",
        "curves": "All stages in a row",
        "records": "What the stages were trained on",
        "samples": "The same prompts, every stage",
        "budget": "Minutes",
    }
    html = "".join(
        f'<section id="{anchor}"><h2>{titles[anchor]}</h2>{part}</section>' for anchor, _, part in sections if part
    )
    facts = [
        stages.name,
        f"seed {stages.seed}" if stages.seed is not None else "",
        f"{done} of {len(trained)} stages complete" if trained else "no stage yet",
    ]
    data = {"curves": curves, "words": [REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH], "stages": names}
    return sheet(
        "stages.html",
        ("page.css", "stages.css"),
        ("sheet.js", "curves.js", "stages.js"),
        {
            "title": f"DeepSeek-R1 · {html_value(stages.name)}",
            "facts": " · ".join(html_value(fact) for fact in facts if fact),
            "headline": headline(stages),
            "warnings": _warnings(stages),
            "nav": "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, part in sections if part),
            "sections": html or '<p class="calm">No stage has begun yet.</p>',
            "data": script_json(data),
            "samples": script_json(samples),
        },
    )


def _samples(rule: str) -> str:
    """Returns, as HTML, the empty form and boxes that stages.js fills with samples.

    Args:
        rule: a sentence that says which samples are left out; may be empty.
    """
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
