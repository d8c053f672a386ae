"""YUV4MPEG2 (y4m): uncompressed frames through a pipe, as ffmpeg reads and writes them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from types import TracebackType
from typing import BinaryIO

import numpy as np

from msr.errors import InputError, WorkError
from msr.io.format import ChromaLocation, ClipFormat, Frame, PixelFormat, planar_format, stretch
from msr.io.image import MAX_PIXELS

_LOCATIONS: dict[str, ChromaLocation] = {
    "420": "center",
    "420jpeg": "center",
    "420mpeg2": "left",
    "420paldv": "topleft",
}
_TAGS = {"center": "420jpeg", "topleft": "420paldv"}
#: A longer line is no header.
_LONGEST = 1024


class Y4mReader:
    """Read y4m from a pipe or file, frame by frame.

    Source: the YUV4MPEG2 stream header and frames of the MJPEG tools, with FFmpeg's formats of more than 8 bits and
    its ``XCOLORRANGE``.

    Args:
        file: an open binary file, at the beginning of the stream.
        name: how errors name it.
        start: where to begin, in seconds.
        duration: seconds to read; None: to the end.

    Attributes:
        format: of the frames; y4m says no matrix.
        frames: None, a pipe does not tell.
        audio: empty.
        left_out: empty.
        damaged: 0.

    Raises:
        InputError: not y4m, of a format that msr does not read, or interlaced; ``start`` beyond the end.
        WorkError: (while reading) the stream has no frames, or ends within one.

    Example:
        >>> import io
        >>> clip = Y4mReader(io.BytesIO(b"YUV4MPEG2 W2 H1 F25:1 Cmono\\nFRAME\\n\\x10\\x20"))
        >>> [frame.planes[0].tolist() for frame in clip]
        [[[16, 32]]]
    """

    def __init__(
        self, file: BinaryIO, name: str = "the input", *, start: float = 0, duration: float | None = None
    ) -> None:
        self._file = file
        self._name = name
        self.format = self._header()
        self.frames: int | None = None
        self.audio: list[str] = []
        self.left_out: list[str] = []
        self.damaged = 0
        rate = self.format.rate
        begin, end = stretch(start, duration)
        first = math.ceil(begin * rate)
        self._end = None if end is None else math.ceil(end * rate)
        self._index = 0
        self._start, self._seconds = first, float(begin)
        while self._index < first:
            if self._read() is None:
                raise self._nothing()
            self._index += 1

    def _header(self) -> ClipFormat:
        line = self._line() or ""
        words = line.split(" ")
        if words[0] != "YUV4MPEG2":
            raise InputError(f"{self._name} is not y4m (YUV4MPEG2); ffmpeg writes it with -f yuv4mpegpipe")
        fields = {word[0]: word[1:] for word in words[1:] if word and word[0] != "X"}
        width, height = (int(fields[key]) if re.fullmatch(r"\d{1,9}", fields.get(key, "")) else 0 for key in "WH")
        if not 0 < width * height <= MAX_PIXELS:
            raise InputError(f"{self._name} declares {width}x{height} pixels; 1 to {MAX_PIXELS:,} are read")
        if fields.get("I", "p") not in ("p", "?"):
            raise InputError(f"{self._name} is interlaced; it must be deinterlaced first (ffmpeg -vf bwdif)")
        rate, aspect = _ratio(fields.get("F", "")) or Fraction(25), _ratio(fields.get("A", ""))
        coding = fields.get("C", "420")
        pixels = self._pixels(coding)
        return ClipFormat(
            width=width,
            height=height,
            rate=rate,
            time_base=1 / rate,
            pixels=pixels,
            # Gray that does not say its range is that of pictures.
            full_range="XCOLORRANGE=FULL" in words or (pixels.kind == "gray" and "XCOLORRANGE=LIMITED" not in words),
            chroma_location=_LOCATIONS.get(coding, "unspecified"),
            aspect=aspect if aspect != 1 else None,
        )

    def _pixels(self, coding: str) -> PixelFormat:
        found = re.fullmatch(r"(420|422|444)(?:jpeg|mpeg2|paldv|p(9|10|12|14|16))?|(mono)(9|10|12|14|16)?", coding)
        if found is None:
            raise InputError(f"{self._name} is y4m of the format {coding[:20]}, which msr does not read")
        sampling, depth, mono, gray = found.groups()
        depth = depth or gray
        return planar_format(("gray" if mono else f"yuv{sampling}p") + (f"{depth}le" if depth else ""))

    def __enter__(self) -> Y4mReader:
        return self

    def __exit__(self, *_: object) -> None:
        """The file is the caller's."""

    def close(self) -> None:
        """Nothing to close: the file is the caller's."""

    def __iter__(self) -> Iterator[Frame]:
        """Yield the frames, once."""
        while self._end is None or self._index < self._end:
            planes = self._read()
            if planes is None:
                if self._index == self._start:
                    raise self._nothing()
                return
            self._index += 1
            yield Frame(planes, self._index - 1, 1, self.format)

    def skip(self, count: int) -> None:
        """Pass over frames.

        Raises:
            WorkError: there are fewer.
        """
        for _ in range(count):
            if self._read() is None:
                raise WorkError(f"{self._name} has only {self._index} frames")
            self._index += 1

    def _nothing(self) -> InputError | WorkError:
        if self._start:
            return InputError(f"{self._name} has no frame from {self._seconds:g} s on")
        return WorkError(f"{self._name} has no frames")

    def _read(self) -> tuple[np.ndarray, ...] | None:
        line = self._line(end=True)
        if line is None:
            return None
        if line.split(" ")[0] != "FRAME":
            raise WorkError(f"{self._name} is damaged before frame {self._index}")
        clip = self.format
        planes = []
        for size in clip.pixels.plane_sizes(clip.width, clip.height):
            data = self._exactly(size[0] * size[1] * clip.pixels.dtype.itemsize)
            planes.append(
                np.frombuffer(data, clip.pixels.dtype.newbyteorder("<")).reshape(size).astype(clip.pixels.dtype)
            )
        return tuple(planes)

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._file.read(size)
            if not part:
                raise WorkError(f"{self._name} is truncated: it ends within frame {self._index}")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _line(self, end: bool = False) -> str | None:
        line = self._file.readline(_LONGEST)
        if not line and end:
            return None
        if not line.endswith(b"\n"):
            if end and len(line) < _LONGEST:
                raise WorkError(f"{self._name} is truncated: it ends before frame {self._index}")
            return ""
        return line[:-1].decode("ascii", "replace")


class Y4mWriter:
    """Write frames as y4m into a pipe or file. y4m has one rate and no times: every frame counts the same.

    Args:
        file: an open binary file.
        clip: of the frames, as ``output_format(..., ".y4m")`` returned it.

    Raises:
        ValueError: a format that y4m has no word for.
        OSError: the pipe is broken.

    Example:
        >>> import io
        >>> out = io.BytesIO()
        >>> writer = Y4mWriter(out, ClipFormat(2, 1, Fraction(25), Fraction(1, 25), planar_format("gray")))
        >>> writer.write([np.array([[16, 32]], np.uint8)], 0, 1)
        >>> out.getvalue()
        b'YUV4MPEG2 W2 H1 F25:1 Ip A0:0 Cmono XCOLORRANGE=LIMITED\\nFRAME\\n\\x10 '
    """

    def __init__(self, file: BinaryIO, clip: ClipFormat) -> None:
        self._file = file
        self._clip = clip
        aspect = clip.aspect or Fraction(0)
        shape = f"A{aspect.numerator}:{aspect.denominator if aspect else 0}"
        colour = "FULL" if clip.full_range else "LIMITED"
        rate = f"F{clip.rate.numerator}:{clip.rate.denominator}"
        head = f"YUV4MPEG2 W{clip.width} H{clip.height} {rate} Ip {shape} C{_coding(clip)} XCOLORRANGE={colour}\n"
        self._file.write(head.encode())

    def __enter__(self) -> Y4mWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._file.flush()

    def write(self, planes: Sequence[np.ndarray], pts: int, duration: int) -> None:
        """Write one frame of planes; its time is not kept.

        Raises:
            ValueError: planes of another size or type.
            OSError: the pipe is broken.
        """
        pixels, clip = self._clip.pixels, self._clip
        expected = pixels.plane_sizes(clip.width, clip.height)
        if [plane.shape for plane in planes] != expected or any(plane.dtype != pixels.dtype for plane in planes):
            got = [(plane.shape, str(plane.dtype)) for plane in planes]
            raise ValueError(f"{pixels.name} expects planes {expected} of {pixels.dtype}, got {got}")
        self._file.write(b"FRAME\n")
        for plane in planes:
            self._file.write(plane.astype(pixels.dtype.newbyteorder("<")).tobytes())


def _coding(clip: ClipFormat) -> str:
    pixels = clip.pixels
    depth = "" if pixels.bits == 8 else str(pixels.bits)
    if pixels.kind == "gray":
        return "mono" + depth
    sampling = {(1, 1): "420", (1, 0): "422", (0, 0): "444"}.get((pixels.chroma_x, pixels.chroma_y))
    if pixels.kind != "yuv" or sampling is None:
        raise ValueError(f"y4m has no word for {pixels.name}")
    if depth:
        return f"{sampling}p{depth}"
    return _TAGS.get(clip.chroma_location, "420mpeg2") if sampling == "420" else sampling


def _ratio(text: str) -> Fraction | None:
    """A positive ratio such as 30000:1001, within 32 bits."""
    found = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text)
    if found is None or not int(found[1]) or not int(found[2]):
        return None
    ratio = Fraction(int(found[1]), int(found[2]))
    return ratio if max(ratio.numerator, ratio.denominator) < 1 << 31 else None
