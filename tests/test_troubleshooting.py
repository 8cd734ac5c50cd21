"""docs/troubleshooting.md quotes what the program says: each message is in the source, each alarm on the page."""

import ast
import re
from pathlib import Path

from r1jax.runs.health import ALARMS

ROOT = Path(__file__).resolve().parent.parent
PAGE = " ".join((ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8").split())
MESSAGE = re.compile(r"\*\*`([^`]+)`\*\*")


def strings() -> list[str]:
    """The texts in the package's source, with … for what an f-string fills in."""
    found = [alarm.text for alarm in ALARMS]
    for path in (ROOT / "r1jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(x.value) if isinstance(x, ast.Constant) else "…" for x in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub(r"%\w", "…", node.value))
    return found


def says(message: str, text: str) -> bool:
    """Whether a text holds the parts of a message between its … in their order."""
    return re.search(".*".join(re.escape(part) for part in message.split("…")), text, re.DOTALL) is not None


def test_every_message_on_the_page_is_one_that_the_program_gives():
    quoted, known = MESSAGE.findall(PAGE), strings()
    assert len(quoted) > 30
    for message in quoted:
        assert any(says(message, text) for text in known), f"the page quotes {message!r}, which no file says"


def test_every_alarm_has_an_entry():
    quoted = MESSAGE.findall(PAGE)
    for alarm in ALARMS:
        assert any(says(message, alarm.text) for message in quoted), f"no entry on the page for: {alarm.text}"


def test_a_message_with_other_words_is_noticed():
    assert says("a device … in the phase: …", "a device ran out in the phase: update")
    assert not any(says("no group's rewards differed for 4 rounds", text) for text in strings())
