"""tOF of known motion, and shifts that were put in."""

import cv2
import numpy as np
import pytest

from msr.pipelines.shift import GlobalShift
from msr.pipelines.steadiness import Steadiness, flow_between


def scene(seed: int = 0, height: int = 96, width: int = 160) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(0, 255, (height // 6, width // 6, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def test_the_flow_is_that_of_a_known_shift() -> None:
    gray = scene()[..., 0]
    flow = flow_between(gray[:, 2:-2], gray[:, :-4])[24:-24, 24:-24]
    np.testing.assert_allclose(np.median(flow, axis=(0, 1)), [2.0, 0.0], atol=0.05)


def test_tof_is_the_distance_of_the_flows() -> None:
    picture = scene()
    # The truth moves by two pixels a frame, the result by one: they are one pixel of flow apart.
    moved = {step: [picture[:, step * t : step * t + 128] for t in range(4)] for step in (1, 2)}
    measure = Steadiness(crop=24)
    assert np.isnan(measure.mean)
    for result, truth in zip(moved[1], moved[2], strict=True):
        measure.add(result, truth)
    assert measure.mean == pytest.approx(1.0, abs=0.1)
    same = Steadiness(crop=0)
    for frame in moved[2]:
        same.add(frame, frame)
    assert same.mean == 0.0
    with pytest.raises(ValueError, match="one shape"):
        same.add(picture, picture[:-1])


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (1.0, 0.0), (-0.5, 1.5), (0.3, -0.7), (9.4, -3.0)])
def test_shifts_are_found_to_a_tenth(x: float, y: float) -> None:
    picture = scene(1)[..., 1].astype(np.float64)
    matrix = np.array([[1, 0, x], [0, 1, y]])
    moved = cv2.warpAffine(picture, matrix, (160, 96), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    measure = GlobalShift(2)
    measure.add(moved[12:-12, 12:-12], picture[12:-12, 12:-12])
    assert measure.found == pytest.approx((x, y), abs=0.11)


def test_no_structure_no_shift() -> None:
    measure = GlobalShift()
    assert measure.found == (0.0, 0.0)
    measure.add(np.full((20, 30), 0.5), np.full((20, 30), 0.7))
    assert measure.found == (0.0, 0.0)
    with pytest.raises(ValueError, match="one size"):
        measure.add(np.zeros((20, 31)), np.zeros((20, 31)))
