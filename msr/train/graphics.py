"""Drawn originals: what photos lack, flat areas of saturated colours with sharp edges, as in logos and on screens."""

from __future__ import annotations

import cv2
import numpy as np


def drawing(size: int, rng: np.random.Generator) -> np.ndarray:
    """A picture ``(size, size, 3)``, uint8, of one colour or a gradient, with up to eight shapes or letters on it.

    A network that has seen photos alone has never seen a picture that is nothing but one saturated colour, and what it
    adds there may be anything.

    Example:
        >>> drawing(32, np.random.default_rng(0)).shape
        (32, 32, 3)
    """
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = _color(rng)
    if rng.random() < 0.2:
        ramp = np.linspace(0.0, 1.0, size)[:, None, None]
        picture[:] = np.round((1.0 - ramp) * _color(rng) + ramp * _color(rng))
    if rng.random() < 0.3:
        return picture
    for _ in range(int(rng.integers(1, 9))):
        color = tuple(int(c) for c in _color(rng))
        points = rng.integers(-size // 4, size + size // 4, (int(rng.integers(2, 6)), 2)).astype(np.int32)
        thick = int(rng.integers(1, max(2, size // 12)))
        kind = int(rng.integers(4))
        if kind == 0:
            cv2.fillPoly(picture, [points], color, cv2.LINE_AA)
        elif kind == 1:
            cv2.polylines(picture, [points], False, color, thick, cv2.LINE_AA)
        elif kind == 2:
            axes = tuple(int(n) for n in rng.integers(1, size // 2, 2))
            center = tuple(int(n) for n in points[0])
            cv2.ellipse(picture, center, axes, float(rng.uniform(0, 180)), 0, 360, color, -1, cv2.LINE_AA)
        else:
            letters = "".join(chr(n) for n in rng.integers(33, 127, 6))
            place = (int(points[0, 0]), int(points[0, 1]))
            cv2.putText(
                picture, letters, place, int(rng.integers(8)), float(rng.uniform(0.5, 3)), color, thick, cv2.LINE_AA
            )
    return picture


def _color(rng: np.random.Generator) -> np.ndarray:
    """Each channel as often none or all of it as something between."""
    kinds = rng.integers(3, size=3)
    return np.where(kinds == 0, 0, np.where(kinds == 1, 255, rng.integers(256, size=3)))
