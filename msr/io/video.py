"""Clips read frame by frame with PyAV: planes of code values with their times."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import ColorRange

from msr.errors import InputError, LastingError, WorkError
from msr.io.deinterlace import deinterlaced
from msr.io.described import chroma_location, main_video, reason, set_aside, side_data
from msr.io.format import UNSPECIFIED, ClipFormat, Frame, planar_format, read_light_level, read_mastering, stretch
from msr.io.image import MAX_PIXELS, check_file
from msr.io.planes import is_full_range, read_planes
from msr.io.streams import open_source

#: Times beyond this are nonsense; it leaves room to add and to rescale them.
_LATEST = 1 << 60

#: Said of damage.
_HOW = "--keep-going passes over it"

#: Decoders of codecs in which a packet may hold no frame to show.
_SEVERAL = ("vp8", "libvpx", "vp9", "libvpx-vp9", "mpeg4", "msmpeg4v3")


class VideoReader:
    """Read a clip frame by frame as planes of its own code values, in constant memory.

    Nothing is converted: planes have the clip's own depth, subsampling, range and matrix, and lie as stored
    (``format.turns`` says how to set them upright). Packed and semi-planar formats are taken apart without loss.
    A moving-picture stream comes before a cover picture.

    Args:
        path: any clip that FFmpeg reads.
        start: where to begin, in seconds after the first frame.
        duration: seconds to read; None: to the end.
        deinterlace: whether interlaced frames are deinterlaced (FFmpeg's bwdif, one frame for each); else refused.
        keep_going: whether damaged places are passed over (and counted in ``damaged``) instead of an error.

    Attributes:
        format: all that is not a picture, a time or another stream.
        frames: the number of frames from ``start`` as far as the file tells, or None.
        audio: codec names of the audio streams.
        left_out: what of the video itself cannot be carried on, as sentences.
        damaged: how many damaged places were passed over so far.

    Raises:
        InputError: missing, empty or not a clip; interlaced; ``start`` beyond the end.
        WorkError: the clip is truncated or damaged (on opening where its index tells, else while reading).

    Example:
        >>> with VideoReader("clip.mp4") as clip:     # doctest: +SKIP
        ...     for frame in clip:
        ...         print(frame.planes[0].shape, frame.pts * clip.format.time_base)
    """

    def __init__(
        self,
        path: str | Path,
        *,
        start: float = 0,
        duration: float | None = None,
        deinterlace: bool = False,
        keep_going: bool = False,
    ) -> None:
        self.path = Path(path)
        check_file(self.path)
        self._begin, self._end = stretch(start, duration)
        self._deinterlace = deinterlace
        self._keep_going = keep_going
        self.damaged = 0
        self._container = open_source(self.path)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        stream = self._stream = main_video(self._container, self.path)
        context = stream.codec_context
        if context is None or not context.width or not context.height:
            raise InputError(f"{self.path} is damaged: its video has no size, or a codec that cannot be read")
        if context.width * context.height > MAX_PIXELS:
            raise InputError(
                f"{self.path} declares {context.width}x{context.height} pixels; at most {MAX_PIXELS:,} are read"
            )
        size = self.path.stat().st_size
        if not self._keep_going and any(entry.pos + entry.size > size for entry in stream.index_entries):
            raise LastingError(f"{self.path} is truncated: its index points beyond the end of the file; {_HOW}")
        stream.thread_type = "AUTO"
        rate = stream.guessed_rate or stream.average_rate
        self._rate = rate if rate and rate > 0 else Fraction(25)
        base = stream.time_base
        self._unit = base if base and base > 0 else 1 / self._rate
        # MP4 counts in 32 bits: in units of nanoseconds, two seconds of a still picture would not fit.
        self._base = self._unit if self._unit.denominator <= 10_000_000 else Fraction(1, 1_000_000)
        self._length = self._declared_length()
        self._one_each = context.name not in _SEVERAL
        self.audio = [audio.codec_context.name for audio in self._container.streams.audio if audio.codec_context]
        self._decoded = self._wanted()
        first = next(self._decoded, None)
        if first is None and self._begin:
            raise InputError(f"{self.path} has no frame from {float(self._begin):g} s on")
        if first is None:
            raise WorkError(f"{self.path} is truncated or damaged: no frame of it can be decoded")
        self._first: tuple[av.VideoFrame, int, int] | None = first
        self.format = self._describe(first[0])
        self.left_out = set_aside(first[0])
        self.frames = self._expected_frames()

    def _describe(self, frame: av.VideoFrame) -> ClipFormat:
        aspect = self._stream.sample_aspect_ratio
        sides = side_data(frame)
        turned = _matrix(sides.get("DISPLAYMATRIX", b""), frame.rotation)
        matrix = int(frame.colorspace)
        pixels, codec = planar_format(frame.format.name), self._stream.codec_context.name
        # H.264 and H.265 mean the limited range where they say none; gray of others is that of pictures.
        gray = pixels.kind == "gray" and not int(frame.color_range) and codec not in ("h264", "hevc")
        return ClipFormat(
            width=frame.width,
            height=frame.height,
            rate=self._rate,
            time_base=self._base,
            pixels=pixels,
            matrix=matrix if matrix != 3 else UNSPECIFIED,  # 3 is reserved
            primaries=int(frame.color_primaries) or UNSPECIFIED,
            transfer=int(frame.color_trc) or UNSPECIFIED,
            full_range=gray or (is_full_range(frame) and int(frame.color_range) != ColorRange.MPEG),
            chroma_location=chroma_location(self._container, self._stream),
            aspect=aspect if aspect and aspect != 1 and Fraction(1, 100) < aspect < 100 else None,
            display_matrix=turned,
            mastering=read_mastering(sides.get("MASTERING_DISPLAY_METADATA", b"")),
            light_level=read_light_level(sides.get("CONTENT_LIGHT_LEVEL", b"")),
        )

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames in the order of display, once."""
        while (item := self._next()) is not None:
            decoded, pts, duration = item
            yield Frame(read_planes(decoded, self.format.pixels), pts, duration, self.format)

    def times(self) -> Iterator[int]:
        """When the frames are shown, in units of ``format.time_base``; as iteration, but no planes are read."""
        while (item := self._next()) is not None:
            yield item[1]

    def skip(self, count: int) -> None:
        """Pass over frames as if they had been read; they are decoded, so that what follows is the same.

        Raises:
            WorkError: as when reading, or when there are fewer.
        """
        for index in range(count):
            if self._next() is None:
                raise WorkError(f"{self.path} has only {index} frames, expected at least {count}")

    def _next(self) -> tuple[av.VideoFrame, int, int] | None:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return next(self._decoded, None)

    def _declared_length(self) -> Fraction | None:
        """Seconds that the file says the video lasts; Matroska says it in a tag of the stream."""
        stream = self._stream
        if "DURATION" in stream.metadata:
            try:
                hours, minutes, seconds = stream.metadata["DURATION"].split(":")
                return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds[:9])
            except (ValueError, ZeroDivisionError):
                return None
        if stream.duration and stream.duration > 0:
            return stream.duration * self._unit
        return None

    def _expected_frames(self) -> int | None:
        total = self._stream.frames or (round(self._length * self._rate) if self._length else 0)
        if total <= 0:
            return None
        if not self._begin and self._end is None:
            return total
        length = self._length or total / self._rate
        return max(1, math.ceil(total * (min(length, self._end or length) - self._begin) / length))

    def _wanted(self) -> Iterator[tuple[av.VideoFrame, int, int]]:
        """The frames that begin within the wanted range; all before it are decoded, which is slow but exact."""
        first: int | None = None
        for item in self._timed():
            first = item[1] if first is None else first
            after = (item[1] - first) * self._base
            if self._end is not None and after >= self._end:
                return
            if after >= self._begin:
                yield item

    def _timed(self) -> Iterator[tuple[av.VideoFrame, int, int]]:
        """All frames with a time that increases; each is shown until the next."""
        step = max(1, round(1 / (self._rate * self._base)))
        start: int | None = None
        waiting: tuple[av.VideoFrame, int] | None = None
        end = 0
        for decoded in self._progressive():
            # A raw stream has no times, a damaged one repeats them: such frames follow at the frame rate.
            pts = self._ticks(decoded.pts)
            if pts is None or (waiting is not None and pts <= waiting[1]):
                pts = end
            if waiting is not None:
                yield *waiting, pts - waiting[1]
            waiting = decoded, pts
            start = pts if start is None else start
            # What files say of the length of a frame is right for all frames only where all are equal.
            end = pts + max(1, self._ticks(decoded.duration) or step)
        if waiting is not None:
            yield *waiting, end - waiting[1]
        if start is None or self._length is None or self._keep_going:
            return
        # Two frames of slack: containers round times and guess the length of the last frame.
        length = self._length
        if (end - min(start, 0)) * self._base < length - max(2 / self._rate, length / 100):
            seconds = float(end * self._base), float(length)
            raise LastingError(
                f"{self.path} is truncated: it ends after {seconds[0]:.2f} of {seconds[1]:.2f} s; {_HOW}"
            )

    def _ticks(self, value: int | None) -> int | None:
        """A time of the file in units of ``format.time_base``; None where it is missing or nonsense."""
        if value is None or abs(value) > _LATEST:
            return None
        return value if self._unit == self._base else round(value * self._unit / self._base)

    def _progressive(self) -> Iterator[av.VideoFrame]:
        """The frames, none of them interlaced."""
        if not self._deinterlace:
            for index, decoded in enumerate(self._all()):
                if decoded.interlaced_frame:
                    raise InputError(f"{self.path} is interlaced (frame {index}); --deinterlace makes it whole frames")
                yield decoded
            return
        yield from deinterlaced(self._all(), self._unit)

    def _all(self) -> Iterator[av.VideoFrame]:
        """All frames as decoded, of one size and format."""
        size: tuple[int, int, str] | None = None
        count = 0
        # Times of packets whose frame has not come yet; a decoder may drop what it cannot decode without a word.
        due: set[int] = set()
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt and not self._passed_over():
                    raise LastingError(f"{self.path} is truncated or damaged at frame {count}; {_HOW}")
                if packet.size and packet.pts is not None and self._one_each and not packet.is_discard:
                    due.add(packet.pts)
                for decoded in self._decode(packet):
                    missing = {time for time in due if decoded.pts is not None and time < decoded.pts}
                    due -= missing | {decoded.pts}
                    # Before the first key frame there is nothing to be decoded.
                    lost = decoded.is_corrupt or (missing and count > 0)
                    if lost and not self._passed_over():
                        raise LastingError(f"{self.path} is damaged at frame {count}; {_HOW}")
                    now = decoded.width, decoded.height, planar_format(decoded.format.name).name
                    if size is not None and size != now:
                        raise InputError(
                            f"{self.path}: frame {count} is {_said(now, size)}, expected {_said(size, now)}"
                        )
                    size = now
                    yield decoded
                    count += 1
        except (av.error.FFmpegError, ValueError) as error:
            if not self._passed_over():
                raise LastingError(
                    f"{self.path} is truncated or damaged at frame {count} ({reason(error)}); {_HOW}"
                ) from None

    def _decode(self, packet: av.Packet) -> list[av.VideoFrame]:
        try:
            return packet.decode()
        except av.error.FFmpegError:
            if not self._passed_over():
                raise
            return []

    def _passed_over(self) -> bool:
        self.damaged += self._keep_going
        return self._keep_going


def _said(size: tuple[int, int, str], other: tuple[int, int, str]) -> str:
    return f"{size[0]}x{size[1]}" + (f" {size[2]}" if size[2] != other[2] else "")


def _matrix(data: bytes, rotation: int) -> tuple[int, ...] | None:
    """A display matrix that is not the identity; of the rotation alone where there is no more to be had."""
    values = tuple(memoryview(data[:36]).cast("i")) if len(data) >= 36 else ()
    if not values and rotation % 360:
        cosine, sine = ((65536, 0), (0, 65536), (-65536, 0), (0, -65536))[round(rotation / 90) % 4]
        values = (cosine, -sine, 0, sine, cosine, 0, 0, 0, 1 << 30)
    return values if values and values[:5] != (65536, 0, 0, 0, 65536) else None
