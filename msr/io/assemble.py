"""From encoded segments and the other streams of the source to one container."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from msr.errors import InputError, WorkError
from msr.io.described import main_video, reason
from msr.io.encoders import CONTAINERS
from msr.io.format import ClipFormat
from msr.io.matroska import ROOM, set_display_size, with_static_hdr
from msr.io.output import whole
from msr.io.segment import START
from msr.io.streams import add_copy, choose_streams, is_cover, kept_tags, open_source, own_keys, unsaid

#: The greatest time scale that MP4 has room for.
_LARGEST_SCALE = (1 << 31) - 1

#: Bytes of a segment that hold its tracks and its first frame, in most cases.
_HEAD = 1 << 24


def assemble(
    target: Path,
    segments: Sequence[Path],
    source: Path | None,
    clip: ClipFormat,
    *,
    start: float = 0,
    duration: float | None = None,
) -> list[str]:
    """Join segments to one clip, with every other stream of the source, its chapters and its tags.

    Video packets are those of the segments and all others those of the source, bit for bit; times are exact in MP4 and
    QuickTime, and in whole milliseconds in Matroska and WebM, as these have it. What cannot be held is as
    ``check_container`` says.

    Args:
        target: the file to write; it appears under this name when it is whole.
        segments: what ``SegmentWriter`` wrote, in order; at least one.
        source: the clip whose other streams, chapters and tags go along, or None.
        clip: of the segments' frames.
        start: as given to the reader; above 0, the target begins at time 0 with the first frame.
        duration: likewise; other streams end with the video where it is given.

    Returns:
        Sentences on what is left out.

    Raises:
        InputError: the container cannot hold the streams.
        WorkError: a segment is damaged or of another encoder, or writing failed.

    Example:
        >>> assemble(Path("b.mp4"), [Path("0.mkv"), Path("1.mkv")], Path("a.mp4"), clip)    # doctest: +SKIP
        []
    """
    suffix = target.suffix.lower()
    if suffix not in CONTAINERS:
        raise InputError(f"cannot write {target}: the name must end in one of {', '.join(CONTAINERS)}")
    with contextlib.ExitStack() as stack:
        origin = stack.enter_context(open_source(source)) if source is not None else None
        copied = choose_streams(origin, source, suffix) if origin is not None and source is not None else None
        chosen = [origin.streams[i] for i in copied.streams] if origin is not None and copied is not None else []
        tags = kept_tags(origin.metadata) if origin is not None else {}
        notes = list(copied.notes) if copied is not None else []
        part = stack.enter_context(whole(target))
        try:
            joined = _Joined(segments, clip)
            options = _options(suffix, clip, chosen, tags)
            with av.open(str(part), "w", format=CONTAINERS[suffix], container_options=options) as out:
                video = _add_video(out, segments[0], clip, origin, source, suffix)
                title = video.metadata.get("title", "")
                if _lacks_aspect(video, clip, suffix):
                    video.metadata["title"] = title + " " * ROOM
                copies = {stream.index: add_copy(out, stream) for stream in chosen}
                out.metadata.update(tags)
                cut = _Cut(joined, origin, start, duration)
                if origin is not None:
                    out.set_chapters(cut.chapters(origin.chapters()))
                _mux(out, joined.packets(video, cut), cut.packets(origin, chosen, copies))
            if _lacks_aspect(video, clip, suffix):
                set_display_size(part, title, clip)
            if origin is not None and copied is not None:
                with av.open(str(part)) as result:
                    notes += unsaid(origin, copied, result)
        except (av.error.FFmpegError, OSError, ValueError, OverflowError) as error:
            raise WorkError(f"cannot write {target}: {reason(error)}") from None
    return notes


def _options(suffix: str, clip: ClipFormat, streams: Sequence[Any], tags: dict[str, str]) -> dict[str, str]:
    if suffix not in (".mp4", ".mov"):
        return {}
    # Where a track begins late, MP4 says so in units of the whole movie: they must be fine enough for every track.
    video = clip.time_base.denominator
    while video < 10_000:
        video *= 2
    scale = video
    for stream in streams:
        if stream.type == "audio" and stream.codec_context is not None and stream.codec_context.sample_rate > 0:
            scale = math.lcm(scale, stream.codec_context.sample_rate)
    options = {"movie_timescale": str(scale if scale <= _LARGEST_SCALE else video)}
    # The muxer writes a cover only where it writes no keys.
    keys = own_keys(tags) and not any(is_cover(stream) for stream in streams)
    return options | ({"movflags": "+use_metadata_tags"} if keys else {})


def _add_video(
    out: av.container.OutputContainer,
    segment: Path,
    clip: ClipFormat,
    origin: av.container.InputContainer | None,
    source: Path | None,
    suffix: str,
) -> Any:
    with _template(segment, clip) as container:
        template = container.streams.video[0]
        stream: Any = out.add_stream_from_template(template, opaque=True)
        if suffix in (".mp4", ".mov") and template.codec_context.name == "hevc":
            stream.codec_context.codec_tag = "hvc1"  # the form that Apple's players open
    stream.time_base = clip.time_base
    stream.codec_context.framerate = clip.rate
    if clip.aspect is not None:
        stream.codec_context.sample_aspect_ratio = clip.aspect
    if clip.display_matrix is not None:
        stream.set_display_matrix(clip.display_matrix)
    if origin is not None and source is not None and origin.streams.video:
        main = main_video(origin, source)
        stream.disposition = main.disposition
        stream.metadata.update(kept_tags(main.metadata, video=True))
    return stream


def _lacks_aspect(stream: Any, clip: ClipFormat, suffix: str) -> bool:
    """Whether pixels that are not square are said neither by the codec nor by the muxer."""
    return bool(clip.aspect and suffix in (".mkv", ".webm") and stream.codec_context.name not in ("h264", "hevc"))


def _template(segment: Path, clip: ClipFormat) -> av.container.InputContainer:
    """The segment, or its beginning with static HDR metadata beside those that some codecs have in their stream."""
    if clip.mastering is None and clip.light_level is None:
        return av.open(str(segment))
    with segment.open("rb") as file:
        head = file.read(_HEAD)
    return av.open(io.BytesIO(with_static_hdr(head, clip)), "r", format="matroska")


class _Joined:
    """The packets of the segments as one stream, with the decoding times that one encoder run would have given."""

    def __init__(self, segments: Sequence[Path], clip: ClipFormat) -> None:
        self._segments = segments
        self._clip = clip
        for path in segments:
            _check_whole(path)
        with av.open(str(segments[0])) as container:
            self.first = _start(container, segments[0])
            context: Any = container.streams.video[0].codec_context
            self._extradata = context.extradata
            self._delay = context.reorder_depth
        with av.open(str(segments[-1])) as container:
            self.end = _start(container, segments[-1]) + _length(container, segments[-1])

    def packets(self, stream: Any, cut: _Cut) -> Iterator[tuple[Fraction, av.Packet]]:
        """Every packet with its decoding time in seconds."""
        base = self._clip.time_base
        shift = round(cut.origin / base)
        step = max(1, round(1 / (self._clip.rate * base)))
        # Packet i is decoded when frame i - delay is shown; before the first frame, at the frame rate.
        shown = [self.first + (i - self._delay) * step for i in range(self._delay)]
        for path in self._segments:
            with av.open(str(path)) as container:
                if container.streams.video[0].codec_context.extradata != self._extradata:
                    raise WorkError(f"{path} was written by another encoder than the first segment")
                start, length = _start(container, path), _length(container, path)
                packets = [packet for packet in container.demux(video=0) if packet.size]
                if any(packet.pts is None for packet in packets):
                    raise WorkError(f"{path} is damaged: a frame without a time")
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
    with path.open("rb") as file:
        head = file.read(64)
        at = head.find(b"\x18\x53\x80\x67") + 4  # the master element "Segment", its size in eight bytes
        declared = at + 8 + int.from_bytes(head[at + 1 : at + 8], "big")
        if at < 4 or head[at : at + 1] != b"\x01" or file.seek(0, 2) != declared:
            raise WorkError(f"{path} is no segment of msr, or is damaged")


def _start(container: av.container.InputContainer, path: Path) -> int:
    try:
        return int(container.metadata[START])
    except (KeyError, ValueError):
        raise WorkError(f"{path} is no segment of msr, or is damaged") from None


def _length(container: av.container.InputContainer, path: Path) -> int:
    """In ticks, which the file takes for milliseconds and FFmpeg gives in microseconds."""
    if not container.duration:
        raise WorkError(f"{path} is damaged: its length is missing")
    return round(container.duration / 1000)


class _Cut:
    """The stretch of the source that is written, and where its time begins."""

    def __init__(
        self, joined: _Joined, origin: av.container.InputContainer | None, start: float, duration: float | None
    ) -> None:
        base = joined._clip.time_base
        self.origin = Fraction(0)
        self._begin: Fraction | None = None
        self._end: Fraction | None = None
        if start:
            self.origin = self._begin = joined.first * base
        elif origin is not None and origin.format.name in ("mpegts", "mpeg", "mpegtsraw") and origin.start_time:
            # The clock of a broadcast begins anywhere.
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
            start, stop = (round((time - self.origin) / base) for time in (begin, end))
            kept.append({**chapter, "start": start, "end": stop})
        return kept

    def packets(
        self, origin: av.container.InputContainer | None, chosen: Sequence[Any], copies: dict[int, Any]
    ) -> Iterator[tuple[Fraction, av.Packet]]:
        """The packets of the other streams with their times in seconds."""
        wanted = [stream for stream in chosen if copies[stream.index].type != "attachment"]
        if origin is None or not wanted:
            return
        for packet in origin.demux(wanted):
            base = packet.time_base
            if not packet.size or not base:
                continue
            stream = copies[packet.stream.index]
            if packet.size == 2 and stream.codec_context.name == "mov_text":
                continue  # MP4 fills pauses with empty lines; its muxer does so again
            if is_cover(packet.stream):
                packet.pts = packet.dts = 0
            elif (packet.pts is None and packet.dts is None) or not self._fit(packet, base):
                continue
            packet.stream = stream
            time = packet.dts if packet.dts is not None else packet.pts
            yield (time or 0) * base, packet

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


def _mux(
    out: av.container.OutputContainer,
    video: Iterator[tuple[Fraction, av.Packet]],
    others: Iterator[tuple[Fraction, av.Packet]],
) -> None:
    """Write two sequences of packets in step, so that the muxer has little to keep."""
    other = next(others, None)
    for time, packet in video:
        while other is not None and other[0] <= time:
            out.mux(other[1])
            other = next(others, None)
        out.mux(packet)
    while other is not None:
        out.mux(other[1])
        other = next(others, None)
