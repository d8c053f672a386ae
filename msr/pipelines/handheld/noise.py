"""The noise of a frame that does not tell it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.pipelines.handheld.filters import both_ways, box

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
    weight = 1.0 / (y + y.mean() * 0.1).clamp(min=1e-10) ** 2  # a frame that is clipped all over has no noise at all
    mx, my = (weight * x).sum() / weight.sum(), (weight * y).sum() / weight.sum()
    slope = float((weight * (x - mx) * (y - my)).sum() / ((weight * (x - mx) ** 2).sum() + 1e-12))
    slope = min(max(slope, 0.0), float((y / x.clamp(min=1e-3)).min()))
    return slope, max(float(my - slope * mx), 1e-8)


@dataclass(frozen=True)
class GuideNoise:
    """The noise of a picture by `guide_of`: variances, ``(1, 3, h, w)`` or, the same everywhere, ``(1, 3, 1, 1)``.

    Attributes:
        pixel: of one pixel.
        mean: of the mean of three by three pixels: a ninth of it where noise is white, more after JPEG or demosaicking.
    """

    pixel: Tensor
    mean: Tensor

    def least(self, other: GuideNoise) -> GuideNoise:
        """The lesser of both."""
        return GuideNoise(torch.minimum(self.pixel, other.pixel), torch.minimum(self.mean, other.mean))


def white_noise(guide: Tensor, noise: tuple[float, float], mosaic: str | None) -> GuideNoise:
    """What the noise (a, b) of the pixels of a frame, each by itself, is in its guide.

    Example:
        >>> white_noise(torch.ones(1, 3, 1, 1), (1.0, 1.0), "rggb").pixel.flatten()
        tensor([2., 1., 2.])
    """
    share = (0.25, 0.25, 0.25) if mosaic is None else (1.0, 0.5, 1.0)
    variance = noise[0] * guide.clamp(min=0) + noise[1]
    variance = variance * torch.tensor(share, device=guide.device).view(1, 3, 1, 1)
    return GuideNoise(variance, box(variance, 1) / 9)


def noise_at_most(guide: Tensor) -> GuideNoise:
    """What the noise of a guide cannot be more than: what its calmest blocks vary by.

    Example:
        >>> noise = noise_at_most(0.5 + 0.01 * torch.randn(1, 3, 128, 128))
        >>> bool((noise.pixel > 0.5e-4).all() and (noise.pixel < 2e-4).all())
        True
    """
    return _calmest(guide, guide - box(guide, _BLOCK // 2), box(guide, 1) - box(guide, _BLOCK // 2))


def noise_between(guide: Tensor, other: Tensor) -> GuideNoise:
    """Estimate the noise of two guides of one scene from their difference, in which there is next to no detail.

    Args:
        guide: of the base, ``(1, 3, h, w)``.
        other: of another frame, brought to the base.

    Returns:
        For each colour what it is, about: a fifth too little or too much in most pictures.

    Example:
        >>> noise = noise_between(*(0.5 + 0.01 * torch.randn(2, 1, 3, 128, 128)))
        >>> bool((noise.pixel > 0.5e-4).all() and (noise.pixel < 2e-4).all())
        True
    """
    difference = (other - guide) * 0.5**0.5
    return _calmest(guide, difference, box(difference, 1))


def _calmest(guide: Tensor, pixel: Tensor, mean: Tensor) -> GuideNoise:
    """The lower tenth, over blocks, of mean squares."""
    side = min(_BLOCK, *guide.shape[2:])
    light = F.avg_pool2d(guide, side).amin(1).flatten(), F.avg_pool2d(guide, side).amax(1).flatten()
    usable = (light[0] > 0.02) & (light[1] < 0.95)
    if int(usable.sum()) < 8:
        usable = torch.ones_like(usable)
    found = [F.avg_pool2d(x.square(), side).flatten(2)[..., usable] for x in (pixel, mean)]
    return GuideNoise(*(torch.quantile(x, 0.1, dim=2, keepdim=True)[..., None].clamp(min=1e-7) for x in found))
