"""Builds a page with each claim's verdict, measured numbers, table and pictures, with the function `write_claims`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from r1jax.evaluation.completions import REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH
from r1jax.report.claim_pictures import Curves, draw_curves, draw_dots, parse_picture
from r1jax.report.data import script_json
from r1jax.report.sheet import html_value, sheet, write

MARKS = {"holds": "good", "does not hold": "bad", "cannot be shown here": "open"}


class Claimed(NamedTuple):
    """A claim on the page.

    Attributes:
        name: the module's name in experiments.claims.
        said: the claim, a sentence.
        finding: the entry "finding" of the claim's result file; None if the claim has not been measured. Its keys are
            "verdict", "figure" (a sentence with the measured numbers), "limit" (a sentence on what nano cannot show),
            "table" and "pictures".
        minutes: minutes that measuring it took.
    """

    name: str
    said: str
    finding: Mapping[str, Any] | None
    minutes: float | None = None


def write_claims(folder: Path, claims: Sequence[Claimed], seeds: Sequence[int]) -> Path:
    """Writes `report.html` into a folder and returns the file's path. Makes the folder if it does not exist.

    Equal findings give an equal page, byte for byte.

    Args:
        seeds: the seeds of the last command that measured claims.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return write(folder, claims_page(claims, seeds))


def claims_page(claims: Sequence[Claimed], seeds: Sequence[int]) -> str:
    """Returns the page as HTML."""
    curves: list[dict] = []
    done = [claim for claim in claims if claim.finding]
    sections = "".join(_section(claim, curves) for claim in done)
    counts = ", ".join(
        f"{count} {verdict}" for verdict in MARKS if (count := sum(c.finding["verdict"] == verdict for c in done))
    )
    facts = [f"seeds {', '.join(map(str, seeds))}", counts or "no claim measured yet"]
    return sheet(
        "claims.html",
        ("page.css", "claims.css"),
        ("sheet.js", "curves.js"),
        {
            "facts": " · ".join(html_value(fact) for fact in facts),
            "overview": _overview(claims),
            "sections": sections or '<p class="calm">No claim has been measured yet.</p>',
            "data": script_json({"curves": curves, "words": [REFLECTIVE_WORDS, REFLECTIVE_WORDS_ZH]}),
        },
    )


def _overview(claims: Sequence[Claimed]) -> str:
    """Returns the table of all claims with their verdicts, as HTML."""
    rows = []
    for claim in claims:
        finding = claim.finding or {"verdict": "not measured", "figure": ""}
        said = html_value(claim.said)
        link = f'<a href="#{html_value(claim.name)}">{said}</a>' if claim.finding else said
        mark = MARKS.get(finding["verdict"], "open")
        rows.append(
            f'<tr><th scope=row>{link}</th><td><span class="verdict {mark}">{html_value(finding["verdict"])}</span>'
            f"</td><td>{html_value(finding['figure'])}</td></tr>"
        )
    return (
        '<div class="scroll"><table class="claims"><thead><tr><th scope=col>claim</th><th scope=col>verdict</th>'
        f"<th scope=col>figure</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _section(claim: Claimed, curves: list[dict]) -> str:
    """Returns a claim's section as HTML. Appends the numbers of its charts to `curves`."""
    finding = claim.finding or {}
    drawn, dotted = "", ""
    for picture in map(parse_picture, finding["pictures"]):
        if isinstance(picture, Curves):
            html, data = draw_curves(picture, len(curves))
            drawn, curves[len(curves) :] = drawn + html, [data]
        else:
            dotted += draw_dots(picture)
    minutes = "" if claim.minutes is None else f" · {claim.minutes:.0f} minutes"
    return (
        f'<section id="{html_value(claim.name)}"><h2>{html_value(claim.said)}</h2>'
        f'<p><span class="verdict {MARKS[finding["verdict"]]}">{html_value(finding["verdict"])}</span> '
        f"{html_value(finding['figure'])}</p>{_table(finding['table'])}{dotted}"
        + (f'<div class="grid">{drawn}</div>' if drawn else "")
        + f'<p class="limit"><b>What nano cannot show.</b> {html_value(finding["limit"])}</p>'
        f'<p class="rule-text"><code>python -m experiments.claims.{html_value(claim.name)}</code>{minutes}</p>'
        "</section>"
    )


def _table(table: Sequence[Sequence[str]]) -> str:
    if not table:
        return ""
    head = "".join(f"<th scope=col>{html_value(cell)}</th>" for cell in table[0])
    rows = "".join(
        f"<tr><th scope=row>{html_value(row[0])}</th>{''.join(f'<td>{html_value(cell)}</td>' for cell in row[1:])}</tr>"
        for row in table[1:]
    )
    return f'<div class="scroll"><table class="found"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
