"""From the merged picture to a sharp one: the blur of pixel areas and merging kernels undone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from msr.pipelines.handheld.demosaic import filtered

_REACH = 5
_LUMA = (0.25, 0.5, 0.25)
#: Power of noise over that of detail, for the inverse filter; how often it is applied.
_NOISE, _STEPS = 0.1, 2
#: Weight at which the merge and the single frame are mixed half and half.
_SATURATION = 0.5
#: Standard deviation of what smooths colours, in pixels of the result.
_COLOUR = 0.8


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


def restore(
    total: Tensor,
    others: Tensor,
    own: Tensor,
    single: Tensor,
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
        total: ``(1, 3, H, W)``, sum of values times weights, with the base's.
        others: ``(1, 3, H, W)``, sum of weights without the base's.
        own: the same of the base alone.
        single: ``(1, 3, H, W)``, the picture that the base alone gives.
        gains: white balance, with which colours differ least.
        scale: enlargement.
        width: standard deviation of the merging kernels across edges, in pixels of the frames.

    Returns:
        ``(1, 3, H, W)``.

    Example:
        >>> x = torch.rand(1, 3, 12, 12)
        >>> restore(x, 0 * x, 1 + 0 * x, x, (1.0, 1.0, 1.0), 2.0, 0.3).allclose(x)
        True
    """
    blur, inverse = (taps.to(total) for taps in (blur_taps(scale, width), inverse_taps(scale, width, _NOISE)))
    trust = others / (others + _SATURATION)
    merged = total / (others + own).clamp(min=1e-12)
    gain = torch.tensor(gains, device=total.device).view(1, 3, 1, 1)
    start = torch.lerp(single, merged, trust) * gain
    shares = torch.tensor(_LUMA, device=total.device).view(1, 3, 1, 1)
    luma = (start * shares).sum(1, keepdim=True)
    luma_trust = (trust * shares).sum(1, keepdim=True)
    colour, known = start - luma, trust + 1e-3
    n = torch.arange(-3, 4, device=total.device)
    smooth = torch.exp(-0.5 * (n / _COLOUR) ** 2)
    smooth = smooth / smooth.sum()
    smoothed = both_ways(colour * known, smooth) / both_ways(known, smooth)
    # Where the frame stands alone its colours are left as they are, too.
    colour = torch.lerp(colour, smoothed, luma_trust)
    sharp = luma
    for _ in range(_STEPS):
        sharp = sharp + both_ways((luma - both_ways(sharp, blur)) * luma_trust, inverse)
    return (sharp + colour) / gain


def both_ways(x: Tensor, taps: Tensor) -> Tensor:
    """Filter across rows, then down columns."""
    return filtered(filtered(x, taps, across=True), taps, across=False)
