"""How steadily a clip moves, measured against the truth."""

from __future__ import annotations

import cv2
import numpy as np

#: Pyramid of three levels by halves, windows of 15, three rounds, polynomials over 5 pixels with sigma 1.2, no flags.
_FARNEBACK = (0.5, 3, 15, 3, 5, 1.2, 0)


class Steadiness:
    """tOF of a clip, a frame at a time: how far the motion of a result is off that of the truth, in pixels.

    The mean distance between the optical flows from each frame to the next, of the result and of the truth. The flow
    is Farneback's on 8-bit gray, by OpenCV, with the settings of the published measure; it is the same at each run.

    Source: Chu et al., "Learning temporal coherence via self-supervision for GAN-based video generation", 2020.

    Args:
        crop: pixels left out at each border, once the flow is found.

    Example:
        >>> measure = Steadiness(crop=0)
        >>> frames = [np.random.default_rng(t).integers(0, 255, (40, 48, 3), np.uint8) for t in range(3)]
        >>> for frame in frames:
        ...     measure.add(frame, frame)
        >>> measure.mean
        0.0
    """

    def __init__(self, crop: int) -> None:
        self.crop = crop
        self._before: list[np.ndarray] | None = None
        self._distances: list[float] = []

    def add(self, result: np.ndarray, truth: np.ndarray) -> None:
        """Take the next frame of both, ``(H, W, 3)`` uint8 RGB.

        Raises:
            ValueError: two shapes.
        """
        if result.shape != truth.shape:
            raise ValueError(f"frames must have one shape, got {result.shape} and {truth.shape}")
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (result, truth)]
        if self._before is not None:
            flows = [flow_between(a, b) for a, b in zip(self._before, gray, strict=True)]
            distance = np.linalg.norm(flows[0] - flows[1], axis=2)
            inside = slice(self.crop, -self.crop) if self.crop else slice(None)
            self._distances.append(float(distance[inside, inside].mean()))
        self._before = gray

    @property
    def mean(self) -> float:
        """The mean over the pairs of frames so far; NaN before the second frame."""
        return float(np.mean(self._distances)) if self._distances else float("nan")


def flow_between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Optical flow between two gray frames ``(H, W)`` uint8 as `Steadiness` takes it: ``(H, W, 2)`` pixels, x then y.

    Source: Farneback, "Two-frame motion estimation based on polynomial expansion", 2003.

    Example:
        >>> flow_between(np.zeros((40, 48), np.uint8), np.zeros((40, 48), np.uint8)).shape
        (40, 48, 2)
    """
    return cv2.calcOpticalFlowFarneback(before, after, None, *_FARNEBACK)  # type: ignore[call-overload]
