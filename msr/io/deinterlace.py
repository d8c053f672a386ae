"""Interlaced frames made whole."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from fractions import Fraction

import av

#: Columns and rows of the smallest frame that the filter takes.
_SMALLEST = (3, 4)


def deinterlaced(frames: Iterable[av.VideoFrame], base: Fraction) -> Iterator[av.VideoFrame]:
    """Deinterlace the frames that are marked as interlaced, and pass the others through as they are.

    Source: FFmpeg's bwdif (the Weston three-field filter with motion detection of yadif).

    Args:
        frames: decoded, in the order of display, all of one size and format.
        base: the unit of their times, in seconds.

    Yields:
        One frame for each, with its time and duration.

    Example:
        >>> [frame.pts for frame in deinterlaced([], Fraction(1, 25))]
        []
    """
    graph: av.filter.Graph | None = None
    waiting: deque[tuple[int | None, int]] = deque()
    for frame in frames:
        if frame.width < _SMALLEST[0] or frame.height < _SMALLEST[1]:
            yield frame
            continue
        graph = graph or _graph(frame, base)
        waiting.append((frame.pts, frame.duration))
        graph.vpush(frame)
        yield from _pull(graph, waiting)
    if graph is not None:
        graph.vpush(None)
        yield from _pull(graph, waiting)


def _graph(frame: av.VideoFrame, base: Fraction) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=base)
    bwdif = graph.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
    graph.link_nodes(source, bwdif, graph.add("buffersink")).configure()
    return graph


def _pull(graph: av.filter.Graph, waiting: deque[tuple[int | None, int]]) -> Iterator[av.VideoFrame]:
    """What the filter has ready, with the times that went in: it counts in half units."""
    while waiting:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        frame.pts, duration = waiting.popleft()
        frame.duration = duration
        yield frame
