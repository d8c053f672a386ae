"""From the merged picture to a sharp one: the blur of pixel areas and merging kernels undone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from msr.pipelines.handheld.filters import both_ways
from msr.pipelines.handheld.parts import in_parts

_REACH = 5
#: Power of noise over that of detail, for the inverse filter; how often it is applied.
_NOISE, _STEPS = 0.2, 2
#: Weight at which the merge and the single frame are mixed half and half.
_SATURATION = 0.7
#: Standard deviation of what smooths colours, in pixels of the result.
_COLOUR = 0.95
#: Side of the parts worked on one after the other, and how much around them they see.
_TILE, _HALO = 768, 24


def _frequencies() -> Tensor:
    return torch.linspace(0, math.pi, 257, dtype=torch.float64)


def _blur(scale: float, width: float, omega: Tensor) -> Tensor:
    """Frequency response of a pixel's area and of a Gaussian of ``width`` pixels, on a grid ``scale`` times as fine."""
    half = omega / 2
    area = torch.sinc(scale * half / math.pi) / torch.sinc(half / math.pi)
    return area * torch.exp(-0.5 * (omega * scale * width) ** 2)


def _taps(response: Tensor, omega: Tensor) -> Tensor:
    """An even filter of ``2 _REACH + 1`` taps with about this response, which it keeps at frequency 0."""
    n = torch.arange(-_REACH, _REACH + 1, dtype=torch.float64)[:, None]
    taps = torch.trapezoid(response * torch.cos(n * omega), omega, dim=1) / math.pi
    taps = taps * (0.5 + 0.5 * torch.cos(math.pi * n[:, 0] / (_REACH + 1)))
    return (taps / taps.sum() * response[0]).float()


def blur_taps(scale: float, width: float) -> Tensor:
    """1-D taps of what merging does to the picture: a pixel's area, then a Gaussian of ``width`` pixels.

    Example:
        >>> round(float(blur_taps(2.0, 0.3).sum()), 4)
        1.0
    """
    omega = _frequencies()
    return _taps(_blur(scale, width, omega), omega)


def inverse_taps(scale: float, width: float, noise: float) -> Tensor:
    """1-D taps of a Wiener filter for that blur; ``noise`` is the power of noise over that of the picture's detail.

    Example:
        >>> round(float(inverse_taps(2.0, 0.3, 0.1).sum()), 4)
        1.0
    """
    omega = _frequencies()
    blur = _blur(scale, width, omega)
    inverse = blur / (blur.square() + noise)
    return _taps(inverse / inverse[0], omega)


@dataclass(frozen=True)
class Sums:
    """What the frames beside the base add up to on the fine grid, each ``(1, 3, H, W)``.

    Attributes:
        total: values times weights.
        weight: weights.
    """

    total: Tensor
    weight: Tensor

    def part(self, rows: slice, columns: slice) -> Sums:
        """A part of the grid."""
        return Sums(*(x[..., rows, columns] for x in (self.total, self.weight)))


def restore(
    sums: Sums,
    base: Callable[[slice, slice], tuple[Tensor, Tensor]],
    single: Callable[[slice, slice], Tensor],
    gains: tuple[float, float, float],
    scale: float,
    width: float,
) -> Tensor:
    """Make the sharp picture of the sums of a merge.

    Where the other frames count little, it is the single frame. Elsewhere the brightness is made such that, blurred, it
    is that of the merge: back-projection (M. Irani and S. Peleg, "Improving resolution by image registration", 1991) on
    the merged picture rather than on every frame, which M. Elad and Y. Hel-Or show to be enough ("A fast
    super-resolution reconstruction algorithm for pure translational motion and common space-invariant blur", 2001),
    preconditioned by an inverse filter. Differences of colours to brightness are smoothed a little instead: detail is
    gray for the most part, and red and blue are known half as well as green.

    Args:
        sums: of the frames beside the base.
        base: gives the means and weights of the base's pixels for some rows and columns, ``(1, 3, h, w)`` each.
        single: gives some rows and columns of the picture ``(1, 3, H, W)`` that the base alone gives.
        gains: white balance, with which colours differ least.
        scale: enlargement.
        width: standard deviation of the merging kernels across edges, in pixels of the frames.

    Returns:
        ``(1, 3, H, W)``.

    Example:
        >>> x = torch.rand(1, 3, 12, 12)
        >>> nothing = Sums(0 * x, 0 * x)
        >>> part = lambda rows, columns: x[..., rows, columns]
        >>> base = lambda rows, columns: (part(rows, columns), 1 + 0 * part(rows, columns))
        >>> restore(nothing, base, part, (1.0, 1.0, 1.0), 2.0, 0.3).allclose(x)
        True
    """
    taps = blur_taps(scale, width), inverse_taps(scale, width, _NOISE)
    gain = torch.tensor(gains, device=sums.total.device).view(1, 3, 1, 1)
    out = torch.empty_like(sums.total)
    height, across = out.shape[2:]
    # Parts that stay in the processor's cache; a GPU takes larger ones.
    side = _TILE if out.device.type == "cpu" else 4 * _TILE
    corners = [(top, left) for top in range(0, height, side) for left in range(0, across, side)]

    def work(first: int, last: int) -> None:
        for top, left in corners[first:last]:
            bottom, right = min(top + side, height), min(left + side, across)
            y, x = max(top - _HALO, 0), max(left - _HALO, 0)
            place = slice(y, min(bottom + _HALO, height)), slice(x, min(right + _HALO, across))
            part = _restore_part(sums.part(*place), base(*place), single(*place), gain, taps)
            out[..., top:bottom, left:right] = part[..., top - y : bottom - y, left - x : right - x]

    in_parts(len(corners), 1, out.device, work)
    return out


def _restore_part(
    sums: Sums, base: tuple[Tensor, Tensor], single: Tensor, gain: Tensor, taps: tuple[Tensor, Tensor]
) -> Tensor:
    value, own = base
    trust = (sums.weight + _SATURATION).reciprocal_().mul_(sums.weight)
    mean = torch.addcmul(sums.total, value, own).div_((sums.weight + own).clamp_(min=1e-12))
    start = torch.lerp(single, mean, trust).mul_(gain)
    luma, luma_trust = luma_of(start), luma_of(trust)
    n = torch.arange(-3, 4)
    smooth = torch.exp(-0.5 * (n / _COLOUR) ** 2)
    smooth = smooth / smooth.sum()
    colour, known = start[:, ::2] - luma, trust[:, ::2] + 1e-3
    smoothed = both_ways(colour * known, smooth).div_(both_ways(known, smooth))
    # Where the frame stands alone its colours are left as they are, too.
    red, blue = torch.lerp(colour, smoothed, luma_trust).split(1, dim=1)
    sharp = luma
    for _ in range(_STEPS):
        missing = (luma - both_ways(sharp, taps[0])).mul_(luma_trust)
        sharp = both_ways(missing, taps[1]).add_(sharp)
    # As brightness is the sum of a quarter of red and blue and half of green:
    return torch.cat([sharp + red, torch.sub(sharp, red + blue, alpha=0.5), sharp + blue], dim=1).div_(gain)


def luma_of(x: Tensor) -> Tensor:
    """Brightness as the mosaic sees it, ``(1, 1, H, W)``: a quarter of red and of blue, half of green.

    Example:
        >>> float(luma_of(torch.ones(1, 3, 1, 1)))
        1.0
    """
    red, green, blue = x.split(1, dim=1)
    return (red + blue).mul_(0.25).add_(green, alpha=0.5)
