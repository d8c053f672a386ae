"""What RAW bursts are measured by: the single frame is LibRaw's, the figures are those of the stated spaces."""

import cv2
import numpy as np
import pytest
import torch

from msr.burst_simulation import Trouble, simulate_raw_burst
from msr.camera import random_sensor
from msr.metrics import psnr
from msr.pipelines.burst_protocol import protocol_burst, raw_figures, raw_frames, single_frame


def soft(seed: int = 0, side: int = 128) -> np.ndarray:
    coarse = np.random.default_rng(seed).uniform(20, 220, (5, 5, 3)).astype(np.float32)
    return cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("pattern", ["rggb", "gbrg"])
def test_the_single_frame_is_the_scene_where_nothing_is_lost(pattern: str) -> None:
    sensor = random_sensor(np.random.default_rng(0), noise=(0.0, 0.0), bits=14, pattern=pattern)
    burst = simulate_raw_burst(soft(), 1, 2, np.random.default_rng(0), sensor=sensor)
    result = single_frame(burst, 2)
    assert min(raw_figures(result, burst)) > 36.0
    # A wrong gain, level or colour would show at once; so would a shift by one pixel.
    assert raw_figures(result.roll(2, -1), burst)[1] < raw_figures(result, burst)[1] - 5.0


def test_figures_are_those_of_the_spaces() -> None:
    burst = protocol_burst(soft(1), 3, 1, 4)
    noisy = (burst.truth + 0.02 * torch.randn(burst.truth.shape, generator=torch.Generator().manual_seed(0))).clamp(
        0, 1
    )
    srgb, linear = raw_figures(noisy, burst)
    assert linear == pytest.approx(psnr(noisy, burst.truth, crop=16))
    assert srgb < linear  # the curve and the gains make errors in the dark larger
    assert raw_figures(burst.truth, burst) == (float("inf"), float("inf"))


def test_a_protocol_is_repeatable_and_each_photo_has_its_own_seed() -> None:
    a, b, other = (protocol_burst(soft(), index, 3, 4) for index in (0, 0, 1))
    np.testing.assert_array_equal(a.frames, b.frames)
    assert a.sensor is not None
    assert other.sensor is not None
    assert a.sensor.noise != other.sensor.noise
    strange = protocol_burst(soft(), 0, 3, 4, Trouble(other=soft(5), foreign=2))
    np.testing.assert_array_equal(strange.frames[:2], a.frames[:2])
    assert np.abs(strange.frames[2].astype(int) - a.frames[2]).mean() > 10
    frame = raw_frames(a)[1]
    assert (frame.white, frame.black) == (4095.0, (256.0,) * 4)
