"""Fills a page template (`sheet`), and writes the page to disk (`write`)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from r1jax import storage
from r1jax.report.svg import html_text


def html_value(value: object) -> str:
    """Returns any value as HTML text. A value that is not a string is shown as JSON."""
    return html_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def sheet(template: str, styles: Sequence[str], scripts: Sequence[str], parts: Mapping[str, str]) -> str:
    """Fills a page template: replaces each §name§ in the template by the text `parts[name]`.

    Three names need no entry in `parts`: §style§ is replaced by the text of the style files, §script§ by the text of
    the script files, and §policy§ by the page's content security policy.

    Args:
        template, styles, scripts: names of files in the folder r1jax/report.
        parts: the text for each of the other names.
    """
    style, script = ("".join(_text(name) for name in names) for names in (styles, scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Whatever a model has written: the page may send no request and run no script but ours.
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {**parts, "policy": policy, "style": style, "script": script}
    # text § name § text: one pass, so that inserted parts are not searched for names
    pieces = _text(template).split("§")
    return "".join(filled[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _text(name: str) -> str:
    return files("r1jax.report").joinpath(name).read_text("utf-8")


def write(folder: Path, html: str) -> Path:
    """Writes the page as `report.html` into a folder, atomically. Returns the path of report.html."""
    content = html.encode("utf-8", "replace")
    if storage.scheme_of(folder):
        (folder / "report.html").write_bytes(content)
        return folder / "report.html"
    part = folder / "report.html.part"
    try:
        part.write_bytes(content)
        os.replace(part, folder / "report.html")
    finally:
        part.unlink(missing_ok=True)
    return folder / "report.html"
