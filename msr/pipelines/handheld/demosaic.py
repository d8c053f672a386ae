"""Demosaicking in torch: the single frame that a burst falls back to, and the start of its reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from msr.pipelines.handheld.filters import both_ways, box, filtered


def colour_masks(mosaic: str, height: int, width: int, device: torch.device) -> Tensor:
    """Where a mosaic has red, green and blue pixels: ``(1, 3, H, W)`` of 0 and 1.

    Example:
        >>> colour_masks("rggb", 2, 2, torch.device("cpu"))[0, 1]
        tensor([[0., 1.],
                [1., 0.]])
    """
    channel = torch.tensor(["rgb".index(letter) for letter in mosaic], device=device).view(2, 2)
    one = (channel == torch.arange(3, device=device).view(3, 1, 1)).float()
    return one.repeat(1, (height + 1) // 2, (width + 1) // 2)[None, :, :height, :width]


def demosaic(pixels: Tensor, mosaic: str, gains: tuple[float, float, float]) -> Tensor:
    """Interpolate the missing colours of a mosaic.

    Green is interpolated along rows and along columns, with the second difference of the other colour as correction
    (J. Hamilton and J. Adams, US patent 5,629,734, 1997), and the direction in which the colour differences change
    less around a pixel wins (D. Menon et al., "Demosaicing with directional filtering and a posteriori decision",
    2007). Red and blue follow by bilinear interpolation of their difference to green, then
    green is taken once more from their full-size differences, as there.

    Args:
        pixels: ``(1, 1, H, W)``, linear, [0, 1].
        mosaic: colours of the first 2x2 pixels, as for ``msr.ops.kernel_merge``.
        gains: white balance: with it, colours differ little from green.

    Returns:
        ``(1, 3, H, W)``, not white-balanced.

    Example:
        >>> demosaic(torch.full((1, 1, 6, 8), 0.5), "grbg", (2.0, 1.0, 1.5)).shape
        torch.Size([1, 3, 6, 8])
    """
    masks = colour_masks(mosaic, pixels.shape[2], pixels.shape[3], pixels.device)
    gain = torch.tensor(gains, device=pixels.device).view(1, 3, 1, 1)
    balanced = pixels * (masks * gain).sum(dim=1, keepdim=True)
    green_here = masks[:, 1:2]
    taps = torch.tensor([-0.25, 0.5, 0.5, 0.5, -0.25])
    # The next pixel of the same colour lies two further on.
    step = torch.tensor([0.0, 0.0, 1.0, 0.0, -1.0])
    greens, changes = [], []
    for across in (True, False):
        other = filtered(balanced, taps, across=across) - balanced
        # The other colour less green: at green pixels, too.
        greens.append(balanced + other * (1 - green_here))
        changes.append(box(filtered(other * (2 * green_here - 1), step, across=across).abs(), 2))
    along_rows = changes[0] <= changes[1]
    green = torch.where(along_rows, greens[0], greens[1])
    red, blue = _others(balanced, green, masks)
    # Once more, by the differences to all neighbours in the direction of each pixel.
    smooth = torch.full((3,), 1 / 3)
    for difference, mask in ((red - green, masks[:, :1]), (blue - green, masks[:, 2:])):
        near = torch.where(
            along_rows, filtered(difference, smooth, across=True), filtered(difference, smooth, across=False)
        )
        green = torch.where(mask > 0, balanced - near, green)
    red, blue = _others(balanced, green, masks)
    return torch.cat([red, green, blue], dim=1) / gain


def _others(balanced: Tensor, green: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Red and blue, by bilinear interpolation of their difference to green."""
    taps = torch.tensor([0.5, 1.0, 0.5])
    red, blue = (green + both_ways((balanced - green) * masks[:, c : c + 1], taps) for c in (0, 2))
    return red, blue
