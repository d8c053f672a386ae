"""From encoded segments and the other streams of the source to one container."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from msr.errors import InputError, LastingError, WorkError
from msr.io.described import main_video, reason
from msr.io.encoders import CONTAINERS
from msr.io.format import ClipFormat
from msr.io.matroska import ROOM, set_display_size, with_static_hdr
from msr.io.output import whole
from msr.io.packets import Cut, Joined
from msr.io.streams import add_copy, choose_streams, is_cover, kept_tags, kind, open_source, own_keys, spelled, unsaid

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
    folder: Path | None = None,
) -> list[str]:
    """Join segments to one clip, with every other stream of the source, its chapters and its tags.

    Video packets are those of the segments and all others those of the source, bit for bit; times are exact in MP4 and
    QuickTime, and in whole milliseconds in Matroska and WebM, as these have it. MP4 and QuickTime begin at zero where
    a source of another kind begins later. What cannot be held is as ``check_container`` says; the sound that an edit
    list hides is left out.

    Args:
        target: the file to write; it appears under this name when it is whole.
        segments: what ``SegmentWriter`` wrote, in order; at least one.
        source: the clip whose other streams, chapters and tags go along, or None.
        clip: of the segments' frames.
        start: as given to the reader; above 0, the target begins at time 0 with the first frame.
        duration: likewise; other streams end with the video where it is given.
        folder: where it is written before it is whole; as for ``whole``.

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
        part = stack.enter_context(whole(target, folder))
        try:
            joined = Joined(segments, clip)
            options = _options(suffix, clip, chosen, tags)
            with av.open(os.path.abspath(part), "w", format=CONTAINERS[suffix], container_options=options) as out:
                video = _add_video(out, segments[0], clip, origin, source, suffix)
                title = video.metadata.get("title", "")
                if _lacks_aspect(video, clip, suffix):
                    video.metadata["title"] = title + " " * ROOM
                copies = {stream.index: add_copy(out, stream) for stream in chosen}
                out.metadata.update(tags)
                cut = Cut(joined, origin, start, duration, suffix in (".mp4", ".mov"))
                if origin is not None:
                    out.set_chapters(cut.chapters(origin.chapters()))
                out.start_encoding()  # from here on the streams count time as the container does
                _mux(out, joined.packets(video, cut), cut.packets(origin, chosen, copies))
                for stream in chosen:
                    if count := cut.moved.get(stream.index):
                        notes.append(
                            f"times of the {kind(stream)} (stream {stream.index}) repeat or go back ({count} of them); "
                            "their packets follow those before them"
                        )
                    if count := cut.shortened.get(stream.index):
                        notes.append(
                            f"lines of the {kind(stream)} (stream {stream.index}) end where the next begins "
                            f"({count} of them): {suffix} shows no two at once"
                        )
            if _lacks_aspect(video, clip, suffix):
                set_display_size(part, title, clip)
            if origin is not None and copied is not None:
                with av.open(os.path.abspath(part)) as result:
                    notes += unsaid(origin, copied, result)
        except OSError as error:
            raise WorkError(f"cannot write {target}: {reason(error)}") from None
        except (av.error.FFmpegError, ValueError, OverflowError) as error:
            raise LastingError(f"cannot write {target}: {reason(error)}") from None
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
        stream.metadata.update(spelled(kept_tags(main.metadata, video=True), out))
    return stream


def _lacks_aspect(stream: Any, clip: ClipFormat, suffix: str) -> bool:
    """Whether pixels that are not square are said neither by the codec nor by the muxer."""
    return bool(clip.aspect and suffix in (".mkv", ".webm") and stream.codec_context.name not in ("h264", "hevc"))


def _template(segment: Path, clip: ClipFormat) -> av.container.InputContainer:
    """The segment, or its beginning with static HDR metadata beside those that some codecs have in their stream."""
    if clip.mastering is None and clip.light_level is None:
        return av.open(os.path.abspath(segment))
    with segment.open("rb") as file:
        head = file.read(_HEAD)
    return av.open(io.BytesIO(with_static_hdr(head, clip)), "r", format="matroska")


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
