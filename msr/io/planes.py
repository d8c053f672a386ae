"""Between FFmpeg's frames and planes of code values, and from planes to RGB for looking at."""

from __future__ import annotations

from collections.abc import Sequence

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from msr.io.format import ClipFormat, PixelFormat

SWSCALE = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)

#: Matrix coefficients of ITU-T H.273 to the names of swscale.
SWSCALE_MATRICES = {1: Colorspace.ITU709, 4: Colorspace.FCC, 5: Colorspace.ITU601, 6: Colorspace.ITU601,
                    7: Colorspace.SMPTE240M, 9: Colorspace.BT2020}  # fmt: skip

#: Where R, G and B lie among the planes of FFmpeg's gbrp.
_GBR = (2, 0, 1)


def read_planes(frame: av.VideoFrame, pixels: PixelFormat) -> tuple[np.ndarray, ...]:
    """Copy a decoded frame's code values.

    Args:
        frame: in any format that ``planar_format`` maps to ``pixels``.
        pixels: the format of the planes.

    Returns:
        Contiguous planes ``(H, W)``, uint8 or uint16: Y, U, V, or Y, or R, G, B.

    Example:
        >>> [plane.shape for plane in read_planes(av.VideoFrame(6, 4, "nv12"), PixelFormat("yuv420p", 8, 1, 1, "yuv"))]
        [(4, 6), (2, 3), (2, 3)]
    """
    if frame.format.name.replace("yuvj", "yuv") != pixels.name:
        # The same range on both sides, so that code values stay what they are.
        same = ColorRange.JPEG if is_full_range(frame) else ColorRange.MPEG
        frame = frame.reformat(
            format=pixels.name, src_color_range=same, dst_color_range=same, interpolation=SWSCALE
        )  # fmt: skip
    planes = [_view(plane, pixels.dtype).copy() for plane in frame.planes[: 1 if pixels.kind == "gray" else 3]]
    return tuple(planes[i] for i in _GBR) if pixels.kind == "rgb" else tuple(planes)


def write_planes(planes: Sequence[np.ndarray], pixels: PixelFormat) -> av.VideoFrame:
    """Make a frame of planes; the reverse of ``read_planes``.

    Args:
        planes: ``(H, W)`` each, in the order, sizes and type of ``pixels``.
        pixels: their format.

    Raises:
        ValueError: planes that are not those of the format.

    Example:
        >>> y, c = np.zeros((4, 6), np.uint8), np.zeros((2, 3), np.uint8)
        >>> write_planes([y, c, c], PixelFormat("yuv420p", 8, 1, 1, "yuv")).width
        6
    """
    height, width = planes[0].shape
    expected = pixels.plane_sizes(width, height)
    if [plane.shape for plane in planes] != expected or any(plane.dtype != pixels.dtype for plane in planes):
        got = [(plane.shape, str(plane.dtype)) for plane in planes]
        raise ValueError(f"{pixels.name} expects planes {expected} of {pixels.dtype}, got {got}")
    frame = av.VideoFrame(width, height, pixels.name)
    order = _GBR if pixels.kind == "rgb" else range(len(planes))
    for source, target in zip(planes, order, strict=True):
        _view(frame.planes[target], pixels.dtype)[:] = source
    return frame


def to_rgb(planes: Sequence[np.ndarray], clip: ClipFormat) -> np.ndarray:
    """Convert planes to RGB for looking at or for training; swscale's cubic chroma, not exactly reversible.

    Args:
        planes: as ``clip.pixels`` says.
        clip: whose matrix and range apply.

    Returns:
        ``(H, W, 3)`` RGB as stored (not turned), uint8, or uint16 over its whole range from 9 bits on.

    Example:
        >>> from fractions import Fraction
        >>> from msr.io.format import ClipFormat, planar_format
        >>> clip = ClipFormat(2, 2, Fraction(25), Fraction(1, 25), planar_format("gray"), full_range=True)
        >>> to_rgb([np.full((2, 2), 9, np.uint8)], clip)[0, 0].tolist()
        [9, 9, 9]
    """
    pixels = clip.pixels
    if pixels.kind == "rgb" and pixels.bits in (8, 16):
        return np.stack(planes, -1)
    if pixels.kind == "gray":  # swscale takes gray for full range whatever it is told
        deep = pixels.bits > 8
        black, top = (0, (1 << pixels.bits) - 1) if clip.full_range else (16 << pixels.bits - 8, 219 << pixels.bits - 8)
        gray = (planes[0].astype(np.float32) - black) * ((65535 if deep else 255) / top)
        gray = np.rint(gray).clip(0, 65535 if deep else 255).astype(np.uint16 if deep else np.uint8)
        return np.repeat(gray[..., None], 3, 2)
    rgb = write_planes(planes, pixels).reformat(
        format="rgb48le" if pixels.bits > 8 else "rgb24",
        src_colorspace=SWSCALE_MATRICES[clip.matrix_used],
        src_color_range=ColorRange.JPEG if clip.full_range or pixels.kind == "rgb" else ColorRange.MPEG,
        dst_color_range=ColorRange.JPEG,
        interpolation=SWSCALE,
    )
    return rgb.to_ndarray()


def is_full_range(frame: av.VideoFrame) -> bool:
    """Whether code values fill the whole range; the yuvj formats and RGB do by name and may carry no tag."""
    name = frame.format.name
    return int(frame.color_range) == ColorRange.JPEG or name.startswith("yuvj") or planar_kind_is_rgb(frame)


def planar_kind_is_rgb(frame: av.VideoFrame) -> bool:
    """Whether a frame holds RGB (a palette counts)."""
    return frame.format.is_rgb or frame.format.has_palette


def _view(plane: av.video.plane.VideoPlane, dtype: np.dtype) -> np.ndarray:
    """A plane's samples without the padding of its rows."""
    stride = plane.line_size // dtype.itemsize
    rows = np.frombuffer(memoryview(plane), dtype)[: plane.height * abs(stride)].reshape(plane.height, abs(stride))
    return rows[:: 1 if stride > 0 else -1, : plane.width]
