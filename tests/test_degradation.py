"""Degradations: each against a direct computation, and the phases that they leave the pictures at."""

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from msr.degradation import (
    CLEAN_SHARE,
    PHASES,
    POINT_SHARE,
    burst_from_photo,
    compress_h264,
    compress_jpeg,
    degrade,
    degrade_bd,
    degrade_bi,
    degrade_box,
    degrade_real,
    gaussian_blur,
    to_tensor,
)
from msr.metrics import luma, psnr, quantize
from msr.ops import resize
from msr.train.data import augment


def smooth(height: int = 64, width: int = 80) -> Tensor:
    """A smooth picture (1, 3, H, W), different along both axes."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    waves = [torch.sin(x / (7 + c) + 0.3 * c) * torch.cos(y / (9 - c)) for c in range(3)]
    return 0.5 + 0.4 * torch.stack(waves)[None]


def textured(height: int = 96, width: int = 96, sigma: float = 2.0) -> np.ndarray:
    """A photo (H, W, 3) uint8 of soft random texture."""
    noise = torch.from_numpy(np.random.default_rng(3).random((1, 3, height, width), dtype=np.float32))
    soft = gaussian_blur(noise, sigma)
    soft = (soft - soft.amin()) / (soft.amax() - soft.amin())
    return (soft[0] * 255).byte().permute(1, 2, 0).contiguous().numpy()


def test_bi_is_the_centred_resize() -> None:
    hr = torch.rand(2, 3, 12, 24)
    for scale in (2, 3, 4):
        assert torch.equal(degrade_bi(hr, scale), resize(hr, scale=1 / scale))
        assert degrade_bi(hr, scale).shape == (2, 3, 12 // scale, 24 // scale)


def test_bd_is_a_gaussian_of_13_taps_then_every_fourth_pixel() -> None:
    hr = torch.rand(1, 2, 24, 28, dtype=torch.float64)
    found = degrade_bd(hr, 4)
    assert found.shape == (1, 2, 6, 7)
    taps = [math.exp(-(t**2) / (2 * 1.6**2)) for t in range(-6, 7)]
    weight = sum(taps)

    def mirrored(i: int, n: int) -> int:
        i = abs(i)
        return 2 * (n - 1) - i if i >= n else i

    for y in (0, 1, 3, 5):
        for x in (0, 2, 6):
            total = 0.0
            for i, a in enumerate(taps):
                for j, b in enumerate(taps):
                    total += a * b * float(hr[0, 1, mirrored(4 * y + i - 6, 24), mirrored(4 * x + j - 6, 28)])
            assert found[0, 1, y, x].item() == pytest.approx(total / weight**2, abs=1e-12)


def test_blur_of_a_picture_smaller_than_the_kernel() -> None:
    for size in ((1, 1), (1, 9), (3, 2)):
        x = torch.full((1, 3, *size), 0.25)
        torch.testing.assert_close(gaussian_blur(x, 1.6), x)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", ["bi", "bd", "box"])
def test_cubic_enlargement_must_be_at_the_phase_of_the_degradation(name: str, scale: int) -> None:
    hr = smooth(72, 96)
    lr = degrade(hr, name, scale, np.random.default_rng(0))  # type: ignore[arg-type]
    right = PHASES[name]
    wrong = "corner" if right == "centered" else "centered"
    figures = [psnr(resize(lr, scale=scale, phase=phase), hr, crop=8) for phase in (right, wrong)]
    assert figures[0] > figures[1] + 3.0


def test_flipping_after_bd_moves_the_phase() -> None:
    hr = smooth()
    lr = degrade_bd(hr, 4)
    before = psnr(resize(degrade_bd(hr.flip(-1), 4), scale=4, phase="corner"), hr.flip(-1), crop=8)
    after = psnr(resize(lr.flip(-1), scale=4, phase="corner"), hr.flip(-1), crop=8)
    assert before > after + 3.0


def test_augmentation_is_one_of_eight_for_all_frames() -> None:
    frames = np.arange(2 * 4 * 4 * 3).reshape(2, 4, 4, 3)
    seen = set()
    for seed in range(60):
        turned = augment(frames, np.random.default_rng(seed))
        assert turned.shape == frames.shape
        assert np.array_equal(turned[1] - turned[0], np.full((4, 4, 3), 48))
        seen.add(turned[0, ..., 0].tobytes())
    assert len(seen) == 8


def test_box_is_the_mean_over_each_area_and_its_noise_is_as_asked() -> None:
    hr = torch.rand(1, 3, 8, 12)
    lr = degrade_box(hr, 4)
    assert lr[0, 1, 1, 2].item() == pytest.approx(hr[0, 1, 4:8, 8:12].mean().item(), abs=1e-6)
    flat = torch.full((1, 3, 256, 256), 0.5)
    noise = degrade_box(flat, 2, 0.01, np.random.default_rng(0)) - 0.5
    assert noise.std().item() == pytest.approx(0.01, rel=0.02)
    assert noise.mean().item() == pytest.approx(0.0, abs=1e-3)
    white = degrade_box(torch.ones(1, 3, 16, 16), 2, 0.1, np.random.default_rng(0))
    assert white.max().item() == 1.0
    assert white.min().item() < 1.0


def test_real_is_decided_by_its_generator() -> None:
    hr = smooth().expand(3, -1, -1, -1)
    first = degrade_real(hr, 4, np.random.default_rng(5))
    assert first.shape == (3, 3, 16, 20)
    assert first.min().item() >= 0.0
    assert first.max().item() <= 1.0
    assert torch.equal(first, degrade_real(hr, 4, np.random.default_rng(5)))
    assert not torch.equal(first, degrade_real(hr, 4, np.random.default_rng(6)))
    for seed in range(8):  # blur, noise and compression stay light
        lr = degrade_real(hr, 4, np.random.default_rng(seed))
        assert psnr(resize(lr, scale=4), hr, crop=8) > 24.0


def test_the_plain_share_of_real_is_bi() -> None:
    hr = smooth().expand(3, -1, -1, -1)
    plain = quantize(degrade_bi(hr, 4).clamp(0.0, 1.0))
    found = [torch.equal(degrade(hr, "real", 4, np.random.default_rng(n), plain=0.5), plain) for n in range(40)]
    assert 10 <= sum(found) <= 30
    assert torch.equal(degrade(hr, "real", 4, np.random.default_rng(0), plain=1.0), plain)


def test_h264_keeps_colours_and_place_and_obeys_its_quality() -> None:
    red = torch.zeros(2, 3, 17, 22)
    red[:, 0] = 1.0
    torch.testing.assert_close(compress_h264(red, 10), red, rtol=0, atol=0.02)
    x = to_tensor(np.stack([textured()] * 3))
    fine, coarse = compress_h264(x, 18), compress_h264(x, 35)
    assert psnr(luma(fine), luma(x)) > psnr(luma(coarse), luma(x)) + 3.0
    assert psnr(luma(fine), luma(x)) > psnr(luma(fine.roll(1, -1)), luma(x)) + 6.0


def test_h264_gives_the_same_frames_each_time() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (150, 190, 3), np.uint8)
    scene = cv2.GaussianBlur(noise, (0, 0), 1.0)
    x = to_tensor(np.stack([scene[n : n + 120, n : n + 160] for n in range(12)]))
    first = compress_h264(x, 23)
    for _ in range(12):
        assert torch.equal(first, compress_h264(x, 23))


def test_what_real_does_not_leave_clean_goes_through_h264_as_asked() -> None:
    hr = to_tensor(np.stack([textured()] * 3))
    through = []
    for seed in range(40):
        without, always = (degrade_real(hr, 2, np.random.default_rng(seed), h264=share) for share in (0.0, 1.0))
        clean = np.random.default_rng(seed).random(2)[1] < CLEAN_SHARE
        assert torch.equal(without, always) == clean
        if not clean:  # noise differs from frame to frame, and compression takes most of it out
            through.append(float((always[1] - always[2]).square().mean() / (without[1] - without[2]).square().mean()))
    assert np.median(through) < 0.5


def test_the_noise_of_real_is_as_strong_as_asked() -> None:
    gray = torch.full((1, 3, 96, 96), 0.5)

    def spread(noise: float) -> np.ndarray:
        return np.array(
            [float(degrade(gray, "real", 2, np.random.default_rng(n), noise=noise).std()) for n in range(40)]
        )

    light, strong = spread(0.0), spread(0.06)
    assert 0.009 < light.max() < 0.0125
    assert 0.045 < strong.max() < 0.0605


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_real_is_centred_however_it_reduces(scale: int) -> None:
    size = 24 * scale
    ramp = torch.linspace(0.1, 0.9, size).expand(1, 3, size, size)
    ways = set()
    for seed in range(24):
        rng = np.random.default_rng(seed)
        way, clean = rng.random() < POINT_SHARE, rng.random() < CLEAN_SHARE
        ways.add((way, clean))
        reduced = degrade_real(ramp, scale, np.random.default_rng(seed)).mean(dim=(0, 1, 2))[8:16]
        truth = F.avg_pool2d(ramp, scale).mean(dim=(0, 1, 2))[8:16]
        pixel = 0.8 / (size - 1)  # of the original
        assert (reduced - truth).mean().item() == pytest.approx(0.0, abs=0.3 * pixel), seed
        if clean:  # to the rounding to 8 bits
            assert (reduced - truth).abs().max().item() < 0.6 / 255
    assert len(ways) == 4


def test_jpeg_keeps_colours_apart_and_obeys_its_quality() -> None:
    red = torch.zeros(1, 3, 16, 16)
    red[:, 0] = 1.0
    torch.testing.assert_close(compress_jpeg(red, 95), red, rtol=0, atol=0.02)
    x = to_tensor(textured())[None]
    assert psnr(compress_jpeg(x, 95), x) > psnr(compress_jpeg(x, 30), x) + 3.0


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match="degradation must be bi, bd, box or real, got 'blur'"):
        degrade(torch.rand(1, 3, 8, 8), "blur", 2, np.random.default_rng(0))  # type: ignore[arg-type]


def test_to_tensor() -> None:
    frames = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    x = to_tensor(frames[:, ::-1])
    assert x.shape == (2, 3, 3, 4)
    assert x.dtype == torch.float32
    assert x[1, 2, 0, 3].item() == pytest.approx(frames[1, 2, 3, 2] / 255)


def test_burst_begins_with_the_unshaken_photo() -> None:
    photo = textured(70, 97)
    frames, original = burst_from_photo(photo, 3, 4, np.random.default_rng(0), noise=0.0)
    assert frames.shape == (3, 3, 17, 24)
    torch.testing.assert_close(original, to_tensor(photo[:68, :96]))
    expected = degrade_box(original[None], 4)[0]
    torch.testing.assert_close(frames[0], expected, rtol=0, atol=0.51 / 255)
    assert torch.equal((frames * 255).round() / 255, frames)  # 8 bits
    assert (frames[1] - frames[0]).abs().mean().item() > 0.02
    assert (frames[2] - frames[1]).abs().mean().item() > 0.02


def test_a_longer_burst_begins_with_the_same_frames() -> None:
    photo = textured()
    short, _ = burst_from_photo(photo, 3, 4, np.random.default_rng(7))
    long, _ = burst_from_photo(photo, 6, 4, np.random.default_rng(7))
    assert torch.equal(long[:3], short)


def test_burst_shakes_within_its_range() -> None:
    photo = textured(160, 160, sigma=6.0)
    frames, _ = burst_from_photo(photo, 5, 4, np.random.default_rng(1), noise=0.0)
    base = frames[0, 1, 14:26, 14:26]
    found = set()
    for frame in frames[1:]:
        # The best whole shift lies within the 4 pixels (and one for the rotation) that a frame may move.
        errors = {
            (dy, dx): float((frame[1, 14 + dy : 26 + dy, 14 + dx : 26 + dx] - base).square().mean())
            for dy in range(-10, 11)
            for dx in range(-10, 11)
        }
        best = min(errors, key=errors.__getitem__)
        assert max(abs(best[0]), abs(best[1])) <= 5
        found.add(best)
    assert len(found) == 4
