"""Shows the progress of a run on screen: finished steps, remaining time, and a few metrics of the last step."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping


class Progress:
    """A context manager that shows finished steps, remaining time and a few metrics of the last step.

    On a terminal it draws a progress bar. Elsewhere (a log file, CI) it prints plain lines: the first at once, then at
    most one every `interval` seconds, and the last.

    Args:
        total: the step at which the run ends.
        start: the step from which the run starts, above 0 after a resume.
        interval: seconds between two plain lines.
        console: a rich console; by default standard error, so that standard output stays free for results.
    """

    def __init__(self, total: int, start: int = 0, *, interval: float = 20.0, console=None):
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._console = console or Console(stderr=True)
        self._total, self._interval = total, interval
        self._printed = -math.inf
        # The rate is measured over the last 64 updates, because steps come in bursts and the first one compiles.
        self._clock = deque([(time.monotonic(), start)], maxlen=64)
        self._bar = None
        if self._console.is_terminal:
            self._bar = Bar(
                BarColumn(bar_width=24),
                TextColumn("{task.fields[line]}", markup=False),
                console=self._console,
            )
            line = self._line(start, {})
            self._task = self._bar.add_task("", total=total, completed=start, line=line)

    def update(self, step: int, figures: Mapping[str, float | None]) -> None:
        """Shows that `step` is finished.

        Args:
            figures: {name: value} of the metrics to show, in this order. None is shown as a dash.
        """
        self._clock.append((time.monotonic(), step))
        line = self._line(step, figures)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, line=line)
        elif step >= self._total or time.monotonic() - self._printed >= self._interval:
            self._print(line)

    def say(self, text: str) -> None:
        """Prints a line above the bar at once, such as a warning."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _print(self, line: str) -> None:
        self._printed = time.monotonic()
        self.say(line)

    def _line(self, step: int, figures: Mapping[str, float | None]) -> str:
        parts = [f"step {step}/{self._total}"]
        (then, first), (now, last) = self._clock[0], self._clock[-1]
        if step < self._total and last > first:
            parts.append(f"{_span((self._total - step) * (now - then) / (last - first))} left")
        for key, value in figures.items():
            parts.append(f"{key} {'–' if value is None else format(value, '.4g')}")
        return "  ".join(parts)

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        else:
            self._print(self._line(self._clock[-1][1], {}))
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _span(seconds: float) -> str:
    """Formats a duration in its two largest units: 48 s, 12 min 5 s, 3 h 20 min, 8 d 6 h."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
