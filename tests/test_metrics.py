"""PSNR, SSIM and luma against scikit-image and the published formulas."""

import math

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from msr.metrics import luma, psnr, quantize, ssim


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:83, 0:41] / 10.0
    clean = np.stack([0.5 + 0.4 * np.sin(x + c) * np.cos(y) for c in range(3)])
    noisy = np.clip(clean + 0.05 * rng.standard_normal(clean.shape), 0.0, 1.0)
    return torch.from_numpy(clean), torch.from_numpy(noisy)


@pytest.mark.parametrize("crop", [0, 4])
def test_psnr_agrees_with_scikit_image(pair: tuple[torch.Tensor, torch.Tensor], crop: int) -> None:
    a, b = (t.numpy()[:, crop : t.shape[1] - crop, crop : t.shape[2] - crop] for t in pair)
    assert psnr(*pair, crop=crop) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1.0), abs=1e-9)


@pytest.mark.parametrize("crop", [0, 4])
def test_ssim_agrees_with_scikit_image(pair: tuple[torch.Tensor, torch.Tensor], crop: int) -> None:
    scores = []
    for a, b in zip(*(t.numpy()[:, crop : t.shape[1] - crop, crop : t.shape[2] - crop] for t in pair), strict=True):
        # 5 pixels at each border are left out there as here: only whole windows count.
        scores.append(structural_similarity(a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                            data_range=1.0))  # fmt: skip
    assert ssim(*pair, crop=crop) == pytest.approx(float(np.mean(scores)), abs=1e-9)


def test_ssim_of_equal_and_of_inverted_pictures(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    assert ssim(pair[0], pair[0]) == pytest.approx(1.0, abs=1e-12)
    assert ssim(pair[0], 1.0 - pair[0]) < 0.0


def test_psnr_of_known_errors() -> None:
    flat = torch.zeros(3, 8, 8)
    assert psnr(flat, flat) == math.inf
    assert psnr(flat, flat + 1.0) == pytest.approx(0.0, abs=1e-6)
    assert psnr(flat, flat + 1 / 255) == pytest.approx(20 * math.log10(255), abs=1e-4)
    corner = flat.clone()
    corner[..., 0, 0] = 1.0
    assert psnr(flat, corner) < 20.0
    assert psnr(flat, corner, crop=1) == math.inf


def test_luma_is_matlabs() -> None:
    # rgb2ycbcr of MATLAB for double pictures: Y = (16 + 65.481 R + 128.553 G + 24.966 B) / 255.
    rgb = torch.rand(2, 3, 5, 6, dtype=torch.float64)
    expected = (16.0 + 65.481 * rgb[:, 0] + 128.553 * rgb[:, 1] + 24.966 * rgb[:, 2]) / 255.0
    y = luma(rgb)
    assert y.shape == (2, 1, 5, 6)
    torch.testing.assert_close(y[:, 0], expected)
    # Black, white and the primaries of a colour bar, as BT.601 gives them in 8 bits.
    bars = torch.tensor([[0, 0, 0], [1, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=torch.float32).T.view(3, 1, 5)
    assert (luma(bars) * 255).round().int().flatten().tolist() == [16, 235, 81, 145, 41]


def test_quantize() -> None:
    x = torch.tensor([-1.0, 0.0, 0.49 / 255, 0.51 / 255, 254.6 / 255, 1.0, 7.0])
    assert (quantize(x) * 255).round().tolist() == [0, 0, 0, 1, 255, 255, 255]
    levels = torch.arange(256.0) / 255.0
    torch.testing.assert_close(quantize(levels), levels, rtol=0, atol=1e-7)


def test_errors() -> None:
    a = torch.rand(3, 16, 16)
    with pytest.raises(ValueError, match=r"\(3, 16, 16\) and \(3, 16, 15\)"):
        psnr(a, a[..., :15])
    with pytest.raises(ValueError, match="nothing is left"):
        psnr(a, a, crop=8)
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 10x10"):
        ssim(a, a, crop=3)
    with pytest.raises(ValueError, match=r"\(4, 16, 16\)"):
        luma(torch.rand(4, 16, 16))
    with pytest.raises(ValueError, match="uint8"):
        luma(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="luma expects"):
        luma(torch.rand(3))
