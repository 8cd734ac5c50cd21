"""The documentation as a site: it builds without a warning, holds every page and every module, and can be searched."""

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import r1jax
from support.chromium import CHROMIUM, Chromium

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "docs/reference"
# What a newcomer asks, and a page that must be among the first three found.
QUESTIONS = {
    "resume a stopped run": "first-hour.html",
    "out of memory": "troubleshooting.html",
    "own reward function": "extending/reward.html",
    "hugging face model": "real-models.html",
    "group_advantages": "reference/loss.html",
}
TOP = 3
FOUND = "[...document.querySelectorAll('.md-search-result__item > .md-search-result__link')].map(x => x.href)"


def test_every_module_of_the_package_has_a_page_of_the_reference():
    pages = "".join(path.read_text(encoding="utf-8") for path in REFERENCE.glob("*.md"))
    shown = set(re.findall(r"^::: (r1jax\.\w+)$", pages, re.MULTILINE))
    there = {p.stem for p in (ROOT / "r1jax").iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert shown == {f"r1jax.{name}" for name in there - {"__init__"}}


def test_the_reference_lists_the_public_names_where_they_live():
    page = (REFERENCE / "index.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[`(\w+)`\]\[\S+\] \| `([\w.]+)` \|$", page, re.MULTILINE) == list(r1jax._HOME.items())


def test_every_page_is_in_the_navigation():
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").as_posix()
        assert re.search(rf"[:-] {name}$", listed, re.MULTILINE), f"mkdocs.yml has no line for {name}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for needed in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(needed, reason=f'the site needs {needed}: pip install -e ".[docs]"')
    home = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(home)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return home


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(site):
    pages = {p.relative_to(ROOT / "docs") for p in (ROOT / "docs").rglob("*.md")}
    assert all((site / page.with_suffix(".html")).is_file() for page in pages)
    assert all((site / f"{name}.html").is_file() for name in ("index", "BUILD_NOTES", "CHANGELOG", "CONTRIBUTING"))
    assert "R1-Zero" in (site / "index.html").read_text(encoding="utf-8")
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link rel="stylesheet")[^>]+(?:src|href)="([^"]+)"', page.read_text("utf-8")
        )
        assert not [url for url in loaded if url.startswith(("http:", "https:", "//"))], page
    assert not list(site.rglob("*.py"))


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium")
def test_a_newcomer_finds_the_page_that_answers(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{server.server_port}/"
        with Chromium() as browser:
            for question, page in QUESTIONS.items():
                browser.open(f"{home}first-hour.html?q={question.replace(' ', '+')}")
                browser.run(
                    f"new Promise(done => {{ (function look() {{ {FOUND}.length ? done() : "
                    "setTimeout(look, 50) })() })"
                )
                found = [url.removeprefix(home).split("?")[0] for url in browser.run(FOUND)]
                assert page in found[:TOP], f"{question!r} finds {json.dumps(found[:6])}"
            assert not browser.errors
            for width in (1440, 390):
                browser.resize(width, 900)
                for scheme, light in (("light", True), ("dark", False)):
                    browser.scheme(scheme)
                    browser.open(f"{home}comparison.html")
                    red = browser.run("parseInt(getComputedStyle(document.body).backgroundColor.slice(4))")
                    assert (red > 128) is light
                    assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        server.shutdown()
