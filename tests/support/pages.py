"""A report read as a browser reads it, and text that tries to break out of it."""

import json
from html.parser import HTMLParser

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=http://evil.example/x onerror=alert(1)>",
    "<!--",
    "]]>",
    "\u2028\u2029",
    "\x00\x1b[31m\x7f",
    "\u202egnp.exe",
    "\ud800",
    "<u>&lt;u&gt;",
    "§stage§",
    "'\"`${1}",
    "等等，不对",
    "😀",
]


class Page(HTMLParser):
    """Tags with attributes, the text outside scripts and styles, and the scripts."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.scripts, self._raw = [], "", [], None
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self._raw = tag if tag in ("script", "style") else None
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._raw = None

    def handle_data(self, data):
        if self._raw == "script":
            self.scripts[-1] += data
        elif self._raw is None:
            self.text += data

    @property
    def rows(self):
        return json.loads(self.scripts[1])
