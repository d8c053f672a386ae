"""DNG files: a mosaic, or linear camera RGB, with the levels and colours that it is to be read by."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from msr.errors import InputError
from msr.io.exif import split_exif
from msr.io.output import whole
from msr.io.raw_frame import SRGB_TO_XYZ, RawFrame
from msr.io.tags import (
    ASCII,
    BYTE,
    DOUBLE,
    LONG,
    RATIONAL,
    SHORT,
    SRATIONAL,
    UNDEFINED,
    Directory,
    make_tag,
    pack_tags,
)

_UNIT = 1_000_000  # the denominator of what is not whole
_CFA, _LINEAR = 32803, 34892
_EXIF, _GPS = 34665, 34853


def write_dng(path: str | Path, frame: RawFrame) -> None:
    """Write a mosaic as DNG, uncompressed.

    Source: Adobe Digital Negative specification 1.4 and TIFF 6.0. ColorMatrix1 is for the white of the shot: that of
    D65 stands for it, so that AsShotNeutral are the reciprocal gains.

    Args:
        path: the file to write.
        frame: what to write.

    Raises:
        ValueError: a frame that breaks what ``RawFrame`` states.
        InputError: too large for a DNG (4 GB).
        WorkError: the file cannot be written.

    Example:
        >>> mosaic = np.zeros((32, 48), np.uint16)
        >>> write_dng("/tmp/a.dng", RawFrame(mosaic, "rggb", (0, 0, 0, 0), 1023, (2.0, 1.0, 1.5), np.eye(3)))
    """
    mosaic = frame.mosaic
    if mosaic.ndim != 2 or mosaic.dtype != np.uint16 or min(mosaic.shape) < 2:
        raise ValueError(f"a mosaic must be (H, W) uint16 of at least 2x2, got {mosaic.dtype} {mosaic.shape}")
    if sorted(frame.pattern) != ["b", "g", "g", "r"] or len(frame.black) != 4:
        raise ValueError(f"pattern and black must be of 2x2 pixels, got {frame.pattern!r} and {frame.black}")
    black = [number for level in frame.black for number in (round(level * _UNIT / 1000), _UNIT // 1000)]
    tags = {
        258: make_tag(SHORT, [16]),
        262: make_tag(SHORT, [_CFA]),
        277: make_tag(SHORT, [1]),
        33421: make_tag(SHORT, [2, 2]),  # CFARepeatPatternDim
        33422: make_tag(BYTE, ["rgb".index(colour) for colour in frame.pattern]),  # CFAPattern
        50710: make_tag(BYTE, [0, 1, 2]),  # CFAPlaneColor
        50711: make_tag(SHORT, [1]),  # CFALayout: rectangular
        50713: make_tag(SHORT, [2, 2]),  # BlackLevelRepeatDim
        50714: make_tag(RATIONAL, black),  # BlackLevel
        50717: make_tag(LONG, [round(frame.white)]),  # WhiteLevel
    }
    _write(Path(path), mosaic, tags, frame)


def write_linear_dng(path: str | Path, rgb: np.ndarray, like: RawFrame) -> None:
    """Write demosaicked linear camera RGB as DNG (LinearRaw), uncompressed: 0 is black, 65535 saturation.

    Source: as for ``write_dng``. It is developed later as the frames it came from would be.

    Args:
        path: the file to write.
        rgb: ``(H, W, 3)`` uint16, linear, not white-balanced, as the sensor lay (not upright).
        like: white balance, colours, noise, orientation and EXIF are its.

    Raises:
        ValueError: another shape or dtype.
        InputError: too large for a DNG (4 GB).
        WorkError: the file cannot be written.

    Example:
        >>> like = RawFrame(np.zeros((32, 48), np.uint16), "rggb", (0, 0, 0, 0), 1023, (2.0, 1.0, 1.5), np.eye(3))
        >>> write_linear_dng("/tmp/a.dng", np.zeros((64, 96, 3), np.uint16), like)
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint16 or 0 in rgb.shape:
        raise ValueError(f"linear camera RGB must be (H, W, 3) uint16, got {rgb.dtype} {rgb.shape}")
    tags = {
        258: make_tag(SHORT, [16, 16, 16]),
        262: make_tag(SHORT, [_LINEAR]),
        277: make_tag(SHORT, [3]),
        50714: make_tag(SHORT, [0, 0, 0]),
        50717: make_tag(LONG, [65535, 65535, 65535]),
    }
    _write(Path(path), rgb, tags, like)


def _write(path: Path, pixels: np.ndarray, tags: Directory, frame: RawFrame) -> None:
    """Pixels first, right after the header, then the directories."""
    height, width = pixels.shape[:2]
    if pixels.nbytes + (1 << 24) > 0xFFFFFFFF:
        raise InputError(f"cannot write {path}: {width}x{height} pixels are more than the 4 GB that a DNG holds")
    first, exif, gps = split_exif(frame.exif or b"")
    model = " ".join(first[number].text for number in (271, 272) if number in first) or "msr"
    gains = np.array(frame.white_balance, np.float64)
    # XYZ to camera RGB before white balance, by way of linear sRGB.
    matrix = np.linalg.inv(SRGB_TO_XYZ @ np.asarray(frame.to_srgb, np.float64) @ np.diag(gains))
    tags = {
        **first,
        **tags,
        254: make_tag(LONG, [0]),
        256: make_tag(LONG, [width]),
        257: make_tag(LONG, [height]),
        259: make_tag(SHORT, [1]),
        273: make_tag(LONG, [8]),
        274: make_tag(SHORT, [frame.orientation]),
        278: make_tag(LONG, [height]),
        279: make_tag(LONG, [pixels.nbytes]),
        284: make_tag(SHORT, [1]),
        50706: make_tag(BYTE, [1, 4, 0, 0]),  # DNGVersion
        50707: make_tag(BYTE, [1, 1, 0, 0]),  # DNGBackwardVersion
        50708: make_tag(ASCII, model),  # UniqueCameraModel
        50721: make_tag(SRATIONAL, [n for value in matrix.flat for n in (round(value * _UNIT), _UNIT)]),  # ColorMatrix1
        50728: make_tag(RATIONAL, [n for gain in gains for n in (round(_UNIT / gain), _UNIT)]),  # AsShotNeutral
        50778: make_tag(SHORT, [21]),  # CalibrationIlluminant1: D65
    }
    if frame.noise is not None:
        tags[51041] = make_tag(DOUBLE, frame.noise)
    if exif:
        exif = {36864: make_tag(UNDEFINED, b"0232"), **exif}
    end = 8 + pixels.nbytes
    end += end % 2
    with whole(path) as part, part.open("wb") as file:
        file.write(struct.pack("<2sHI", b"II", 42, end))
        file.write(np.ascontiguousarray(pixels.astype("<u2", copy=False)).data)
        file.seek(end)
        file.write(pack_tags(tags, {_EXIF: exif, _GPS: gps}, end))
