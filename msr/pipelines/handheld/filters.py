"""Small filters, as sums of shifted pictures: many times as fast as a convolution of one channel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mirrored(x: Tensor, reach: tuple[int, int, int, int]) -> Tensor:
    """Pad left, right, top, bottom by mirroring, which keeps the colours of a mosaic in step; tiny pictures repeat."""
    fits = max(reach[:2]) < x.shape[3] and max(reach[2:]) < x.shape[2]
    return F.pad(x, reach, mode="reflect" if fits else "replicate")


def filtered(x: Tensor, taps: Tensor, *, across: bool) -> Tensor:
    """Filter each channel of ``(B, C, H, W)`` along its rows (``across``) or its columns; edges are mirrored.

    Args:
        x: the picture.
        taps: ``(2 n + 1,)``.
        across: direction.

    Returns:
        As ``x``: the sum over k of ``taps[k]`` times the picture moved by k - n.

    Example:
        >>> filtered(torch.tensor([[[[1.0, 2.0, 4.0]]]]), torch.tensor([0.0, 0.0, 1.0]), across=True)
        tensor([[[[2., 4., 2.]]]])
    """
    reach = len(taps) // 2
    padded = mirrored(x, (reach, reach, 0, 0) if across else (0, 0, reach, reach))
    size = x.shape[3 if across else 2]
    out = torch.zeros_like(x)
    for number, tap in enumerate(taps.tolist()):
        if tap != 0.0:
            out.add_(padded.narrow(3 if across else 2, number, size), alpha=tap)
    return out


def both_ways(x: Tensor, taps: Tensor) -> Tensor:
    """Filter along rows, then along columns.

    Example:
        >>> both_ways(torch.ones(1, 3, 5, 5), torch.tensor([0.25, 0.5, 0.25])).mean()
        tensor(1.)
    """
    return filtered(filtered(x, taps, across=True), taps, across=False)


def box(x: Tensor, reach: int) -> Tensor:
    """Mean over a square of ``2 reach + 1`` pixels.

    Example:
        >>> box(torch.ones(1, 1, 5, 5), 2).mean()
        tensor(1.)
    """
    side = 2 * reach + 1
    return both_ways(x, torch.full((side,), 1.0 / side))
