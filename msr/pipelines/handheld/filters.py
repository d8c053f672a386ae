"""Small filters: OpenCV's on the CPU, else sums of shifted pictures, many times as fast as a convolution."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
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
    if _for_opencv(x, reach):
        row, column = (taps.numpy(), _ONE) if across else (_ONE, taps.numpy())
        return _each_plane(x, lambda plane, out: cv2.sepFilter2D(plane, -1, row, column, out, borderType=_MIRROR))
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
    if _for_opencv(x, len(taps) // 2):
        kernel = taps.numpy()
        return _each_plane(x, lambda plane, out: cv2.sepFilter2D(plane, -1, kernel, kernel, out, borderType=_MIRROR))
    return filtered(filtered(x, taps, across=True), taps, across=False)


def box(x: Tensor, reach: int) -> Tensor:
    """Mean over a square of ``2 reach + 1`` pixels.

    Example:
        >>> box(torch.ones(1, 1, 5, 5), 2).mean()
        tensor(1.)
    """
    side = 2 * reach + 1
    if _for_opencv(x, reach):
        return _each_plane(x, lambda plane, out: cv2.blur(plane, (side, side), out, borderType=_MIRROR))
    return both_ways(x, torch.full((side,), 1.0 / side))


def means(x: Tensor, side: int) -> Tensor:
    """Means over squares of ``side`` pixels next to each other, ``(B, C, H / side, W / side)``.

    Example:
        >>> means(torch.arange(8.0).view(1, 1, 2, 4), 2)
        tensor([[[[2.5000, 4.5000]]]])
    """
    height, width = x.shape[2] // side, x.shape[3] // side
    if not _for_opencv(x, side):
        return F.avg_pool2d(x, side)
    out = x.new_empty(*x.shape[:2], height, width)
    for picture, results in zip(x[..., : height * side, : width * side], out, strict=True):
        for plane, result in zip(picture, results, strict=True):
            cv2.resize(plane.numpy(), (width, height), result.numpy(), interpolation=cv2.INTER_AREA)
    return out


def least_around(x: Tensor, reach: int) -> Tensor:
    """The least in a square of ``2 reach + 1`` pixels.

    Example:
        >>> float(least_around(torch.arange(25.0).view(1, 1, 5, 5), 1)[0, 0, 2, 2])
        6.0
    """
    side = 2 * reach + 1
    if _for_opencv(x, reach):
        square = np.ones((side, side), np.uint8)
        return _each_plane(x, lambda plane, out: cv2.erode(plane, square, out, borderType=_MIRROR))
    return -F.max_pool2d(mirrored(-x, (reach,) * 4), side, 1)


_MIRROR, _ONE = cv2.BORDER_REFLECT_101, np.ones(1, np.float32)


def _for_opencv(x: Tensor, reach: int) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and min(x.shape[2:]) > reach


def _each_plane(x: Tensor, work: Callable[[np.ndarray, np.ndarray], object]) -> Tensor:
    out = torch.empty(x.shape)
    planes, results = x.contiguous().flatten(0, 1).numpy(), out.flatten(0, 1).numpy()
    for plane, result in zip(planes, results, strict=True):
        work(plane, result)
    return out
