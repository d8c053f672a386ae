"""A progress bar on stderr, where somebody looks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

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
