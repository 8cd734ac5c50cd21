"""A page from its template: `sheet` fills it, `write` puts it on disk."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from r1jax.report.svg import html_text


def html_value(value: object) -> str:
    """Any value as HTML text."""
    return html_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def sheet(template: str, styles: Sequence[str], scripts: Sequence[str], parts: Mapping[str, str]) -> str:
    """The template with its parts, style, script and policy, where it says §name§. Files are named as in this
    folder."""
    style, script = ("".join(_text(name) for name in names) for names in (styles, scripts))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # No request may leave the page, and no script may run but ours, whatever a model has written.
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    filled = {**parts, "policy": policy, "style": style, "script": script}
    # text § name § text: one pass, so that what is put in is not searched again
    pieces = _text(template).split("§")
    return "".join(filled[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def _text(name: str) -> str:
    return files("r1jax.report").joinpath(name).read_text("utf-8")


def write(folder: Path, html: str) -> Path:
    """`report.html` in a folder, whole or not at all; its path."""
    part = folder / "report.html.part"
    try:
        part.write_bytes(html.encode("utf-8", "replace"))
        os.replace(part, folder / "report.html")
    finally:
        part.unlink(missing_ok=True)
    return folder / "report.html"
