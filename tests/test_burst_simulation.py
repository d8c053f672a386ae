"""Simulated bursts: the truth, the true motion, the noise and what goes wrong are as said."""

import cv2
import numpy as np
import pytest
import torch

from msr.burst_simulation import Shake, SimulatedBurst, Trouble, simulate_jpeg_burst, simulate_raw_burst
from msr.camera import Sensor, color_masks, develop, inverse_srgb_curve, random_sensor, srgb_curve, undevelop
from msr.degradation import to_tensor
from msr.metrics import psnr
from msr.ops.flow_warp import flow_warp

STILL = Shake(0.0, 0.0, 0.0)


def smooth_photo(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A picture without detail that sampling could lose."""
    coarse = np.random.default_rng(seed).uniform(20, 220, (6, 8, 3)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def quiet_sensor(pattern: str = "rggb") -> Sensor:
    return random_sensor(np.random.default_rng(1), noise=(0.0, 0.0), bits=14, pattern=pattern)


def test_develop_undoes_undevelop() -> None:
    photo = to_tensor(smooth_photo(0))
    sensor = quiet_sensor()
    assert psnr(develop(undevelop(photo, sensor), sensor.white_balance, sensor.to_srgb), photo) > 50.0


def test_curves_are_inverse_beyond_their_range() -> None:
    x = torch.linspace(-0.2, 2.0, 100)
    torch.testing.assert_close(inverse_srgb_curve(srgb_curve(x)), x, atol=1e-5, rtol=1e-5)


def test_colors_are_those_of_a_camera() -> None:
    sensor = random_sensor(np.random.default_rng(3))
    np.testing.assert_allclose(sensor.to_srgb.sum(axis=1), 1.0, atol=1e-5)  # gray stays gray
    assert sensor.to_srgb[0, 0] > 1.2
    assert sensor.to_srgb[0, 1] < 0.0


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "grbg", "gbrg"])
def test_base_frame_is_the_truth_reduced_and_sampled(pattern: str) -> None:
    sensor = quiet_sensor(pattern)
    burst = simulate_raw_burst(smooth_photo(0), 2, 2, np.random.default_rng(0), sensor=sensor)
    reduced = torch.nn.functional.avg_pool2d(burst.truth, 2)
    sampled = (reduced * color_masks(pattern, *reduced.shape[1:])).sum(dim=0)
    np.testing.assert_allclose(burst.mosaics[0], sampled.numpy(), atol=2 / 2**14)
    letters = [["rgb"[int(color_masks(pattern, 2, 2)[:, y, x].argmax())] for x in (0, 1)] for y in (0, 1)]
    assert "".join(letters[0] + letters[1]) == pattern


def test_noise_has_the_variance_that_the_sensor_says() -> None:
    sensor = random_sensor(np.random.default_rng(0), noise=(0.004, 0.0004))
    burst = simulate_raw_burst(np.full((256, 256, 3), 128, np.uint8), 1, 2, np.random.default_rng(0), sensor=sensor)
    level = burst.truth[1, 0, 0].item()
    green = burst.mosaics[0][::2, 1::2]
    assert np.mean(green) == pytest.approx(level, abs=0.003)
    assert np.var(green) == pytest.approx(0.004 * level + 0.0004, rel=0.05)


def test_noise_goes_below_black() -> None:
    sensor = random_sensor(np.random.default_rng(0), noise=(0.0, 0.0001))
    burst = simulate_raw_burst(np.zeros((64, 64, 3), np.uint8), 1, 2, np.random.default_rng(0), sensor=sensor)
    assert burst.frames.dtype == np.uint16
    assert 0 < burst.frames.min() < sensor.black < burst.frames.max()
    assert abs(burst.mosaics.mean()) < 0.001


def warped_back(burst: SimulatedBurst) -> list[float]:
    """PSNR of each frame, warped by the true flow, against the base frame where it is visible."""
    frames = to_tensor(burst.frames)
    warped = flow_warp(frames, burst.flows)
    return [psnr(w * v, frames[0] * v) for w, v in zip(warped, burst.visible, strict=True)][1:]


@pytest.mark.parametrize("shake", [Shake(6.0, 2.0, 0.0), Shake(0.0, 0.0, 4.0), Shake(20.0, 0.0, 2.0)])
def test_flow_is_the_true_motion(shake: Shake) -> None:
    photo = smooth_photo(2)
    burst = simulate_jpeg_burst(photo, 4, 2, np.random.default_rng(0), shake=shake, noise=0.0, quality=None)
    assert min(warped_back(burst)) > 35.0
    assert burst.visible[1:].float().mean() > 0.2
    assert burst.flows[0].abs().max() == 0.0
    assert burst.flows[1:].abs().amax() > 1.0


def test_an_object_moves_by_itself_and_is_known() -> None:
    trouble = Trouble(other=smooth_photo(5), moving=True)
    burst = simulate_jpeg_burst(
        smooth_photo(2), 6, 2, np.random.default_rng(1), shake=STILL, noise=0.0, quality=None, trouble=trouble
    )
    assert min(warped_back(burst)) > 38.0
    still = to_tensor(burst.frames)
    changed = (still - still[0]).abs().amax(dim=(0, 1)) > 0.02
    area = burst.moving[0].reshape(48, 2, 64, 2).any(dim=3).any(dim=1)
    assert 0.02 < area.float().mean() < 0.6
    assert changed.any()
    assert not (changed & ~area).any()
    assert burst.flows[5].abs().amax() > 1.0
    reduced = torch.nn.functional.avg_pool2d(burst.truth, 2)
    assert psnr(reduced, still[0]) > 38.0  # the truth has the object where the base frame has it
    assert (burst.truth - to_tensor(smooth_photo(2))).abs().max() > 0.1


def test_foreign_blurred_and_exposed_frames() -> None:
    photo, other = smooth_photo(2), np.ascontiguousarray(smooth_photo(7)[::-1])
    checks = np.indices((96, 128)).sum(axis=0)[..., None] // 4 % 2 * 120 + 40
    textured = np.repeat(checks, 3, axis=2).astype(np.uint8)
    trouble = Trouble(other=other, foreign=1, blurred=2, exposed=3)
    burst = simulate_raw_burst(
        textured, 4, 2, np.random.default_rng(0), shake=STILL, sensor=quiet_sensor(), trouble=trouble
    )
    base, foreign, blurred, exposed = burst.mosaics
    assert not burst.visible[1].any()
    assert np.abs(foreign - base).mean() > 0.05
    assert np.abs(np.diff(blurred[::2, ::2])).mean() < 0.7 * np.abs(np.diff(base[::2, ::2])).mean()
    assert exposed.mean() / base.mean() == pytest.approx(0.5, rel=0.05) or exposed.mean() > 1.3 * base.mean()
    with pytest.raises(ValueError, match="another photo"):
        simulate_raw_burst(photo, 2, 2, np.random.default_rng(0), trouble=Trouble(foreign=1))


def test_a_longer_burst_begins_with_the_same_frames() -> None:
    short, long = (simulate_raw_burst(smooth_photo(0), n, 4, np.random.default_rng(9)).frames for n in (2, 4))
    np.testing.assert_array_equal(short, long[:2])


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at least 8 pixels a side, got \(7, 40\)"):
        simulate_raw_burst(np.zeros((7, 40, 3), np.uint8), 2, 4, np.random.default_rng(0))
    with pytest.raises(ValueError, match="pattern"):
        random_sensor(np.random.default_rng(0), pattern="rgbg")
    with pytest.raises(ValueError, match="bits"):
        random_sensor(np.random.default_rng(0), bits=8)
