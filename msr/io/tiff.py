"""TIFF files, written without compression: that of photos with 16 bits makes them larger, and takes seconds."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from msr.errors import InputError
from msr.io.exif import split_exif
from msr.io.output import whole
from msr.io.tags import LONG, SHORT, UNDEFINED, Tag, make_tag, pack_tags

#: Bytes of a strip, about: what a reader decodes at once.
_STRIP = 1 << 20
_EXIF, _GPS, _ICC = 34665, 34853, 34675


def write_tiff(path: Path, pixels: np.ndarray, icc: bytes | None = None, exif: bytes | None = None) -> None:
    """Write a picture as TIFF; the file appears under its name only when it is whole.

    Source: TIFF 6.0, ICC.1:2010 (annex B.4), CIPA DC-008.

    Args:
        path: the file to write.
        pixels: ``(H, W)`` gray, ``(H, W, 3)`` RGB or ``(H, W, 4)`` RGBA; uint8, uint16 or float32.
        icc: a colour profile, or None.
        exif: as ``collect_exif`` gives it, or None.

    Raises:
        InputError: too large for a TIFF (4 GB).
        WorkError: the file cannot be written.

    Example:
        >>> write_tiff(Path("/tmp/gray.tif"), np.zeros((4, 4), np.uint16))
    """
    write_tiff_bands(path, [pixels], pixels.shape, pixels.dtype, icc, exif)


def write_tiff_bands(
    path: Path,
    bands: Iterable[np.ndarray],
    shape: tuple[int, ...],
    dtype: np.dtype,
    icc: bytes | None = None,
    exif: bytes | None = None,
) -> None:
    """The same of a picture that comes as bands of rows, from the top; each is written while the next is made.

    Args:
        path: the file to write.
        bands: what ``write_tiff`` takes, in parts.
        shape: of all.
        dtype: of all.
        icc: as there.
        exif: as there.

    Raises:
        InputError: as there.
        WorkError: as there.

    Example:
        >>> bands = (np.zeros((2, 4), np.uint16) for _ in range(2))
        >>> write_tiff_bands(Path("/tmp/gray.tif"), bands, (4, 4), np.dtype(np.uint16))
    """
    height, width = shape[:2]
    channels = shape[2] if len(shape) == 3 else 1
    size = math.prod(shape) * dtype.itemsize
    if size + (1 << 24) > 0xFFFFFFFF:
        raise InputError(f"cannot write {path}: {width}x{height} pixels are more than the 4 GB that a TIFF holds")
    row = width * channels * dtype.itemsize
    rows = min(height, max(1, _STRIP // row))
    starts = range(0, height * row, rows * row)
    describing, own, gps = split_exif(exif or b"")
    tags = {
        **describing,
        256: make_tag(LONG, [width]),
        257: make_tag(LONG, [height]),
        258: make_tag(SHORT, [8 * dtype.itemsize] * channels),
        259: make_tag(SHORT, [1]),  # no compression
        262: make_tag(SHORT, [1 if channels == 1 else 2]),  # 0 is black; RGB
        273: make_tag(LONG, [8 + start for start in starts]),
        274: make_tag(SHORT, [1]),  # upright
        277: make_tag(SHORT, [channels]),
        278: make_tag(LONG, [rows]),
        279: make_tag(LONG, [min(rows * row, height * row - start) for start in starts]),
        284: make_tag(SHORT, [1]),
        339: make_tag(SHORT, [3 if dtype == np.float32 else 1] * channels),
    }
    if channels == 4:
        tags[338] = make_tag(SHORT, [2])  # the fourth is alpha, by which the others are not multiplied
    if icc is not None:
        tags[_ICC] = Tag(UNDEFINED, icc)
    end = 8 + size + size % 2
    with whole(path) as part, part.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, end))
        for band in bands:
            file.write(np.ascontiguousarray(band, dtype.newbyteorder("<")).data)
        file.seek(end)
        file.write(pack_tags(tags, {_EXIF: own, _GPS: gps}, end))
