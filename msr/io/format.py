"""What a clip is beside its pictures: pixel format, times, colour, HDR metadata, orientation."""

from __future__ import annotations

import dataclasses
import math
import struct
from fractions import Fraction
from typing import Literal

import av
import numpy as np

from msr.errors import InputError

#: The code point for "not said" of ITU-T H.273.
UNSPECIFIED = 2

#: Matrix coefficients (H.273) by which msr converts; another known tag is worked on by one of these and kept.
MATRICES = (1, 4, 5, 6, 7, 9)

ChromaLocation = Literal["unspecified", "left", "center", "topleft", "top", "bottomleft", "bottom"]

_DEPTHS = (8, 9, 10, 12, 14, 16)
#: Chroma subsampling by its base-2 logarithms; 4:1:1 and 4:1:0 are read as the next finer ones.
_SUBSAMPLING = {(0, 0): "444", (1, 0): "422", (1, 1): "420", (0, 1): "440", (2, 0): "422", (2, 1): "420", (2, 2): "420"}


@dataclasses.dataclass(frozen=True)
class PixelFormat:
    """How code values lie in planes: ``name`` is FFmpeg's, ``chroma_x`` and ``chroma_y`` are log2 of the subsampling.

    ``kind`` says what the planes are: ``"yuv"`` (Y, U, V), ``"gray"`` (Y) or ``"rgb"`` (R, G, B in this order, whatever
    FFmpeg's own order is). Samples are uint8, or uint16 from 9 bits on.
    """

    name: str
    bits: int
    chroma_x: int
    chroma_y: int
    kind: Literal["yuv", "gray", "rgb"]

    @property
    def dtype(self) -> np.dtype:
        """The type of a sample."""
        return np.dtype(np.uint8 if self.bits == 8 else np.uint16)

    def plane_sizes(self, width: int, height: int) -> list[tuple[int, int]]:
        """Height and width of each plane of a picture; a subsampled side is rounded up.

        Example:
            >>> planar_format("yuv420p").plane_sizes(33, 31)
            [(31, 33), (16, 17), (16, 17)]
        """
        if self.kind == "gray":
            return [(height, width)]
        chroma = -(-height >> self.chroma_y), -(-width >> self.chroma_x)
        return [(height, width), chroma, chroma]


def planar_format(name: str) -> PixelFormat:
    """Return the planar format of 8 to 16 bits, without alpha, that holds what an FFmpeg format holds.

    Args:
        name: an FFmpeg pixel format, e.g. ``"nv12"``.

    Returns:
        The format itself where it is planar, else the nearest that loses nothing (but for alpha).

    Raises:
        ValueError: FFmpeg knows no such format.

    Example:
        >>> planar_format("p010le")
        PixelFormat(name='yuv420p10le', bits=10, chroma_x=1, chroma_y=1, kind='yuv')
        >>> planar_format("pal8").name, planar_format("yuvj422p").name, planar_format("gray12be").name
        ('gbrp', 'yuv422p', 'gray12le')
    """
    known = av.VideoFormat(name, 64, 64)
    colours = [component for component in known.components if not component.is_alpha]
    # Of float samples, 16 bits of integer are the most that FFmpeg converts to.
    bits = next((depth for depth in _DEPTHS if depth >= max(component.bits for component in colours)), 16)
    if known.is_rgb or known.has_palette or name.startswith(("xyz", "bayer")):
        return PixelFormat("gbrp" + _depth(bits), bits, 0, 0, "rgb")
    if len(colours) == 1:
        return PixelFormat("gray" + _depth(bits), bits, 0, 0, "gray")
    shifts = 6 - known.chroma_width(64).bit_length() + 1, 6 - known.chroma_height(64).bit_length() + 1
    sampling = _SUBSAMPLING[shifts]
    if sampling == "440" and bits not in (8, 10, 12):
        sampling = "444"
    x, y = {"444": (0, 0), "422": (1, 0), "420": (1, 1), "440": (0, 1)}[sampling]
    return PixelFormat(f"yuv{sampling}p" + _depth(bits), bits, x, y, "yuv")


def _depth(bits: int) -> str:
    return "" if bits == 8 else f"{bits}le"


@dataclasses.dataclass(frozen=True)
class Mastering:
    """The display that an HDR clip was graded on (SMPTE ST 2086): CIE xy of red, green, blue and white; cd/m2.

    ``primaries`` and ``luminance`` (least, greatest) are None where the clip does not say them.
    """

    primaries: tuple[tuple[Fraction, Fraction], ...] | None
    luminance: tuple[Fraction, Fraction] | None


@dataclasses.dataclass(frozen=True)
class LightLevel:
    """The brightest pixel and the brightest frame average of an HDR clip (CTA-861.3), in cd/m2."""

    max_content: int
    max_average: int


@dataclasses.dataclass(frozen=True)
class ClipFormat:
    """All of a clip that is not a picture, a time or another stream.

    ``width`` and ``height`` are those of the frames as stored: ``display_matrix`` (as FFmpeg gives it; None: upright)
    turns them for display. ``matrix``, ``primaries`` and ``transfer`` are code points of ITU-T H.273 (2: unspecified).
    ``aspect`` is the shape of a pixel, width by height (None: square or not said).
    """

    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    pixels: PixelFormat = PixelFormat("yuv420p", 8, 1, 1, "yuv")
    matrix: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    full_range: bool = False
    chroma_location: ChromaLocation = "unspecified"
    aspect: Fraction | None = None
    display_matrix: tuple[int, ...] | None = None
    mastering: Mastering | None = None
    light_level: LightLevel | None = None

    @property
    def matrix_used(self) -> int:
        """The matrix to convert with: the tag; without one BT.709 from 720 rows on and BT.601 below, as players do."""
        if self.matrix in MATRICES:
            return self.matrix
        if self.matrix in (0, UNSPECIFIED):  # 0 is RGB, of planes of Y, U and V a mistake
            return 1 if self.height >= 720 else 6
        return 9 if self.primaries == 9 else 1

    @property
    def chroma_used(self) -> ChromaLocation:
        """Where chroma samples lie: the tag; without one left, as MPEG-2, H.264 and H.265 have it."""
        return "left" if self.chroma_location == "unspecified" else self.chroma_location

    @property
    def turns(self) -> int:
        """Quarter turns anticlockwise that set the stored frames upright."""
        return _orientation(self.display_matrix)[0]

    @property
    def mirrored(self) -> bool:
        """Whether the turned frames are mirrored left to right as well."""
        return _orientation(self.display_matrix)[1]

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the frames as shown."""
        return (self.height, self.width) if self.turns % 2 else (self.width, self.height)


def upright(picture: np.ndarray, clip: ClipFormat) -> np.ndarray:
    """Turn a stored picture as the clip's display matrix says.

    Source: the transformation matrix of ISO/IEC 14496-12, rounded to quarter turns.

    Args:
        picture: ``(H, W)`` or ``(H, W, C)``.
        clip: whose ``turns`` and ``mirrored`` apply.

    Returns:
        The picture as shown; contiguous.

    Example:
        >>> clip = ClipFormat(2, 1, Fraction(25), Fraction(1, 25), display_matrix=(0, 1, 0, -1, 0, 0, 0, 0, 1))
        >>> upright(np.array([[1, 2]]), clip).tolist()
        [[1], [2]]
    """
    turned = np.rot90(picture, clip.turns)
    return np.ascontiguousarray(turned[:, ::-1] if clip.mirrored else turned)


def stretch(start: float, duration: float | None) -> tuple[Fraction, Fraction | None]:
    """The begin and end of a stretch in exact seconds: 0.04 is 1/25 and not the nearest binary fraction.

    Args:
        start: seconds from 0 on.
        duration: seconds above 0, or None: to the end.

    Raises:
        InputError: other numbers.

    Example:
        >>> stretch(0.04, 1)
        (Fraction(1, 25), Fraction(26, 25))
    """
    if not math.isfinite(start) or start < 0:
        raise InputError(f"the start is {start}; a number of seconds from 0 on is expected")
    if duration is not None and (not math.isfinite(duration) or duration <= 0):
        raise InputError(f"the duration is {duration}; a number of seconds above 0 is expected")
    begin = Fraction(str(start))
    return begin, None if duration is None else begin + Fraction(str(duration))


def _orientation(matrix: tuple[int, ...] | None) -> tuple[int, bool]:
    if matrix is None:
        return 0, False
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    mirrored = a * d - b * c < 0
    if mirrored:
        a = -a
    if abs(a) >= abs(b):
        return (0 if a >= 0 else 2), mirrored
    return (3 if b > 0 else 1), mirrored


@dataclasses.dataclass(frozen=True)
class Frame:
    """One frame: its planes of code values ``(H, W)``, its time and duration in time base units, what it is part of."""

    planes: tuple[np.ndarray, ...]
    pts: int
    duration: int
    format: ClipFormat

    @property
    def pixels(self) -> np.ndarray:
        """The frame as upright RGB ``(H, W, 3)``: uint8, or uint16 over its whole range from 9 bits on."""
        from msr.io.planes import to_rgb

        return upright(to_rgb(self.planes, self.format), self.format)


def read_mastering(data: bytes) -> Mastering | None:
    """Read FFmpeg's ``AVMasteringDisplayMetadata``; None where it says nothing or nothing that makes sense.

    Example:
        >>> read_mastering(bytes(88)) is None
        True
    """
    if len(data) < 88:
        return None
    numbers = struct.unpack_from("=22i", data)
    pairs = list(zip(numbers[0:20:2], numbers[1:20:2], strict=True))
    values = [Fraction(top, bottom) if bottom > 0 <= top else None for top, bottom in pairs]
    points = [value for value in values[:8] if value is not None and value <= 1]
    light = [value for value in values[8:] if value is not None]
    # Red, green, blue, white, each x then y.
    primaries = tuple((points[i], points[i + 1]) for i in (0, 2, 4, 6)) if numbers[20] and len(points) == 8 else None
    luminance = (light[0], light[1]) if numbers[21] and len(light) == 2 and light[0] <= light[1] else None
    return Mastering(primaries, luminance) if primaries or luminance else None


def read_light_level(data: bytes) -> LightLevel | None:
    """Read FFmpeg's ``AVContentLightMetadata``; None where it says nothing.

    Example:
        >>> read_light_level(bytes([232, 3, 0, 0, 144, 1, 0, 0]))
        LightLevel(max_content=1000, max_average=400)
    """
    if len(data) < 8:
        return None
    content, average = struct.unpack_from("=II", data)
    return LightLevel(content, average) if content or average else None
