"""The shape of the merging kernels, from what the base frame shows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from msr.pipelines.handheld.filters import box
from msr.pipelines.handheld.parts import in_parts, rows_at_once

#: Rows beyond which no derivative and no mean reaches.
_REACH = 3


def covariances(gray: Tensor, noise: float, detail: float, flat: float, stretch: float) -> Tensor:
    """Kernels that are narrow across edges, long along them, and wide where there is nothing but noise.

    Source: section 5.1 of B. Wronski et al., arXiv:1905.03277: the eigenvectors of the structure tensor give the
    directions, its eigenvalues the widths.

    Args:
        gray: of the base, ``(1, 1, H, W)``.
        noise: standard deviation of ``gray``.
        detail: standard deviation of a kernel where there is texture, pixels.
        flat: the same where there is none.
        stretch: how many times ``detail`` the kernel is long along a straight edge.

    Returns:
        ``(1, 3, H, W)``: xx, xy, yy in square pixels.

    Example:
        >>> covariances(torch.zeros(1, 1, 4, 4), 0.01, 0.3, 0.6, 2.0)[0, :, 0, 0]
        tensor([0.3600, 0.0000, 0.3600])
    """
    out = gray.new_empty(1, 3, *gray.shape[2:])
    height = gray.shape[2]

    def work(top: int, bottom: int) -> None:
        first = max(top - _REACH, 0)
        part = _covariances(gray[:, :, first : bottom + _REACH], noise, detail, flat, stretch)
        out[:, :, top:bottom] = part[:, :, top - first : bottom - first]

    in_parts(height, rows_at_once(gray.shape[3]), gray.device, work)
    return out


def _covariances(gray: Tensor, noise: float, detail: float, flat: float, stretch: float) -> Tensor:
    padded = F.pad(gray, (1, 1, 1, 1), mode="replicate")
    gx = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    gy = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    xx, xy, yy = box(torch.cat([gx * gx, gx * gy, gy * gy], dim=1), 2).unbind(1)
    # A central difference of noise has half its variance.
    floor = noise * noise / 2
    xx, yy = (xx - floor).clamp(min=0), (yy - floor).clamp(min=0)
    half, apart = (xx + yy) / 2, (((xx - yy) / 2).square() + xy * xy).sqrt()
    texture = half / (half + 2 * floor + 1e-9)
    coherence = (apart / (half + floor + 1e-9)).clamp(max=1)
    across = flat * (detail / flat) ** texture
    along = across * stretch ** (coherence * texture)
    # Of the tensor's eigenvectors, the one of the larger eigenvalue lies across the edge.
    small, large = across.square(), along.square()
    mean, difference = (small + large) / 2, (small - large) / 2
    cos, sin = ((xx - yy) / 2) / (apart + 1e-12), xy / (apart + 1e-12)
    return torch.stack([mean + difference * cos, difference * sin, mean - difference * cos], dim=1)
