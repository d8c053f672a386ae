"""PSNR and SSIM, in the spaces and with the borders that super-resolution papers use."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def luma(rgb: Tensor) -> Tensor:
    """Y of ITU-R BT.601 in limited range, as MATLAB's ``rgb2ycbcr`` gives it.

    ``(.., 3, H, W)`` RGB in [0, 1], floating point, to ``(.., 1, H, W)`` in [16, 235] / 255.

    Raises:
        ValueError: not three channels, or not floating point.

    Example:
        >>> round(float(luma(torch.ones(3, 1, 1))) * 255)
        235
    """
    if rgb.ndim < 3 or rgb.shape[-3] != 3 or not rgb.is_floating_point():
        raise ValueError(f"luma expects floating-point (.., 3, H, W), got {tuple(rgb.shape)} of {rgb.dtype}")
    weight = rgb.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)
    return ((rgb * weight).sum(dim=-3, keepdim=True) + 16.0) / 255.0


def quantize(x: Tensor) -> Tensor:
    """Round to the 256 levels of an 8-bit picture and clip to [0, 1], as a result saved to a file is.

    Example:
        >>> quantize(torch.tensor([-0.5, 0.001, 0.5, 2.0])) * 255
        tensor([  0.,   0., 128., 255.])
    """
    return x.clamp(0.0, 1.0).mul(255.0).round().div(255.0)


def _cropped(a: Tensor, b: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"pictures must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if crop:
        a, b = (t[..., crop:-crop, crop:-crop] for t in (a, b))
    if a.numel() == 0:
        raise ValueError(f"nothing is left of the pictures after cropping {crop} pixels")
    return a.double(), b.double()


def psnr(a: Tensor, b: Tensor, *, crop: int = 0) -> float:
    """Peak signal-to-noise ratio in decibels of pictures with range 1; infinite where they are equal.

    Args:
        a: ``(.., C, H, W)`` in [0, 1].
        b: the same shape.
        crop: pixels left out at each border.

    Raises:
        ValueError: two shapes, or nothing left after the crop.

    Example:
        >>> round(psnr(torch.zeros(1, 8, 8), torch.full((1, 8, 8), 0.1)), 2)
        20.0
    """
    a, b = _cropped(a, b, crop)
    error = float(torch.mean((a - b) ** 2))
    return math.inf if error == 0.0 else -10.0 * math.log10(error)


def ssim(a: Tensor, b: Tensor, *, crop: int = 0) -> float:
    """Structural similarity: 11x11 Gaussian window of sigma 1.5, range 1, mean over pixels and channels.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004.

    Args:
        a: ``(.., C, H, W)`` in [0, 1], at least 11 pixels high and wide after the crop.
        b: the same shape.
        crop: pixels left out at each border.

    Raises:
        ValueError: two shapes, or fewer than 11 pixels left a side.

    Example:
        >>> ssim(torch.ones(3, 16, 16), torch.ones(3, 16, 16))
        1.0
    """
    a, b = _cropped(a, b, crop)
    a, b = (t.reshape(-1, 1, *t.shape[-2:]) for t in (a, b))
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"ssim needs at least 11x11 pixels, got {a.shape[-2]}x{a.shape[-1]}")
    g = torch.arange(-5, 6, dtype=torch.float64, device=a.device)
    g = torch.exp(-(g**2) / (2 * 1.5**2))
    g = g / g.sum()

    def smooth(t: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(t, g.view(1, 1, 11, 1)), g.view(1, 1, 1, 11))

    c1, c2 = 0.01**2, 0.03**2
    total = 0.0
    # Some rows at a time: their intermediates stay in the cache, which makes it several times faster.
    for top in range(0, a.shape[-2] - 10, 32):
        x, y = a[..., top : top + 42, :], b[..., top : top + 42, :]
        mean_x, mean_y = smooth(x), smooth(y)
        var_x = smooth(x * x) - mean_x**2
        var_y = smooth(y * y) - mean_y**2
        cov = smooth(x * y) - mean_x * mean_y
        score = ((2 * mean_x * mean_y + c1) * (2 * cov + c2)) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
        total += float(score.sum())
    return total / (a.shape[0] * (a.shape[-2] - 10) * (a.shape[-1] - 10))
