"""The noise of a frame that does not tell it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.pipelines.handheld.filters import both_ways

_BLOCK = 8
_BINS = 8


def estimate_noise(pixels: Tensor, mosaic: str | None) -> tuple[float, float]:
    """Estimate how noise grows with light, from the calmest blocks of a frame.

    The variance of a second difference (J. Immerkaer, "Fast noise variance estimation", 1996) is taken in blocks; among
    those of like brightness the lower tenth has next to no detail, and a line is laid through what they say.

    Args:
        pixels: ``(1, C, H, W)``; with a mosaic, like pixels are compared only.
        mosaic: its colours, or None.

    Returns:
        (a, b), neither negative: the variance of a value x is a x + b.

    Example:
        >>> a, b = estimate_noise(0.5 + 0.01 * torch.randn(1, 3, 256, 256), None)
        >>> 0.7e-4 < 0.5 * a + b < 1.4e-4
        True
    """
    if mosaic is not None:
        even = pixels[..., : pixels.shape[2] // 2 * 2, : pixels.shape[3] // 2 * 2]
        pixels = F.pixel_unshuffle(even, 2)
    planes = pixels.reshape(-1, 1, *pixels.shape[2:])
    if min(planes.shape[2:]) < _BLOCK:
        return 0.0, 1e-4
    # Some hundred thousand pixels tell it.
    skip = max(1, int((planes.numel() / 1e6) ** 0.5))
    second = both_ways(planes, torch.tensor([1.0, -2.0, 1.0])) / 6
    power = F.avg_pool2d(second.square(), _BLOCK)[..., ::skip, ::skip].flatten()
    light = F.avg_pool2d(planes, _BLOCK)[..., ::skip, ::skip].flatten()
    # Black and white are clipped: no noise is seen there.
    usable = (light > 0.005) & (light < 0.95)
    if int(usable.sum()) < 4:
        usable = torch.ones_like(usable)
    light, order = light[usable].sort()
    power = power[usable][order]
    levels, variances = [], []
    for part in range(min(_BINS, light.numel() // 4)):
        count = light.numel() // min(_BINS, light.numel() // 4)
        one = slice(part * count, (part + 1) * count)
        levels.append(light[one].mean())
        # The lower tenth of means of so many (correlated) squares lies at about three quarters of their mean.
        variances.append(torch.quantile(power[one][:4_000_000], 0.1) / 0.77)
    if not levels:
        return 0.0, max(1e-8, float(power.median()))
    x, y = torch.stack(levels).double(), torch.stack(variances).double()
    weight = 1.0 / (y + y.mean() * 0.1) ** 2
    mx, my = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
    slope = float((weight * (x - mx) * (y - my)).sum() / ((weight * (x - mx) ** 2).sum() + 1e-12))
    slope = min(max(slope, 0.0), float((y / x.clamp(min=1e-3)).min()))
    return slope, max(float(my - slope * mx), 1e-8)
