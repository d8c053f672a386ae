"""How far the work is: a bar on stderr for people, lines of JSON for programs."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class _Speed(ProgressColumn):
    """Steps per second since the start of the bar."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.completed / task.elapsed if task.elapsed and task.completed else 0.0
        return Text(f"{speed:.2f} {self._unit}/s")


@contextlib.contextmanager
def progress_bar(label: str, total: int | None, unit: str, shown: bool) -> Iterator[Callable[[], None]]:
    """Show a bar with speed and time left while the block runs.

    Args:
        label: the words before the bar.
        total: number of steps, None if unknown.
        unit: name of a step, in the plural (``"frames"``).
        shown: False shows nothing; nothing is shown either where stderr is not a terminal.

    Yields:
        A function to call after each step.

    Example:
        >>> with progress_bar("clip.mp4", 2, "frames", shown=False) as advance:
        ...     advance()
        ...     advance()
    """
    if not shown or not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(unit),
        TextColumn("ETA"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total)
        yield lambda: bar.advance(task)


class Report:
    """Hears how a long run goes, and says nothing; its subclasses do.

    Example:
        >>> with Report() as report:
        ...     report.begin("clip.mp4", 300, 0)
        ...     report.advance()
    """

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        """Say that nothing more comes."""

    def begin(self, label: str, total: int | None, done: int) -> None:
        """The work begins: its name, the number of frames if known, how many of them an earlier run has done."""

    def advance(self) -> None:
        """One frame more is done."""

    def note(self, text: str) -> None:
        """Something that the user should know."""


class Bar(Report):
    """A bar on stderr where that is a terminal, and notes as lines of text."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._advance: Callable[[], None] = lambda: None

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def begin(self, label: str, total: int | None, done: int) -> None:
        """Show the bar."""
        self._stack.close()
        left = None if total is None else max(total - done, 0)
        self._advance = self._stack.enter_context(progress_bar(label, left, "frames", shown=True))

    def advance(self) -> None:
        """Move it on."""
        self._advance()

    def note(self, text: str) -> None:
        """Print a line above it."""
        print(f"msr: {text}", file=sys.stderr)


class JsonLines(Report):
    """A line of JSON for every event: ``begin``, ``frame``, ``note``, and what ``say`` is given.

    ``frame`` lines have ``done``, ``frames`` (the total, or null), ``seconds`` since the begin, ``frames_per_second``
    of this run and ``left`` in seconds (or null); there are at most five a second, and one for the last frame.

    Args:
        file: where to write.

    Example:
        >>> JsonLines(sys.stdout).note("hello")
        {"event": "note", "text": "hello"}
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._total: int | None = None
        self._first = self._done = 0
        self._said = 0
        self._started = self._last = 0.0

    def __exit__(self, *_: object) -> None:
        if self._said < self._done:
            self._frame(time.perf_counter())

    def begin(self, label: str, total: int | None, done: int) -> None:
        """Say what begins."""
        self._total, self._first, self._done, self._started = total, done, done, time.perf_counter()
        self.say("begin", name=label, frames=total, done=done)

    def advance(self) -> None:
        """Say how far it is, now and then."""
        self._done += 1
        now = time.perf_counter()
        if now - self._last >= 0.2 or self._done == self._total:
            self._frame(now)

    def note(self, text: str) -> None:
        """Say it."""
        self.say("note", text=text)

    def say(self, event: str, **values: Any) -> None:
        """Write one line."""
        print(json.dumps({"event": event, **values}), file=self._file, flush=True)

    def _frame(self, now: float) -> None:
        seconds = now - self._started
        speed = (self._done - self._first) / seconds if seconds else 0.0
        left = (self._total - self._done) / speed if self._total is not None and speed else None
        self._last, self._said = now, self._done
        self.say(
            "frame",
            done=self._done,
            frames=self._total,
            seconds=round(seconds, 3),
            frames_per_second=round(speed, 3),
            left=None if left is None else round(left, 1),
        )
