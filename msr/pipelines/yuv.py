"""Planes of a clip in YCbCr, gray or RGB code values to RGB tensors and back, on whatever device the planes are.

The chroma of a subsampled clip is raised by linear interpolation at its true location and lowered by the dual of that
filter, so that planes that were only converted come back as they were, to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from msr.errors import InputError

#: Weights of red and blue in luma, by matrix coefficients of ITU-T H.273 (table 4).
LUMA: dict[int, tuple[float, float]] = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.601, 625 lines
    6: (0.299, 0.114),  # BT.601, 525 lines
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020, non-constant luminance
}
_OTHERS = {
    0: "none (identity)",
    2: "unspecified",
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "SMPTE 2085",
    12: "derived from the primaries",
    13: "derived from the primaries, with constant luminance",
    14: "ICtCp",
}

#: Where a chroma sample lies in its pair of columns and of rows: 0 on the first, 1 on the second, 0.5 between.
POSITIONS: dict[str, tuple[float, float]] = {
    "left": (0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0, 0),
    "top": (0.5, 0),
    "bottomleft": (0, 1),
    "bottom": (0.5, 1),
    "unspecified": (0, 0.5),
}


#: Pixels that are converted at a time on a CPU: few enough to bound the temporaries, many enough to keep threads busy.
BAND = 1 << 21
#: Rows above and below a band that its chroma is lowered from.
HALO = 2


class PixelsLike(Protocol):
    """What the conversion reads of a pixel format: ``kind`` "yuv", "gray" or "rgb", chroma as log2 of its step."""

    @property
    def bits(self) -> int: ...
    @property
    def chroma_x(self) -> int: ...
    @property
    def chroma_y(self) -> int: ...
    @property
    def kind(self) -> str: ...


class FormatLike(Protocol):
    """What the conversion reads of a clip's format."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def pixels(self) -> PixelsLike: ...
    @property
    def matrix_used(self) -> int: ...
    @property
    def full_range(self) -> bool: ...
    @property
    def chroma_location(self) -> str: ...


def to_rgb(planes: Sequence[Tensor], format: FormatLike) -> Tensor:
    """Convert the planes of one frame to RGB in the clip's own transfer, without clamping.

    Source: ITU-T H.273 (matrix and range); BT.601, BT.709, BT.2020 and SMPTE 240M give the same equations. Chroma is
    raised by linear interpolation, with its edge repeated.

    Args:
        planes: Y, Cb and Cr, or gray, or R, G and B: ``(H, W)`` each (chroma: halves, rounded up), integer code values
            of ``format.pixels.bits`` bits in any integer dtype, on the device to work on.
        format: the clip's format.

    Returns:
        ``(1, 3, H, W)`` float32 RGB, nominally in [0, 1]; codes outside of the nominal range give values outside of it.

    Raises:
        InputError: the matrix is none that can be converted (constant luminance, YCgCo, ...).
        ValueError: the planes do not fit the format.

    Example:
        >>> from types import SimpleNamespace as Format
        >>> pixels = Format(bits=8, chroma_x=1, chroma_y=1, kind="yuv")
        >>> clip = Format(width=4, height=2, pixels=pixels, matrix_used=1, full_range=False, chroma_location="left")
        >>> planes = [torch.full((2, 4), 235), torch.full((1, 2), 128), torch.full((1, 2), 128)]
        >>> round(to_rgb(planes, clip).amin().item(), 5)
        1.0
    """
    pixels = format.pixels
    _check(planes, format)
    scale, offset, chroma_scale, chroma_offset = _code_values(format)
    rgb = torch.empty((1, 3, format.height, format.width), device=planes[0].device)
    if pixels.kind != "yuv":
        for number, colour in enumerate(rgb[0]):
            colour.copy_(planes[number % len(planes)]).sub_(offset).div_(scale)
        return rgb
    kr, kg, kb = _weights(format)
    # Scaled so that red is luma and its chroma, blue luma and its chroma.
    factors = 2 * (1 - kb) / chroma_scale, 2 * (1 - kr) / chroma_scale
    subsampled = pixels.chroma_x or pixels.chroma_y
    chroma = list(planes[1:])
    if subsampled:
        chroma = [_widen(plane.to(torch.float32).sub_(chroma_offset), format) for plane in chroma]
    for rows in _bands(format, rgb.device):
        red, green, blue = rgb[0, :, rows]
        # Green holds Y / kg at first; then Y = kr R + kg G + kb B is solved for G.
        green.copy_(planes[0][rows]).sub_(offset).mul_(1 / (kg * scale))
        for colour, plane, factor in zip((blue, red), chroma, factors, strict=True):
            if subsampled:
                _raise(plane, colour, rows, format)
            else:
                colour.copy_(plane[rows]).sub_(chroma_offset)
            colour.mul_(factor).add_(green, alpha=kg)
        green.sub_(red, alpha=kr / kg).sub_(blue, alpha=kb / kg)
    return rgb


def from_rgb(rgb: Tensor, format: FormatLike) -> list[Tensor]:
    """Convert an RGB frame to the planes of a clip: ``to_rgb`` undone, rounded, clamped to the codes.

    Source: as for ``to_rgb``. Chroma is lowered by the shortest filter that undoes linear interpolation at its
    location: for chroma on a column that is the low-pass of the 5/3 wavelet (Le Gall and Tabatabai, "Sub-band coding of
    digital images using symmetric short kernel filters and arithmetic coding techniques", ICASSP 1988), for chroma
    between columns -1, 3, 3, -1.

    Args:
        rgb: ``(1, 3, H, W)``, nominally in [0, 1], floating point.
        format: the format to write; ``width`` and ``height`` are those of ``rgb``.

    Returns:
        Y, Cb and Cr, or gray, or R, G and B: contiguous code values on ``rgb``'s device, uint8 up to 8 bits, else
        uint16.

    Raises:
        InputError: the matrix is none that can be converted.
        ValueError: ``rgb`` does not fit the format.

    Example:
        >>> from types import SimpleNamespace as Format
        >>> pixels = Format(bits=10, chroma_x=1, chroma_y=1, kind="yuv")
        >>> clip = Format(width=3, height=3, pixels=pixels, matrix_used=9, full_range=False, chroma_location="topleft")
        >>> [plane.flatten()[0].item() for plane in from_rgb(torch.ones(1, 3, 3, 3), clip)]
        [940, 512, 512]
    """
    pixels, height, width = format.pixels, format.height, format.width
    if rgb.shape != (1, 3, height, width) or not rgb.is_floating_point():
        wanted = f"(1, 3, {height}, {width})"
        raise ValueError(f"rgb must be floating point of the shape {wanted}, got {rgb.dtype} {tuple(rgb.shape)}")
    _check_kind(format)
    scale, offset, chroma_scale, chroma_offset = _code_values(format)
    dtype = torch.uint8 if pixels.bits == 8 else torch.uint16
    planes = [torch.empty(shape, dtype=dtype, device=rgb.device) for shape in _shapes(format)]
    if pixels.kind == "rgb":
        for plane, colour in zip(planes, rgb[0], strict=True):
            _write_codes(colour.to(torch.float32) * scale, offset, plane, pixels.bits)
        return planes
    kr, kg, kb = _weights(format)
    for rows in _bands(format, rgb.device):
        top, bottom = max(0, rows.start - HALO), min(height, rows.stop + HALO)
        own = slice(rows.start - top, rows.stop - top)
        red, green, blue = rgb[0, :, top:bottom].to(torch.float32)
        luma = (red * (kr * scale)).add_(green, alpha=kg * scale).add_(blue, alpha=kb * scale)
        for plane, colour, weight in zip(planes[1:], (blue, red), (kb, kr), strict=False):
            chroma, place = _lower(torch.sub(luma, colour, alpha=scale), own, format)
            start = rows.start >> pixels.chroma_y
            plane = plane[start : start + place.stop - place.start]
            chroma = chroma[place].mul_(-chroma_scale / (scale * 2 * (1 - weight)))
            _write_codes(chroma, chroma_offset, plane, pixels.bits)
        _write_codes(luma[own], offset, planes[0][rows], pixels.bits)
    return planes


def _check_kind(format: FormatLike) -> None:
    pixels = format.pixels
    if pixels.kind not in ("yuv", "gray", "rgb") or not 8 <= pixels.bits <= 16:
        raise ValueError(f"planes must be yuv, gray or rgb of 8 to 16 bits, got {pixels.kind} of {pixels.bits}")
    if pixels.chroma_x not in (0, 1) or pixels.chroma_y not in (0, 1):
        steps = f"{1 << pixels.chroma_x} columns and {1 << pixels.chroma_y} rows"
        raise ValueError(f"chroma must have a step of 1 or 2, got {steps}")
    if format.chroma_location not in POSITIONS:
        raise ValueError(f"chroma_location must be one of {', '.join(POSITIONS)}, got {format.chroma_location!r}")


def _check(planes: Sequence[Tensor], format: FormatLike) -> None:
    _check_kind(format)
    shapes = _shapes(format)
    if [tuple(plane.shape) for plane in planes] != shapes or any(plane.is_floating_point() for plane in planes):
        got = ", ".join(f"{plane.dtype} {tuple(plane.shape)}" for plane in planes)
        raise ValueError(f"the planes must be integers of the shapes {shapes}, got {got}")


def _shapes(format: FormatLike) -> list[tuple[int, int]]:
    """Shapes of the planes; chroma has halves rounded up."""
    pixels, height, width = format.pixels, format.height, format.width
    if pixels.kind == "yuv":
        return [(height, width), *2 * [(-(-height >> pixels.chroma_y), -(-width >> pixels.chroma_x))]]
    return [(height, width)] * (1 if pixels.kind == "gray" else 3)


def _bands(format: FormatLike, device: torch.device) -> Iterator[slice]:
    """Rows to work on at a time, an even number as chroma needs it; on a GPU, all of them."""
    rows = max(2, BAND // format.width // 2 * 2) if device.type == "cpu" else format.height + 1
    for top in range(0, format.height, rows):
        yield slice(top, min(top + rows, format.height))


def _weights(format: FormatLike) -> tuple[float, float, float]:
    """Weights of red, green and blue in luma."""
    matrix = format.matrix_used
    if matrix not in LUMA:
        name = _OTHERS.get(matrix, "reserved")
        raise InputError(
            f"colours coded with matrix {matrix} of ITU-T H.273 ({name}) cannot be converted; "
            f"those with {', '.join(map(str, LUMA))} can"
        )
    kr, kb = LUMA[matrix]
    return kr, 1 - kr - kb, kb


def _code_values(format: FormatLike) -> tuple[float, float, float, float]:
    """Scale and offset of luma, then of chroma, in code values (H.273, section 8.3).

    The planes of RGB codecs are taken at full range whatever the tag says, as FFmpeg does.
    """
    bits = format.pixels.bits
    if format.full_range or format.pixels.kind == "rgb":
        return 2**bits - 1, 0, 2**bits - 1, 2 ** (bits - 1)
    unit = 2 ** (bits - 8)
    return 219 * unit, 16 * unit, 224 * unit, 128 * unit


def _write_codes(values: Tensor, offset: float, plane: Tensor, bits: int) -> None:
    """Round to code values in `plane`; `values` is overwritten."""
    # Conversion to integers cuts off, so that half a code more rounds.
    plane.copy_(values.add_(offset + 0.5).clamp_(0, 2**bits - 1))


def _widen(chroma: Tensor, format: FormatLike) -> Tensor:
    """Return chroma at the width of luma, with its first and last row repeated before and after it for ``_raise``."""
    pad = format.pixels.chroma_y
    if not format.pixels.chroma_x:
        return torch.cat((chroma[:1], chroma, chroma[-1:]))
    wide = chroma.new_empty((len(chroma) + 2 * pad, format.width))
    columns = torch.cat((chroma[:, :1], chroma, chroma[:, -1:]), dim=1)
    _double(columns.T, POSITIONS[format.chroma_location][0], wide[pad : len(wide) - pad].T)
    if pad:
        wide[0], wide[-1] = wide[1], wide[-2]
    return wide


def _raise(wide: Tensor, out: Tensor, rows: slice, format: FormatLike) -> None:
    """Write `rows` of a plane that `_widen` returned into `out` at the height of luma."""
    if format.pixels.chroma_y:
        _double(wide[rows.start // 2 : (rows.stop + 1) // 2 + 2], POSITIONS[format.chroma_location][1], out)
    else:
        out.copy_(wide[rows])


def _double(rows: Tensor, position: float, out: Tensor) -> None:
    """Interpolate between rows of which the second and those after it lie at 2 k + position of `out`."""
    here, before, after = rows[1:-1], rows[:-2], rows[2:]
    torch.lerp(here, before, position / 2, out=out[0::2])
    pairs = len(out) // 2
    torch.lerp(here[:pairs], after[:pairs], (1 - position) / 2, out=out[1::2])


def _lower(chroma: Tensor, own: slice, format: FormatLike) -> tuple[Tensor, slice]:
    """Return chroma at its own size, and which rows of it belong to the rows `own`, which start at an even one."""
    x, y = POSITIONS[format.chroma_location]
    if format.pixels.chroma_y:
        chroma, own = _halve(chroma, y), slice(own.start // 2, (own.stop + 1) // 2)
    if format.pixels.chroma_x:
        chroma = _halve(chroma.T, x).T
    return chroma, own


def _halve(rows: Tensor, position: float) -> Tensor:
    """Undo `_double`: each result row from the 4 or 5 rows around it, beyond the edges as `_double` goes on."""
    if len(rows) % 2:
        # The row that _double left out, from the two before it.
        last = rows[-1:] if len(rows) == 1 else torch.lerp(rows[-2:-1], rows[-1:], 1 + position)
        first, second = rows[0::2], torch.cat((rows[1::2], last))
    else:
        first, second = rows[0::2], rows[1::2]
    if position == 0.5:
        half = (first + second).mul_(0.75)
        _add_next(half, second, -1, -0.25, first)
        _add_next(half, first, 1, -0.25, second)
        return half
    # The 5/3 wavelet by lifting: by what the rows between differ from interpolation corrects the rows of the results.
    on, between, step = (first, second, 1) if position == 0 else (second, first, -1)
    detail = torch.sub(between, on, alpha=0.5)
    _add_next(detail, on, step, -0.5, on)
    low = torch.add(on, detail, alpha=0.25)
    _add_next(low, detail, -step, 0.25, detail)
    return low


def _add_next(target: Tensor, rows: Tensor, step: int, factor: float, edge: Tensor) -> None:
    """Add to each row the next (step 1) or the previous (-1) one of `rows`, at the end the last or first of `edge`."""
    if step > 0:
        target[:-1].add_(rows[1:], alpha=factor)
        target[-1:].add_(edge[-1:], alpha=factor)
    else:
        target[1:].add_(rows[:-1], alpha=factor)
        target[:1].add_(edge[:1], alpha=factor)
