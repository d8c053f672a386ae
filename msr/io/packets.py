"""The packets of segments as one stream, and those of the source in time with them."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from msr.errors import LastingError
from msr.io.captions import changed_form, in_form
from msr.io.format import ClipFormat
from msr.io.segment import START
from msr.io.streams import is_cover, open_source

#: Packets of sound before the first that is heard, as encoders put them there: 2112 samples of AAC are the most usual.
_LEAD = 2


class Joined:
    """The packets of the segments as one stream, with the decoding times that one encoder run would have given."""

    def __init__(self, segments: Sequence[Path], clip: ClipFormat) -> None:
        self._segments = segments
        self._clip = clip
        self.base = clip.time_base
        for path in segments:
            _check_whole(path)
        with av.open(os.path.abspath(segments[0])) as container:
            self.first = _start(container, segments[0])
            context: Any = container.streams.video[0].codec_context
            self._extradata = context.extradata
            self._delay = context.reorder_depth
        with av.open(os.path.abspath(segments[-1])) as container:
            self.end = _start(container, segments[-1]) + _length(container, segments[-1])

    def packets(self, stream: Any, cut: Cut) -> Iterator[tuple[Fraction, av.Packet]]:
        """Every packet with its decoding time in seconds."""
        base = self._clip.time_base
        shift = round(cut.origin / base)
        step = max(1, round(1 / (self._clip.rate * base)))
        # Packet i is decoded when frame i - delay is shown; before the first frame, at the frame rate.
        shown = [self.first + (i - self._delay) * step for i in range(self._delay)]
        for path in self._segments:
            with av.open(os.path.abspath(path)) as container:
                if container.streams.video[0].codec_context.extradata != self._extradata:
                    raise LastingError(f"{path} was written by another encoder than the first segment")
                start, length = _start(container, path), _length(container, path)
                packets = [packet for packet in container.demux(video=0) if packet.size]
                if any(packet.pts is None for packet in packets):
                    raise LastingError(f"{path} is damaged: a frame without a time")
                times = sorted(packet.pts + start for packet in packets)  # type: ignore[operator]
                shown += times
                following = dict(zip(times, [*times[1:], start + length], strict=True))
                for packet, dts in zip(packets, shown, strict=False):
                    pts = packet.pts + start  # type: ignore[operator]
                    packet.pts, packet.dts = pts - shift, min(dts, pts) - shift
                    packet.duration = following[pts] - pts
                    packet.time_base = base
                    packet.stream = stream
                    yield packet.dts * base, packet
                del shown[: len(packets)]


def _check_whole(path: Path) -> None:
    """A segment must be as long as it says (RFC 8794, RFC 9559): a demuxer takes what is there of it for all."""
    if not path.exists():
        raise LastingError(f"{path} is missing")
    with path.open("rb") as file:
        head = file.read(64)
        at = head.find(b"\x18\x53\x80\x67") + 4  # the master element "Segment", its size in eight bytes
        declared = at + 8 + int.from_bytes(head[at + 1 : at + 8], "big")
        if at < 4 or head[at : at + 1] != b"\x01" or file.seek(0, 2) != declared:
            raise LastingError(f"{path} is no segment of msr, or is damaged")


def _start(container: av.container.InputContainer, path: Path) -> int:
    try:
        return int(container.metadata[START])
    except (KeyError, ValueError):
        raise LastingError(f"{path} is no segment of msr, or is damaged") from None


def _length(container: av.container.InputContainer, path: Path) -> int:
    """In ticks, which the file takes for milliseconds and FFmpeg gives in microseconds."""
    if not container.duration:
        raise LastingError(f"{path} is damaged: its length is missing")
    return round(container.duration / 1000)


class Cut:
    """The stretch of the source that is written, and where its time begins.

    ``moved`` counts, by the index of the stream in the source, the packets that were decoded no later than the one
    before and now follow it: no muxer takes such times. ``from_zero`` says that the target begins at zero, however
    late the source does: MP4 would show nothing until then. A source in MP4 means that. Nor does MP4 show two lines at
    once; ``shortened`` counts those that end where the next begins.
    """

    def __init__(
        self,
        joined: Joined,
        origin: av.container.InputContainer | None,
        start: float,
        duration: float | None,
        from_zero: bool,
    ) -> None:
        base = joined.base
        name = origin.format.name if origin is not None else ""
        broadcast = name in ("mpegts", "mpeg", "mpegtsraw")  # whose clock begins anywhere
        late = from_zero and "mp4" not in name
        self.origin = Fraction(0)
        self._begin: Fraction | None = None
        self._end: Fraction | None = None
        self._in_turn = from_zero
        self.moved: dict[int, int] = {}
        self.shortened: dict[int, int] = {}
        if start:
            self.origin = self._begin = joined.first * base
        elif origin is not None and origin.start_time and (broadcast or (late and origin.start_time > 0)):
            self.origin = Fraction(origin.start_time, av.time_base)
        if duration is not None:
            self._end = joined.end * base

    def chapters(self, chapters: Sequence[Any]) -> list[Any]:
        """The chapters that lie in the stretch; those that make no sense are left out."""
        kept = []
        for chapter in chapters:
            base = chapter["time_base"]
            if not base or base <= 0 or chapter["end"] < chapter["start"]:
                continue
            begin, end = chapter["start"] * base, chapter["end"] * base
            if (self._begin is not None and end <= self._begin) or (self._end is not None and begin >= self._end):
                continue
            begin = begin if self._begin is None else max(begin, self._begin)
            end = end if self._end is None else min(end, self._end)
            start, stop = (max(0, round((time - self.origin) / base)) for time in (begin, end))
            if start == stop and begin < end:
                continue
            kept.append({**chapter, "start": start, "end": stop})
        return kept

    def packets(
        self, origin: av.container.InputContainer | None, chosen: Sequence[Any], copies: dict[int, Any]
    ) -> Iterator[tuple[Fraction, av.Packet]]:
        """The packets of the other streams with their times in seconds."""
        wanted = [stream for stream in chosen if copies[stream.index].type != "attachment"]
        if origin is None or not wanted:
            return
        last: dict[int, tuple[int, Fraction]] = {}
        begins = _begins(origin, wanted) if self._in_turn else {}
        for packet in audible(origin.demux(wanted)):
            base = packet.time_base
            if not packet.size or not base:
                continue
            stream = copies[packet.stream.index]
            if packet.size == 2 and packet.stream.type == "subtitle" and packet.stream.codec_context.name == "mov_text":
                continue  # MP4 fills pauses with empty lines; its muxer does so again
            self._end_at_next(packet, begins)
            if is_cover(packet.stream):
                packet.pts = packet.dts = 0
            elif (packet.pts is None and packet.dts is None) or not self._fit(packet, base):
                continue
            form = changed_form(packet.stream, stream)
            written = in_form(packet, form) if form else packet
            if written is None:
                continue
            index = packet.stream.index
            if written.dts is not None:
                last[index], moved = _in_order(written, stream, last.get(index))
                self.moved[index] = self.moved.get(index, 0) + moved
            written.stream = stream
            time = written.dts if written.dts is not None else written.pts
            yield (time or 0) * (written.time_base or base), written

    def _end_at_next(self, packet: av.Packet, begins: dict[int, list[int]]) -> None:
        """End a line where the next one begins."""
        times = begins.get(packet.stream.index, [])
        following = bisect_right(times, packet.pts) if packet.pts is not None else len(times)
        if packet.pts is not None and following < len(times):
            room = times[following] - packet.pts
            if (packet.duration or 0) > room:
                packet.duration = room
                self.shortened[packet.stream.index] = self.shortened.get(packet.stream.index, 0) + 1

    def _fit(self, packet: av.Packet, base: Fraction) -> bool:
        """Shift a packet to the target's time; whether it lies in the stretch."""
        pts = packet.pts if packet.pts is not None else packet.dts
        assert pts is not None
        duration = packet.duration or 0
        begin, end = pts * base, (pts + duration) * base
        if self._begin is not None and (end <= self._begin or (not duration and begin < self._begin)):
            return False
        if self._end is not None and begin >= self._end:
            return False
        if packet.stream.type == "subtitle" and duration:
            # A line that is on the screen at a cut is shown from or until there.
            begin = begin if self._begin is None else max(begin, self._begin)
            end = end if self._end is None else min(end, self._end)
            packet.pts = packet.dts = round(begin / base)
            packet.duration = max(1, round((end - begin) / base))
        shift = round(self.origin / base)
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.dts = None if packet.dts is None else packet.dts - shift
        return True


def _begins(origin: av.container.InputContainer, streams: Sequence[Any]) -> dict[int, list[int]]:
    """When the lines of subtitles begin, by the index of their stream."""
    begins: dict[int, list[int]] = {stream.index: [] for stream in streams if stream.type == "subtitle"}
    if begins:
        with open_source(Path(origin.name)) as container:
            for packet in container.demux([container.streams[index] for index in begins]):
                if packet.size and packet.pts is not None:
                    begins[packet.stream.index].append(packet.pts)
    return {index: sorted(times) for index, times in begins.items()}


def audible(packets: Iterable[av.Packet]) -> Iterator[av.Packet]:
    """Leave out the sound and the lines that an edit list cuts off, save the two packets that decoding begins with."""
    leading: dict[int, deque[av.Packet] | None] = {}
    for packet in packets:
        index = packet.stream.index
        if packet.stream.type not in ("audio", "subtitle"):
            yield packet
        elif not packet.is_discard:
            yield from leading.get(index) or ()
            leading[index] = None
            yield packet
        elif packet.stream.type == "audio":
            held = leading.setdefault(index, deque(maxlen=_LEAD))
            if held is not None:
                held.append(packet)


def _in_order(packet: av.Packet, stream: Any, before: tuple[int, Fraction] | None) -> tuple[tuple[int, Fraction], bool]:
    """Put a packet behind the one before in its target stream, where it is not.

    Returns:
        Its decoding time as the target counts and its end in seconds, and whether it was moved.
    """
    assert packet.dts is not None
    base, unit = packet.time_base or Fraction(1), stream.time_base
    now, start = _nearest(packet.dts * base / unit), packet.dts * base
    # Lines may begin at the same time, as may packets in Matroska.
    alike = stream.type in ("subtitle", "data") or stream.container.format.name in ("matroska", "webm")
    moved = before is not None and (now < before[0] or (now == before[0] and not alike))
    if moved and before is not None:
        start = before[0] * unit if stream.type == "subtitle" else before[1]
        now = max(_nearest(start / unit), before[0] + (not alike))
        pts = packet.dts if packet.pts is None else packet.pts
        end = start + (packet.duration or 0) * base
        packet.pts, packet.dts = max(now, _nearest(pts * base / unit)), now
        packet.duration, packet.time_base = max(0, _nearest(end / unit) - now), unit
    else:
        end = start + (packet.duration or 0) * base
        if packet.pts is not None and packet.pts < packet.dts:
            packet.pts = packet.dts
    return (now, end), moved


def _nearest(value: Fraction) -> int:
    """As FFmpeg rounds times: halves away from zero."""
    return int(value + Fraction(1 if value >= 0 else -1, 2))
