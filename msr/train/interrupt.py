"""Interrupts that wait for the end of a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """In its block, the first interrupt (or termination) is only noted, in ``came``; the next does what it always did.

    Signals that Python does not handle keep their meaning, and so do all outside the main thread.

    Example:
        >>> with Interrupt() as interrupt:
        ...     interrupt.came
        False
    """

    def __init__(self) -> None:
        self.came = False
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
