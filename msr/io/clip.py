"""Whatever can be read as a clip: a file, a folder or pattern of pictures, y4m from a pipe."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

from msr.errors import InputError
from msr.io.frames import FolderReader, is_pattern
from msr.io.video import VideoReader
from msr.io.y4m import Y4mReader

ClipReader = VideoReader | FolderReader | Y4mReader


def open_clip(
    path: str | Path,
    *,
    start: float = 0,
    duration: float | None = None,
    rate: Fraction = Fraction(25),
    deinterlace: bool = False,
    keep_going: bool = False,
) -> ClipReader:
    """Open a clip of any kind for reading.

    Args:
        path: a clip, a folder of pictures, a pattern such as ``frames/%05d.png``, or ``-`` for y4m on standard input.
        start: where to begin, in seconds after the first frame.
        duration: seconds to read; None: to the end.
        rate: frames a second of pictures, which do not say it themselves.
        deinterlace: as for ``VideoReader``.
        keep_going: likewise.

    Returns:
        A reader: a context manager that yields ``Frame``, with ``format``, ``frames``, ``audio``, ``left_out``,
        ``damaged``, ``skip`` and ``close``.

    Raises:
        InputError: there is no such clip, or it cannot be read.

    Example:
        >>> with open_clip("clip.mp4", duration=2) as clip:     # doctest: +SKIP
        ...     print(clip.format.rate)
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise InputError("the standard input is closed")
        return Y4mReader(sys.stdin.buffer, "the standard input", start=start, duration=duration)
    path = Path(path)
    if path.is_dir() or is_pattern(path):
        return FolderReader(path, rate=rate, start=start, duration=duration)
    return VideoReader(path, start=start, duration=duration, deinterlace=deinterlace, keep_going=keep_going)
