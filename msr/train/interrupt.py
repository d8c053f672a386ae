"""Interrupts that wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """In its block, the first interrupt (or termination) is only noted, in ``came``; the next does what it always did.

    Signals that Python does not handle keep their meaning, and so do all outside the main thread.

    Args:
        tell: is called at the first.

    Example:
        >>> with Interrupt(lambda: print("soon")) as interrupt:
        ...     interrupt.came
        False
    """

    def __init__(self, tell: Callable[[], object]) -> None:
        self.came = False
        self._tell = tell
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: handler for s in _SIGNALS if callable(handler := signal.getsignal(s))}
            for number in self._before:
                signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            self._before[signal.Signals(number)](number, frame)
        self.came = True
        self._tell()
