"""The curve of sRGB."""

from __future__ import annotations

import cv2
import numpy as np

#: Below, the curve is a straight line.
_STRAIGHT = np.float32(0.0031308)


def encode_srgb(linear: np.ndarray) -> np.ndarray:
    """Apply the curve of sRGB (IEC 61966-2-1) to linear values.

    Args:
        linear: any shape, float32 in [0, 1].

    Returns:
        The encoded values.

    Example:
        >>> encode_srgb(np.array([[0.0, 0.5, 1.0]], np.float32)).round(4).tolist()
        [[0.0, 0.7354000210762024, 1.0]]
    """
    # The curve from where it begins on, and the straight part up to there: sums are several times as fast as a choice.
    curved = np.asarray(cv2.log(np.maximum(linear, _STRAIGHT))).reshape(linear.shape)
    curved *= np.float32(1 / 2.4)
    cv2.exp(curved, curved)
    curved *= np.float32(1.055)
    straight = np.minimum(linear, _STRAIGHT)
    straight *= np.float32(12.92)
    curved += straight
    curved -= np.float32(0.055 + 12.92 * _STRAIGHT)
    return curved


def decode_srgb(encoded: np.ndarray) -> np.ndarray:
    """Undo the curve of sRGB (IEC 61966-2-1).

    Args:
        encoded: any shape, float32 in [0, 1].

    Returns:
        The linear values.

    Example:
        >>> decode_srgb(np.array([[0.0, 0.5, 1.0]], np.float32)).round(4).tolist()
        [[0.0, 0.21400000154972076, 1.0]]
    """
    unit = (np.asarray(encoded, np.float32) + np.float32(0.055)) / np.float32(1.055)
    curved = np.asarray(cv2.pow(unit, 2.4)).reshape(unit.shape)
    return np.where(encoded <= 0.04045, encoded / np.float32(12.92), curved)
