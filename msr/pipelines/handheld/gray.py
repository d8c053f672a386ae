"""Gray pictures of the frames, for finding motion and for judging sharpness."""

from __future__ import annotations

import torch
from torch import Tensor

from msr.pipelines.handheld.demosaic import colour_masks
from msr.pipelines.handheld.filters import both_ways, means
from msr.pipelines.handheld.parts import in_parts, rows_at_once


def gray_of(pixels: Tensor, mosaic: str | None, gains: tuple[float, float, float]) -> Tensor:
    """Make a gray picture in which noise is about the same everywhere.

    A mosaic, white-balanced, is smoothed by (1 2 1)/4 both ways: so every pixel holds a quarter of red and of blue and
    half of green, and what alternates with the colours is gone (as C. Lafenetre et al., "Implementing handheld burst
    super-resolution", IPOL 2023, reach by a low-pass). Its square root is taken, which evens out shot noise.

    Args:
        pixels: ``(1, C, H, W)``, C = 1 with a mosaic, else 3.
        mosaic: its colours, or None.
        gains: white balance.

    Returns:
        ``(1, 1, H, W)``.

    Example:
        >>> gray_of(torch.full((1, 1, 4, 6), 0.25), "rggb", (1.0, 1.0, 1.0))[0, 0, 0, 0]
        tensor(0.5000)
    """
    if mosaic is None:
        red, green, blue = pixels.split(1, dim=1)
        return (red + blue).mul_(0.25).add_(green, alpha=0.5)
    gain = torch.tensor(gains, device=pixels.device).view(1, 3, 1, 1)
    balance = (colour_masks(mosaic, 2, 2, pixels.device) * gain).sum(1, keepdim=True)
    lines = balance.repeat(1, 1, 1, (pixels.shape[3] + 1) // 2)[..., : pixels.shape[3]]
    balanced = torch.empty_like(pixels)
    for row in (0, 1):
        torch.mul(pixels[:, :, row::2], lines[:, :, row : row + 1], out=balanced[:, :, row::2])
    taps = torch.tensor([0.25, 0.5, 0.25])
    return both_ways(balanced, taps).clamp(min=0).sqrt()


def reduced_gray(pixels: Tensor, mosaic: str | None, gains: tuple[float, float, float], factor: int) -> Tensor:
    """The mean of squares of ``factor`` pixels of that gray picture, ``(1, 1, H / factor, W / factor)``.

    Example:
        >>> reduced_gray(torch.full((1, 1, 4, 6), 0.25), "rggb", (1.0, 1.0, 1.0), 2)[0, 0]
        tensor([[0.5000, 0.5000, 0.5000],
                [0.5000, 0.5000, 0.5000]])
    """
    height, width = pixels.shape[2] // factor, pixels.shape[3] // factor
    out = pixels.new_empty(1, 1, height, width)

    def work(top: int, bottom: int) -> None:
        # Two rows more, of which the colours of a mosaic begin as at the top.
        first = max(top * factor - 2, 0) // 2 * 2
        part = gray_of(pixels[:, :, first : bottom * factor + 2], mosaic, gains)
        part = part[:, :, top * factor - first : bottom * factor - first]
        out[:, :, top:bottom] = means(part, factor) if factor > 1 else part

    in_parts(height, rows_at_once(factor * width), pixels.device, work)
    return out


def middle(gray: Tensor) -> float:
    """The median of a picture, of some of its pixels where it is large.

    Example:
        >>> middle(torch.full((1, 1, 4, 6), 0.5))
        0.5
    """
    skip = max(1, int((gray.numel() / 2e5) ** 0.5))
    return float(gray[..., ::skip, ::skip].median())
