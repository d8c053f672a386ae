"""Clips read frame by frame with PyAV."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from msr.errors import InputError, WorkError
from msr.io.image import MAX_PIXELS, check_file

SWSCALE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)

#: AVColorSpace values (ITU-T H.273 matrix coefficients) to the names of swscale.
MATRICES = {1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601,
             7: Colorspace.SMPTE240M, 9: Colorspace.BT2020}  # fmt: skip
UNSPECIFIED = 2


@dataclasses.dataclass(frozen=True)
class ClipFormat:
    """What a written clip takes over from its source: size before enlargement, timing, colour tags, depth.

    ``width`` and ``height`` are those of the upright frames; ``matrix``, ``primaries`` and ``transfer`` are code points
    of ITU-T H.273 (2: unspecified).
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    full_range: bool = False
    aspect: Fraction | None = None
    deep: bool = False


@dataclasses.dataclass(frozen=True)
class Frame:
    """One decoded frame: ``pixels (H, W, 3)`` RGB, uint8 (uint16 of a deep clip), with its time in time base units."""

    pixels: np.ndarray
    pts: int
    duration: int


class VideoReader:
    """Read a clip frame by frame as upright RGB, in constant memory.

    Colours are converted with the stream's own matrix and range; where a stream names no matrix, BT.709 is assumed from
    720 rows on and BT.601 below. A display rotation in multiples of 90 degrees is applied.

    Args:
        path: any clip that FFmpeg reads.

    Attributes:
        format: what a written clip takes over.
        frames: the number of frames as far as the file tells, or None.
        audio: codec names of the audio streams.

    Raises:
        InputError: missing, empty or not a clip.
        WorkError: the clip is truncated or damaged (on opening where its index tells, else while reading).

    Example:
        >>> with VideoReader("clip.mp4") as clip:     # doctest: +SKIP
        ...     for frame in clip:
        ...         print(frame.pixels.shape, frame.pts)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        check_file(self.path)
        try:
            self._container = av.open(str(self.path))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(f"{self.path} is not a clip that can be read, or is truncated ({reason(error)})") from None
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        if not self._container.streams.video:
            raise InputError(f"{self.path} holds no video")
        stream = self._stream = self._container.streams.video[0]
        context = stream.codec_context
        if stream.codec_context is None or not context.width or not context.height:
            raise InputError(f"{self.path} is damaged: its video has no size")
        if context.width * context.height > MAX_PIXELS:
            raise InputError(
                f"{self.path} declares {context.width}x{context.height} pixels; at most {MAX_PIXELS:,} are read"
            )
        size = self.path.stat().st_size
        if any(entry.pos + entry.size > size for entry in stream.index_entries):
            raise WorkError(f"{self.path} is truncated: its index points beyond the end of the file")
        stream.thread_type = "AUTO"
        rate = stream.guessed_rate or stream.average_rate or Fraction(25)
        base = stream.time_base or 1 / rate
        length = self._declared_length()
        self.frames: int | None = stream.frames or (round(length * rate) if length else None)
        self.audio = [audio.codec_context.name for audio in self._container.streams.audio]
        self._iterator = self._decode(rate, base)
        first = next(self._iterator, None)
        if first is None:
            raise WorkError(f"{self.path} is truncated or damaged: no frame of it can be decoded")
        decoded, frame = first
        self._first: Frame | None = frame
        aspect = context.sample_aspect_ratio
        if aspect and decoded.rotation % 180:
            aspect = 1 / aspect
        self.format = ClipFormat(
            width=frame.pixels.shape[1],
            height=frame.pixels.shape[0],
            rate=rate,
            time_base=base,
            matrix=int(decoded.colorspace) if int(decoded.colorspace) in MATRICES else UNSPECIFIED,
            primaries=int(decoded.color_primaries),
            transfer=int(decoded.color_trc),
            full_range=int(decoded.color_range) == ColorRange.JPEG,
            aspect=aspect if aspect and aspect != 1 else None,
            deep=frame.pixels.dtype == np.uint16,
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
        if self._first is not None:
            first, self._first = self._first, None
            yield first
        for _, frame in self._iterator:
            yield frame

    def _declared_length(self) -> Fraction | None:
        """Seconds that the file says the video lasts; Matroska says it in a tag of the stream."""
        stream = self._stream
        if "DURATION" in stream.metadata:
            try:
                hours, minutes, seconds = stream.metadata["DURATION"].split(":")
                return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds[:9])
            except ValueError:
                return None
        if stream.duration and stream.time_base:
            return stream.duration * stream.time_base
        return None

    def _decode(self, rate: Fraction, base: Fraction) -> Iterator[tuple[av.VideoFrame, Frame]]:
        step = max(1, round(1 / (rate * base)))
        size: tuple[int, int] | None = None
        start: int | None = None
        last = end = count = 0
        try:
            for packet in self._container.demux(self._stream):
                if packet.is_corrupt:
                    raise WorkError(f"{self.path} is truncated or damaged at frame {count}")
                for decoded in packet.decode():
                    if size not in (None, (decoded.width, decoded.height)):
                        now, first = f"{decoded.width}x{decoded.height}", f"{size[0]}x{size[1]}" if size else ""
                        raise InputError(f"{self.path}: frame {count} is {now}, expected {first}")
                    size = decoded.width, decoded.height
                    # A raw stream has no times, a damaged one repeats them: such frames follow at the frame rate.
                    pts = decoded.pts if decoded.pts is not None else end
                    if start is not None and pts <= last:
                        pts = end
                    start = pts if start is None else start
                    last, end = pts, pts + (decoded.duration or step)
                    yield decoded, Frame(_to_rgb(decoded), pts, decoded.duration or step)
                    count += 1
        except (av.error.FFmpegError, ValueError) as error:
            raise WorkError(f"{self.path} is truncated or damaged at frame {count} ({reason(error)})") from None
        length = self._declared_length()
        if start is None or length is None:
            return
        # Two frames of slack: containers round times and guess the length of the last frame.
        if (end - min(start, 0)) * base < length - max(2 / rate, length / 100):
            raise WorkError(f"{self.path} is truncated: it ends after {float(end * base):.2f} of {float(length):.2f} s")


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    matrix = MATRICES.get(int(frame.colorspace), Colorspace.ITU709 if frame.height >= 720 else Colorspace.ITU601)
    # The yuvj formats are full range by name and may carry no tag.
    full = int(frame.color_range) == ColorRange.JPEG or frame.format.name.startswith("yuvj") or frame.format.is_rgb
    deep = any(component.bits > 8 for component in frame.format.components)
    rgb = frame.reformat(
        format="rgb48le" if deep else "rgb24",
        src_colorspace=matrix,
        src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SWSCALE,
    ).to_ndarray()
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


def reason(error: BaseException) -> str:
    """FFmpeg's or the system's words without number, file and function."""
    return str(getattr(error, "strerror", None) or error).rstrip(".")
