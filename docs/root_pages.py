"""A hook of MkDocs: makes pages of the documents at the repository's root, and fits the Markdown of GitHub to a site.

README.md is the first page. A link to a file of the repository that is not a page, such as code, becomes plain text,
because the site does not hold that file. In a search, pages that explain come before the reference and the build notes.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
ROOT_PAGES = ("README.md", "BUILD_NOTES.md", "CHANGELOG.md", "CONTRIBUTING.md")
BOOST = {"reference/": 0.2, "BUILD_NOTES": 0.2, "results": 0.4, "plans": 0.4, "comparison": 0.4}  # in a search; else 1
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")
LABELLED_FENCE = re.compile(r'^```(\w+) ([^\n"=]+)$', re.MULTILINE)


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the documents of the repository's root to the site's files."""
    for name in ROOT_PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the page's Markdown with links between pages, and the words behind a fence as the title of its block."""
    here = page.file.src_uri
    page.meta["search"] = {"boost": next((boost for start, boost in BOOST.items() if here.startswith(start)), 1)}
    folder = posixpath.join("" if here in ROOT_PAGES else "docs", posixpath.dirname(here))

    def lead(found: re.Match) -> str:
        mark, text, link, anchor = found.groups(default="")
        path = posixpath.normpath(posixpath.join(folder, link))
        if files.get_file_from_path(target := path.removeprefix("docs/")):
            return f"{mark}[{text}]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{anchor})"
        return text if (ROOT / path).exists() else found[0]

    return LABELLED_FENCE.sub(r'```\1 title="\2"', LINK.sub(lead, markdown))
