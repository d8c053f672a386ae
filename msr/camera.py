"""What a camera does to colours: sensor, white balance, matrix and curve, forwards and backwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

#: CIE XYZ (D65) to camera RGB: ``ColorMatrix2`` that Adobe's DNG Converter writes for these cameras, times 10000.
_COLOR_MATRICES = {
    "Canon EOS 5D Mark II": (4716, 603, -830, -7798, 15474, 2480, -1496, 1937, 6651),
    "Nikon D800": (7866, -2108, -555, -4869, 12483, 2681, -1176, 2069, 7501),
    "Olympus E-M10": (8380, -2630, -639, -2887, 10725, 2496, -627, 1427, 5438),
    "Sony ILCE-7R": (4913, -541, -202, -6130, 13513, 2906, -1564, 2151, 7183),
    "Sony DSC-RX100M4": (6596, -2079, -562, -4782, 13016, 1933, -970, 1581, 5181),
}
# Linear sRGB to CIE XYZ (IEC 61966-2-1).
_SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])

PATTERNS = ("rggb", "bggr", "grbg", "gbrg")


@dataclass(frozen=True)
class Sensor:
    """What the simulation knows of a camera: colours, noise, and how values are stored."""

    white_balance: tuple[float, float, float]  # gains of red, green, blue; that of green is 1
    to_srgb: np.ndarray  # (3, 3) float32, white-balanced camera RGB to linear sRGB; rows sum to 1
    noise: tuple[float, float]  # (a, b): the variance of a value x, range 1, is a x + b
    bits: int = 12
    pattern: str = "rggb"

    @property
    def black(self) -> int:
        """The stored level of no light."""
        return 1 << (self.bits - 4)

    @property
    def white(self) -> int:
        """The stored level of saturation."""
        return (1 << self.bits) - 1


def srgb_curve(linear: Tensor) -> Tensor:
    """Encode linear light by the curve of sRGB (IEC 61966-2-1), carried on below 0 (straight) and above 1.

    Example:
        >>> srgb_curve(torch.tensor([0.0, 1.0])).round(decimals=3)
        tensor([0., 1.])
    """
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1.0 / 2.4) - 0.055)


def inverse_srgb_curve(encoded: Tensor) -> Tensor:
    """Linear light of values encoded by `srgb_curve`.

    Example:
        >>> round(float(inverse_srgb_curve(torch.tensor(0.5))), 3)
        0.214
    """
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def per_channel(values: Sequence[float], like: Tensor) -> Tensor:
    """Three values as ``(3, 1, 1)`` of the dtype and device of ``like``, to multiply ``(.., 3, H, W)`` with.

    Example:
        >>> per_channel((2.0, 1.0, 1.5), torch.rand(3, 4, 4)).shape
        torch.Size([3, 1, 1])
    """
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(3, 1, 1)


def develop(camera: Tensor, white_balance: Sequence[float], to_srgb: np.ndarray) -> Tensor:
    """Develop linear camera RGB as plainly as can be: white balance, clipping, matrix, the curve of sRGB.

    Args:
        camera: ``(.., 3, H, W)``, linear, 1 at saturation, not white-balanced.
        white_balance: gains of red, green and blue.
        to_srgb: ``(3, 3)``, white-balanced camera RGB to linear sRGB.

    Returns:
        ``(.., 3, H, W)`` sRGB in [0, 1].

    Example:
        >>> develop(torch.full((3, 2, 2), 0.5), (2.0, 2.0, 2.0), np.eye(3)).mean().round(decimals=3)
        tensor(1.)
    """
    balanced = (camera * per_channel(white_balance, camera)).clamp(0.0, 1.0)
    matrix = torch.as_tensor(to_srgb, dtype=camera.dtype, device=camera.device)
    return srgb_curve(torch.einsum("ij,...jhw->...ihw", matrix, balanced).clamp(0.0, 1.0))


def undevelop(srgb: Tensor, sensor: Sensor) -> Tensor:
    """Linear camera RGB that a sensor would have seen of a developed picture.

    Source: the inverse camera pipeline of Brooks et al., "Unprocessing Images for Learned Raw Denoising", 2019, with
    its gains that leave highlights saturated, without its tone curve and its global gain, so that `develop` undoes it.

    Args:
        srgb: ``(.., 3, H, W)`` in [0, 1].
        sensor: whose colours these are to be.

    Returns:
        ``(.., 3, H, W)`` linear in [0, 1], not white-balanced.

    Example:
        >>> undevelop(torch.ones(3, 2, 2), random_sensor(np.random.default_rng(0))).min()
        tensor(1.)
    """
    from_srgb = torch.as_tensor(np.linalg.inv(sensor.to_srgb), dtype=srgb.dtype)
    balanced = torch.einsum("ij,...jhw->...ihw", from_srgb, inverse_srgb_curve(srgb)).clamp(0.0, 1.0)
    gains = 1.0 / per_channel(sensor.white_balance, srgb)
    # White stays saturated in all channels: the share of the gains falls off above 0.9.
    bright = ((balanced.mean(dim=-3, keepdim=True) - 0.9).clamp(min=0.0) / 0.1) ** 2
    return balanced * torch.maximum(bright + (1.0 - bright) * gains, gains)


def random_sensor(
    rng: np.random.Generator, noise: tuple[float, float] | None = None, bits: int = 12, pattern: str = "rggb"
) -> Sensor:
    """A camera between real ones, with white balance and noise as they occur.

    Source: Brooks et al. 2019: a random mix of colour matrices, gains of red from 1.9 to 2.4 and of blue from 1.5 to
    1.9, shot noise log-uniform from 0.0001 to 0.012, read noise that goes with it.

    Args:
        rng: decides.
        noise: (a, b) of a variance a x + b; None: at random.
        bits: of the stored values, 10 to 14.
        pattern: of the colour filters: one of ``PATTERNS``.

    Raises:
        ValueError: no such pattern or number of bits, or negative noise.

    Example:
        >>> random_sensor(np.random.default_rng(0)).black
        256
    """
    if pattern not in PATTERNS:
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got {pattern!r}")
    if not 10 <= bits <= 14:
        raise ValueError(f"bits must be from 10 to 14, got {bits}")
    matrices = np.array(list(_COLOR_MATRICES.values())).reshape(-1, 3, 3) / 10000.0
    mixed = np.tensordot(rng.dirichlet(np.ones(len(matrices))), matrices, 1) @ _SRGB_TO_XYZ
    mixed /= mixed.sum(axis=1, keepdims=True)
    gains = (float(rng.uniform(1.9, 2.4)), 1.0, float(rng.uniform(1.5, 1.9)))
    shot = float(rng.uniform(math.log(0.0001), math.log(0.012)))
    read = 2.18 * shot + 1.2 + 0.26 * float(rng.standard_normal())
    noise = (math.exp(shot), math.exp(read)) if noise is None else noise
    if min(noise) < 0.0:
        raise ValueError(f"noise must not be negative, got {noise}")
    return Sensor(gains, np.linalg.inv(mixed).astype(np.float32), noise, bits, pattern)


def color_masks(pattern: str, height: int, width: int) -> Tensor:
    """Which colour each pixel of a mosaic has: ``(3, H, W)`` of 0 and 1.

    Example:
        >>> color_masks("rggb", 4, 4).sum(dim=(1, 2))
        tensor([4., 8., 4.])
    """
    masks = torch.zeros(3, height, width)
    for place, color in enumerate(pattern):
        masks["rgb".index(color), place // 2 :: 2, place % 2 :: 2] = 1.0
    return masks
