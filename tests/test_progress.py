"""Progress on screen, on a terminal and off it."""

import io

import pytest
from rich.console import Console

from r1jax.runs.progress import Progress, _span


def test_off_a_terminal_progress_prints_at_once_then_rarely_then_the_end():
    screen = io.StringIO()
    with Progress(100, interval=3600, console=Console(file=screen, width=200)) as progress:
        assert screen.getvalue() == "step 0/100\n"
        for step in range(1, 101):
            progress.update(step, {"reward/accuracy": 0.5, "completion/length": None})
        progress.say("[warning] zero reward variance")  # square brackets are not markup
    # 98 updates fall within the hour since the first line; the last one always shows.
    assert screen.getvalue().splitlines() == [
        "step 0/100",
        "step 100/100  reward/accuracy 0.5  completion/length –",
        "[warning] zero reward variance",
    ]


def test_off_a_terminal_every_update_shows_when_the_interval_has_passed():
    screen = io.StringIO()
    with Progress(5, start=2, interval=0, console=Console(file=screen, width=200)) as progress:
        progress.update(3, {"kl": 0.123456})
        progress.update(5, {})
    first, second, last = screen.getvalue().splitlines()
    assert first == "step 2/5"
    assert second.startswith("step 3/5  ") and second.endswith(" left  kl 0.1235")
    assert last == "step 5/5"


def test_on_a_terminal_progress_is_a_live_bar():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with Progress(4, console=console) as progress:
        progress.update(4, {"reward/accuracy": 0.75})
    assert "step 4/4  reward/accuracy 0.75" in screen.getvalue()
    assert "\x1b[" in screen.getvalue()  # cursor control: the line is redrawn in place


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.6, "1 min 0 s"),
        (725, "12 min 5 s"),
        (12_000, "3 h 20 min"),
        (712_800, "8 d 6 h"),
    ],
)
def test_a_duration_is_given_in_its_two_largest_units(seconds, text):
    assert _span(seconds) == text
