"""From linear camera RGB to the picture: white balance, colours, the curve of sRGB, upright."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from msr.io.raw_frame import RawFrame
from msr.io.samples import convert_depth, turn_upright
from msr.io.srgb import encode_srgb

#: Rows are worked on a few at a time, so that temporaries stay in the processor's cache: about these many pixels.
_BAND = 1 << 16


def develop(rgb: np.ndarray, frame: RawFrame, dtype: str = "float32", *, linear: bool = False) -> np.ndarray:
    """Develop linear camera RGB to sRGB as LibRaw does with the camera's white balance and no change of brightness.

    Source: the order of dcraw (D. Coffin) and LibRaw: each colour is scaled by its gain over the least of the gains,
    cut off at the saturation of the one that saturates first (so that highlights are white, not magenta), taken to
    linear sRGB, cut off again, and given the curve of IEC 61966-2-1.

    Args:
        rgb: ``(H, W, 3)`` floating point, not white-balanced, 0 black and 1 saturation, as the sensor lay.
        frame: white balance, colours and orientation are its; the size may be another.
        dtype: of the result: ``"uint8"``, ``"uint16"`` or ``"float32"``.
        linear: leave out the curve.

    Returns:
        The picture upright, ``(H, W, 3)`` or ``(W, H, 3)``, in [0, 1] as float32.

    Raises:
        ValueError: another shape or dtype.

    Example:
        >>> frame = RawFrame(np.zeros((2, 2), np.uint16), "rggb", (0, 0, 0, 0), 1023, (2.0, 1.0, 1.5), np.eye(3))
        >>> develop(np.ones((4, 6, 3), np.float32), frame, "uint8").min()
        np.uint8(255)
    """
    out = np.empty(rgb.shape, dtype)
    top = 0
    for band in develop_bands(rgb, frame, dtype, linear=linear):
        out[top : top + len(band)] = band
        top += len(band)
    return np.ascontiguousarray(turn_upright(out, frame.orientation))


def develop_bands(
    rgb: np.ndarray, frame: RawFrame, dtype: str = "float32", *, linear: bool = False
) -> Iterator[np.ndarray]:
    """The same, not turned upright, in bands of rows from the top, made while those before are used.

    Args:
        rgb: as for ``develop``.
        frame: as there.
        dtype: as there.
        linear: as there.

    Yields:
        ``(h, W, 3)``.

    Raises:
        ValueError: as there.

    Example:
        >>> frame = RawFrame(np.zeros((2, 2), np.uint16), "rggb", (0, 0, 0, 0), 1023, (2.0, 1.0, 1.5), np.eye(3))
        >>> [band.shape for band in develop_bands(np.ones((4, 6, 3), np.float32), frame)]
        [(4, 6, 3)]
    """
    if rgb.ndim != 3 or rgb.shape[2] != 3 or not np.issubdtype(rgb.dtype, np.floating):
        raise ValueError(f"linear camera RGB must be (H, W, 3) floating point, got {rgb.dtype} {rgb.shape}")
    gains = np.array(frame.white_balance, np.float32) / min(frame.white_balance)
    matrix = np.asarray(frame.to_srgb, np.float32)
    rows = max(1, _BAND // max(1, rgb.shape[1]))

    def work(top: int) -> np.ndarray:
        band = np.ascontiguousarray(rgb[top : top + rows], np.float32)
        balanced = np.clip(cv2.transform(band, np.diag(gains)), 0, 1)
        colours = np.clip(cv2.transform(balanced, matrix), 0, 1)
        return convert_depth(colours if linear else encode_srgb(colours), dtype)

    # What NumPy and OpenCV do here, they do without Python's lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(work, range(0, len(rgb), rows))
