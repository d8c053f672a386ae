"""Samples of another depth, pixels the other way round."""

from __future__ import annotations

import numpy as np


def convert_depth(pixels: np.ndarray, dtype: np.dtype | str) -> np.ndarray:
    """Convert samples between uint8, uint16 and float32 in [0, 1], rounding to nearest and clipping.

    Args:
        pixels: any shape; uint8, uint16 or float32.
        dtype: the wanted one of the three.

    Returns:
        The same picture in ``dtype``.

    Example:
        >>> convert_depth(np.array([65535, 257], np.uint16), "uint8").tolist()
        [255, 1]
    """
    dtype = np.dtype(dtype)
    if pixels.dtype == dtype:
        return pixels
    unit = pixels.astype(np.float32)
    if pixels.dtype != np.float32:
        unit /= np.iinfo(pixels.dtype).max
    if dtype == np.float32:
        return unit
    top = np.iinfo(dtype).max
    return np.rint(np.clip(unit, 0.0, 1.0) * top).astype(dtype)


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation (CIPA DC-008).

    Args:
        pixels: ``(H, W)`` or ``(H, W, C)`` as stored.
        orientation: 1 to 8; 2, 4, 5, 7 mirror, 3, 6, 8 turn.

    Returns:
        A view of them, upright.

    Example:
        >>> turn_upright(np.zeros((2, 3)), 6).shape
        (3, 2)
    """
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
